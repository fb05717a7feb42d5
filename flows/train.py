"""The flows `train-model`, `fine-tune-model` and `evaluate-model`: two steps of training, then the test folds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from filelock import FileLock, Timeout
from prefect import flow, get_run_logger
from prefect.runtime import deployment, flow_run

from flows.artifacts import can_draw, link_page, link_run, show_pictures, show_rows
from flows.crews.torchrun import gpus_here, run_torchrun
from flows.forms import described
from flows.handover import Finished, check_next, say_finished, start_next
from flows.steps import step
from model.config import preset
from model.distributed import Parallel
from model.errors import RunError
from model.evaluate import Evaluation, evaluate
from model.runs import ModelRecord, TrainResult, fine_tune, train
from model.train import ProgressCallback
from model.watching import watcher
from pipeline.atomic import make_folder, storing
from pipeline.manifest import Dataset, open_dataset
from pipeline.naming import report_dir, root_of_dataset, run_dir

LOCK_FILE: Final = ".lock"
WAIT_S: Final = 24 * 3600.0
"""For a first attempt of the same run that was taken for dead, while it trains."""


def name_of_run() -> str:
    """What a list of runs shows: the training run, or the preset and the dataset where it is not named yet."""
    given = flow_run.parameters
    return Path(given["run"]).name if given.get("run") else f"{given.get('model')}-{Path(given['dataset']).name}"


@flow(name="train-model", flow_run_name=name_of_run)
@described()
def train_model(
    dataset: Path,
    run: Path | None = None,
    model: str = "small",
    changes: dict[str, Any] | None = None,
    folds: Sequence[int] | None = None,
    processes: int | None = None,
    parallel: Parallel = "models",
    then: str | None = None,
    upstream: str | None = None,
) -> TrainResult:
    """Train on photometrically typed supernovae and half of AGN and Variables.

    Parameters
    ----------
    dataset
        Directory of a published dataset version, or of a survey's datasets for the latest.
    run
        Directory of the run, in which an interrupted one continues; default: below the dataset's root, named after
        model and dataset.
    model
        Preset: paper, light or small.
    changes
        Settings that differ from the preset's, nested, such as {"train": {"epochs": 5}}.
    folds
        Folds to train; all by default.
    processes
        Processes that torchrun starts; default: one per GPU of this machine, and this process alone where there are not
        several.
    parallel
        With several processes: each trains models of its own, or all share every batch.
    then
        Deployment to start on the trained run, such as fine-tune-model/fine-tune-model.
    upstream
        Id of the flow run that made the dataset.
    """
    config = preset(model).updated(**(changes or {}))
    version = open_dataset(dataset)
    run = run or run_dir(root_of_dataset(version.path), f"{model}-{version.info.dataset_id}")
    _begin(then, upstream, f"{version.info.dataset_id} was made by")
    n = processes or gpus_here()
    with _only_trainer(run):
        if n > 1:
            chosen = [part for fold in folds or () for part in ("--fold", str(fold))]
            settings = [part for setting in _settings(changes or {}) for part in ("--set", setting)]
            arguments = [str(version.path), str(run), "--parallel", parallel, "--preset", model, *chosen, *settings]
            step("torchrun", retries=1)(run_torchrun)("train", arguments, n)
        # After torchrun, every model is there: this reads what it has made.
        result = step("train", retries=1)(train)(version.path, run, config, folds=folds, progress=_watcher())
    _hand_over("s82.model.trained", result, version, then)
    return result


@flow(name="fine-tune-model", flow_run_name=name_of_run)
@described(like=train_model)
def fine_tune_model(
    dataset: Path,
    run: Path,
    processes: int | None = None,
    parallel: Parallel = "models",
    then: str | None = None,
    upstream: str | None = None,
) -> TrainResult:
    """Continue every trained model of a run on spectroscopically confirmed objects.

    Parameters
    ----------
    run
        Directory of a run that has been trained.
    then
        Deployment to start on the fine-tuned run, such as evaluate-model/evaluate-model.
    upstream
        Id of the flow run that trained it.
    """
    _begin(then, upstream, f"{run.name} was trained by")
    version = open_dataset(dataset)
    n = processes or gpus_here()
    with _only_trainer(run):
        if n > 1:
            arguments = [str(version.path), str(run), "--parallel", parallel]
            step("torchrun", retries=1)(run_torchrun)("fine-tune", arguments, n)
        result = step("fine-tune", retries=1)(fine_tune)(version.path, run, progress=_watcher())
    _hand_over("s82.model.fine-tuned", result, version, then)
    return result


@flow(name="evaluate-model", flow_run_name=name_of_run)
@described(like=train_model)
def evaluate_model(
    dataset: Path, run: Path, report: bool = False, then: str | None = None, upstream: str | None = None
) -> Evaluation:
    """Predict every test object by the models that never saw it, score the predictions, and draw what they show.

    Parameters
    ----------
    run
        Directory of a run that has been fine-tuned.
    report
        Write HTML pages about dataset and run, and objects that are worth a look.
    then
        Deployment to start on the evaluated run.
    upstream
        Id of the flow run that fine-tuned it.
    """
    _begin(then, upstream, f"{run.name} was fine-tuned by")
    version = open_dataset(dataset)
    result = step("evaluate")(evaluate)(version.path, run)
    say_finished("s82.model.evaluated", version, run, then)
    start_next(then, version, run=run)
    show_rows("evaluation", headline(result), f"Run {run} on {result.dataset_id}")
    _draw(run, version.path, report=report)
    return result


def _begin(then: str | None, upstream: str | None, text: str) -> None:
    check_next(then)
    link_run("upstream-run", upstream, text)


def _hand_over(event: Finished, result: TrainResult, dataset: Dataset, then: str | None) -> None:
    say_finished(event, dataset, result.run_dir, then)
    start_next(then, dataset, run=result.run_dir)
    show_rows("models", [_row_of(model) for model in result.models], f"Run {result.run_dir} on {result.dataset_id}")


def _row_of(model: ModelRecord) -> dict[str, Any]:
    """A model of a run, for a table."""
    return {
        "fold": model.fold,
        "member": model.member,
        "epoch": f"{model.kept_epoch} of {model.epochs}",
        "loss": round(model.loss, 4),
        "validation macro F1": None if model.validation_macro_f1 is None else round(model.validation_macro_f1, 4),
        "minutes": round(model.seconds / 60, 1),
    }


def _settings(changes: Mapping[str, Any], above: str = "") -> list[str]:
    """Nested changes as the command line takes them: train.epochs=5."""
    settings = []
    for name, value in changes.items():
        key = f"{above}{name}"
        settings += _settings(value, f"{key}.") if isinstance(value, Mapping) else [f"{key}={json.dumps(value)}"]
    return settings


@contextmanager
def _only_trainer(run: Path) -> Iterator[None]:
    """Be the only flow that trains in this directory; a deployment's run waits for another, whoever types does not.

    Raises
    ------
    RunError
        Another one does.
    """
    with storing(run):
        make_folder(run)
        lock = FileLock(run / LOCK_FILE)
        try:
            lock.acquire(timeout=0 if deployment.id is None else WAIT_S)
        except Timeout as error:
            raise RunError(f"another process trains in {run}: wait for it, or choose another run directory") from error
    try:
        yield
    finally:
        lock.release()


def _draw(run: Path, dataset: Path, *, report: bool) -> None:
    """Pictures, where there is matplotlib: a machine that only trains needs none."""
    if not can_draw():
        return
    from pipeline.report import write_pages
    from pipeline.report.pictures import write_pictures

    pictures = {path.stem: path.read_bytes() for path in step("pictures")(write_pictures)(run)}
    shown = {f"{name} of {run.name}": pictures[name] for name in ("confusion", "reliability") if name in pictures}
    show_pictures("confusion", shown, f"Run {run.name} on its test objects")
    if report:
        root = root_of_dataset(dataset)
        page = step("report")(write_pages)(report_dir(root, run.name), dataset, run=run)
        link_page("run-report", page, root, f"Report on {run.name}")


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
