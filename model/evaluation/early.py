"""Scores after the first nights: what the model could say while a supernova was still bright.

Shapes: V objects, C classes, E numbers of nights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.evaluation.bootstrap import bootstrap, estimate
from model.evaluation.results import EarlyScores
from model.evaluation.scores import headline
from model.loader import NIGHT_DAY

STEP: Final = 1.6
"""Ratio between numbers of nights that are looked at; each of them costs an evaluation of its own."""
Array = NDArray[Any]


def grid_of_nights(n_nights_V: Sequence[int]) -> tuple[int, ...]:
    """1, 2, 3, 5, 8, … up to the most nights that half of the objects have."""
    last = int(np.median(n_nights_V)) if len(n_nights_V) else 1
    steps = np.round(STEP ** np.arange(np.ceil(np.log(max(last, 1)) / np.log(STEP)) + 1)).astype(int)
    return tuple(sorted({min(int(step), last) for step in steps}))


def n_nights(mjd_M: Array) -> int:
    """On how many nights the images of one object were taken."""
    return 1 + int((np.diff(mjd_M) > NIGHT_DAY).sum())


def early_scores(
    nights: Sequence[int], n_nights_V: Array, true_V: Array, probability_EVC: Sequence[Array], seed: int
) -> tuple[EarlyScores, ...]:
    """Scores at each number of nights, with intervals."""
    found = []
    for seen, probability_VC in zip(nights, probability_EVC, strict=True):
        draws = bootstrap(true_V, probability_VC, seed=seed, ranking=False)
        accuracy, balanced, macro_f1 = headline(true_V, probability_VC.argmax(axis=1))
        found.append(
            EarlyScores(
                nights=seen,
                n_objects=int((n_nights_V >= seen).sum()),
                accuracy=estimate(accuracy, draws["accuracy"]),
                balanced_accuracy=estimate(balanced, draws["balanced_accuracy"]),
                macro_f1=estimate(macro_f1, draws["macro_f1"]),
            )
        )
    return tuple(found)
