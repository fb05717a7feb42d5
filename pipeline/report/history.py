"""One object in time: its flux in each band, and below it the circumstances of each image, on one axis.

Everything is drawn in one pair of axes whose height is shared out in shelves, each with a scale of its own: ten
pairs of axes take matplotlib four times as long.

Shapes: M images of one object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.bands import Band
from pipeline.report.lightcurve import band_flux, draw_flux, draw_truth
from pipeline.report.measure import LightCurve, bands_of
from pipeline.report.outliers import magnitude
from pipeline.report.style import (
    BAND_COLOUR,
    BAND_INK,
    BAND_MARKER,
    FAINT,
    GRID,
    INK,
    PAGE_WIDTH_IN,
    Picture,
    fixed_layout,
    picture,
)
from pipeline.report.timeaxis import TimeAxis
from pipeline.report.truth import Truth, true_flux

Floats = NDArray[np.float64]

FLUX_IN: Final = 1.0
CIRCUMSTANCE_IN: Final = 0.72
GAP_IN: Final = 0.14
"""Of each shelf, left empty above it."""


@dataclass(frozen=True, slots=True)
class Circumstance:
    """A quantity of each image."""

    label: str
    shown: tuple[float, float]
    """Values that are always on the scale, so that what hardly changes looks so."""
    of: Callable[[LightCurve], Floats]


CIRCUMSTANCES: Final = (
    Circumstance("seeing\n[″]", (1.0, 1.5), lambda curve: curve.psf_fwhm_arcsec_M.astype(np.float64)),
    Circumstance("sky\n[mag/″²]", (20.0, 21.0), lambda curve: magnitude(curve.sky_nmgy_arcsec2_M)),
    Circumstance("masked\n[%]", (0.0, 2.0), lambda curve: 100 * curve.masked_fraction_M),
    Circumstance("covered\n[%]", (80.0, 100.0), lambda curve: 100 * curve.coverage_M.astype(np.float64)),
    Circumstance("offset\n[mag]", (-0.02, 0.02), lambda curve: curve.zp_offset_mag_M.astype(np.float64)),
)


@dataclass(frozen=True, slots=True)
class Shelf:
    """A part of the figure's height with a scale of its own."""

    bottom_in: float
    height_in: float
    low: float
    high: float

    @classmethod
    def holding(cls, values: Floats, bottom_in: float, height_in: float, *, least_range: float = 0.0) -> Shelf:
        """A scale on which all finite values have room."""
        known = values[np.isfinite(values)]
        low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
        middle, half = (low + high) / 2, max(0.56 * (high - low), least_range / 2)
        return cls(bottom_in, height_in - GAP_IN, middle - half, middle + half)

    @property
    def scale(self) -> float:
        """Inches per unit."""
        return self.height_in / (self.high - self.low)

    def height(self, values: Floats | float) -> Floats:
        """Where the values are in the figure [inch]."""
        return np.asarray(self.bottom_in + self.scale * (values - self.low))

    def ticks(self) -> list[tuple[float, str]]:
        """Heights of round values, and what is written there."""
        values = MaxNLocator(max(2, round(self.height_in / 0.2)), steps=(1, 2, 5, 10)).tick_values(self.low, self.high)
        digits = max(0, -int(np.floor(np.log10(values[1] - values[0]) + 1e-9)))
        return [
            (float(self.height(value)), f"{value + 0.0:.{digits}f}".replace("-", "−"))
            for value in values
            if self.low <= value <= self.high
        ]


def history_figure(curve: LightCurve, truth: Truth | None, name: str) -> Picture:
    """The bands' flux one above the other, and below it each circumstance in the colours of the bands."""
    truth_M = None if truth is None else true_flux(truth, curve)
    bands = bands_of([curve])
    height_in = FLUX_IN * len(bands) + CIRCUMSTANCE_IN * len(CIRCUMSTANCES)
    figure = Figure(figsize=(PAGE_WIDTH_IN, height_in + 0.3))
    axes = figure.subplots()
    fixed_layout(figure, left=0.95, bottom=0.28, right=0.05, top=0.02)
    axis = TimeAxis.over(curve.mjd_tai_M)
    shelves = []
    for place, band in enumerate(bands):
        bottom_in = height_in - FLUX_IN * (place + 1)
        shelves.append(_flux(axes, curve, truth_M, band, axis, bottom_in))
    for place, circumstance in enumerate(reversed(CIRCUMSTANCES)):
        shelves.append(_circumstance(axes, curve, circumstance, axis, CIRCUMSTANCE_IN * place))
    _dress(axes, shelves)
    axes.set_ylim(0, height_in)
    axis.dress(axes, max_labels=9)
    return picture(
        figure, f"Flux of {name} in {', '.join(bands)}, seeing, sky, masks, coverage and zero point, against time"
    )


def _flux(axes: Axes, curve: LightCurve, truth_M: Floats | None, band: Band, axis: TimeAxis, bottom_in: float) -> Shelf:
    flux = band_flux(curve, truth_M, band)
    ends = np.concatenate((flux.flux_nmgy - flux.error_nmgy, flux.flux_nmgy + flux.error_nmgy, flux.truth_nmgy))
    least_range = 0.1 * abs(float(np.median(ends))) if ends.size else 1.0
    shelf = Shelf.holding(ends, bottom_in, FLUX_IN, least_range=least_range or 1.0)
    draw_truth(axes, axis, flux.truth_mjd, shelf.height(flux.truth_nmgy))
    draw_flux(axes, axis, flux.mjd, shelf.height(flux.flux_nmgy), shelf.scale * flux.error_nmgy, band)
    _name(axes, shelf, f"{band}\n[nMgy]", BAND_INK[band])
    if not flux.mjd.size:
        _say(axes, shelf, "no usable image")
    return shelf


def _circumstance(axes: Axes, curve: LightCurve, circumstance: Circumstance, axis: TimeAxis, bottom_in: float) -> Shelf:
    value_M = circumstance.of(curve)
    shelf = Shelf.holding(np.append(value_M, circumstance.shown), bottom_in, CIRCUMSTANCE_IN)
    for band in bands_of([curve]):
        use = curve.in_band(band) & np.isfinite(value_M)
        axes.plot(
            axis.position(curve.mjd_tai_M[use]),
            shelf.height(value_M[use]),
            linestyle="none",
            marker=BAND_MARKER[band],
            color=BAND_COLOUR[band],
            markersize=6 if band == "z" else 4,
            markeredgecolor="white",
            markeredgewidth=0.3,
        )
    _name(axes, shelf, circumstance.label, INK)
    if not np.isfinite(value_M).any():
        _say(axes, shelf, "not measured")
    return shelf


def _dress(axes: Axes, shelves: Sequence[Shelf]) -> None:
    """Numbers and grid of every shelf, and a line below each."""
    across, heights = axes.get_yaxis_transform(), []
    for height, written in (tick for shelf in shelves for tick in shelf.ticks()):
        axes.text(-0.006, height, written, transform=across, fontsize=7, ha="right", va="center")
        heights.append(height)
    axes.hlines(heights, 0, 1, transform=across, color=GRID, linewidth=0.6, zorder=0)
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    bottoms = [shelf.bottom_in for shelf in shelves]
    axes.hlines(bottoms, 0, 1, transform=across, color=FAINT, linewidth=0.6)


def _name(axes: Axes, shelf: Shelf, label: str, colour: str) -> None:
    middle_in = shelf.bottom_in + shelf.height_in / 2
    axes.annotate(
        label,
        (0, middle_in),
        xycoords=axes.get_yaxis_transform(),
        xytext=(-66, 0),
        textcoords="offset points",
        color=colour,
        fontweight="bold",
        va="center",
    )


def _say(axes: Axes, shelf: Shelf, words: str) -> None:
    middle_in = shelf.bottom_in + shelf.height_in / 2
    axes.text(0.5, middle_in, words, transform=axes.get_yaxis_transform(), ha="center", va="center", color=FAINT)
