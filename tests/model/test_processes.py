"""Processes: a killed one continues to the same bits, several learn what one does or share its models."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model.checkpoint import History
from model.config import preset
from model.rundir import METRICS_FILE, WEIGHTS_FILE, step_dir
from model.runs import read_history, train
from tests.model.processes import (
    double_precision_steps,
    finish,
    kill_at,
    start,
    start_team,
    train_fold,
    train_in_double_precision,
)

TINY = preset("small").updated(
    model={"images": 12, "dropout": 0},
    train={"epochs": 4, "samples_per_epoch": 9, "batch": 4},
    protocol={"members": 1, "validation_fraction": 0.3},
    device="cpu",
)


def history_of(run_dir: Path, member: int = 0) -> History:
    """What a model of fold 1 did, without the time it took."""
    history = read_history(step_dir(run_dir, 1, member, "train"))
    return history.model_copy(update={"metrics": tuple(m.model_copy(update={"seconds": 0}) for m in history.metrics)})


def weights_of(run_dir: Path, member: int = 0) -> dict[str, torch.Tensor]:
    return load_file(step_dir(run_dir, 1, member, "train") / WEIGHTS_FILE)


@pytest.mark.slow
def test_a_killed_training_continues_to_the_same_bits(tiny_dataset: Path, tmp_path: Path) -> None:
    """With all that an epoch may depend on: warm-up, parts that join in, clipping, early stopping, dropout."""
    config = TINY.updated(
        model={"dropout": 0.3},
        train={
            "epochs": 16, "patience": 7, "samples_per_epoch": 5, "batch": 3, "warmup_epochs": 3,
            "clip_norm": 0.5, "freeze": "gradual", "unfreeze_every": 2,
            "label_smoothing": 0.1, "loss": "focal", "optimizer": "adamw", "amsgrad": True,
            "deterministic": True, "lr": 1e-3,
        },
    )  # fmt: skip
    finish([start(train_fold, tiny_dataset, tmp_path / "whole", config, "models")])
    folder = step_dir(tmp_path / "broken", 1, 0, "train")
    moments = random.Random(4)
    for epochs in (moments.randint(1, 4), moments.randint(5, 9)):
        process = start(train_fold, tiny_dataset, tmp_path / "broken", config, "models")
        kill_at(process, folder / METRICS_FILE, epochs, delay=moments.uniform(0, 0.1))
        assert process.exitcode == -signal.SIGKILL
    finish([start(train_fold, tiny_dataset, tmp_path / "broken", config, "models")])
    assert history_of(tmp_path / "broken") == history_of(tmp_path / "whole")
    left, right = weights_of(tmp_path / "whole"), weights_of(tmp_path / "broken")
    assert all(left[name].equal(right[name]) for name in left | right)
    events = EventAccumulator(str(folder)).Reload()
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert losses == [(m.epoch, pytest.approx(m.loss)) for m in history_of(tmp_path / "broken").metrics]


@pytest.mark.slow
def test_processes_that_share_batches_step_as_one_does(tmp_path: Path) -> None:
    """To rounding in double precision, weights and batch statistics; of the last batch one of the two has nothing."""
    config = TINY.updated(train={"clip_norm": 0.5})
    finish(start_team(2, train_in_double_precision, config, [4, 3, 1], tmp_path / "weights"))
    shared = load_file(tmp_path / "weights")
    for name, tensor in double_precision_steps(config, [4, 3, 1]).items():
        torch.testing.assert_close(shared[name], tensor, rtol=1e-9, atol=1e-10, msg=name)


def test_processes_that_share_batches_learn_as_one_does(tiny_dataset: Path, tmp_path: Path) -> None:
    """While one part after the other joins in; losses to 1e-5.

    A low learning rate keeps what rounding does small: Adam makes as long a step of the smallest gradient.
    """
    config = TINY.updated(train={"epochs": 5, "lr": 2e-5, "freeze": "gradual", "unfreeze_every": 1})
    train(tiny_dataset, tmp_path / "one", config, folds=[1])
    finish(start_team(2, train_fold, tiny_dataset, tmp_path / "two", config, "batch"))
    one, two = history_of(tmp_path / "one"), history_of(tmp_path / "two")
    assert one.best_epoch == two.best_epoch
    for left, right in zip(one.metrics, two.metrics, strict=True):
        assert right.model_dump() == pytest.approx(left.model_dump(), abs=1e-5)


@pytest.mark.slow
def test_processes_that_share_models_train_the_same_models(tiny_dataset: Path, tmp_path: Path) -> None:
    config = TINY.updated(protocol={"members": 2}, train={"epochs": 1})
    train(tiny_dataset, tmp_path / "one", config, folds=[1])
    finish(start_team(2, train_fold, tiny_dataset, tmp_path / "two", config, "models"))
    for member in range(2):
        left, right = weights_of(tmp_path / "one", member), weights_of(tmp_path / "two", member)
        assert all(left[name].equal(right[name]) for name in left | right)
