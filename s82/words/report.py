"""`s82 report`"""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.outputs import check_output
from pipeline.report import write_object_pages, write_pages, write_report


@click.command("report")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option(
    "--run", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Directory of a training run."
)
@click.option(
    "--truth", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Truth of a simulated archive."
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The page; default report.html.")
@click.option("--pages", type=click.Path(file_okay=False, path_type=Path), help="Folder for the page and its objects'.")
@click.option("--object", "object_ids", multiple=True, metavar="ID", help="Page of an object: objects/ID.html; repeat.")
@click.option(
    "--sample", type=click.IntRange(0), default=30, show_default=True, help="With --pages: objects drawn evenly."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="With --pages: of the draw.")
def command(
    dataset: Path,
    run: Path | None,
    truth: Path | None,
    out: Path | None,
    pages: Path | None,
    object_ids: tuple[str, ...],
    sample: int,
    seed: int,
) -> None:
    """Write one self-contained HTML page about DATASET, with the results of a run if given.

    With --pages, a folder: index.html and a page for each object that stands out, is an example or is drawn.
    With --object and without --pages, only the pages of those objects, in objects/ of the present folder.
    """
    if out and (pages or object_ids):
        raise click.UsageError("--out names the page of a dataset alone: leave it out with --pages and --object")
    out = out or Path("report.html")
    check_output(pages or (Path("objects") if object_ids else out))  # before anything is measured
    if pages:
        click.echo(write_pages(pages, dataset, run=run, truth=truth, object_ids=object_ids, sample=sample, seed=seed))
    elif object_ids:
        for path in write_object_pages(Path(), dataset, object_ids, truth=truth):
            click.echo(path)
    else:
        click.echo(write_report(out, dataset, run=run, truth=truth))
