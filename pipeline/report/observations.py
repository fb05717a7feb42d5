"""When and under which sky the images were taken: figures over all measured objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.bands import BANDS, Band
from pipeline.report.measure import LightCurve, bands_of, in_band
from pipeline.report.style import (
    ACCENT,
    BAND_COLOUR,
    BAND_MARKER,
    PAGE_WIDTH_IN,
    Picture,
    fixed_layout,
    picture,
)
from pipeline.report.timeaxis import TimeAxis

Floats = NDArray[np.float64]


def conditions_figure(curves: Sequence[LightCurve]) -> Picture:
    """Histograms of seeing, sky brightness and coverage of the images: a row per band, one scale per column."""
    bands = bands_of(curves)
    figure = Figure(figsize=(PAGE_WIDTH_IN, 0.62 * len(bands) + 0.8))
    panels = figure.subplots(len(bands), 3, squeeze=False, sharex="col", sharey="col")
    fixed_layout(figure, left=0.6, bottom=0.42, right=0.1, top=0.25, wspace=0.16)
    seeing = {band: in_band(curves, [curve.psf_fwhm_arcsec_M for curve in curves], band) for band in bands}
    sky = {band: _magnitude(in_band(curves, [curve.sky_nmgy_arcsec2_M for curve in curves], band)) for band in bands}
    coverage = {band: 100 * in_band(curves, [curve.coverage_M for curve in curves], band) for band in bands}
    _histograms(panels[:, 0].tolist(), seeing, "PSF width (FWHM) [arcsec]")
    _histograms(panels[:, 1].tolist(), sky, "sky brightness [mag / arcsec²]")
    _histograms(panels[:, 2].tolist(), coverage, "part of the thumbnail on the frame [%]")
    panels[0, 1].invert_xaxis()
    panels[0, 2].set_yscale("log")
    panels[0, 2].set_ylim(bottom=0.7)
    panels[0, 2].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    for axes, title in zip(panels[0], ("seeing", "sky", "coverage"), strict=True):
        axes.set_title(title)
    for axes, band in zip(panels[:, 0], bands, strict=True):
        axes.set_ylabel(
            band, rotation=0, color=BAND_COLOUR[band], fontweight="bold", fontsize=10, ha="right", va="center"
        )
    return picture(figure, "Histograms of seeing, sky brightness and coverage of all images per band")


def _magnitude(flux_nmgy: Floats) -> Floats:
    return np.asarray(22.5 - 2.5 * np.log10(flux_nmgy[flux_nmgy > 0]))


def _histograms(column: Sequence[Axes], values: Mapping[Band, Floats], label: str) -> None:
    """One quantity, a panel per band, all with the same bins; the extreme 0.1 % are put into the outermost bins."""
    finite = {band: value[np.isfinite(value)] for band, value in values.items()}
    everything = np.concatenate(list(finite.values()))
    if everything.size:
        low, high = np.percentile(everything, (0.1, 99.9))
        bins = np.linspace(low, max(high, low + 1e-3), 41)
        for axes, (band, value) in zip(column, finite.items(), strict=True):
            axes.hist(np.clip(value, bins[0], bins[-1]), bins=bins.tolist(), color=BAND_COLOUR[band])
            if value.size:
                median = f"median {np.median(value):.4g}"
                axes.text(0.02, 0.95, median, transform=axes.transAxes, va="top", fontsize=7)
            axes.margins(y=0.5)  # room for the text above the bars
    column[-1].set_xlabel(label)


def cadence_figure(frames: pa.Table) -> Picture:
    """Every frame of frames.parquet: when it was taken, in which seeing."""
    band_F = np.array(frames["band"].to_pylist(), dtype=str)
    mjd_F = frames["mjd_tai"].to_numpy().astype(np.float64)
    width_F = frames["psf_fwhm_arcsec"].to_numpy().astype(np.float64)
    known_F = np.isfinite(mjd_F) & np.isfinite(width_F)
    figure = Figure(figsize=(PAGE_WIDTH_IN, 2.3), layout="constrained")
    axes = figure.subplots()
    axis = TimeAxis.over(mjd_F[known_F]) if known_F.any() else None
    for band in BANDS:
        use = known_F & (band_F == band)
        if axis is not None and use.any():
            axes.plot(
                axis.position(mjd_F[use]),
                width_F[use],
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
    axes.set_ylabel("PSF width (FWHM) [arcsec]")
    axes.set_title("frames in time")
    axes.grid(axis="y")
    figure.legend(loc="outside right center", handletextpad=0.1)
    return picture(figure, "PSF width of every frame against the date it was taken")


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
        axis.set_major_locator(MaxNLocator(integer=True))
    return picture(figure, f"Histogram of images per object, from {low} to {high}")
