"""Metrics for TensorBoard, beside metrics.jsonl: `tensorboard --logdir RUN` shows the models of a run by folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from model.checkpoint import EpochMetrics


class Logbook:
    """Writes the metrics of one model."""

    def __init__(self, writer: SummaryWriter) -> None:
        self._writer = writer

    def write(self, metrics: EpochMetrics) -> None:
        """Add an epoch, lastingly enough for a process that is killed."""
        for name, value in metrics.model_dump(exclude={"epoch"}).items():
            if value is not None:
                part = "validation" if name.startswith("validation_") else "train"
                self._writer.add_scalar(f"{part}/{name.removeprefix('validation_')}", value, metrics.epoch)
        self._writer.flush()


@contextmanager
def logbook(folder: Path, epochs_done: int) -> Iterator[Logbook]:
    """A logbook in `folder` that goes on after `epochs_done`; what an unfinished epoch wrote counts no more."""
    with SummaryWriter(str(folder), purge_step=epochs_done + 1 if any(folder.glob("events.*")) else None) as writer:
        yield Logbook(writer)
