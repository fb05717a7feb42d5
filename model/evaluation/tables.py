"""Scores as tables: Markdown to read, LaTeX (booktabs) to print, the published results beside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from model.evaluation.published import MAJORITY_NOTE, comparable
from model.evaluation.results import Baseline, Estimate, Evaluation, FoldScores

NOTHING: Final = "–"
Row = tuple[str, ...]

_HEADLINE: Final = {"accuracy": "accuracy", "macro_f1": "macro F1", "balanced_accuracy": "balanced accuracy"}


def percent(estimate: Estimate | None) -> str:
    """A score and its interval, in per cent."""
    if estimate is None:
        return NOTHING
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def over_folds(folds: Sequence[FoldScores], name: str) -> str:
    """Mean and standard deviation over the folds, in per cent; of one fold alone, its score."""
    scores = np.array([getattr(fold, name) for fold in folds])
    mean = f"{100 * scores.mean():.2f}"
    return mean if len(scores) < 2 else f"{mean} ± {100 * scores.std(ddof=1):.2f}"


def comparison(evaluation: Evaluation) -> list[Row]:
    """This run, what ignores the images, and the published results: model, bands, data, three scores, source."""
    n_folds = len(evaluation.folds)
    source = f"this run, mean of {n_folds} folds × {evaluation.members} models" if n_folds > 1 else "this run, one fold"
    own = tuple(over_folds(evaluation.folds, name) for name in _HEADLINE)
    rows = [(f"{evaluation.preset} (this run)", "".join(evaluation.bands), "images", *own, source)]
    rows += [_baseline(one) for one in (evaluation.majority, evaluation.chance)]
    rows += [
        (row.model, row.bands, row.data, f"{row.accuracy:.2f}", f"{row.macro_f1:.2f}", NOTHING, row.source)
        for row in comparable(len(evaluation.classes))
    ]
    return rows


def per_class(evaluation: Evaluation) -> list[Row]:
    """Class, objects, recall, precision, F1, area under the curve."""
    return [
        (
            one.name,
            f"{one.n_objects:,}",
            percent(one.recall),
            percent(one.precision),
            f"{100 * one.f1:.1f}",
            NOTHING if one.roc_auc is None else f"{one.roc_auc.value:.3f}",
        )
        for one in evaluation.per_class
    ]


def confusion(evaluation: Evaluation) -> list[Row]:
    """Per cent of each true class, mean ± scatter over the folds, as the paper's Figs. 6 and 7."""
    matrix = evaluation.confusion_over_folds
    return [
        (name, *(_cell(mean, std) for mean, std in zip(means, stds, strict=True)))
        for name, means, stds in zip(evaluation.classes, matrix.mean_percent, matrix.std_percent, strict=True)
    ]


def pooled(evaluation: Evaluation) -> list[Row]:
    """Score, all folds together with the interval, and the same of what ignores the images."""
    rows: list[Row] = [
        (title, percent(getattr(evaluation, name)), f"{100 * getattr(evaluation.majority, name):.1f}")
        for name, title in (
            ("balanced_accuracy", "balanced accuracy"),
            ("macro_f1", "macro F1"),
            ("accuracy", "accuracy"),
        )
    ]
    rows.append(("ROC-AUC, mean of classes", percent(evaluation.macro_roc_auc), "50.0"))
    rows.append(("calibration error", percent(evaluation.ece), ""))
    rows.append(("calibration error before scaling", percent(evaluation.ece_uncalibrated), ""))
    return rows


def early(evaluation: Evaluation) -> list[Row]:
    """Nights seen, objects with so many, and the scores."""
    return [
        (
            str(one.nights),
            f"{one.n_objects:,}",
            percent(one.balanced_accuracy),
            percent(one.macro_f1),
            percent(one.accuracy),
        )
        for one in evaluation.early
    ]


POOLED: Final = ("score [%]", "all folds [95 %]", "majority class")
PER_CLASS: Final = ("class", "objects", "recall [%]", "precision [%]", "F1 [%]", "ROC-AUC")
EARLY: Final = ("nights", "objects with so many", "balanced accuracy [%]", "macro F1 [%]", "accuracy [%]")
COMPARISON: Final = ("model", "bands", "data", "accuracy [%]", "macro F1 [%]", "balanced accuracy [%]", "source")


def markdown(evaluation: Evaluation) -> str:
    """Content of scores.md."""
    true = ("true", *evaluation.classes)
    sections = [
        ("Scores", pipes(POOLED, pooled(evaluation))),
        ("Classes", pipes(PER_CLASS, per_class(evaluation))),
        ("Confusion matrix: per cent of the true class, mean ± scatter over folds", pipes(true, confusion(evaluation))),
        ("First nights", pipes(EARLY, early(evaluation))),
        ("Beside published results", pipes(COMPARISON, comparison(evaluation)) + f"\n{_notes(evaluation)}\n"),
    ]  # fmt: skip
    head = f"# {evaluation.preset} on {evaluation.dataset_id}\n"
    return "\n".join([head, *(f"## {title}\n\n{text}" for title, text in sections if text)])


def latex(evaluation: Evaluation) -> str:
    """Content of scores.tex: two tables for the booktabs package."""
    n_test = f"{evaluation.n_objects:,} test objects of dataset {evaluation.dataset_id}"
    return "\n".join(
        [
            "% \\usepackage{booktabs}",
            _tabular(COMPARISON, comparison(evaluation), "lllrrrl", f"Scores on {n_test}. {_notes(evaluation)}"),
            _tabular(PER_CLASS, per_class(evaluation), "lrrrrr", f"Scores of each class on {n_test}, 95 % intervals."),
        ]
    )


def pipes(head: Row, rows: Iterable[Row]) -> str:
    """A Markdown table; nothing without rows."""
    lines = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *lines, ""]) if lines else ""


def _notes(evaluation: Evaluation) -> str:
    published = "The published figures are of other splits of the survey, on data that the run's dataset may not be."
    return f"{published} {MAJORITY_NOTE}" if len(evaluation.classes) == 4 else published


def _baseline(one: Baseline) -> Row:
    scores = (f"{100 * getattr(one, name):.2f}" for name in _HEADLINE)
    return (one.answer, NOTHING, "none", *scores, "the same objects, pooled")


def _cell(mean: float | None, std: float | None) -> str:
    if mean is None:
        return NOTHING
    return f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"


_ESCAPES: Final = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "×": r"$\times$",
}  # fmt: skip


def _tabular(head: Row, rows: Sequence[Row], columns: str, caption: str) -> str:
    def line(cells: Row) -> str:
        return " & ".join(_escaped(cell) for cell in cells) + r" \\"

    body = [r"\toprule", line(head), r"\midrule", *map(line, rows), r"\bottomrule"]
    return "\n".join(
        [
            r"\begin{table*}",
            rf"\caption{{{_escaped(caption)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            *body,
            r"\end{tabular}",
            r"\end{table*}",
            "",
        ]
    )


def _escaped(text: str) -> str:
    return "".join(_ESCAPES.get(letter, letter) for letter in text)
