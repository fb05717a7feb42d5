"""A run: every fold and ensemble member of one configuration on one dataset, in a directory of its own.

`train`, then `fine_tune`, then `model.evaluate.evaluate`. Each can be interrupted and called again:
finished models are kept, an unfinished one continues from its last epoch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from model.checkpoint import History
from model.config import Config, RunConfig
from model.convention import ConvEntion
from model.data import Normalisation, Pack, pack_dataset, pick_device
from model.distributed import ALONE, Parallel, Team, joined
from model.errors import ModelConfigError, RunError
from model.export import load_model, read_description
from model.loader import Loader
from model.protocol import FoldLists, Places, fold_lists, label_of, n_folds, taking_part
from model.rundir import CONFIG_FILE, METRICS_FILE, Step, is_finished, step_dir
from model.seeding import seeded
from model.train import Examples, Job, ProgressCallback, fit, read_metrics
from pipeline.atomic import write_text
from pipeline.errors import DatasetError
from pipeline.manifest import Dataset, ObjectRow, open_dataset
from pipeline.outputs import check_output
from pipeline.splits import is_photometric
from pipeline.validation import explain

log = logging.getLogger(__name__)
_SOFTWARE: Final = ("stripe82-convention", "torch", "numpy", "scikit-learn", "safetensors")


class RunRecord(Config):
    """Content of a run's config.json."""

    format_version: Literal[1] = 1
    config: RunConfig
    dataset_id: str
    dataset_content_hash: str
    software: dict[str, str]


class ModelRecord(Config):
    """One finished model of a run."""

    fold: int
    member: int
    step: Step
    kept_epoch: int
    epochs: int
    loss: float
    """Training loss of the kept epoch."""
    validation_loss: float | None
    validation_accuracy: float | None
    validation_balanced_accuracy: float | None
    validation_macro_f1: float | None
    seconds: float


class TrainResult(Config):
    """What `train` or `fine_tune` did; models that were already finished are listed too."""

    run_dir: Path
    dataset_id: str
    step: Step
    models: tuple[ModelRecord, ...]


@dataclass(frozen=True)
class Session:
    """A run and its dataset, opened together: the objects that take part, their labels, their images."""

    run_dir: Path
    record: RunRecord
    objects: tuple[ObjectRow, ...]
    label_O: NDArray[np.int64]
    pack: Pack
    device: torch.device

    @property
    def config(self) -> RunConfig:
        """The run's configuration."""
        return self.record.config

    @property
    def n_folds(self) -> int:
        """Number of folds of the dataset."""
        return n_folds(self.objects)

    def lists(self, fold: int) -> FoldLists:
        """Roles of the objects in a fold."""
        return fold_lists(self.objects, fold, self.config.protocol)

    def loader(self, normalisation: Normalisation) -> Loader:
        """Batches standardised by these constants."""
        return Loader(self.pack, normalisation, self.config.model, self.device)

    def places(self, places: Places) -> torch.Tensor:
        """Places of objects as a tensor on the device."""
        return torch.from_numpy(places.astype(np.int64)).to(self.device)

    def examples(self, train: Places, validation: Places) -> Examples:
        """A training list and its validation list, with labels."""
        label_O = torch.from_numpy(self.label_O).to(self.device)
        return Examples(self.places(train), self.places(validation), label_O)


def train(
    dataset_path: str | Path,
    run_dir: str | Path,
    config: RunConfig,
    *,
    folds: Sequence[int] | None = None,
    progress: ProgressCallback | None = None,
    parallel: Parallel = "models",
) -> TrainResult:
    """Step 1: train every member of the folds (all by default) on photometric supernovae and half of AGN and Variables.

    Parameters
    ----------
    parallel
        How processes that torchrun started share the work: see `model.distributed`. It is no part of the
        configuration: a run may be continued by any number of processes, in either way.

    Raises
    ------
    DatasetError
        The dataset cannot be trained on: a class without objects, images of another size, no folds.
    RunError
        `run_dir` holds a run of another configuration or dataset.
    TrainingError
        The loss is not finite.
    ConfigError
        `run_dir` is inside a dataset.
    """
    run_dir, dataset = Path(run_dir), open_dataset(dataset_path)
    check_output(run_dir)
    with joined(config.device, parallel) as team:
        record = _record_of(run_dir, dataset, config)
        session = session_of(run_dir, record, dataset)
        lists = {fold: session.lists(fold) for fold in check_folds(folds, session.n_folds)}
        for fold, of_fold in lists.items():
            _check_classes(session, of_fold.train, f"{dataset.path}, fold {fold}, has nothing to train on of")
            _warn_of_classes(session, of_fold.train_validation, f"fold {fold} has no %s to choose the epoch by")

        def fit_one(job: Job, crew: Team) -> None:
            of_fold = lists[job.fold]
            loader = session.loader(session.pack.normalisation(of_fold.train.tolist()))
            with seeded(job.epoch_seed(0), torch.device("cpu")):  # the same start on every device
                network = ConvEntion(config.model).to(session.device)
            examples = session.examples(of_fold.train, of_fold.train_validation)
            fit(network, loader, examples, config.train, job, progress, crew)

        if team.is_first:
            _warn_of_rare_classes(session)
        team.wait()  # all have seen what run is there
        if team.is_first:
            write_text(run_dir / CONFIG_FILE, record.model_dump_json(indent=2) + "\n")  # nothing speaks against it
        return _train_models(session, list(lists), "train", fit_one, team, parallel)


def fine_tune(
    dataset_path: str | Path,
    run_dir: str | Path,
    *,
    progress: ProgressCallback | None = None,
    parallel: Parallel = "models",
) -> TrainResult:
    """Step 2: continue every trained model on spectroscopic supernovae and the other half of AGN and Variables.

    Parameters
    ----------
    parallel
        As in `train`.

    Raises
    ------
    RunError
        The run has no trained model, a fold's members are not all trained, or it is of another dataset.
    DatasetError, TrainingError
        As in `train`.
    """
    record, dataset = open_run(dataset_path, run_dir)
    with joined(record.config.device, parallel) as team:
        session = session_of(Path(run_dir), record, dataset)
        lists = {fold: session.lists(fold) for fold in finished_folds(session, "train")}
        for fold, of_fold in lists.items():
            if not len(of_fold.fine_tune):
                raise DatasetError(f"{dataset_path}: fold {fold} has no spectroscopic object to fine-tune on")
            _warn_of_classes(
                session, of_fold.fine_tune, f"fold {fold} has no %s to fine-tune on: expect the model to forget it"
            )
            _warn_of_classes(session, of_fold.fine_tune_validation, f"fold {fold} has no %s to choose the epoch by")

        def fit_one(job: Job, crew: Team) -> None:
            of_fold = lists[job.fold]
            trained = load_model(step_dir(session.run_dir, job.fold, job.member, "train"), session.device)
            loader = session.loader(trained.file.normalisation)
            examples = session.examples(of_fold.fine_tune, of_fold.fine_tune_validation)
            fit(trained.network, loader, examples, session.config.fine_tune, job, progress, crew)

        return _train_models(session, list(lists), "fine-tune", fit_one, team, parallel)


def _train_models(
    session: Session,
    folds: Sequence[int],
    step: Step,
    fit_one: Callable[[Job, Team], None],
    team: Team,
    parallel: Parallel,
) -> TrainResult:
    """Train what is not finished: all processes model by model, or each models of its own."""
    jobs = [_job(session, fold, member, step) for fold in folds for member in range(session.config.protocol.members)]
    pending = [job for job in jobs if not is_finished(job.folder)]
    team.wait()  # all have the same list before the first model is finished
    together = parallel == "batch"
    for job in pending if together else team.part(pending):
        fit_one(job, team if together else ALONE)
    team.wait()
    return TrainResult(
        run_dir=session.run_dir,
        dataset_id=session.record.dataset_id,
        step=step,
        models=tuple(map(_model_record, jobs)),
    )


def open_session(dataset_path: str | Path, run_dir: str | Path) -> Session:
    """Open an existing run with its dataset, images included (raises as `open_run`, and DatasetError as `train`)."""
    record, dataset = open_run(dataset_path, run_dir)
    return session_of(Path(run_dir), record, dataset)


def open_run(dataset_path: str | Path, run_dir: str | Path) -> tuple[RunRecord, Dataset]:
    """Check that a run and a dataset belong together, without reading an image.

    Raises
    ------
    RunError
        There is no run, it cannot be read, or it was made with another dataset.
    """
    run_dir, dataset = Path(run_dir), open_dataset(dataset_path)
    record = read_record(run_dir)
    _check_dataset(run_dir, record, dataset)
    return record, dataset


def read_record(run_dir: Path) -> RunRecord:
    """Read a run's config.json (raises RunError where it is missing or not one)."""
    path = run_dir / CONFIG_FILE
    try:
        return RunRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{run_dir} is not a run: it has no {CONFIG_FILE}; train first") from error
    except ValidationError as error:
        raise RunError(f"{path} is not a run's configuration: {explain(error)}") from error


def finished_folds(session: Session, step: Step) -> list[int]:
    """Folds whose members all finished `step`; folds not begun at all are left out.

    Raises
    ------
    RunError
        No fold is finished, or one is only in part.
    """
    finished = []
    for fold in range(session.n_folds):
        done = [is_finished(_job(session, fold, m, step).folder) for m in range(session.config.protocol.members)]
        begun = (session.run_dir / f"fold-{fold}").exists()
        if begun and not all(done):
            tried = any(session.run_dir.glob(f"fold-*/member-*/{step}"))
            hint = f"run {step} again, it continues" if tried else f"run {step} first"
            raise RunError(f"{session.run_dir}: fold {fold} has not finished {step}: {hint}")
        if begun:
            finished.append(fold)
    if not finished:
        raise RunError(f"{session.run_dir} holds no model that finished {step}: run {step} first")
    return finished


def session_of(run_dir: Path, record: RunRecord, dataset: Dataset) -> Session:
    """Read the objects that take part, labels and images (raises DatasetError as `train`)."""
    objects = taking_part(dataset.objects)
    if n_folds(objects) < 2:
        raise DatasetError(f"{dataset.path} has no folds: build it with splits, or give its objects classes")
    labels = [label_of(row.class_name, record.config.model.classes) for row in objects]
    for label, name in enumerate(record.config.model.classes):
        if label not in labels:
            raise DatasetError(f"{dataset.path} has no object of class {name}: a model cannot learn it")
    device = pick_device(record.config)
    pack = pack_dataset(dataset, objects, record.config).placed(device)
    return Session(run_dir, record, objects, np.array(labels, dtype=np.int64), pack, device)


def _record_of(run_dir: Path, dataset: Dataset, config: RunConfig) -> RunRecord:
    """What a new run's config.json will say, or that of the run there, if it is the same run."""
    if not (run_dir / CONFIG_FILE).exists():
        return RunRecord(
            config=config,
            dataset_id=dataset.info.dataset_id,
            dataset_content_hash=dataset.info.content_hash,
            software={name: _version(name) for name in _SOFTWARE},
        )
    record = read_record(run_dir)
    _check_dataset(run_dir, record, dataset)
    if record.config != config:
        old, new = record.config.model_dump(), config.model_dump()
        differing = ", ".join(key for key in new if old[key] != new[key])
        raise RunError(f"{run_dir} holds a run with another configuration ({differing}): choose another run directory")
    return record


def _check_dataset(run_dir: Path, record: RunRecord, dataset: Dataset) -> None:
    if (record.dataset_id, record.dataset_content_hash) != (dataset.info.dataset_id, dataset.info.content_hash):
        raise RunError(
            f"{run_dir} was trained on dataset {record.dataset_id}, but {dataset.path} is {dataset.info.dataset_id} "
            "or has other content: give the run's dataset, or train a new run"
        )


def check_folds(folds: Sequence[int] | None, n: int) -> list[int]:
    """Folds in order, each once, all by default (raises ModelConfigError where there is no such fold)."""
    chosen = sorted(set(range(n) if folds is None else folds))
    if not chosen or not set(chosen) <= set(range(n)):
        raise ModelConfigError(f"folds {chosen} were asked for, but the dataset has folds 0 to {n - 1}")
    return chosen


def _check_classes(session: Session, places: Places, complaint: str) -> None:
    if absent := _classes_without(session, places):
        raise DatasetError(f"{complaint} {', '.join(absent)}: it needs at least one object of each class")


def _warn_of_rare_classes(session: Session) -> None:
    """Where a class has fewer objects that may test than there are folds."""
    testing = np.array([not is_photometric(row) for row in session.objects])
    for label, name in enumerate(session.config.model.classes):
        n = int((testing & (session.label_O == label)).sum())
        if n < session.n_folds:
            log.warning(
                "%d of %d folds have no %s to test: its scores will say little",
                session.n_folds - n,
                session.n_folds,
                name,
            )


def _warn_of_classes(session: Session, places: Places, complaint: str) -> None:
    """Where a list that is not empty lacks a class."""
    for name in _classes_without(session, places) if len(places) else ():
        log.warning(complaint, name)


def _classes_without(session: Session, places: Places) -> list[str]:
    present = set(session.label_O[places].tolist())
    return [name for label, name in enumerate(session.config.model.classes) if label not in present]


def _job(session: Session, fold: int, member: int, step: Step) -> Job:
    folder = step_dir(session.run_dir, fold, member, step)
    return Job(fold, member, step, folder, session.config.protocol.seed, session.record.dataset_id)


def _model_record(job: Job) -> ModelRecord:
    history = read_history(job.folder)
    kept = history.metrics[history.best_epoch - 1]
    return ModelRecord(
        fold=job.fold,
        member=job.member,
        step=job.step,
        kept_epoch=kept.epoch,
        epochs=history.epochs_done,
        loss=kept.loss,
        validation_loss=kept.validation_loss,
        validation_accuracy=kept.validation_accuracy,
        validation_balanced_accuracy=kept.validation_balanced_accuracy,
        validation_macro_f1=kept.validation_macro_f1,
        seconds=sum(epoch.seconds for epoch in history.metrics),
    )


def read_history(folder: Path) -> History:
    """Metrics of a finished model, epoch by epoch, and the epoch that was kept."""
    metrics, best_epoch = read_metrics(folder / METRICS_FILE), read_description(folder).epoch
    if best_epoch > len(metrics):
        raise RunError(f"{folder / METRICS_FILE} lacks epoch {best_epoch}, whose weights were kept: was it changed?")
    return History(metrics=metrics, best_epoch=best_epoch)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
