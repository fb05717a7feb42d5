"""Which epoch is kept, and when no better one is to be expected."""

from __future__ import annotations

import math

from model.checkpoint import EpochMetrics, History
from model.config import TrainConfig


def is_best(history: History, metrics: EpochMetrics, config: TrainConfig) -> bool:
    """Whether this epoch is better than all in `history`; without validation, the last is."""
    if not history.best_epoch or config.select == "last" or metrics.validation_loss is None:
        return True
    return _merit(metrics, config) > _merit(history.metrics[history.best_epoch - 1], config)


def has_settled(history: History, config: TrainConfig) -> bool:
    """Whether `patience` epochs were no better than the best."""
    return config.patience is not None and history.epochs_done - history.best_epoch >= config.patience


def _merit(metrics: EpochMetrics, config: TrainConfig) -> tuple[float, ...]:
    low_loss = -_finite_or(math.inf, metrics.validation_loss)
    return (low_loss,) if config.select == "loss" else (_finite_or(-1.0, metrics.validation_macro_f1), low_loss)


def _finite_or(otherwise: float, value: float | None) -> float:
    """The value for comparison; a checkpoint keeps one that is not finite as None."""
    return value if value is not None and math.isfinite(value) else otherwise
