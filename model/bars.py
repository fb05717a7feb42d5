"""Progress of training for a person at a terminal: one bar per model."""

from __future__ import annotations

from tqdm import tqdm

from model.train import Progress


class Bars:
    """A progress callback that draws bars on stderr."""

    def __init__(self) -> None:
        self._bar: tqdm[None] | None = None
        self._of = ""

    def __call__(self, progress: Progress) -> None:
        who = f"{progress.step} fold {progress.fold} member {progress.member}"
        if self._bar is None or who != self._of:
            self._close()
            self._bar, self._of = tqdm(desc=who, total=progress.epochs, unit="epoch", initial=progress.epoch - 1), who
        figures = {"loss": progress.loss, "macro F1": progress.validation_macro_f1}
        self._bar.set_postfix({name: f"{value:.3f}" for name, value in figures.items() if value is not None})
        self._bar.update()
        if progress.is_last:
            self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
