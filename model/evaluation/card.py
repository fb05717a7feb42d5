"""The model's card: what a person finds beside the weights."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from string import Template

from model.describe import build_empty, n_parameters
from model.evaluation.results import Evaluation, read_evaluation
from model.evaluation.tables import PER_CLASS, POOLED, per_class, percent, pipes, pooled
from model.runs import RunRecord, read_record


def model_card(name: str, record: RunRecord, evaluation: Evaluation) -> str:
    """Fill the card's template (`data_manifest/model_card.md`) with the figures of one run."""
    config = record.config.model
    return Template(_text("model_card.md")).substitute(
        name=name,
        folder=f"work/runs/{name}",
        preset=evaluation.preset,
        n_classes=len(evaluation.classes),
        classes=", ".join(evaluation.classes),
        bands="".join(config.bands),
        size=config.size,
        images=config.images,
        parameters=f"{n_parameters(build_empty(config)):,}",
        n_models=len(evaluation.folds) * evaluation.members,
        dataset_id=evaluation.dataset_id,
        content_hash=record.dataset_content_hash[:12],
        fold=evaluation.folds[0].fold,
        split=_split(evaluation),
        n_objects=f"{evaluation.n_objects:,}",
        folds=", ".join(str(fold.fold) for fold in evaluation.folds),
        members=evaluation.members,
        n_bootstrap=f"{evaluation.n_bootstrap:,}",
        pooled=pipes(POOLED, pooled(evaluation)).rstrip(),
        per_class=pipes(PER_CLASS, per_class(evaluation)).rstrip(),
        temperatures=", ".join(f"{fold.temperature:.2f} ({fold.n_calibrated} objects)" for fold in evaluation.folds),
        ece_before=f"{percent(evaluation.ece_uncalibrated)} %",
        ece=f"{percent(evaluation.ece)} %",
        software=pipes(("package", "version"), record.software.items()).rstrip(),
        acknowledgement=_text("acknowledgement.md").rstrip(),
    )


def read_card(run_dir: Path) -> str:
    """The card of an evaluated run (raises RunError where it is none, or not evaluated)."""
    return model_card(run_dir.resolve().name, read_record(run_dir), read_evaluation(run_dir))


def _split(evaluation: Evaluation) -> str:
    head = ("class", "train", "its validation", "fine-tune", "its validation", "test")
    rows = (
        (one.name, *map(str, (one.train, one.train_validation, one.fine_tune, one.fine_tune_validation, one.test)))
        for one in evaluation.split
    )
    return pipes(head, rows).rstrip()


def _text(name: str) -> str:
    return (files("data_manifest") / name).read_text(encoding="utf-8")
