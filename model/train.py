"""Train one model: one step of one member of one fold, epoch by epoch, resumable to the same result."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import Adam, AdamW, Optimizer

from model.checkpoint import EpochMetrics, History, TrainingState, restore_checkpoint, save_checkpoint
from model.config import TrainConfig
from model.convention import ConvEntion
from model.errors import TrainingError
from model.export import ModelFile, save_model
from model.loader import Loader
from model.rundir import CHECKPOINT_FILE, METRICS_FILE, Step
from model.seeding import derive_seed, seeded
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
) -> History:
    """Train `network` in place and write metrics, checkpoints and at last the model into the job's folder.

    Continues from the folder's checkpoint where there is one. On a CPU the result is the same bit
    for bit, however often it was interrupted (with the same number of threads).

    Raises
    ------
    TrainingError
        The loss is not finite.
    """
    if config.freeze == "encoder":
        network.freeze_encoder()
    state = TrainingState(network, _optimizer(network, config), History(), {})
    checkpoint = job.folder / CHECKPOINT_FILE
    restore_checkpoint(checkpoint, state)
    for epoch in range(state.history.epochs_done + 1, config.epochs + 1):
        metrics = _epoch(state, loader, examples, config, job, epoch)
        _record(state, metrics, keep_best=config.select == "best")
        write_text(job.folder / METRICS_FILE, "".join(m.model_dump_json() + "\n" for m in state.history.metrics))
        save_checkpoint(checkpoint, state)
        if progress is not None:
            progress(_progress(job, metrics, config.epochs))
    save_model(job.folder, state.best, _model_file(loader, job, state.history.best_epoch))
    checkpoint.unlink(missing_ok=True)
    return state.history


def _epoch(
    state: TrainingState, loader: Loader, examples: Examples, config: TrainConfig, job: Job, epoch: int
) -> EpochMetrics:
    started, lr = time.monotonic(), learning_rate(config, epoch)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    with seeded(job.epoch_seed(epoch), loader.device) as generator:
        loss, accuracy = _train_epoch(state, loader, examples, config, generator)
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss} in epoch {epoch} of {job}: lower the learning rate ({config.lr}), "
            "or look for damaged images in its training objects"
        )
    label_V = examples.label_O[examples.validation]
    validation = assess(predict_logits(state.network, loader, examples.validation, config.batch), label_V)
    return EpochMetrics(
        epoch=epoch, loss=loss, accuracy=accuracy, lr=lr, seconds=time.monotonic() - started, **validation
    )


def _train_epoch(
    state: TrainingState, loader: Loader, examples: Examples, config: TrainConfig, generator: torch.Generator
) -> tuple[float, float]:
    """Mean loss and accuracy over the sequences of one epoch."""
    state.network.train()
    if config.freeze == "encoder":
        state.network.eval()
        state.network.get_submodule("head").train()
    drawn = draw_balanced(examples.train, examples.label_O, config.samples_per_epoch, generator)
    total_loss = torch.zeros((), device=drawn.device)
    n_correct = torch.zeros((), device=drawn.device)
    batches = loader.training_batches(drawn, config.batch, generator, config.max_rotation_deg)
    for object_B, batch in zip(drawn.split(config.batch), batches, strict=True):
        label_B = examples.label_O[object_B]
        logit_BC = state.network(*batch)
        loss = functional.cross_entropy(logit_BC, label_B)
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()
        total_loss += loss.detach() * len(object_B)  # read once per epoch: no wait for the GPU between steps
        n_correct += (logit_BC.detach().argmax(dim=1) == label_B).sum()
    return (total_loss / len(drawn)).item(), (n_correct / len(drawn)).item()


def draw_balanced(objects: Tensor, label_O: Tensor, n: int | None, generator: torch.Generator) -> Tensor:
    """Draw objects with replacement, each class equally often on average (weighted random sampling, Sect. 3.1)."""
    label = label_O[objects]
    weight = 1.0 / label.bincount().double()[label]
    return objects[torch.multinomial(weight, n or len(objects), replacement=True, generator=generator)]


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """Learning rate of an epoch (from 1)."""
    if config.schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / config.epochs))


@torch.inference_mode()
def predict_logits(network: torch.nn.Module, loader: Loader, objects: Tensor, batch: int) -> Tensor:
    """Logits (objects, classes) in evaluation mode, images chosen by the fixed rule."""
    network.eval()
    if not len(objects):
        return torch.empty(0, len(loader.config.classes), device=loader.device)
    return torch.cat([network(*each) for each in loader.batches(objects, batch)])


def assess(logit_VC: Tensor, label_V: Tensor) -> dict[str, float | None]:
    """Validation values of one epoch; the loss is the mean over classes, as the sampling of training is."""
    if not len(label_V):
        return {"validation_loss": None, "validation_accuracy": None, "validation_balanced_accuracy": None}
    weight_V = 1.0 / label_V.bincount()[label_V]
    weight_V = weight_V / weight_V.sum()
    correct_V = (logit_VC.argmax(dim=1) == label_V).float()
    loss_V = functional.cross_entropy(logit_VC, label_V, reduction="none")
    return {
        "validation_loss": (weight_V * loss_V).sum().item(),
        "validation_accuracy": correct_V.mean().item(),
        "validation_balanced_accuracy": (weight_V * correct_V).sum().item(),
    }


def _record(state: TrainingState, metrics: EpochMetrics, *, keep_best: bool) -> None:
    """Append the epoch, and keep its weights if they are the ones to keep."""
    history = state.history
    best = history.metrics[history.best_epoch - 1].validation_loss if history.best_epoch else None
    loss = metrics.validation_loss
    better = not keep_best or not history.best_epoch or loss is None or _badness(loss) < _badness(best)
    best_epoch = metrics.epoch if better else history.best_epoch
    if better:
        state.best = {name: tensor.detach().clone() for name, tensor in state.network.state_dict().items()}
    state.history = History(metrics=(*history.metrics, metrics), best_epoch=best_epoch)


def _badness(loss: float | None) -> float:
    """The loss for comparison: one that is not finite (None, where a checkpoint kept it) is worse than any that is."""
    return loss if loss is not None and math.isfinite(loss) else math.inf


def _optimizer(network: ConvEntion, config: TrainConfig) -> Optimizer:
    kind = {"adam": Adam, "adamw": AdamW}[config.optimizer]
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer: Optimizer = kind(trained, lr=config.lr, weight_decay=config.weight_decay)
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


def _progress(job: Job, metrics: EpochMetrics, epochs: int) -> Progress:
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
    )
