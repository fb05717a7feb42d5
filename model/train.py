"""Train one model: one step of one member of one fold, epoch by epoch, resumable to the same result."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from model.arithmetic import arithmetic, for_training, repeatable
from model.checkpoint import EpochMetrics, History, TrainingState, restore_checkpoint, save_checkpoint
from model.config import TrainConfig
from model.convention import ConvEntion
from model.distributed import ALONE, Team, share_statistics
from model.errors import TrainingError
from model.export import ModelFile, save_model
from model.freezing import ready_for_training
from model.loader import Loader
from model.logbook import logbook
from model.objective import assess
from model.rundir import CHECKPOINT_FILE, METRICS_FILE, Step
from model.seeding import derive_seed, seeded
from model.selection import has_settled, is_best
from model.stepping import Stepper
from pipeline.atomic import write_text

STEP_NUMBER: Final[dict[Step, int]] = {"train": 1, "fine-tune": 2}


@dataclass(frozen=True, slots=True)
class Progress:
    """One finished epoch, for whoever watches."""

    fold: int
    member: int
    step: Step
    epoch: int
    epochs: int
    loss: float
    validation_loss: float | None
    validation_accuracy: float | None
    validation_balanced_accuracy: float | None
    validation_macro_f1: float | None
    is_last: bool
    """No further epoch of this model follows."""


ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Job:
    """Which model this is, where it goes, and what its randomness comes from."""

    fold: int
    member: int
    step: Step
    folder: Path
    seed: int
    dataset_id: str

    def epoch_seed(self, epoch: int) -> int:
        """Seed of one epoch; 0 is the initialisation."""
        return derive_seed(self.seed, self.fold, self.member, STEP_NUMBER[self.step], epoch)

    def __str__(self) -> str:
        return f"fold {self.fold}, member {self.member}, {self.step}"


@dataclass(frozen=True, slots=True)
class Examples:
    """Objects of one training step, as places in the pack, and the label of every object of the pack."""

    train: Tensor
    validation: Tensor
    label_O: Tensor


def fit(
    network: ConvEntion,
    loader: Loader,
    examples: Examples,
    config: TrainConfig,
    job: Job,
    progress: ProgressCallback | None = None,
    team: Team = ALONE,
) -> History:
    """Train `network` in place and write metrics, checkpoints and at last the model into the job's folder.

    Continues from the folder's checkpoint where there is one. On a CPU the result is the same bit
    for bit, however often it was interrupted (with the same number of threads).

    Parameters
    ----------
    team
        Processes that share the batches of this model. Each calls `fit` with the same; the first writes.

    Raises
    ------
    TrainingError
        The loss is not finite, or memory does not suffice for one sequence.
    """
    if team.size > 1:
        share_statistics(network)
    state = TrainingState(network, _optimizer(network, config, loader.device), History(), {})
    restore_checkpoint(job.folder / CHECKPOINT_FILE, state)
    team.wait()  # all have read before the first writes
    steps = config.epochs * -(-(config.samples_per_epoch or len(examples.train)) // config.batch)
    forward = for_training(network, config, loader.device, steps if team.size == 1 else 0)
    micro_batch = state.history.micro_batch or config.micro_batch
    stepper = Stepper(forward, state.optimizer, config, team, micro_batch)
    with repeatable(config.deterministic), _record(job, state.history, team) as record:
        while not _is_over(state.history, config):
            metrics = _epoch(state, stepper, loader, examples, job)
            take_note(state, metrics, config, stepper.micro_batch)
            record(state)
            if progress is not None and team.is_first:
                progress(_progress(job, metrics, config.epochs, is_last=_is_over(state.history, config)))
    if team.is_first:
        save_model(job.folder, state.best, _model_file(loader, job, state.history.best_epoch))
        (job.folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    return state.history


def read_metrics(path: Path) -> tuple[EpochMetrics, ...]:
    """Metrics of each finished epoch, none where there is no such file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else ()
    return tuple(EpochMetrics.model_validate_json(line) for line in lines)


def _is_over(history: History, config: TrainConfig) -> bool:
    return history.epochs_done >= config.epochs or has_settled(history, config)


@contextmanager
def _record(job: Job, history: History, team: Team) -> Iterator[Callable[[TrainingState], None]]:
    """A function that writes down an epoch; the checkpoint comes last, so that what it counts as done is written."""
    if not team.is_first:
        yield lambda state: None  # noqa: ARG005
        return
    with logbook(job.folder, history.epochs_done) as book:

        def record(state: TrainingState) -> None:
            metrics = state.history.metrics
            book.write(metrics[-1])
            write_text(job.folder / METRICS_FILE, "".join(each.model_dump_json() + "\n" for each in metrics))
            save_checkpoint(job.folder / CHECKPOINT_FILE, state)

        yield record


def _epoch(state: TrainingState, stepper: Stepper, loader: Loader, examples: Examples, job: Job) -> EpochMetrics:
    config, team, epoch = stepper.config, stepper.team, state.history.epochs_done + 1
    started, lr = time.monotonic(), learning_rate(config, epoch)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    ready_for_training(state.network, config, epoch)
    with seeded(job.epoch_seed(epoch), loader.device, team.rank) as generator:
        loss, accuracy = _train_epoch(stepper, loader, examples, generator)
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss} in epoch {epoch} of {job}: lower the learning rate ({config.lr}), "
            "set clip_norm, or look for damaged images in its training objects"
        )
    with arithmetic(config, loader.device):
        batch = min(stepper.micro_batch or config.batch, config.batch)
        logit_VC = _predict_together(state.network, loader, examples.validation, batch, team)
    validation = assess(logit_VC, examples.label_O[examples.validation])
    return EpochMetrics(
        epoch=epoch, loss=loss, accuracy=accuracy, lr=lr, seconds=time.monotonic() - started, **validation
    )


def _train_epoch(
    stepper: Stepper, loader: Loader, examples: Examples, generator: torch.Generator
) -> tuple[float, float]:
    """Mean loss and accuracy over the sequences of one epoch."""
    config, team = stepper.config, stepper.team
    drawn = draw_balanced(examples.train, examples.label_O, config.samples_per_epoch, generator)
    total = torch.zeros(2, device=drawn.device)  # loss, right answers: read once per epoch
    batches = loader.training_batches(drawn, config.batch, generator, config.max_rotation_deg, team.share)
    for object_B, batch in zip(drawn.split(config.batch), batches, strict=True):
        label_B = examples.label_O[object_B[team.rank :: team.size]]
        total += torch.stack(stepper.step(batch, label_B, len(object_B)))
    loss, accuracy = (team.add_up(total) / len(drawn)).tolist()
    return loss, accuracy


def draw_balanced(objects: Tensor, label_O: Tensor, n: int | None, generator: torch.Generator) -> Tensor:
    """Draw objects with replacement, each class equally often on average (weighted random sampling, Sect. 3.1)."""
    label = label_O[objects]
    weight = 1.0 / label.bincount().double()[label]
    return objects[torch.multinomial(weight, n or len(objects), replacement=True, generator=generator)]


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """Learning rate of an epoch (from 1)."""
    warm = config.warmup_epochs
    if epoch <= warm:
        return config.lr * epoch / (warm + 1)
    if config.schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * (epoch - 1 - warm) / (config.epochs - warm)))


@torch.inference_mode()
def predict_logits(network: torch.nn.Module, loader: Loader, objects: Tensor, batch: int) -> Tensor:
    """Logits (objects, classes) in evaluation mode, images chosen by the fixed rule."""
    network.eval()
    if not len(objects):
        return torch.empty(0, len(loader.config.classes), device=loader.device)
    return torch.cat([network(*each) for each in loader.batches(objects, batch)])


def _predict_together(network: ConvEntion, loader: Loader, objects: Tensor, batch: int, team: Team) -> Tensor:
    """As `predict_logits`, each process a part of the objects; all get all logits."""
    if team.size == 1:
        return predict_logits(network, loader, objects, batch).float()
    logit_VC = torch.zeros(len(objects), len(loader.config.classes), device=loader.device)
    logit_VC[team.rank :: team.size] = predict_logits(network, loader, objects[team.rank :: team.size], batch).float()
    return team.add_up(logit_VC)


def take_note(state: TrainingState, metrics: EpochMetrics, config: TrainConfig, micro_batch: int | None = None) -> None:
    """Append the epoch, and keep its weights if they are the ones to keep."""
    best_epoch = state.history.best_epoch
    if is_best(state.history, metrics, config):
        best_epoch = metrics.epoch
        state.best = {name: tensor.detach().clone() for name, tensor in state.network.state_dict().items()}
    state.history = History(metrics=(*state.history.metrics, metrics), best_epoch=best_epoch, micro_batch=micro_batch)


def _optimizer(network: ConvEntion, config: TrainConfig, device: torch.device) -> Optimizer:
    """Of all weights: those that are frozen have no gradient and stay as they are."""
    kind = {"adam": Adam, "adamw": AdamW}[config.optimizer]
    optimizer: Optimizer = kind(
        network.parameters(),
        lr=config.lr,
        weight_decay=config.weight_decay,
        amsgrad=config.amsgrad,
        fused=device.type == "cuda",  # one kernel for all weights
    )
    return optimizer


def _model_file(loader: Loader, job: Job, epoch: int) -> ModelFile:
    return ModelFile(
        model=loader.config,
        normalisation=loader.normalisation,
        dataset_id=job.dataset_id,
        fold=job.fold,
        member=job.member,
        step=job.step,
        epoch=epoch,
    )


def _progress(job: Job, metrics: EpochMetrics, epochs: int, *, is_last: bool) -> Progress:
    return Progress(
        fold=job.fold,
        member=job.member,
        step=job.step,
        epoch=metrics.epoch,
        epochs=epochs,
        loss=metrics.loss,
        validation_loss=metrics.validation_loss,
        validation_accuracy=metrics.validation_accuracy,
        validation_balanced_accuracy=metrics.validation_balanced_accuracy,
        validation_macro_f1=metrics.validation_macro_f1,
        is_last=is_last,
    )
