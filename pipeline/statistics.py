"""Band statistics of a dataset, for each fold from the objects of the other folds alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Moments = Mapping[str, tuple[float, float, float]]
"""Per band: number of covered pixels, their sum [nMgy] and sum of squares."""


class FoldStatistics(BaseModel):
    """Of the pixels that a model may see which is tested on `fold`; NaN in a band without any."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    fold: int
    n_objects: int
    """Objects that took part: those of all other folds."""
    mean_nmgy: dict[str, float]
    std_nmgy: dict[str, float]


def band_statistics(folds: Sequence[int], moments: Sequence[Moments]) -> tuple[FoldStatistics, ...]:
    """Mean and standard deviation of all covered pixels per band, with each fold's own objects left out.

    Parameters
    ----------
    folds, moments
        Fold and pixel moments of each object; objects of a negative fold take no part.
    """
    bands = list(dict.fromkeys(band for of_object in moments for band in of_object))
    moments_OB3 = np.array([[of_object.get(band, (0, 0, 0)) for band in bands] for of_object in moments])
    fold_O = np.array(folds)
    return tuple(_without(fold, fold_O, moments_OB3, bands) for fold in sorted({fold for fold in folds if fold >= 0}))


def _without(
    fold: int, fold_O: NDArray[np.int64], moments_OB3: NDArray[np.float64], bands: Iterable[str]
) -> FoldStatistics:
    training = (fold_O != fold) & (fold_O >= 0)
    n_B, sum_B, square_B = moments_OB3[training].sum(axis=0).T
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_B = sum_B / n_B
        std_B = np.sqrt(np.maximum(square_B / n_B - mean_B**2, 0))
    return FoldStatistics(
        fold=fold,
        n_objects=int(training.sum()),
        mean_nmgy=dict(zip(bands, mean_B.tolist(), strict=True)),
        std_nmgy=dict(zip(bands, std_B.tolist(), strict=True)),
    )
