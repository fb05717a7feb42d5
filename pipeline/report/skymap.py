"""Where the objects are on the sky, and how many images each has."""

from __future__ import annotations

from typing import Final

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.report.style import ACCENT, CONTRAST, PAGE_WIDTH_IN, Picture, picture

Floats = NDArray[np.float64]

MANY: Final = 2000
"""So many points are drawn as one picture: as shapes they would be most of the page."""
MIN_EXTENT_DEG: Final = 0.1
_FEW_TO_MANY: Final = LinearSegmentedColormap.from_list("few to many", [CONTRAST, "#b3bcc5", ACCENT])


def sky_map(ra_deg: Floats, dec_deg: Floats, n_images: NDArray[np.int64]) -> Picture:
    """Every object at its place, coloured by its number of images: North up, East left, declination stretched."""
    figure = Figure(figsize=(PAGE_WIDTH_IN, 2.6))
    axes = figure.add_axes((0.06, 0.17, 0.85, 0.72))
    low, high = np.percentile(n_images, (1, 99))
    along = contiguous(ra_deg)
    top_last = np.argsort(-n_images, kind="stable")  # those with few images lie above their neighbours
    points = axes.scatter(
        along[top_last],
        dec_deg[top_last],
        s=float(np.clip(3e4 / len(ra_deg), 5, 40)),
        c=n_images[top_last],
        cmap=_FEW_TO_MANY,
        vmin=low - 0.5,
        vmax=high + 0.5,
        linewidths=0,
        rasterized=len(ra_deg) > MANY,
    )
    axes.set_xlim(*_limits(along)[::-1])
    axes.set_ylim(*_limits(dec_deg))
    axes.xaxis.set_major_locator(MaxNLocator(9))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(lambda ra, _: f"{ra % 360:.6g}°")
    axes.yaxis.set_major_formatter(lambda dec, _: f"{dec:+.6g}°" if abs(dec) > 1e-9 else "0°")
    axes.grid()
    axes.set_xlabel("right ascension (J2000)")
    axes.set_ylabel("declination")
    axes.set_title("coverage")
    bar = figure.colorbar(points, cax=figure.add_axes((0.93, 0.17, 0.012, 0.72)))
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    bar.ax.yaxis.set_major_formatter("{x:.0f}")
    bar.ax.set_title("images", fontsize=7.5, fontweight="normal")
    return picture(figure, f"Sky map of {len(ra_deg)} objects, coloured by their number of images")


def contiguous(ra_deg: Floats) -> Floats:
    """Right ascensions on one line [deg], cut where the widest empty stretch of the circle is.

    Stripe 82 runs through 0°: its objects lie from about -60° to 60°.
    """
    ra = ra_deg % 360
    sorted_ra = np.sort(ra)
    gap = np.diff(sorted_ra, append=sorted_ra[0] + 360)
    last = int(np.argmax(gap))
    return np.where(ra > sorted_ra[last], ra - 360, ra) if last < len(ra) - 1 else ra


def _limits(values_deg: Floats) -> tuple[float, float]:
    low, high = float(values_deg.min()), float(values_deg.max())
    middle, half = (low + high) / 2, max(high - low, MIN_EXTENT_DEG) * 0.53
    return middle - half, middle + half
