"""What docker/compose.yaml says, for tests that read it and for drills that run it without containers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import yaml

PROJECT: Final = Path(__file__).resolve().parents[2]
COMPOSE_FILE: Final = PROJECT / "docker" / "compose.yaml"
_VARIABLE: Final = re.compile(r"\$\{\w+:-([^}]*)\}")


def read_compose() -> dict[str, Any]:
    """The file with its variables at their defaults."""
    content: dict[str, Any] = yaml.safe_load(_VARIABLE.sub(r"\1", COMPOSE_FILE.read_text(encoding="utf-8")))
    return content


def services() -> dict[str, dict[str, Any]]:
    """Its services, by name."""
    found: dict[str, dict[str, Any]] = read_compose()["services"]
    return found


def command_of(service: str, replacements: dict[str, str]) -> list[str]:
    """The command of a service, with what is different where there are no containers."""
    return _replaced(services()[service]["command"], replacements)


def health_check_of(service: str, replacements: dict[str, str]) -> list[str]:
    """The command that tells whether a service is healthy."""
    kind, *words = services()[service]["healthcheck"]["test"]
    return _replaced(["sh", "-c", *words] if kind == "CMD-SHELL" else words, replacements)


def _replaced(words: list[str], replacements: dict[str, str]) -> list[str]:
    found = []
    for word in words:
        text = str(word).replace("$$", "$")
        for old, new in replacements.items():
            text = text.replace(old, new)
        found.append(text)
    return found


def environment_of(service: str, replacements: dict[str, str]) -> dict[str, str]:
    """The environment of a service, with other values for some of its variables; each must be there."""
    variables: dict[str, str] = services()[service]["environment"]
    assert all(isinstance(value, str) for value in variables.values()), variables
    return variables | {name: value for name, value in replacements.items() if name in variables}
