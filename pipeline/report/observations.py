"""When and under which sky the images were taken: figures over all measured objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.bands import BANDS, Band
from pipeline.report.measure import LightCurve, bands_of, in_band
from pipeline.report.outliers import magnitude
from pipeline.report.style import (
    ACCENT,
    BAND_COLOUR,
    BAND_INK,
    BAND_MARKER,
    PAGE_WIDTH_IN,
    Picture,
    fixed_layout,
    picture,
)
from pipeline.report.timeaxis import LATEST_MJD, TimeAxis

Floats = NDArray[np.float64]

MAX_POINTS: Final = 3000
"""More frames than this are shown by their night."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A quantity of each image, and how it is drawn."""

    title: str
    label: str
    form: str
    """How its median is written."""
    mostly_alike: bool
    """Nearly all images have the same value: the others show on a logarithmic scale only."""
    of: Callable[[LightCurve], NDArray[np.floating]]


CONDITIONS: Final = (
    Condition("seeing", "PSF width (FWHM) [″]", ".2f", False, lambda curve: curve.psf_fwhm_arcsec_M.astype(np.float64)),
    Condition("sky", "mag / arcsec²", ".2f", False, lambda curve: magnitude(curve.sky_nmgy_arcsec2_M)),
    Condition("zero point", "offset of stars [mag]", "+z.3f", False, lambda curve: curve.zp_offset_mag_M),
    Condition("masks", "masked pixels [%]", ".1f", True, lambda curve: 100 * curve.masked_fraction_M),
    Condition("coverage", "covered pixels [%]", ".1f", True, lambda curve: 100 * curve.coverage_M),
)


def conditions_figure(curves: Sequence[LightCurve]) -> Picture:
    """Histograms of the circumstances of all images: a row per band, one scale per column."""
    bands = bands_of(curves)
    figure = Figure(figsize=(PAGE_WIDTH_IN, 0.62 * len(bands) + 0.8))
    panels = figure.subplots(len(bands), len(CONDITIONS), squeeze=False, sharex="col")
    fixed_layout(figure, left=0.35, bottom=0.42, right=0.1, top=0.25, wspace=0.12)
    for column, condition in zip(panels.T, CONDITIONS, strict=True):
        of_all = [condition.of(curve) for curve in curves]
        _histograms(column.tolist(), {band: in_band(curves, of_all, band) for band in bands}, condition)
    panels[0, 1].invert_xaxis()
    for axes, band in zip(panels[:, 0], bands, strict=True):
        axes.set_ylabel(band, rotation=0, color=BAND_INK[band], fontweight="bold", fontsize=10, ha="right", va="center")
    return picture(
        figure, f"Histograms of {', '.join(condition.title for condition in CONDITIONS)} of all images per band"
    )


def _histograms(column: Sequence[Axes], values: Mapping[Band, Floats], condition: Condition) -> None:
    """One quantity, a panel per band, all with the same bins; the extreme 0.1 % are put into the outermost bins."""
    finite = {band: value[np.isfinite(value)] for band, value in values.items()}
    everything = np.concatenate(list(finite.values()))
    if everything.size:
        low, high = np.percentile(everything, (0.1, 99.9))
        bins = np.linspace(low, max(high, low + 1e-3), 41)
        for axes, (band, value) in zip(column, finite.items(), strict=True):
            axes.hist(np.clip(value, bins[0], bins[-1]), bins=bins.tolist(), color=BAND_COLOUR[band])
            axes.margins(y=0.5)  # room for the text above the bars
            axes.xaxis.set_major_locator(MaxNLocator(4))
    for axes, value in zip(column, finite.values(), strict=True):
        said = f"median {np.median(value):{condition.form}}" if value.size else "not measured"
        axes.text(0.02, 0.95, said, transform=axes.transAxes, va="top", fontsize=7)
        if condition.mostly_alike:
            axes.set_yscale("log")
            axes.set_ylim(bottom=0.7)
        axes.set_yticks([])
        axes.set_yticks([], minor=True)
    column[0].set_title(condition.title)
    column[-1].set_xlabel(condition.label)


def cadence_figure(frames: pa.Table) -> Picture:
    """When the frames were taken, in which seeing: each, or of many the median and extremes of each night."""
    band_F = np.asarray(frames["band"].to_numpy()).astype("U1")
    mjd_F = frames["mjd_tai"].to_numpy().astype(np.float64)
    width_F = frames["psf_fwhm_arcsec"].to_numpy().astype(np.float64)
    known_F = (mjd_F > 0) & (mjd_F < LATEST_MJD) & np.isfinite(width_F)
    figure = Figure(figsize=(PAGE_WIDTH_IN, 2.3), layout="constrained")
    axes = figure.subplots()
    axis = TimeAxis.over(mjd_F[known_F]) if known_F.any() else None
    for band in BANDS:
        use = known_F & (band_F == band)
        if axis is not None and use.any():
            mjd, width = mjd_F[use], width_F[use]
            if frames.num_rows > MAX_POINTS:
                mjd, width, least, most = _nights(mjd, width)
                axes.vlines(axis.position(mjd), least, most, color=BAND_COLOUR[band], linewidth=0.6, alpha=0.6)
            axes.plot(
                axis.position(mjd),
                width,
                linestyle="none",
                marker=BAND_MARKER[band],
                color=BAND_COLOUR[band],
                markersize=7 if band == "z" else 5,
                markeredgecolor="white",
                markeredgewidth=0.4,
                label=band,
            )
    if axis is not None:
        axis.dress(axes, max_labels=9)
        figure.legend(loc="outside right center", handletextpad=0.1)
    axes.set_ylabel("PSF width (FWHM) [arcsec]")
    axes.set_title(
        "frames in time" if frames.num_rows <= MAX_POINTS else "frames in time, medians and extremes of each night"
    )
    axes.grid(axis="y")
    return picture(figure, "PSF width of the frames against the date they were taken")


def _nights(mjd: Floats, values: Floats) -> Floats:
    """Median time, and median, least and largest value, of each night."""
    order = np.argsort(mjd, kind="stable")
    ends = np.flatnonzero(np.diff(np.floor(mjd[order]))) + 1
    parts = zip(np.split(mjd[order], ends), np.split(values[order], ends), strict=True)
    return np.array([(np.median(times), np.median(found), found.min(), found.max()) for times, found in parts]).T


def objects_figure(n_images: Sequence[int]) -> Picture:
    """How many images the objects have."""
    figure = Figure(figsize=(PAGE_WIDTH_IN, 1.7), layout="constrained")
    axes = figure.subplots()
    low, high = min(n_images), max(n_images)
    step = max(1, -(-(high - low + 1) // 60))
    axes.hist(n_images, bins=(np.arange(low, high + step + 1, step) - 0.5).tolist(), color=ACCENT, rwidth=0.9)
    axes.set_title("images per object")
    axes.set_xlabel("images, all bands together")
    axes.set_ylabel("objects")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return picture(figure, f"Histogram of images per object, from {low} to {high}")
