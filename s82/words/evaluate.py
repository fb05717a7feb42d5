"""`s82 evaluate`"""

from __future__ import annotations

from pathlib import Path

import click

from model.runs import open_run
from s82.output import as_json, show


@click.command("evaluate")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.argument("run", type=click.Path(file_okay=False, path_type=Path))
@as_json
def command(dataset: Path, run: Path, as_json: bool) -> None:
    """Score the fine-tuned models of RUN on the test folds of DATASET; each object by models that never saw it."""
    open_run(dataset, run)  # say what is wrong before Prefect takes its ten seconds
    from flows.train import evaluate_model

    show(evaluate_model(dataset, run).model_dump(mode="json"), as_json=as_json)
