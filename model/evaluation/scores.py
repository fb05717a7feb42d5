"""From predictions to scores: pooled over the folds with intervals, and fold by fold as the paper has them.

Shapes: V objects, C classes, K folds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_score, recall_score, roc_auc_score

from model.evaluation.bootstrap import N_BOOTSTRAP, bootstrap, estimate, mean_of_defined
from model.evaluation.calibration import Calibration, calibration_error, reliability
from model.evaluation.results import (
    Baseline,
    ClassScores,
    EarlyScores,
    Evaluation,
    FoldScores,
    MeanConfusion,
    SplitCounts,
)
from model.runs import RunRecord

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Predictions:
    """Every test object once, by the ensemble of the fold that did not see it."""

    place_V: Array
    """Of the object among those of the run's session."""
    true_V: Array
    fold_V: Array
    uncalibrated_VC: Array
    calibrated_VC: Array


def score(
    record: RunRecord,
    predictions: Predictions,
    calibrations: Mapping[int, Calibration],
    split: tuple[SplitCounts, ...] = (),
    early: tuple[EarlyScores, ...] = (),
) -> Evaluation:
    """All scores of the predictions; those of a class that was not tested are None."""
    classes, seed = record.config.model.classes, record.config.protocol.seed
    true_V, probability_VC = predictions.true_V, predictions.calibrated_VC
    predicted_V = probability_VC.argmax(axis=1)
    sure, sure_before = ((p.max(axis=1), predicted_V == true_V) for p in (probability_VC, predictions.uncalibrated_VC))
    draws = bootstrap(true_V, probability_VC, seed=seed)
    draws_before = bootstrap(true_V, predictions.uncalibrated_VC, seed=seed, ranking=False)
    accuracy, balanced, macro_f1 = headline(true_V, predicted_V)
    area_C = roc_areas(true_V, probability_VC)
    return Evaluation(
        dataset_id=record.dataset_id,
        preset=record.config.preset,
        classes=classes,
        bands=record.config.model.bands,
        folds=_fold_scores(predictions, calibrations),
        members=record.config.protocol.members,
        split=split,
        n_objects=len(true_V),
        accuracy=estimate(accuracy, draws["accuracy"]),
        balanced_accuracy=estimate(balanced, draws["balanced_accuracy"]),
        macro_f1=estimate(macro_f1, draws["macro_f1"]),
        macro_roc_auc=None
        if np.isnan(area_C).all()
        else estimate(float(mean_of_defined(area_C)), draws["macro_roc_auc"]),
        ece=estimate(calibration_error(*sure), draws["ece"]),
        ece_uncalibrated=estimate(calibration_error(*sure_before), draws_before["ece"]),
        per_class=_class_scores(classes, true_V, predicted_V, area_C, draws),
        confusion=tuple(map(tuple, confusion_matrix(true_V, predicted_V, labels=range(len(classes))).tolist())),
        confusion_over_folds=confusion_over_folds(true_V, predicted_V, predictions.fold_V, len(classes)),
        calibration=reliability(*sure),
        calibration_before=reliability(*sure_before),
        early=early,
        majority=_baseline("most_frequent", f"always {classes[np.bincount(true_V).argmax()]}", true_V, seed),
        chance=_baseline("stratified", "at random, as often as each class occurs", true_V, seed),
        n_bootstrap=N_BOOTSTRAP,
    )


def headline(true_V: Array, predicted_V: Array) -> tuple[float, float, float]:
    """Accuracy, balanced accuracy (mean recall of the classes tested) and macro F1."""
    recall = recall_score(true_V, predicted_V, labels=np.unique(true_V), average="macro", zero_division=0)
    f1 = f1_score(true_V, predicted_V, average="macro", zero_division=0)
    return float(accuracy_score(true_V, predicted_V)), float(recall), float(f1)


def roc_areas(true_V: Array, probability_VC: Array) -> Array:
    """Area under the curve of each class against all others; NaN where all objects, or none, are of the class."""
    area_C = np.full(probability_VC.shape[1], np.nan)
    for c in range(len(area_C)):
        is_class_V = true_V == c
        if 0 < is_class_V.sum() < len(true_V):
            area_C[c] = roc_auc_score(is_class_V, probability_VC[:, c])
    return area_C


def confusion_over_folds(true_V: Array, predicted_V: Array, fold_V: Array, n_classes: int) -> MeanConfusion:
    """Per cent of each true class, mean and scatter over the folds that tested the class."""
    percent_KCC = np.full((len(np.unique(fold_V)), n_classes, n_classes), np.nan)
    for k, fold in enumerate(np.unique(fold_V)):
        here_V = fold_V == fold
        counts_CC = confusion_matrix(true_V[here_V], predicted_V[here_V], labels=range(n_classes))
        tested_C = counts_CC.sum(axis=1) > 0
        percent_KCC[k, tested_C] = 100 * counts_CC[tested_C] / counts_CC[tested_C].sum(axis=1, keepdims=True)
    folds_C = (~np.isnan(percent_KCC[:, :, 0])).sum(axis=0)

    def rows(reduce: Callable[[Array], Array], least: int) -> tuple[tuple[float | None, ...], ...]:
        return tuple(
            tuple(reduce(percent_KCC[~np.isnan(percent_KCC[:, c, 0]), c]).tolist())
            if folds_C[c] >= least
            else (None,) * n_classes
            for c in range(n_classes)
        )

    return MeanConfusion(
        mean_percent=rows(lambda percent_KC: percent_KC.mean(axis=0), 1),
        std_percent=rows(lambda percent_KC: percent_KC.std(axis=0, ddof=1), 2),
    )


def _fold_scores(predictions: Predictions, calibrations: Mapping[int, Calibration]) -> tuple[FoldScores, ...]:
    found = []
    for fold in np.unique(predictions.fold_V).tolist():
        here_V = predictions.fold_V == fold
        true_V, probability_VC = predictions.true_V[here_V], predictions.calibrated_VC[here_V]
        accuracy, balanced, macro_f1 = headline(true_V, probability_VC.argmax(axis=1))
        area_C = roc_areas(true_V, probability_VC)
        found.append(
            FoldScores(
                fold=fold,
                n_objects=len(true_V),
                accuracy=accuracy,
                balanced_accuracy=balanced,
                macro_f1=macro_f1,
                macro_roc_auc=None if np.isnan(area_C).any() else float(area_C.mean()),
                temperature=calibrations[fold].temperature,
                n_calibrated=calibrations[fold].n_objects,
            )
        )
    return tuple(found)


def _baseline(strategy: str, answer: str, true_V: Array, seed: int) -> Baseline:
    dummy = DummyClassifier(strategy=strategy, random_state=seed).fit(true_V[:, None], true_V)
    accuracy, balanced, macro_f1 = headline(true_V, dummy.predict(true_V[:, None]))
    return Baseline(answer=answer, accuracy=accuracy, balanced_accuracy=balanced, macro_f1=macro_f1)


def _class_scores(
    classes: Sequence[str], true_V: Array, predicted_V: Array, area_C: Array, draws: Mapping[str, Array]
) -> tuple[ClassScores, ...]:
    def per_class(metric: Callable[..., Any]) -> Array:
        scores: Array = metric(true_V, predicted_V, labels=range(len(classes)), average=None, zero_division=0)
        return scores

    recall, precision, f1 = per_class(recall_score), per_class(precision_score), per_class(f1_score)
    n_true, n_predicted = (np.bincount(labels, minlength=len(classes)) for labels in (true_V, predicted_V))
    return tuple(
        ClassScores(
            name=name,
            n_objects=int(n_true[c]),
            recall=estimate(recall[c], draws["recall"][:, c]) if n_true[c] else None,
            precision=estimate(precision[c], draws["precision"][:, c]) if n_predicted[c] else None,
            f1=float(f1[c]),
            roc_auc=None if np.isnan(area_C[c]) else estimate(area_C[c], draws["roc_auc"][:, c]),
        )
        for c, name in enumerate(classes)
    )
