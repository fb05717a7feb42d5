"""A training run as data: its metrics and evaluation, read from the run directory, and their figures.

The run directory's own software needs torch; this module reads its JSON files and nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import ReportError
from pipeline.naming import RUN_CONFIG_FILE
from pipeline.report.style import ACCENT, CONTRAST, FAINT, INK, PAGE_WIDTH_IN, Picture, picture
from pipeline.validation import explain

STEPS: Final = ("train", "fine-tune")
EVALUATION_FILE: Final = "evaluation.json"
METRICS_FILE: Final = "metrics.jsonl"
_BLUES: Final = LinearSegmentedColormap.from_list("house", ["#ffffff", ACCENT])


class _Read(BaseModel):
    """Keys that the report needs; others may be there."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Estimate(_Read):
    """A value and its bootstrap interval."""

    value: float
    low: float
    high: float


class Baseline(_Read):
    """Scores of an answer that ignores the images."""

    answer: str
    accuracy: float
    balanced_accuracy: float
    macro_f1: float


class ClassScores(_Read):
    """One class; None where a score is not defined."""

    name: str
    n_objects: int
    recall: Estimate | None
    precision: Estimate | None
    f1: float


class CalibrationBin(_Read):
    """Objects whose highest probability lies in one interval."""

    n_objects: int
    confidence: float
    accuracy: float


class MeanConfusion(_Read):
    """Per cent of each true class, over the folds; None where too few folds tested it."""

    mean_percent: tuple[tuple[float | None, ...], ...]
    std_percent: tuple[tuple[float | None, ...], ...]


class EarlyScores(_Read):
    """Scores when only the first nights have been seen."""

    nights: int
    n_objects: int
    balanced_accuracy: Estimate
    macro_f1: Estimate


class Evaluation(_Read):
    """evaluation.json; the last three keys are not in those of before."""

    dataset_id: str
    preset: str
    classes: tuple[str, ...]
    members: int
    n_objects: int
    folds: tuple[Any, ...]
    balanced_accuracy: Estimate
    macro_f1: Estimate
    accuracy: Estimate
    ece: Estimate
    per_class: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    calibration: tuple[CalibrationBin, ...]
    majority: Baseline
    chance: Baseline
    n_bootstrap: int
    confusion_over_folds: MeanConfusion | None = None
    calibration_before: tuple[CalibrationBin, ...] = ()
    early: tuple[EarlyScores, ...] = ()


class Epoch(_Read):
    """One line of metrics.jsonl."""

    epoch: int
    loss: float
    validation_loss: float | None
    validation_balanced_accuracy: float | None
    seconds: float


class RunRecord(_Read):
    """config.json."""

    config: dict[str, Any]
    dataset_id: str
    dataset_content_hash: str
    software: dict[str, str]


Read = TypeVar("Read", bound=_Read)


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory, read."""

    name: str
    record: RunRecord
    evaluation: Evaluation | None
    """None where the run is not evaluated yet."""
    metrics: Mapping[str, Mapping[tuple[int, int], Sequence[Epoch]]]
    """By step and (fold, member)."""

    def seconds(self, step: str) -> float:
        """Training time of a step, all models together."""
        return sum(epoch.seconds for epochs in self.metrics[step].values() for epoch in epochs)


def read_run(folder: Path, dataset_id: str, content_hash: str) -> Run:
    """Read a run made with the dataset of this id and content.

    Raises
    ------
    ReportError
        A file is missing, is not JSON or lacks a key, or the run is of another dataset.
    """
    record = _record(folder)
    if (record.dataset_id, record.dataset_content_hash) != (dataset_id, content_hash):
        raise ReportError(
            f"{folder} was trained on dataset {record.dataset_id}, the report is about {dataset_id} "
            "(or its content differs): give the run's own dataset"
        )
    return load_run(folder)


def load_run(folder: Path) -> Run:
    """Read a run, whatever dataset it is of.

    Raises
    ------
    ReportError
        A file is missing, is not JSON, lacks a key or contradicts another.
    """
    record, path = _record(folder), folder / EVALUATION_FILE
    evaluation = _parse(Evaluation, _text(path), path) if path.is_file() else None
    if evaluation is not None:
        _check_evaluation(evaluation, record.dataset_id, path)
    metrics = {step: dict(sorted(_metrics(folder, step))) for step in STEPS}
    return Run(name=folder.resolve().name, record=record, evaluation=evaluation, metrics=metrics)


def _record(folder: Path) -> RunRecord:
    return _parse(RunRecord, _text(folder / RUN_CONFIG_FILE), folder / RUN_CONFIG_FILE)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ReportError(f"cannot read {path}: {error}; is the run finished?") from error


def _parse(kind: type[Read], text: str, path: Path) -> Read:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise ReportError(f"{path} is not what a run writes: {explain(error)}") from error


def _check_evaluation(evaluation: Evaluation, dataset_id: str, path: Path) -> None:
    n_classes = len(evaluation.classes)
    if evaluation.dataset_id != dataset_id:
        raise ReportError(f"{path} is about dataset {evaluation.dataset_id}, not {dataset_id}: evaluate the run again")
    if not n_classes or [len(row) for row in evaluation.confusion] != [n_classes] * n_classes:
        raise ReportError(f"{path}: the confusion matrix is not {n_classes} × {n_classes}: evaluate the run again")


def _metrics(folder: Path, step: str) -> Iterable[tuple[tuple[int, int], Sequence[Epoch]]]:
    for path in folder.glob(f"fold-*/member-*/{step}/{METRICS_FILE}"):
        match = re.fullmatch(r"fold-(\d+)/member-(\d+)", path.parent.parent.relative_to(folder).as_posix())
        if match:
            lines = _text(path).splitlines()
            yield (int(match[1]), int(match[2])), [_parse(Epoch, line, path) for line in lines]


def loss_figure(run: Run) -> Picture | None:
    """`loss_drawing` for the page."""
    alt = "Training and validation loss against epoch of every model, and their mean, for both steps"
    figure = loss_drawing(run)
    return None if figure is None else picture(figure, alt)


def loss_drawing(run: Run) -> Figure | None:
    """Loss against epoch for both steps, every model faint and their mean bold; None before the first epoch."""
    steps = [step for step in STEPS if any(run.metrics[step].values())]
    if not steps:
        return None
    scores = {
        step: [[epoch.validation_balanced_accuracy for epoch in epochs] for epochs in run.metrics[step].values()]
        for step in steps
    }
    validated = any(score is not None for models in scores.values() for model in models for score in model)
    figure = Figure(figsize=(PAGE_WIDTH_IN, 2.7), layout="constrained")
    panels = figure.subplots(
        1, len(steps) + validated, width_ratios=[*[1.25] * len(steps), *[1] * validated], squeeze=False
    )[0]
    for axes, step in zip(panels, steps, strict=False):
        _loss_panel(axes, step, list(run.metrics[step].values()))
    panels[0].set_ylabel("cross-entropy")
    panels[0].legend()
    if validated:
        _validation_panel(panels[-1], scores)
    for axes in panels:
        axes.grid(axis="y")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _loss_panel(axes: Axes, step: str, models: Sequence[Sequence[Epoch]]) -> None:
    _curves(axes, [[epoch.loss for epoch in epochs] for epochs in models], ACCENT, "training", "-")
    validation = [[epoch.validation_loss for epoch in epochs] for epochs in models]
    _curves(axes, validation, CONTRAST, "validation", "--")
    axes.set_title(f"{step}: loss")
    axes.set_ylim(bottom=0)


def _validation_panel(axes: Axes, scores: Mapping[str, Sequence[Sequence[float | None]]]) -> None:
    for step, colour, line in zip(STEPS, (ACCENT, CONTRAST), ("-", "--"), strict=True):
        _curves(axes, scores.get(step, []), colour, step, line)
    axes.set_title("validation: balanced accuracy")
    axes.set_ylim(0, 1.02)
    axes.legend(loc="lower right")


def _curves(axes: Axes, models: Sequence[Sequence[float | None]], colour: str, label: str, line: str) -> None:
    """Every model faint, their mean bold; models that lack the value are left out."""
    length = max((len(values) for values in models), default=0)
    table = np.full((len(models), length), np.nan)
    for model, values in enumerate(models):
        table[model, : len(values)] = np.array(values, dtype=np.float64)
    epoch = np.arange(1, length + 1)
    known = np.isfinite(table).any(axis=0)
    if not known.any():
        return
    for values_E in table:
        axes.plot(epoch, values_E, color=colour, linestyle=line, linewidth=0.6, alpha=0.3)
    mean = np.nanmean(table[:, known], axis=0)
    axes.plot(epoch[known], mean, color=colour, linestyle=line, linewidth=1.8, label=label)


def scores_figure(evaluation: Evaluation) -> Picture:
    """Confusion matrix, recall and precision of each class, and reliability."""
    height = max(2.9, 0.55 * len(evaluation.classes) + 0.8)
    figure = Figure(figsize=(PAGE_WIDTH_IN, height), layout="constrained")
    confusion, recall, reliability = figure.subplots(1, 3, width_ratios=(1.15, 1, 0.95))
    _confusion(confusion, evaluation)
    _per_class(recall, evaluation.per_class)
    _reliability(reliability, evaluation)
    return picture(figure, "Confusion matrix, recall and precision per class, and reliability diagram")


def _confusion(axes: Axes, evaluation: Evaluation) -> None:
    counts: NDArray[np.int64] = np.array(evaluation.confusion, dtype=np.int64)
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    axes.imshow(share, cmap=_BLUES, vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        colour = "white" if share[row, column] > 0.55 else INK
        place: dict[str, Any] = {"ha": "center", "color": colour}
        axes.text(column, row - 0.02, f"{counts[row, column]}", va="bottom", fontsize=10, fontweight="bold", **place)
        axes.text(column, row + 0.06, f"{100 * share[row, column]:.0f} %", va="top", fontsize=7, **place)
    _name_classes(axes, evaluation)
    axes.set_title("confusion matrix")


def _name_classes(axes: Axes, evaluation: Evaluation) -> None:
    names = list(evaluation.classes)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")


def _per_class(axes: Axes, classes: Sequence[ClassScores]) -> None:
    for offset, what, colour, marker in ((-0.13, "recall", ACCENT, "o"), (0.13, "precision", CONTRAST, "s")):
        for place, scores in enumerate(classes):
            estimate: Estimate | None = getattr(scores, what)
            if estimate is not None:
                axes.plot([estimate.low, estimate.high], [place + offset] * 2, color=colour, linewidth=1.2)
                axes.plot(estimate.value, place + offset, marker, color=colour, markersize=5, mec="white", mew=0.5)
        axes.plot([], [], marker, color=colour, markersize=5, label=what)
    axes.set_yticks(range(len(classes)), [f"{scores.name}\nn = {scores.n_objects}" for scores in classes])
    axes.set_ylim(len(classes) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.set_title("per class, 95 % intervals")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)


def _reliability(axes: Axes, evaluation: Evaluation) -> None:
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
    bins = evaluation.calibration
    confidence, accuracy = [b.confidence for b in bins], [b.accuracy for b in bins]
    axes.plot(confidence, accuracy, color=ACCENT, linewidth=1)
    size = [20 + 160 * b.n_objects / max(evaluation.n_objects, 1) for b in bins]
    axes.scatter(confidence, accuracy, size, color=ACCENT, edgecolor="white", linewidth=0.6, zorder=3)
    axes.set_xlim(0, 1.03)
    axes.set_ylim(0, 1.03)
    axes.set_aspect("equal")
    axes.grid()
    axes.set_xlabel("mean confidence")
    axes.set_ylabel("accuracy")
    axes.set_title("reliability")


def confusion_drawing(evaluation: Evaluation) -> Figure | None:
    """The paper's Figs. 6 and 7: per cent of each true class, mean ± scatter over the folds."""
    if evaluation.confusion_over_folds is None:
        return None
    figure = Figure(figsize=(3.8, 3.5), layout="constrained")
    axes = figure.subplots()
    mean_CC = np.array(evaluation.confusion_over_folds.mean_percent, dtype=np.float64)  # None is NaN
    std_CC = np.array(evaluation.confusion_over_folds.std_percent, dtype=np.float64)
    axes.imshow(np.nan_to_num(mean_CC), cmap=_BLUES, vmin=0, vmax=100)
    for row, column in np.ndindex(*mean_CC.shape):
        if np.isnan(mean_CC[row, column]):
            continue
        scatter = "" if np.isnan(std_CC[row, column]) else f"\n± {std_CC[row, column]:.1f}"
        colour = "white" if mean_CC[row, column] > 55 else INK
        axes.text(column, row, f"{mean_CC[row, column]:.1f}{scatter}", ha="center", va="center", color=colour)
    _name_classes(axes, evaluation)
    axes.set_title(f"per cent of the true class, {len(evaluation.folds)} folds")
    return figure


def reliability_drawing(evaluation: Evaluation) -> Figure:
    """Accuracy against confidence, before temperatures and after."""
    figure = Figure(figsize=(3.6, 3.5), layout="constrained")
    axes = figure.subplots()
    before = evaluation.calibration_before
    axes.plot(
        [b.confidence for b in before], [b.accuracy for b in before], "o--", color=FAINT, markersize=3, linewidth=0.8
    )
    _reliability(axes, evaluation)
    axes.set_title(f"reliability: calibration error {100 * evaluation.ece.value:.1f} %")
    return figure


def early_drawing(evaluation: Evaluation) -> Figure | None:
    """Balanced accuracy and macro F1 against the number of nights seen, with intervals."""
    if not evaluation.early:
        return None
    figure = Figure(figsize=(5.0, 3.2), layout="constrained")
    axes = figure.subplots()
    nights = [one.nights for one in evaluation.early]
    for name, title, colour, marker in (
        ("balanced_accuracy", "balanced accuracy", ACCENT, "o"),
        ("macro_f1", "macro F1", CONTRAST, "s"),
    ):
        estimates: list[Estimate] = [getattr(one, name) for one in evaluation.early]
        low, high = [one.low for one in estimates], [one.high for one in estimates]
        axes.fill_between(nights, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(nights, [one.value for one in estimates], marker, linestyle="-", color=colour, ms=4, label=title)
        axes.axhline(getattr(evaluation, name).value, color=colour, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_xscale("log")
    axes.set_xticks(nights, [str(night) for night in nights])
    axes.minorticks_off()
    axes.set_ylim(0, 1.02)
    axes.grid(axis="y")
    axes.set_xlabel("nights seen (dashed: all)")
    axes.legend(loc="lower right")
    axes.set_title("what the first nights tell")
    return figure


def described(run: Run) -> str:
    """The run's configuration as JSON, for the page."""
    return json.dumps(run.record.config, indent=2, ensure_ascii=False)
