"""One line of a preflight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]
"""`warn`: a build can do without, or with less; `fail`: what was asked for will not work."""


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, what was found, and what to do about it."""

    name: str
    status: Status
    found: str
    advice: str = ""
    """Empty where nothing is to be done."""
