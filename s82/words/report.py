"""`s82 report`"""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.report import write_report


@click.command("report")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option(
    "--run", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Directory of a training run."
)
@click.option(
    "--truth", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Truth of a simulated archive."
)
@click.option("--out", type=click.Path(path_type=Path), default="report.html", show_default=True)
def command(dataset: Path, run: Path | None, truth: Path | None, out: Path) -> None:
    """Write one self-contained HTML page about DATASET, with the results of a run if given."""
    click.echo(write_report(out, dataset, run=run, truth=truth))
