"""Hyper-parameter search over the paper's list (Sect. 4.2): M, K, L, T, classifier size, learning rate, batch, dropout.

Each trial trains step 1 on the training objects of a fold (photometric supernovae, half of AGN and Variables) and is
judged by macro F1 on the part of them that is kept for validation. No object that tests or fine-tunes is looked at.

A search lies in a directory of its own: search.json says what is searched, journal.log is Optuna's (lines of JSON),
result.json the outcome. One that was interrupted, even killed, continues: the sampler draws from a seed per trial, and
a trial that was being trained goes on from its checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import optuna
import torch
from filelock import FileLock, Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import ValidationError

from model.config import Config, ModelConfig, RunConfig
from model.convention import ConvEntion
from model.errors import ModelConfigError, RunError, TrainingError
from model.rundir import METRICS_FILE
from model.runs import RunRecord, Session, check_folds, session_of
from model.seeding import derive_seed, seeded
from model.train import Job, Progress, fit, read_metrics
from pipeline.atomic import make_folder, write_text
from pipeline.errors import DatasetError
from pipeline.manifest import open_dataset
from pipeline.outputs import check_output
from pipeline.validation import explain

SEARCH_FILE: Final = "search.json"
JOURNAL_FILE: Final = "journal.log"
RESULT_FILE: Final = "result.json"
_TRIALS_DIR: Final = "trials"
_STUDY: Final = "search"

IMAGES: Final = (24, 120)
"""Least and most images [M], if the dataset has sequences as long; rounded down to a multiple of K."""
BLOCKS: Final = (1, 2, 3, 4, 5, 6)
"""Images per block [K]; the last convolution's kernel in time is fitted to it."""
LAYERS: Final = (1, 4)
HEADS: Final = (1, 2, 4, 8)
HEAD_FEATURES: Final = (64, 128, 256, 512)
LR: Final = (1e-4, 1e-2)
BATCH: Final = (16, 32, 64, 128, 256)
DROPOUT: Final = (0.0, 0.6)


class SearchRecord(Config):
    """Content of search.json: a search goes on only with the same."""

    config: RunConfig
    """What is not searched; the rest of it is where the search begins."""
    dataset_id: str
    dataset_content_hash: str
    folds: tuple[int, ...]
    seed: int


class TrialRecord(Config):
    """One finished trial."""

    number: int
    state: Literal["complete", "pruned", "failed"]
    macro_f1: float | None
    """On validation, mean over the folds; None where the trial was given up or failed."""
    epochs: int
    """Epochs until it ended, of all folds."""
    settings: tuple[str, ...]
    """As `s82 train --set` takes them."""
    reason: str | None


class SearchResult(Config):
    """Content of result.json."""

    dataset_id: str
    preset: str
    folds: tuple[int, ...]
    seed: int
    best: TrialRecord
    trials: tuple[TrialRecord, ...]


TrialCallback = Callable[[TrialRecord], None]


def search(
    dataset_path: str | Path,
    out: str | Path,
    config: RunConfig,
    *,
    trials: int,
    folds: Sequence[int] = (0,),
    seed: int = 0,
    progress: TrialCallback | None = None,
) -> SearchResult:
    """Try configurations until `trials` of them are finished, earlier calls counted in.

    Raises
    ------
    ModelConfigError
        No object is kept for validation, or there is no such fold.
    RunError
        `out` holds another search, or one that is running.
    TrainingError
        Every trial failed.
    DatasetError, ConfigError
        As `model.runs.train`.
    """
    out, dataset = Path(out), open_dataset(dataset_path)
    check_output(out)
    info = dataset.info
    run = RunRecord(config=config, dataset_id=info.dataset_id, dataset_content_hash=info.content_hash, software={})
    session = session_of(out, run, dataset)
    chosen = tuple(check_folds(folds, session.n_folds))
    for fold in chosen:
        _check_validation(session, fold)
    record = SearchRecord(
        config=config,
        dataset_id=info.dataset_id,
        dataset_content_hash=info.content_hash,
        folds=chosen,
        seed=seed,
    )
    make_folder(out)
    try:
        with FileLock(out / ".lock", timeout=0):
            _claim(out, record)
            study = _study(out, config.train.epochs)
            _take_up(study)
            while len(finished := _finished(study)) < trials:
                study.sampler = optuna.samplers.TPESampler(seed=derive_seed(seed, len(finished)) % 2**32)
                trial_record = _try(study, session, record, out)
                if progress is not None:
                    progress(trial_record)
            result = _result(record, [_trial_record(config, trial) for trial in finished])
            write_text(out / RESULT_FILE, result.model_dump_json(indent=2) + "\n")
            return result
    except Timeout as error:
        raise RunError(f"a search is running in {out}: wait for it, or choose another directory") from error


def propose(trial: Trial, config: RunConfig, longest: int) -> RunConfig:
    """The configuration that a trial tries; `longest` is the length of the longest sequence."""
    block = trial.suggest_categorical("block", blocks_of(config.model))
    most = min(max(longest, block), IMAGES[1])
    images = trial.suggest_int("images", min(IMAGES[0], most), most)
    return _config(
        config,
        {
            "block": block,
            "images": images,
            "layers": trial.suggest_int("layers", *LAYERS),
            "heads": trial.suggest_categorical("heads", [n for n in HEADS if config.model.channels % n == 0]),
            "head_features": trial.suggest_categorical("head_features", HEAD_FEATURES),
            "dropout": trial.suggest_float("dropout", *DROPOUT),
            "lr": trial.suggest_float("lr", *LR, log=True),
            "batch": trial.suggest_categorical("batch", BATCH),
        },
    )


def blocks_of(model: ModelConfig) -> list[int]:
    """Which K the network's convolutions can be fitted to."""
    fitting = []
    for block in BLOCKS:
        try:
            ModelConfig.model_validate(model.model_dump() | _fitted(model, block) | {"images": block})
        except ValidationError:
            continue
        fitting.append(block)
    return fitting


def _fitted(model: ModelConfig, block: int) -> dict[str, Any]:
    """K, and the convolutions with the last one's kernel spanning all time steps that reach it."""
    steps = block
    *first, last = model.convolutions
    for layer in first:
        steps = layer.time_after(steps)
    last = last.model_copy(update={"time_kernel": steps + 2 * last.time_padding})
    return {"block": block, "convolutions": [layer.model_dump() for layer in (*first, last)]}


def _config(base: RunConfig, params: dict[str, Any]) -> RunConfig:
    block = params["block"]
    images = max(params["images"] // block, 1) * block
    model = {name: params[name] for name in ("layers", "heads", "head_features", "dropout")}
    return base.updated(
        model=model | _fitted(base.model, block) | {"images": images},
        train={"lr": params["lr"], "batch": params["batch"]},
    )


def settings_of(config: RunConfig, base: RunConfig) -> tuple[str, ...]:
    """What `--set` must be given to come from the one to the other."""
    old, new = base.model_dump(mode="json"), config.model_dump(mode="json")
    return tuple(
        f"{part}.{name}={json.dumps(value, separators=(',', ':'))}"
        for part in ("model", "train")
        for name, value in new[part].items()
        if value != old[part][name]
    )


def _try(study: optuna.Study, session: Session, record: SearchRecord, out: Path) -> TrialRecord:
    """Train one configuration on every fold, and tell the study."""
    trial = study.ask()
    config = propose(trial, record.config, session.pack.longest)
    folder = out / _TRIALS_DIR / hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:12]
    try:
        scores = [_score(trial, number, fold, session, config, folder) for number, fold in enumerate(record.folds)]
        study.tell(trial, math.fsum(scores) / len(scores))
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
    except TrainingError as error:
        trial.set_user_attr("reason", str(error))
        study.tell(trial, state=TrialState.FAIL)
    shutil.rmtree(folder, ignore_errors=True)  # the weights; what was measured is in the journal
    return _trial_record(record.config, study.trials[trial.number])


def _score(trial: Trial, number: int, fold: int, session: Session, config: RunConfig, folder: Path) -> float:
    """Highest validation macro F1 of an epoch.

    Raises
    ------
    optuna.TrialPruned
        Half of the earlier trials had a higher one after as many epochs.
    """
    lists, best, last, offset = session.lists(fold), -1.0, 0, number * config.train.epochs
    session = replace(session, record=session.record.model_copy(update={"config": config}))

    def report(epoch: int, macro_f1: float | None) -> None:
        nonlocal best, last
        best = max(best, macro_f1 or 0.0)
        if epoch > last:  # a killed trial may have noted an epoch that it has to do again
            trial.report(best, offset + epoch)
            last = epoch

    def judge(progress: Progress) -> None:
        report(progress.epoch, progress.validation_macro_f1)
        if trial.should_prune():
            raise optuna.TrialPruned

    job = Job(fold, 0, "train", folder / f"fold-{fold}", config.protocol.seed, session.record.dataset_id)
    for metrics in read_metrics(job.folder / METRICS_FILE):  # of this trial, before it was killed
        report(metrics.epoch, metrics.validation_macro_f1)
    with seeded(job.epoch_seed(0), torch.device("cpu")):
        network = ConvEntion(config.model).to(session.device)
    loader = session.loader(session.pack.normalisation(lists.train.tolist()))
    fit(network, loader, session.examples(lists.train, lists.train_validation), config.train, job, judge)
    return best


def _study(out: Path, epochs: int) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(out / JOURNAL_FILE))),
        study_name=_STUDY,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=epochs // 5),
    )


def _take_up(study: optuna.Study) -> None:
    """Let trials that were being trained when the search was killed be tried next."""
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        study.enqueue_trial(trial.params)
        study.tell(trial.number, state=TrialState.FAIL)


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that came to an end of their own."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or "reason" in trial.user_attrs
    ]


def _trial_record(base: RunConfig, trial: FrozenTrial) -> TrialRecord:
    states: dict[TrialState, Literal["complete", "pruned", "failed"]] = {
        TrialState.COMPLETE: "complete",
        TrialState.PRUNED: "pruned",
        TrialState.FAIL: "failed",
    }
    return TrialRecord(
        number=trial.number,
        state=states[trial.state],
        macro_f1=trial.value if trial.state == TrialState.COMPLETE else None,
        epochs=len(trial.intermediate_values),
        settings=settings_of(_config(base, trial.params), base),
        reason=trial.user_attrs.get("reason"),
    )


def _result(record: SearchRecord, trials: list[TrialRecord]) -> SearchResult:
    complete = [trial for trial in trials if trial.macro_f1 is not None]
    if not complete:
        reasons = "; ".join(sorted({trial.reason for trial in trials if trial.reason}))
        raise TrainingError(f"none of {len(trials)} trials could be trained: {reasons}")
    return SearchResult(
        dataset_id=record.dataset_id,
        preset=record.config.preset,
        folds=record.folds,
        seed=record.seed,
        best=max(complete, key=lambda trial: trial.macro_f1 or 0.0),
        trials=tuple(trials),
    )


def _claim(out: Path, record: SearchRecord) -> None:
    """Write search.json, or be sure that the search there is the same."""
    path = out / SEARCH_FILE
    if not path.exists():
        write_text(path, record.model_dump_json(indent=2) + "\n")
        return
    try:
        there = SearchRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise RunError(f"{path} is not a search: {explain(error)}") from error
    if there != record:
        old, new = there.model_dump(), record.model_dump()
        differing = ", ".join(key for key in new if old[key] != new[key])
        raise RunError(f"{out} holds another search ({differing}): choose another directory")


def _check_validation(session: Session, fold: int) -> None:
    lists, classes = session.lists(fold), session.config.model.classes
    for what, places in (("train on", lists.train), ("validate on", lists.train_validation)):
        present = set(session.label_O[places].tolist())
        absent = [name for label, name in enumerate(classes) if label not in present]
        if absent and what == "train on":
            raise DatasetError(f"fold {fold} has nothing to train on of {', '.join(absent)}")
        if absent:
            raise ModelConfigError(
                f"fold {fold} keeps no {', '.join(absent)} for validation, by which a search judges: "
                f"set protocol.validation_fraction to more than {session.config.protocol.validation_fraction}"
            )
