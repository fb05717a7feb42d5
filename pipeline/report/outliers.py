"""What stands out of a table: how far each value lies from the median of its like, in robust standard deviations.

Shapes: N rows of a table, in groups of their like (a frame's are the frames of its band); L lines of a list.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
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
    of_one: float = 0.0
    """Scatter of a single image, where the value is a median over a frame's: so much less is believed of few."""
    logarithmic: bool = False
    """Values are natural logarithms of what is written."""
    words: tuple[str, ...] = ()
    """What is written for 0, 1, …, where values are grades."""

    def written(self, value: float) -> str:
        """The value with its unit."""
        if self.words:
            return self.words[round(value)]
        return self.form.format(math.exp(value) if self.logarithmic else value)


@dataclass(frozen=True, slots=True)
class Outlier:
    """One row, and the quantity that is to blame."""

    row: int
    score: float
    quantity: Quantity
    value: float
    median: float
    """Of its like."""
    n_beyond: int = 1
    """Rows that belong together with this one, and score `BEYOND` or more for the same quantity."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The rows that stand out most, the worst first."""

    worst: tuple[Outlier, ...]
    n_beyond: int
    """Rows of the whole table that score `BEYOND` or more."""
    n_rows: int


FRAME_SEEING: Final = Quantity("seeing", "high", 0.1, "{:.2f}″")
FRAME_SKY: Final = Quantity("sky brightness", "low", 0.1, "{:.2f} mag/arcsec²")
FRAME_OFFSET: Final = Quantity("zero-point offset", "both", 0.01, "{:+z.3f} mag")
FRAME_SCATTER: Final = Quantity("scatter of standard stars", "high", 0.01, "{:.3f} mag")
FRAME_NOISE: Final = Quantity("noise over that expected", "both", 0.02, "{:.2f}", of_one=0.06, logarithmic=True)
FRAME_LEVEL: Final = Quantity("sky left in the pixels", "both", 0.02, "{:+z.2f} σ", of_one=0.08)
FRAME_BRIGHT: Final = Quantity("unusual bright pixels", "high", 0.02, "{:+z.1%}", of_one=0.03)
FRAME_MASKED: Final = Quantity("unusual masks", "high", 0.01, "{:+z.1%}", of_one=0.05)
FRAME_QUALITY: Final = Quantity(
    "field quality", "high", 0.2, "", words=("good", "acceptable", "bad", "missing or hole")
)
FRAME_STARS: Final = Quantity("standard stars", "high", 0.2, "", words=("enough", "too few"))
OBJECT_SEEING: Final = Quantity("median seeing", "high", 0.1, "{:.2f}″")
OBJECT_MASKED: Final = Quantity("masked", "high", 0.02, "{:.1%}")
OBJECT_COVERAGE: Final = Quantity("coverage", "low", 0.05, "{:.1%}")
OBJECT_LONE: Final = Quantity("points off in one band alone", "high", 0.01, "{:.1%}")
OBJECT_PLACE: Final = Quantity("light off the middle", "high", 0.25, "{:.2f}″")
GRADES: Final = {0: 0, 1: 2, 2: 1, 3: 0, 4: 3, 5: 3}
"""`quality` as it gets worse; what is not known is not bad."""
TOO_FEW_STARS: Final = 8
"""Bit of `zp_flags`, as `pipeline.zeropoints` has it."""
USUAL: Final = 0.05
"""What so large a part of its like has is no reason to look."""
SMALLEST_RATIO: Final = 1e-3


def images_in(band: str) -> Quantity:
    """How many images of a band an object has."""
    return Quantity(f"images in {band}", "low", 2.0, "{:.0f}")


def deviations(value_N: Floats, group_N: NDArray[np.integer], least: float | Floats) -> tuple[Floats, Floats]:
    """How far each value is from its group's median in robust standard deviations, and that median.

    Parameters
    ----------
    value_N
        What is not finite was not measured: it counts nowhere and deviates by NaN.
    group_N
        Number of each row's group.
    least
        The standard deviation (1.4826 × the median absolute deviation) is taken to be at least this, of all rows or
        of each; above 0.
    """
    deviation_N, median_N = np.full(value_N.shape, np.nan), np.full(value_N.shape, np.nan)
    least_N = np.broadcast_to(least, value_N.shape)
    for group in np.unique(group_N):
        rows = np.flatnonzero((group_N == group) & np.isfinite(value_N))
        if rows.size:
            median = np.median(value_N[rows])
            away = value_N[rows] - median
            deviation_N[rows] = away / np.maximum(1.4826 * float(np.median(np.abs(away))), least_N[rows])
            median_N[rows] = median
    return deviation_N, median_N


def scores(deviation_N: Floats, side: Side) -> Floats:
    """How bad the deviations are: 0 on the good side and where nothing was measured."""
    bad_N = np.abs(deviation_N) if side == "both" else deviation_N if side == "high" else -deviation_N
    return np.asarray(np.maximum(np.nan_to_num(bad_N, nan=0.0), 0.0))


@dataclass(frozen=True, slots=True)
class Column:
    """A quantity of every row, and which rows are like one another."""

    value_N: Floats
    group_N: NDArray[np.integer]
    n_images_N: Floats | None = None
    """How many images the value is a median of."""

    def deviations(self, quantity: Quantity) -> tuple[Floats, Floats]:
        """As `deviations`; what rests on few images is believed less."""
        if self.n_images_N is None:
            return deviations(self.value_N, self.group_N, quantity.least)
        least_N = np.hypot(quantity.least, quantity.of_one / np.sqrt(np.maximum(self.n_images_N, 1)))
        return deviations(self.value_N, self.group_N, least_N)


def rank(
    columns: Mapping[Quantity, Column], together_N: NDArray[np.integer] | None = None, count: int = N_WORST
) -> Ranking:
    """The `count` rows with the highest score of any quantity; among equals the first rows.

    Parameters
    ----------
    together_N
        Of rows with the same number that have the same quantity to blame only the worst is listed: a bad hour is one
        line, and does not hide all others.
    """
    n_rows = len(next(iter(columns.values())).value_N) if columns else 0
    if not n_rows:
        return Ranking((), 0, 0)
    quantities = list(columns)
    measured = [column.deviations(quantity) for quantity, column in columns.items()]
    score_QN = np.stack(
        [scores(deviation_N, quantity.side) for quantity, (deviation_N, _) in zip(quantities, measured, strict=True)]
    )
    blame_N, worst_N = score_QN.argmax(axis=0), score_QN.max(axis=0)
    if together_N is None:
        together_N = np.arange(n_rows)
    _, line_N = np.unique(together_N.astype(np.int64) * len(quantities) + blame_N, return_inverse=True)
    beyond_L = np.bincount(line_N, worst_N >= BEYOND).astype(int)
    order = np.argsort(-worst_N, kind="stable")
    _, first_L = np.unique(line_N[order], return_index=True)
    order = order[np.sort(first_L)[:count]]
    return Ranking(
        worst=tuple(
            Outlier(
                row=row,
                score=float(worst_N[row]),
                quantity=quantities[blame_N[row]],
                value=float(columns[quantities[blame_N[row]]].value_N[row]),
                median=float(measured[blame_N[row]][1][row]),
                n_beyond=int(beyond_L[line_N[row]]),
            )
            for row in order.tolist()
            if worst_N[row] > 0
        ),
        n_beyond=int((worst_N >= BEYOND).sum()),
        n_rows=n_rows,
    )


def rank_frames(frames: pa.Table) -> Ranking:
    """Rows of frames.parquet that stand out of their band; of each run and quantity the worst."""
    band_F = pc.dictionary_encode(pc.fill_null(frames["band"].combine_chunks(), "")).indices.to_numpy()
    n_images_F = np.nan_to_num(_column(frames, "n_thumbnails"))
    headers = {
        FRAME_SEEING: _positive(_column(frames, "psf_fwhm_arcsec")),
        FRAME_SKY: magnitude(_column(frames, "sky_nmgy_arcsec2")),
        FRAME_OFFSET: _column(frames, "zp_offset_mag"),
        FRAME_SCATTER: _column(frames, "zp_scatter_mag"),
        FRAME_QUALITY: _where_rare(_grades(_column(frames, "quality")), band_F),
        FRAME_STARS: _where_rare(_has_bit(_column(frames, "zp_flags"), TOO_FEW_STARS), band_F),
    }
    pixels = {
        FRAME_NOISE: np.log(np.maximum(_column(frames, "noise_ratio"), SMALLEST_RATIO)),
        FRAME_LEVEL: _column(frames, "sky_offset"),
        FRAME_BRIGHT: _column(frames, "bright_excess"),
        FRAME_MASKED: _column(frames, "masked_excess"),
    }
    columns = {quantity: Column(value_F, band_F) for quantity, value_F in headers.items()}
    columns |= {quantity: Column(value_F, band_F, n_images_F) for quantity, value_F in pixels.items()}
    return rank(columns, np.nan_to_num(_column(frames, "run")).astype(np.int64))


def rank_objects(manifest: pa.Table, measured: Mapping[Quantity, Column] = MappingProxyType({})) -> Ranking:
    """Rows of manifest.parquet that stand out of all objects; `measured` adds what light curves say of some."""
    values = {
        OBJECT_SEEING: _positive(_column(manifest, "psf_fwhm_arcsec")),
        OBJECT_MASKED: _column(manifest, "masked_fraction"),
        OBJECT_COVERAGE: _column(manifest, "coverage"),
        **{images_in(band): _column(manifest, f"n_{band}") for band in BANDS},
    }
    alike_N = np.zeros(manifest.num_rows, dtype=np.int8)
    return rank({quantity: Column(value_N, alike_N) for quantity, value_N in values.items()} | dict(measured))


def _grades(quality_N: Floats) -> Floats:
    return np.select([quality_N == code for code in GRADES], list(GRADES.values()), 0).astype(np.float64)


def _has_bit(flags_N: Floats, bit: int) -> Floats:
    return ((np.nan_to_num(flags_N).astype(np.int64) & bit) > 0).astype(np.float64)


def _where_rare(grade_N: Floats, group_N: NDArray[np.integer]) -> Floats:
    """Grades, 0 where more than a part USUAL of the group is as bad: where many frames are cloudy, it is no news."""
    rare_N = grade_N.copy()
    for group in np.unique(group_N):
        of_group_N = group_N == group
        for grade in np.unique(grade_N[of_group_N]):
            if (grade_N[of_group_N] >= grade).sum() > max(USUAL * of_group_N.sum(), 3):
                rare_N[of_group_N & (grade_N == grade)] = 0
    return rare_N


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
