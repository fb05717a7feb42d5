"""What stands out of a table: how far each value lies from the median of its like, in robust standard deviations.

Shapes: N rows of a table, in groups of their like (a frame's are the frames of its band).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.bands import BANDS

Floats = NDArray[np.float64]
Side = Literal["high", "low", "both"]

BEYOND: Final = 5.0
"""A score that deserves a look: of normal values one in two million gets it."""
N_WORST: Final = 20


@dataclass(frozen=True, slots=True)
class Quantity:
    """Something measured of every row, and when it is bad."""

    name: str
    side: Side
    """Which deviations are bad."""
    least: float
    """Smallest standard deviation that is believed: without it, values that are nearly all equal (coverage, masks)
    would make an outlier of the first that is not."""
    form: str
    """How a value is written, as `str.format` has it."""

    def written(self, value: float) -> str:
        """The value with its unit."""
        return self.form.format(value)


@dataclass(frozen=True, slots=True)
class Outlier:
    """One row, and the quantity that is to blame."""

    row: int
    score: float
    quantity: Quantity
    value: float
    median: float
    """Of its like."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The rows that stand out most, the worst first."""

    worst: tuple[Outlier, ...]
    n_beyond: int
    """Rows of the whole table that score `BEYOND` or more."""
    n_rows: int


FRAME_SEEING: Final = Quantity("seeing", "high", 0.1, "{:.2f}″")
FRAME_SKY: Final = Quantity("sky brightness", "low", 0.1, "{:.2f} mag/arcsec²")
FRAME_OFFSET: Final = Quantity("zero-point offset", "both", 0.01, "{:+.3f} mag")
FRAME_SCATTER: Final = Quantity("scatter of standard stars", "high", 0.01, "{:.3f} mag")
OBJECT_SEEING: Final = Quantity("median seeing", "high", 0.1, "{:.2f}″")
OBJECT_MASKED: Final = Quantity("masked", "high", 0.02, "{:.1%}")
OBJECT_COVERAGE: Final = Quantity("coverage", "low", 0.05, "{:.1%}")


def images_in(band: str) -> Quantity:
    """How many images of a band an object has."""
    return Quantity(f"images in {band}", "low", 2.0, "{:.0f}")


def deviations(value_N: Floats, group_N: NDArray[np.integer], least: float) -> tuple[Floats, Floats]:
    """How far each value is from its group's median in robust standard deviations, and that median.

    Parameters
    ----------
    value_N
        What is not finite was not measured: it counts nowhere and deviates by NaN.
    group_N
        Number of each row's group.
    least
        The standard deviation (1.4826 × the median absolute deviation) is taken to be at least this; above 0.
    """
    deviation_N, median_N = np.full(value_N.shape, np.nan), np.full(value_N.shape, np.nan)
    for group in np.unique(group_N):
        rows = np.flatnonzero((group_N == group) & np.isfinite(value_N))
        if rows.size:
            median = np.median(value_N[rows])
            away = value_N[rows] - median
            deviation_N[rows] = away / max(1.4826 * float(np.median(np.abs(away))), least)
            median_N[rows] = median
    return deviation_N, median_N


def scores(deviation_N: Floats, side: Side) -> Floats:
    """How bad the deviations are: 0 on the good side and where nothing was measured."""
    bad_N = np.abs(deviation_N) if side == "both" else deviation_N if side == "high" else -deviation_N
    return np.asarray(np.maximum(np.nan_to_num(bad_N, nan=0.0), 0.0))


def rank(values: Mapping[Quantity, Floats], group_N: NDArray[np.integer], count: int = N_WORST) -> Ranking:
    """The `count` rows with the highest score of any quantity; among equals the first rows."""
    if not values or not len(group_N):
        return Ranking((), 0, len(group_N))
    quantities = list(values)
    measured = [deviations(values[quantity], group_N, quantity.least) for quantity in quantities]
    score_QN = np.stack(
        [scores(deviation_N, quantity.side) for quantity, (deviation_N, _) in zip(quantities, measured, strict=True)]
    )
    blame_N, worst_N = score_QN.argmax(axis=0), score_QN.max(axis=0)
    order = np.argsort(-worst_N, kind="stable")[:count]
    return Ranking(
        worst=tuple(
            Outlier(
                row=row,
                score=float(worst_N[row]),
                quantity=quantities[blame_N[row]],
                value=float(values[quantities[blame_N[row]]][row]),
                median=float(measured[blame_N[row]][1][row]),
            )
            for row in order.tolist()
            if worst_N[row] > 0
        ),
        n_beyond=int((worst_N >= BEYOND).sum()),
        n_rows=len(group_N),
    )


def rank_frames(frames: pa.Table) -> Ranking:
    """Rows of frames.parquet that stand out of their band."""
    band_F = pc.dictionary_encode(pc.fill_null(frames["band"].combine_chunks(), "")).indices.to_numpy()
    return rank(
        {
            FRAME_SEEING: _positive(_column(frames, "psf_fwhm_arcsec")),
            FRAME_SKY: magnitude(_column(frames, "sky_nmgy_arcsec2")),
            FRAME_OFFSET: _column(frames, "zp_offset_mag"),
            FRAME_SCATTER: _column(frames, "zp_scatter_mag"),
        },
        band_F,
    )


def rank_objects(manifest: pa.Table) -> Ranking:
    """Rows of manifest.parquet that stand out of all objects."""
    values = {
        OBJECT_SEEING: _positive(_column(manifest, "psf_fwhm_arcsec")),
        OBJECT_MASKED: _column(manifest, "masked_fraction"),
        OBJECT_COVERAGE: _column(manifest, "coverage"),
        **{images_in(band): _column(manifest, f"n_{band}") for band in BANDS},
    }
    return rank(values, np.zeros(manifest.num_rows, dtype=np.int8))


def magnitude(flux_nmgy: NDArray[np.floating]) -> Floats:
    """Magnitude of a flux; NaN where it is not positive."""
    return np.asarray(22.5 - 2.5 * np.log10(_positive(flux_nmgy.astype(np.float64))))


def _positive(values: Floats) -> Floats:
    return np.where(values > 0, values, np.nan)


def _column(table: pa.Table, name: str) -> Floats:
    """A column as numbers; all of them not measured where the table is of a schema that did not have it yet."""
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan)
    return np.asarray(table[name].to_numpy()).astype(np.float64)
