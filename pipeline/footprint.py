"""Which exposures cover which objects, and where on the frame: the join of catalogue and exposure index.

Done in the great-circle coordinates of the scans, in which a field is an upright rectangle. Frame-level
work takes positions from the frame's own solution; these (r band, affine) are good to half a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.astrometry import to_great_circle
from pipeline.exposures import ExposureIndex

FRAME_ROWS: Final = 1489
FRAME_COLUMNS: Final = 2048
BLOCK_EXPOSURES: Final = 20_000
"""Exposures joined at once: bounds memory to some 100 MB at Stripe 82's density of candidates."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """P pairs of an object and an exposure that covers it."""

    target_index: NDArray[np.intp]
    exposure_index: NDArray[np.intp]
    x_pix: NDArray[np.float64]
    """Column in r, 0 at the centre of the first pixel; outside [-0.5, 2047.5) within the margin."""
    y_pix: NDArray[np.float64]
    """Row in r, in [-0.5, 1488.5)."""

    def __len__(self) -> int:
        return len(self.target_index)

    def take(self, pairs: NDArray[np.intp] | NDArray[np.bool_]) -> Footprint:
        """The pairs at `pairs` (indices or a mask)."""
        return Footprint(self.target_index[pairs], self.exposure_index[pairs], self.x_pix[pairs], self.y_pix[pairs])


def covering(
    index: ExposureIndex, ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64], *, margin_px: float = 0
) -> Footprint:
    """All pairs of an object and an exposure on which it falls.

    Parameters
    ----------
    ra_deg, dec_deg
        Positions of the objects (ICRS).
    margin_px
        How far outside the column edges an object may fall. Rows need none: the fields of a scan overlap by 128.

    Returns
    -------
    Pairs sorted by object, then exposure.
    """
    parts = []
    usable = _has_solution(index)
    for node_deg, incl_deg in _great_circles(index):
        scans = np.flatnonzero(usable & (index.node_deg == node_deg) & (index.incl_deg == incl_deg))
        mu_deg, nu_deg = to_great_circle(np.asarray(ra_deg), np.asarray(dec_deg), node_deg, incl_deg)
        for start in range(0, len(scans), BLOCK_EXPOSURES):
            parts.append(_join(index, scans[start : start + BLOCK_EXPOSURES], mu_deg % 360, nu_deg, margin_px))
    pairs = _concatenate(parts)
    return pairs.take(np.lexsort((pairs.exposure_index, pairs.target_index)))


def _great_circles(index: ExposureIndex) -> set[tuple[float, float]]:
    """(node, inclination) of all scans; rows of a run lie together, so that few need to be looked at."""
    circles = np.stack([index.node_deg, index.incl_deg], axis=1)
    is_next = np.ones(len(circles), dtype=bool)
    is_next[1:] = (circles[1:] != circles[:-1]).any(axis=1)
    return {(node_deg, incl_deg) for node_deg, incl_deg in circles[is_next].tolist()}


def _has_solution(index: ExposureIndex) -> NDArray[np.bool_]:
    """Whether a field's astrometry is one: finite, and near SDSS's 0.396″ per pixel (holes have zeros or -9999)."""
    (_, b, c), (_, e, f) = index.mu_N3.T, index.nu_N3.T
    scale_arcsec = 3600 * np.sqrt(np.abs(b * f - c * e))
    finite = np.isfinite(np.hstack([index.mu_N3, index.nu_N3])).all(axis=1)
    usable: NDArray[np.bool_] = finite & (scale_arcsec > 0.3) & (scale_arcsec < 0.5)
    return usable


def _concatenate(parts: list[Footprint]) -> Footprint:
    nothing = Footprint(np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0), np.empty(0))
    names = [column.name for column in fields(Footprint)]
    return Footprint(**{name: np.concatenate([getattr(part, name) for part in (nothing, *parts)]) for name in names})


def _join(
    index: ExposureIndex,
    exposures: NDArray[np.intp],
    mu_deg: NDArray[np.float64],
    nu_deg: NDArray[np.float64],
    margin_px: float,
) -> Footprint:
    """Pairs among exposures of one great circle: candidates by a sorted search in mu, then the exact test."""
    (a, b, c), (d, e, f) = index.mu_N3[exposures].T, index.nu_N3[exposures].T
    order = np.argsort(mu_deg, kind="stable")
    # Twice round the circle, so that a field across mu = 0 finds its objects in one piece.
    mu_sorted = np.concatenate([mu_deg[order], mu_deg[order] + 360])
    centre = (a + b * FRAME_ROWS / 2 + c * FRAME_COLUMNS / 2) % 360
    half = np.abs(b) * FRAME_ROWS / 2 + np.abs(c) * (FRAME_COLUMNS / 2 + margin_px)
    centre = np.where(centre < half, centre + 360, centre)
    first, last = np.searchsorted(mu_sorted, centre - half, "left"), np.searchsorted(mu_sorted, centre + half, "right")

    n_candidates = last - first
    pair_exposure = np.repeat(np.arange(len(exposures)), n_candidates)
    rank = np.arange(len(pair_exposure)) - np.repeat(np.cumsum(n_candidates) - n_candidates, n_candidates)
    pair_target = order[(first[pair_exposure] + rank) % len(order)] if len(order) else rank

    d_mu = (mu_deg[pair_target] - a[pair_exposure] + 180) % 360 - 180
    d_nu = nu_deg[pair_target] - d[pair_exposure]
    b, c, e, f = b[pair_exposure], c[pair_exposure], e[pair_exposure], f[pair_exposure]
    determinant = b * f - c * e
    y_pix = (f * d_mu - c * d_nu) / determinant - 0.5
    x_pix = (b * d_nu - e * d_mu) / determinant - 0.5
    inside = (
        (y_pix >= -0.5)
        & (y_pix < FRAME_ROWS - 0.5)
        & (x_pix >= -0.5 - margin_px)
        & (x_pix < FRAME_COLUMNS - 0.5 + margin_px)
    )
    return Footprint(pair_target[inside], exposures[pair_exposure[inside]], x_pix[inside], y_pix[inside])


def choose_fields(footprint: Footprint, index: ExposureIndex, archives: tuple[str, ...]) -> Footprint:
    """Exactly one exposure per object, run and camcol.

    First of the archive that comes first in `archives`, then the field in which the object is farthest from
    the row edges, then the highest rerun. Overlap rows are thus cut once, and so are runs that two archives hold.

    Returns
    -------
    The chosen pairs, sorted by object, run and camcol.
    """
    target, exposure = footprint.target_index, footprint.exposure_index
    names, code = np.unique(index.archive, return_inverse=True)
    preference = np.array([archives.index(name) for name in names.tolist()], dtype=np.intp)[code]
    to_edge = np.minimum(footprint.y_pix, FRAME_ROWS - 1 - footprint.y_pix)
    run, camcol = index.run[exposure], index.camcol[exposure]
    order = np.lexsort(
        (index.field[exposure], -index.rerun[exposure], -to_edge, preference[exposure], camcol, run, target)
    )
    keys = np.stack([target, run, camcol], axis=1)[order]
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (keys[1:] != keys[:-1]).any(axis=1)
    return footprint.take(order[is_first])
