"""Scores of resampled objects, and the intervals that follow.

Shapes: V objects, C classes, D resamples, G bins of confidence, U different values of a probability.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.evaluation.calibration import N_BINS, bin_of
from model.evaluation.results import Estimate

N_BOOTSTRAP: Final = 2000
_VALUES_AT_ONCE: Final = 2_000_000
"""Of resamples × objects: 16 MB."""
Array = NDArray[Any]


def bootstrap(true_V: Array, probability_VC: Array, *, seed: int, ranking: bool = True) -> dict[str, Array]:
    """Scores of N_BOOTSTRAP resamples of the objects; NaN where not defined.

    Parameters
    ----------
    ranking
        With the areas under the curves, which take most of the time.
    """
    V = len(true_V)
    random = np.random.default_rng(seed)
    parts = []
    for size in (len(part) for part in np.array_split(np.arange(N_BOOTSTRAP), N_BOOTSTRAP * V // _VALUES_AT_ONCE + 1)):
        drawn_DV = random.integers(V, size=(size, V)) + V * np.arange(size)[:, None]
        times_DV = np.bincount(drawn_DV.ravel(), minlength=size * V).reshape(size, V)
        parts.append(_scores(times_DV.astype(np.float64), true_V, probability_VC, ranking=ranking))
    draws = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return draws | {"macro_roc_auc": mean_of_defined(draws["roc_auc"])}


def _scores(times_DV: Array, true_V: Array, probability_VC: Array, *, ranking: bool) -> dict[str, Array]:
    """Scores where each object counts so many times."""
    (D, V), C = times_DV.shape, probability_VC.shape[1]
    predicted_V, confidence_V = probability_VC.argmax(axis=1), probability_VC.max(axis=1)
    confusion_DCC = (times_DV @ np.eye(C * C)[true_V * C + predicted_V]).reshape(D, C, C)
    excess_VG = np.eye(N_BINS)[bin_of(confidence_V)] * ((predicted_V == true_V) - confidence_V)[:, None]
    areas = [areas_under_curve(times_DV, true_V == c, probability_VC[:, c]) for c in range(C)] if ranking else []
    return {
        **scores_of_confusion(confusion_DCC),
        "ece": np.abs(times_DV @ excess_VG).sum(axis=1) / V,
        "roc_auc": np.stack(areas, axis=1) if ranking else np.full((D, C), np.nan),
    }


def areas_under_curve(times_DV: Array, is_class_V: Array, probability_V: Array) -> Array:
    """Area under the curve of each resample, (D,); NaN without objects on both sides.

    It is the chance that one of the class has a higher probability than one of the others, equal ones by half
    (Mann & Whitney's U).
    """
    order_V = probability_V.argsort(kind="stable")
    starts_U = np.unique(probability_V[order_V], return_index=True)[1]
    inside_DU, outside_DU = (
        np.add.reduceat((times_DV * side_V)[:, order_V], starts_U, axis=1) for side_V in (is_class_V, ~is_class_V)
    )
    below_DU = outside_DU.cumsum(axis=1) - outside_DU / 2
    pairs_D = inside_DU.sum(axis=1) * outside_DU.sum(axis=1)
    return _ratio((inside_DU * below_DU).sum(axis=1), pairs_D)


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
