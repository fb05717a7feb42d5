"""The flows `train-model`, `fine-tune-model` and `evaluate-model`: two steps of training, then the test folds."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact

from flows.steps import step
from model.config import preset
from model.evaluate import Evaluation, evaluate
from model.runs import TrainResult, fine_tune, train
from model.train import ProgressCallback
from model.watching import watcher


@flow(name="train-model")
def train_model(
    dataset: Path,
    run: Path,
    model: str = "small",
    changes: dict[str, Any] | None = None,
    folds: Sequence[int] | None = None,
) -> TrainResult:
    """Train on photometrically typed supernovae and half of AGN and Variables, in this process.

    Several processes train without the flow: `torchrun --nproc-per-node 4 -m s82 train …`.

    Parameters
    ----------
    dataset
        Directory of a published dataset.
    run
        Directory of the run; an interrupted run continues.
    model
        Preset: `paper`, `light` or `small`.
    changes
        Settings that differ from the preset's, nested, such as `{"train": {"epochs": 5}}`.
    folds
        Folds to train; all by default.
    """
    config = preset(model).updated(**(changes or {}))
    return step("train", retries=1)(train)(dataset, run, config, folds=folds, progress=_watcher())


@flow(name="fine-tune-model")
def fine_tune_model(dataset: Path, run: Path) -> TrainResult:
    """Continue every trained model of `run` on spectroscopically confirmed objects."""
    return step("fine-tune", retries=1)(fine_tune)(dataset, run, progress=_watcher())


@flow(name="evaluate-model")
def evaluate_model(dataset: Path, run: Path) -> Evaluation:
    """Predict every test object by the models that never saw it, score the predictions, and draw what they show."""
    result = step("evaluate")(evaluate)(dataset, run)
    _draw(run)
    create_table_artifact(key="evaluation", table=headline(result), description=f"Run {run} on {result.dataset_id}")
    return result


def _draw(run: Path) -> None:
    """Pictures, where there is matplotlib: a machine that only trains needs none."""
    if find_spec("matplotlib") is None:
        get_run_logger().info("no pictures without matplotlib: pip install 'stripe82-convention[report]'")
        return
    from pipeline.report.pictures import write_pictures

    step("pictures")(write_pictures)(run)


def headline(result: Evaluation) -> list[dict[str, Any]]:
    """Scores with their 95 % intervals, and what the majority class alone would score."""
    return [
        {
            "score": name.replace("_", " "),
            "value": round(estimate.value, 4),
            "low": round(estimate.low, 4),
            "high": round(estimate.high, 4),
            "majority class": round(getattr(result.majority, name), 4),
        }
        for name in ("balanced_accuracy", "macro_f1", "accuracy")
        for estimate in (getattr(result, name),)
    ]


def _watcher() -> ProgressCallback:
    logger = get_run_logger()
    logger.info("torch %s on %d threads", torch.__version__, torch.get_num_threads())
    return watcher(logger.info)
