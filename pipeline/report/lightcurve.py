"""Flux of one object against time, and how its points are drawn wherever they are.

Shapes: M images of one object; K points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.bands import Band
from pipeline.report.measure import LightCurve, bands_of
from pipeline.report.style import (
    BAND_COLOUR,
    BAND_INK,
    BAND_MARKER,
    FAINT,
    PAGE_WIDTH_IN,
    Picture,
    fixed_layout,
    picture,
)
from pipeline.report.timeaxis import TimeAxis
from pipeline.report.truth import Truth, host_flux, true_flux

Floats = NDArray[np.float64]

TRUTH_COLOUR: Final = "#76838f"


def light_curve_figure(curve: LightCurve, truth: Truth | None, name: str) -> Picture:
    """Flux against time, a panel per band; against the injected one, host removed, where there is a truth."""
    truth_M = None if truth is None else true_flux(truth, curve)
    bands = bands_of([curve])
    figure = Figure(figsize=(PAGE_WIDTH_IN, 1.75))
    axis = TimeAxis.over(curve.mjd_tai_M)
    panels = figure.subplots(1, len(bands), squeeze=False)[0]
    fixed_layout(figure, left=0.55, bottom=0.25, right=0.05, top=0.22, wspace=0.3)
    for panel, band in zip(panels, bands, strict=True):
        _panel(panel, curve, truth_M, band, axis)
    panels[0].set_ylabel("flux [nMgy]")
    return picture(figure, f"Light curve of {name} in {', '.join(bands)}")


def _panel(axes: Axes, curve: LightCurve, truth_M: Floats | None, band: Band, axis: TimeAxis) -> None:
    flux = band_flux(curve, truth_M, band)
    draw_truth(axes, axis, flux.truth_mjd, flux.truth_nmgy)
    draw_flux(axes, axis, flux.mjd, flux.flux_nmgy, flux.error_nmgy, band)
    axes.set_title(band, color=BAND_INK[band])
    axis.dress(axes, max_labels=2)
    if flux.mjd.size:
        _show_at_least_a_tenth(axes)
    else:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no usable image", transform=axes.transAxes, ha="center", color=FAINT)


@dataclass(frozen=True, slots=True)
class BandFlux:
    """What is drawn of one band: usable points, and the injected flux where there is a truth."""

    mjd: Floats
    flux_nmgy: Floats
    """Beyond the host's, where there is a truth."""
    error_nmgy: Floats
    truth_mjd: Floats
    truth_nmgy: Floats


def band_flux(curve: LightCurve, truth_M: Floats | None, band: Band) -> BandFlux:
    """Usable points of a band; with a truth, and enough points to tell the host's light, both without the host."""
    use = curve.usable(band)
    host = float("nan") if truth_M is None else host_flux(curve, truth_M, band)
    if truth_M is None or not np.isfinite(host):
        nothing = np.empty(0)
        return BandFlux(curve.mjd_tai_M[use], curve.flux_nmgy_M[use], curve.error_nmgy_M[use], nothing, nothing)
    known = curve.in_band(band) & np.isfinite(truth_M)
    return BandFlux(
        curve.mjd_tai_M[use],
        curve.flux_nmgy_M[use] - host,
        curve.error_nmgy_M[use],
        curve.mjd_tai_M[known],
        truth_M[known],
    )


def draw_truth(axes: Axes, axis: TimeAxis, mjd: Floats, height: Floats) -> None:
    """Injected flux, joined to guide the eye."""
    if mjd.size:
        x, y = axis.broken_line(mjd, height)
        axes.plot(x, y, color=TRUTH_COLOUR, linewidth=1, marker="_", markersize=6, mew=1, zorder=2)


def draw_flux(axes: Axes, axis: TimeAxis, mjd: Floats, height: Floats, error: Floats, band: Band) -> None:
    """Points with errors, in the band's colour and symbol."""
    axes.errorbar(
        axis.position(mjd),
        height,
        error,
        fmt=BAND_MARKER[band],
        color=BAND_COLOUR[band],
        markersize=6 if band == "z" else 4,
        markeredgecolor="white",
        markeredgewidth=0.3,
        elinewidth=0.8,
        zorder=3,
    )


def _show_at_least_a_tenth(axes: Axes) -> None:
    """Ticks, and a scale on which a bright constant star looks constant."""
    low, high = axes.get_ylim()
    middle = (low + high) / 2
    half = max((high - low) / 2, 0.05 * abs(middle))
    axes.set_ylim(middle - half, middle + half)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="y")
