"""Templates of the pages, and how numbers are written in them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.atomic import write_text
from pipeline.outputs import check_output


@cache
def environment() -> Environment:
    """Escapes whatever it is given, and refuses a template that asks for what is not there."""
    made = Environment(
        loader=PackageLoader("pipeline.report", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    made.filters["count"] = lambda number: f"{number:,}".replace(",", "\u202f")
    made.filters["measured"] = measured
    made.filters["size"] = size
    return made


def measured(value: float | None, form: str) -> str:
    """A number as `form` has it; a dash where it was not measured."""
    return "–" if value is None or not math.isfinite(value) else format(value, form)


def size(n_bytes: int) -> tuple[str, str]:
    """A number of bytes as number and unit, with the largest unit of which it is one or more."""
    unit = next((unit for unit in ("TB", "GB") if n_bytes >= _BYTES[unit]), "MB")
    return f"{n_bytes / _BYTES[unit]:.1f}", unit


_BYTES: Final = {"MB": 1e6, "GB": 1e9, "TB": 1e12}


def write_page(path: Path, template: str, content: Mapping[str, Any]) -> None:
    """Fill a template and write it, whole or not at all (raises ConfigError where it would be inside a dataset)."""
    check_output(path)
    write_text(path, environment().get_template(template).render(content))
