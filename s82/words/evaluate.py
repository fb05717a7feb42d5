"""`s82 evaluate`"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from model.evaluation.results import Evaluation
from model.evaluation.tables import (
    COMPARISON,
    EARLY,
    PER_CLASS,
    POOLED,
    Row,
    comparison,
    confusion,
    early,
    per_class,
    pooled,
)
from model.runs import open_run
from s82.output import as_json, show, table


@click.command("evaluate")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.argument("run", type=click.Path(file_okay=False, path_type=Path))
@as_json
def command(dataset: Path, run: Path, as_json: bool) -> None:
    """Score the fine-tuned models of RUN on the test folds of DATASET; each object by models that never saw it.

    Scores, tables for a paper, pictures and the model's card are written into RUN.
    """
    open_run(dataset, run)  # say what is wrong before Prefect takes its ten seconds
    from flows.train import evaluate_model

    evaluation = evaluate_model(dataset, run)
    if as_json:
        show(evaluation.model_dump(mode="json"), as_json=True)
        return
    _print(evaluation)
    click.echo(f"\n{run}: evaluation.json, predictions.parquet, scores.md, scores.tex, README.md, pictures/")


def _print(evaluation: Evaluation) -> None:
    """Every table of the evaluation, on a terminal."""
    n_folds, members = len(evaluation.folds), evaluation.members
    click.echo(
        f"{evaluation.preset} on {evaluation.dataset_id}: {evaluation.n_objects:,} test objects of {n_folds} folds, "
        f"{members} models each"
    )
    for head, rows in (
        (POOLED, pooled(evaluation)),
        (PER_CLASS, per_class(evaluation)),
        (("true [%]", *evaluation.classes), confusion(evaluation)),
        (EARLY, early(evaluation)),
        (COMPARISON, comparison(evaluation)),
    ):
        click.echo()
        _rows(head, rows)


def _rows(head: Row, rows: Iterable[Row]) -> None:
    table([dict(zip(head, row, strict=True)) for row in rows])
