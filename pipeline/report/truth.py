"""What the simulation put into the sky, beside what the thumbnails say.

Shapes: M images of one object; E epochs of all objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.bands import BAND_ID, Band
from pipeline.errors import ReportError
from pipeline.report.measure import LightCurve, bands_of
from pipeline.report.style import BAND_COLOUR, BAND_INK, FAINT, INK, PAGE_WIDTH_IN, Picture, picture

Floats = NDArray[np.float64]

EPOCHS_FILE: Final = "epochs.parquet"
KEY: Final = ("object_id", "run", "camcol", "band")
FLUX: Final = "flux_nmgy"
MIN_EPOCHS: Final = 3
"""Fewer in a band do not tell the host's light from the source's."""

Truth = Mapping[tuple[str, int, int, str], float]
"""Flux of the point source alone [nMgy] by (object id, run, camcol, band)."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Measured minus injected flux in one band, over all objects."""

    band: Band
    n_images: int
    median_sigma: float
    scatter_sigma: float
    """Of (measured − host − truth) / error, the host's own error included: 1.4826 × the median absolute
    deviation; 1 where errors are right."""
    scatter_nmgy: float
    slope: float
    """Measured flux per injected flux, from the variable part alone; NaN where nothing varies."""
    slope_error: float
    truth_nmgy: Floats
    measured_nmgy: Floats
    pull: Floats


def read_truth(folder: Path) -> Truth:
    """Read the injected fluxes written beside a simulated archive.

    Raises
    ------
    ReportError
        The table is missing, is not Parquet, or lacks a column.
    """
    path = folder / EPOCHS_FILE
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ReportError(f"cannot read the injected truth {path}: {error}") from error
    if missing := {*KEY, FLUX} - set(table.column_names):
        raise ReportError(f"{path} lacks columns {sorted(missing)}: simulate the archive again with this software")
    columns = [table[name].to_pylist() for name in (*KEY, FLUX)]
    return {
        (str(object_id), int(run), int(camcol), str(band)): float(flux)
        for object_id, run, camcol, band, flux in zip(*columns, strict=True)
    }


def true_flux(truth: Truth, curve: LightCurve) -> Floats:
    """Injected flux of each image of `curve`, (M,); NaN where the truth has none."""
    letter = {number: band for band, number in BAND_ID.items()}
    keys = zip(curve.run_M.tolist(), curve.camcol_M.tolist(), curve.band_id_M.tolist(), strict=True)
    flux = (truth.get((curve.row.object_id, run, camcol, letter[b]), np.nan) for run, camcol, b in keys)
    return np.fromiter(flux, dtype=np.float64, count=len(curve.run_M))


def host_flux(curve: LightCurve, truth_M: Floats, band: Band) -> float:
    """Constant light in the aperture that is not the point source's: median of measured − truth; NaN if unknown."""
    use = curve.usable(band) & np.isfinite(truth_M)
    return float(np.median((curve.flux_nmgy_M - truth_M)[use])) if use.sum() >= MIN_EPOCHS else float("nan")


def compare(truth: Truth, curves: Sequence[LightCurve]) -> list[Comparison]:
    """Measured against injected flux per band, each object's host level removed.

    Raises
    ------
    ReportError
        The truth knows none of the images: it belongs to another archive.
    """
    true_fluxes = [true_flux(truth, curve) for curve in curves]
    found = [_compare_band(curves, true_fluxes, band) for band in bands_of(curves)]
    comparisons = [comparison for comparison in found if comparison is not None]
    if not comparisons:
        raise ReportError("the injected truth has no flux for any image of the dataset: it is of another archive")
    return comparisons


def _compare_band(curves: Sequence[LightCurve], true_fluxes: Sequence[Floats], band: Band) -> Comparison | None:
    truths, measured, errors, slopes = [], [], [], []
    for curve, truth_M in zip(curves, true_fluxes, strict=True):
        use = curve.usable(band) & np.isfinite(truth_M)
        if use.sum() < MIN_EPOCHS:
            continue
        truth, flux, error = truth_M[use], curve.flux_nmgy_M[use], curve.error_nmgy_M[use]
        host, host_error = _level_of_others(flux - truth, error)
        truths.append(truth)
        measured.append(flux - host)
        errors.append(np.hypot(error, host_error))
        slopes.append(_slope_sums(truth, flux, error))
    if not truths:
        return None
    truth, flux, error = (np.concatenate(parts) for parts in (truths, measured, errors))
    pull = (flux - truth) / error
    slope, slope_error = _slope(np.sum(slopes, axis=0))
    return Comparison(
        band=band,
        n_images=len(pull),
        median_sigma=float(np.median(pull)),
        scatter_sigma=_scatter(pull),
        scatter_nmgy=_scatter(flux - truth),
        slope=slope,
        slope_error=slope_error,
        truth_nmgy=truth,
        measured_nmgy=flux,
        pull=pull,
    )


def _level_of_others(values: Floats, errors: Floats) -> tuple[Floats, Floats]:
    """For each value the median of all the others, which owes nothing to the value itself, and its error.

    A median's variance is π/2 times that of the weighted mean (normal errors, many values).
    """
    level = np.array([np.median(np.delete(values, place)) for place in range(len(values))])
    weight = errors**-2
    return level, np.sqrt(np.pi / 2 / (weight.sum() - weight))


def _scatter(values: Floats) -> float:
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def _slope_sums(truth: Floats, flux: Floats, error: Floats) -> Floats:
    """One object's part in the weighted least squares of flux on truth; a constant host level drops out exactly."""
    weight = error**-2
    centred = truth - np.average(truth, weights=weight)
    return np.array([(weight * centred * flux).sum(), (weight * centred**2).sum()])


def _slope(sums: Floats) -> tuple[float, float]:
    product, power = sums.tolist()
    if power < 1.0:  # the injected variation is below the noise
        return float("nan"), float("nan")
    return product / power, power**-0.5


def comparison_figure(comparisons: Sequence[Comparison]) -> Picture:
    """Per band: measured against injected flux, and the distribution of the difference in its errors."""
    figure = Figure(figsize=(PAGE_WIDTH_IN, 4.1), layout="constrained")
    axes = figure.subplots(2, len(comparisons), squeeze=False, height_ratios=(1.5, 1))
    for column, comparison in enumerate(comparisons):
        _flux_panel(axes[0, column], comparison)
        _pull_panel(axes[1, column], comparison)
    axes[0, 0].set_ylabel("measured − host [nMgy]")
    axes[1, 0].set_ylabel("density")
    figure.supxlabel("(measured − host − injected) / error", fontsize=8)
    return picture(figure, "Measured against injected flux in each band, and histograms of their normalised difference")


def _flux_panel(axes: Axes, comparison: Comparison) -> None:
    linear = float(np.median(np.abs(comparison.measured_nmgy - comparison.truth_nmgy)) * 5) or 1.0
    axes.set_xscale("symlog", linthresh=linear)
    axes.set_yscale("symlog", linthresh=linear)
    colour = BAND_COLOUR[comparison.band]
    axes.plot(comparison.truth_nmgy, comparison.measured_nmgy, ".", color=colour, markersize=2.5, alpha=0.5, mew=0)
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], color=INK, linewidth=0.7)
    axes.set_xlim(low, high)
    decades = [10.0**k for k in range(-3, 7) if 1.5 * linear <= 10.0**k <= high]
    for set_ticks in (axes.set_xticks, axes.set_yticks):
        set_ticks([0.0, *decades], ["0", *(f"{decade:g}" for decade in decades)])
    axes.minorticks_off()
    axes.set_title(comparison.band, color=BAND_INK[comparison.band])
    axes.set_xlabel("injected [nMgy]")


def _pull_panel(axes: Axes, comparison: Comparison) -> None:
    bins = np.linspace(-6, 6, 49).tolist()
    clipped = np.clip(comparison.pull, -6, 6)
    axes.hist(clipped, bins=bins, density=True, color=BAND_COLOUR[comparison.band], alpha=0.85)
    x = np.linspace(-6, 6, 121)
    axes.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), color=INK, linewidth=0.8)
    axes.axvline(0, color=FAINT, linewidth=0.6)
    axes.set_yticks([])
