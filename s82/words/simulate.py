"""`s82 simulate`"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from pipeline.simulate.archive import simulate_archive
from pipeline.survey import load_survey
from s82.output import as_json, show


@click.command("simulate")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--survey", default="demo", show_default=True, help="Survey description with a [simulation] table.")
@click.option("--workers", type=click.IntRange(1), help="Processes; default one per core.")
@as_json
def command(out: Path, survey: str, workers: int | None, as_json: bool) -> None:
    """Write a simulated archive to OUT: frames of both formats, tables, catalogue, index, and the injected truth."""
    result = simulate_archive(load_survey(survey), out, workers=workers)
    show(asdict(result), as_json=as_json)
