"""`s82 simulate`"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from pipeline.outputs import check_output
from pipeline.survey import load_survey
from s82.output import as_json, show


@click.command("simulate")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--survey", help="Survey description with a [simulation] table.  [default: demo, or benchmark]")
@click.option("--sequences", is_flag=True, help="Publish sequences as a dataset below OUT, without frames in between.")
@click.option("--objects", type=click.IntRange(1), help="With --sequences: about so many, labels in proportion.")
@click.option("--nights", type=click.IntRange(1), help="With --sequences: at most so many per object, 5 images each.")
@click.option("--workers", type=click.IntRange(1), help="Processes; default one per core.")
@as_json
def command(
    out: Path,
    survey: str | None,
    sequences: bool,
    objects: int | None,
    nights: int | None,
    workers: int | None,
    as_json: bool,
) -> None:
    """Write a simulated archive to OUT: frames of both formats, tables, catalogue, index, and the injected truth.

    With --sequences: the benchmark survey as a dataset to train on, OUT/datasets/benchmark, and its truth.
    """
    check_output(out)
    if sequences:
        _simulate_sequences(out, survey or "benchmark", objects, nights, workers, as_json=as_json)
        return
    if objects is not None or nights is not None:
        raise click.UsageError(
            "--objects and --nights are of --sequences; an archive's objects are [simulation.labels]"
        )
    from pipeline.simulate.archive import simulate_archive

    show(asdict(simulate_archive(load_survey(survey or "demo"), out, workers=workers)), as_json=as_json)


def _simulate_sequences(
    out: Path, survey: str, objects: int | None, nights: int | None, workers: int | None, *, as_json: bool
) -> None:
    from pipeline.simulate.sequences import simulate_sequences

    description = load_survey(survey)
    with click.progressbar(length=0, label="objects", hidden=as_json) as bar:

        def tell(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        result = simulate_sequences(description, out, n_objects=objects, nights=nights, workers=workers, progress=tell)
    show(asdict(result), as_json=as_json)
