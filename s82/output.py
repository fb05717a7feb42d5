"""What words print: a table for people, JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")


def root_option(default: str = "work") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--root`: where datasets, runs and the cache live."""
    return click.option(
        "--root",
        type=click.Path(file_okay=False),
        default=default,
        show_default=True,
        help="Directory of datasets, runs and the download cache.",
    )


def show(content: Mapping[str, Any], *, as_json: bool) -> None:
    """Print flat content, nested values as JSON."""
    if as_json:
        click.echo(json.dumps(content, indent=2, default=str))
        return
    width = max(map(len, content), default=0)
    for key, value in content.items():
        text = json.dumps(value, default=str) if isinstance(value, dict | list | tuple) else value
        click.echo(f"{key:<{width}}  {text}")


def stderr_line(text: str) -> None:
    """Say something that is not the result."""
    click.echo(text, err=True)


def table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows below the names of their columns, numbers to the right; None as nothing."""
    if not rows:
        return
    cells = [[_cell(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(rows[0], *cells, strict=True)]
    right = [all(isinstance(row[name], int | float | None) for row in rows) for name in rows[0]]
    for line in (list(rows[0]), *cells):
        aligned = (f"{text:>{w}}" if r else f"{text:<{w}}" for text, w, r in zip(line, widths, right, strict=True))
        click.echo("  ".join(aligned).rstrip())


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def times(seconds: Mapping[str, float], total: float) -> None:
    """Where the time went."""
    click.echo("\nwhere the time went            s    %")
    for name, spent in {**seconds, "total": total}.items():
        click.echo(f"{name:<24} {spent:>7.1f} {100 * spent / total:>4.0f}")
