"""Scores of resampled objects, and the intervals that follow.

Shapes: V objects, C classes, D resamples, U different values of a probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.evaluation.calibration import calibration_error
from model.evaluation.results import Estimate

N_BOOTSTRAP: Final = 2000
Array = NDArray[Any]


def bootstrap(true_V: Array, probability_VC: Array, *, seed: int, ranking: bool = True) -> dict[str, Array]:
    """Scores of N_BOOTSTRAP resamples of the objects; NaN where not defined.

    Parameters
    ----------
    ranking
        With the areas under the curves, which take most of the time.
    """
    n_classes = probability_VC.shape[1]
    predicted_V, confidence_V = probability_VC.argmax(axis=1), probability_VC.max(axis=1)
    correct_V, cell_V = predicted_V == true_V, true_V * n_classes + predicted_V
    rankings = [Ranking.of(true_V == c, probability_VC[:, c]) for c in range(n_classes)] if ranking else []
    random = np.random.default_rng(seed)
    confusion = np.empty((N_BOOTSTRAP, n_classes, n_classes))
    ece, area_DC = np.empty(N_BOOTSTRAP), np.full((N_BOOTSTRAP, n_classes), np.nan)
    for draw in range(N_BOOTSTRAP):
        chosen = random.integers(len(true_V), size=len(true_V))
        confusion[draw] = np.bincount(cell_V[chosen], minlength=n_classes**2).reshape(n_classes, n_classes)
        ece[draw] = calibration_error(confidence_V[chosen], correct_V[chosen])
        if rankings:
            times_V = np.bincount(chosen, minlength=len(true_V))
            area_DC[draw] = [one.area(times_V) for one in rankings]
    return {
        **scores_of_confusion(confusion),
        "ece": ece,
        "roc_auc": area_DC,
        "macro_roc_auc": mean_of_defined(area_DC),
    }


@dataclass(frozen=True, slots=True)
class Ranking:
    """Objects by the probability of one class, sorted once, so that the area of many resamples is quickly had."""

    place_V: Array
    """Place of the object's probability among the U different ones."""
    is_class_V: Array

    @classmethod
    def of(cls, is_class_V: Array, probability_V: Array) -> Ranking:
        """Rank by probability."""
        return cls(np.unique(probability_V, return_inverse=True)[1], is_class_V)

    def area(self, times_V: Array) -> float:
        """Area under the curve with each object counted so many times; NaN without objects on both sides.

        It is the chance that one of the class has a higher probability than one of the others, equal ones by half
        (Mann & Whitney's U).
        """
        inside_U, outside_U = (
            np.bincount(self.place_V[side_V], times_V[side_V]) for side_V in (self.is_class_V, ~self.is_class_V)
        )
        length = max(len(inside_U), len(outside_U))
        inside_U, outside_U = (np.pad(side_U, (0, length - len(side_U))) for side_U in (inside_U, outside_U))
        pairs = inside_U.sum() * outside_U.sum()
        below_U = outside_U.cumsum() - outside_U / 2
        return float((inside_U * below_U).sum() / pairs) if pairs else np.nan


def scores_of_confusion(confusion: Array) -> dict[str, Array]:
    """Scores of confusion matrices (…, true, predicted), as scikit-learn defines them."""
    hit = np.diagonal(confusion, axis1=-2, axis2=-1)
    n_true, n_predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    recall, precision = _ratio(hit, n_true), _ratio(hit, n_predicted)
    return {
        "accuracy": hit.sum(axis=-1) / n_true.sum(axis=-1),
        "recall": recall,
        "precision": precision,
        "balanced_accuracy": np.nanmean(recall, axis=-1),
        "macro_f1": np.nanmean(_ratio(2 * hit, n_true + n_predicted), axis=-1),
    }


def mean_of_defined(scores: Array) -> Array:
    """Mean over the last axis of what is not NaN; NaN where all is."""
    defined = ~np.isnan(scores)
    return _ratio(np.where(defined, scores, 0).sum(axis=-1), defined.sum(axis=-1))


def estimate(value: float, draws: Array) -> Estimate:
    """A value with the interval of its resamples."""
    defined = draws[~np.isnan(draws)]
    low, high = np.percentile(defined, (2.5, 97.5)) if len(defined) else (value, value)
    return Estimate(value=float(value), low=float(low), high=float(high))


def _ratio(part: Array, whole: Array) -> Array:
    ratio = np.full(part.shape, np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio
