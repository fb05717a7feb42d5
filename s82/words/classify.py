"""`s82 classify`"""

from __future__ import annotations

import csv
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click

from model.classification import Sink, classify_entries, columns, open_input, table_file, trained_on
from model.classify import Classifier, load_classifier
from s82.output import as_json, show


@click.command("classify")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("input_path", metavar="INPUT", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="A .parquet or .csv file; default: print.")
@click.option("--fold", type=click.IntRange(0), help="Of a run, the models of this fold alone.")
@click.option("--strict", is_flag=True, help="Stop at the first sequence that cannot be classified; write nothing.")
@as_json
def command(model: Path, input_path: Path, out: Path | None, fold: int | None, strict: bool, as_json: bool) -> None:
    """Say which class each sequence of INPUT (a file, a folder of them, or a dataset) is, with probabilities.

    MODEL is a run, whose fine-tuned models answer together, or the folder of one model. A sequence that cannot be
    classified is told and left out, and the exit code is 1.
    """
    classifier, given = load_classifier(model, fold), open_input(input_path)
    _warn(classifier, trained=trained_on(classifier, given.dataset))
    rows: list[dict[str, Any]] = []
    with _sink(out, classifier, rows, as_json=as_json) as sink:
        summary = classify_entries(classifier, given.entries, sink, strict=strict, complain=_complain)
    if as_json:
        content = {"n_classified": summary.n_classified, "predicted": summary.predicted, "broken": summary.broken}
        show(content | ({"out": str(out)} if out else {"objects": rows}), as_json=True)
    elif out:
        counts = ", ".join(f"{name} {n:,}" for name, n in summary.predicted.items())
        click.echo(f"{out}: {summary.n_classified:,} objects by {classifier.n_models} models: {counts}")
    if summary.broken:
        click.echo(f"{len(summary.broken)} could not be classified", err=True)
        sys.exit(1)


def _sink(
    out: Path | None, classifier: Classifier, rows: list[dict[str, Any]], *, as_json: bool
) -> AbstractContextManager[Sink]:
    """Where rows go: a file, a list for JSON, or the terminal as CSV."""
    if out:
        return table_file(out, classifier.model.classes)
    if as_json:
        return nullcontext(rows.append)
    writer = csv.DictWriter(sys.stdout, columns(classifier.model.classes))
    writer.writeheader()
    return nullcontext(writer.writerow)


def _complain(line: str) -> None:
    click.echo(f"left out: {line}", err=True)


def _warn(classifier: Classifier, *, trained: bool) -> None:
    if not classifier.calibrated:
        click.echo("warning: probabilities are not calibrated: the run is not evaluated yet", err=True)
    if trained:
        click.echo(
            f"warning: the models were trained on {classifier.dataset_id}, on objects that are here: what they say of "
            "those is no test; predictions.parquet of the run has each object by models that never saw it",
            err=True,
        )
