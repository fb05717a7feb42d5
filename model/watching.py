"""Progress of training for people: bars at a terminal, else a few lines per model."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tqdm import tqdm

from model.train import Progress, ProgressCallback

LINES_PER_MODEL = 2
"""A model's training is told in about this many lines."""


def watcher(say: Callable[[str], None]) -> ProgressCallback:
    """What suits stderr: bars on a terminal, else lines to `say`."""
    return Bars() if sys.stderr.isatty() else Lines(say)


class Lines:
    """Tell a few epochs of every model, the last among them."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def __call__(self, progress: Progress) -> None:
        every = max(1, progress.epochs // LINES_PER_MODEL)
        if progress.epoch % every and not progress.is_last:
            return
        f1 = progress.validation_macro_f1
        validation = "" if f1 is None else f" · validation macro F1 {f1:.2f}"
        self._say(
            f"{_name(progress)} · epoch {progress.epoch}/{progress.epochs} · loss {progress.loss:.3f}{validation}"
        )


class Bars:
    """A bar on stderr per model."""

    def __init__(self) -> None:
        self._bar: tqdm[None] | None = None
        self._of = ""

    def __call__(self, progress: Progress) -> None:
        name = _name(progress)
        if self._bar is None or name != self._of:
            self._close()
            self._bar, self._of = tqdm(desc=name, total=progress.epochs, unit="epoch", initial=progress.epoch - 1), name
        figures = {"loss": progress.loss, "macro F1": progress.validation_macro_f1}
        self._bar.set_postfix({name: f"{value:.3f}" for name, value in figures.items() if value is not None})
        self._bar.update()
        if progress.is_last:
            self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _name(progress: Progress) -> str:
    return f"{progress.step} fold {progress.fold} member {progress.member}"
