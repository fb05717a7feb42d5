"""What is wrong with one object, as its images show: points that are off alone, and light that is not in the middle.

Brightness that changes is no fault. So a point counts only if it is off in one band while the other bands of the same
exposure are where they were: a supernova, a variable star, and a host whose light in the aperture follows the seeing
change all bands. How far the light is from the middle is held against objects of the same class: supernovae have hosts
beside them, quasars do not.

Shapes: M images of one object, of E exposures in B bands (C: others of these).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from pipeline.manifest import ObjectRow
from pipeline.report.measure import LightCurve, bands_of
from pipeline.report.outliers import OBJECT_LONE, OBJECT_PLACE, Column, Quantity

Floats = NDArray[np.float64]

NEIGHBOURS: Final = 2
"""Points before and after in time, from whose median a point may be off."""
LOUD: Final = 5.0
QUIET: Final = 2.5
"""In standard deviations: a point is off, or it is not; between the two nothing is said."""
LEAST_PART: Final = 0.1
"""Of the flux: what differs by less may be the frame's zero point."""
MIN_EXPOSURES: Final = 8
"""With fewer, no part of the points means anything."""
BY_CHANCE: Final = 2
"""So many points may be off for a cosmic ray that no mask names."""


def lone_fraction(curve: LightCurve) -> float:
    """Part of the points that are off in one band alone; NaN where they are too few.

    Alone: of the other bands of the exposure some would have shown the same relative change, and none of these did.
    """
    flux_EB, error_EB = _exposures(curve)
    if len(flux_EB) < MIN_EXPOSURES or flux_EB.shape[1] < 2:
        return float("nan")
    level_EB = np.median(_around(flux_EB), axis=2)
    sigma_EB = np.hypot(error_EB, np.median(_around(error_EB), axis=2) / np.sqrt(NEIGHBOURS))
    sigma_EB = np.maximum(sigma_EB, LEAST_PART / LOUD * np.abs(level_EB))
    off_EB = np.abs(flux_EB - level_EB) / sigma_EB
    part_EB = np.abs(flux_EB / np.where(level_EB == 0, np.inf, level_EB) - 1)
    expected_EBC = part_EB[:, :, None] * np.abs(level_EB / sigma_EB)[:, None, :]
    would_show_EBC = (expected_EBC > LOUD) & ~np.eye(flux_EB.shape[1], dtype=bool)
    quiet_EBC = (off_EB < QUIET)[:, None, :] | ~would_show_EBC
    lone_EB = (off_EB > LOUD) & would_show_EBC.any(axis=2) & quiet_EBC.all(axis=2)
    return max(int(lone_EB.sum()) - BY_CHANCE, 0) / int(lone_EB.size)


def _exposures(curve: LightCurve) -> tuple[Floats, Floats]:
    """Fluxes and errors, (E, B), of the exposures that have a usable point in every band, in time order.

    So that a point has the same neighbours in all bands. Bands that are usable in less than half of them are left out.
    """
    exposures_E2, exposure_M = np.unique(np.stack((curve.run_M, curve.camcol_M), axis=1), axis=0, return_inverse=True)
    bands = bands_of([curve])
    time_E, found_2EB = np.zeros(len(exposures_E2)), np.full((2, len(exposures_E2), len(bands)), np.nan)
    time_E[exposure_M] = curve.mjd_tai_M
    for column, band in enumerate(bands):
        use_M = curve.usable(band)
        found_2EB[:, exposure_M[use_M], column] = curve.flux_nmgy_M[use_M], curve.error_nmgy_M[use_M]
    found_2EB = found_2EB[:, np.argsort(time_E, kind="stable")]
    found_2EB = found_2EB[:, :, np.isfinite(found_2EB[0]).sum(axis=0) > len(exposures_E2) / 2]
    whole_E = np.isfinite(found_2EB).all(axis=(0, 2))
    return found_2EB[0, whole_E], found_2EB[1, whole_E]


def _around(value_EB: Floats) -> Floats:
    """The neighbours of each value in time, (E, B, 2 × NEIGHBOURS), mirrored at the ends."""
    padded = np.pad(value_EB, ((NEIGHBOURS, NEIGHBOURS), (0, 0)), mode="reflect")
    return np.asarray(np.delete(sliding_window_view(padded, 2 * NEIGHBOURS + 1, axis=0), NEIGHBOURS, axis=2))


def measured_columns(curves: Sequence[LightCurve], objects: Sequence[ObjectRow]) -> Mapping[Quantity, Column]:
    """What the light curves say of their objects, for `rank_objects`; of objects that have none nothing is said."""
    place_of = {row.object_id: place for place, row in enumerate(objects)}
    lone_N, off_N = np.full(len(objects), np.nan), np.full(len(objects), np.nan)
    for curve in curves:
        place = place_of[curve.row.object_id]
        lone_N[place], off_N[place] = lone_fraction(curve), curve.off_middle_arcsec
    _, class_N = np.unique([row.class_name for row in objects], return_inverse=True)
    return {OBJECT_LONE: Column(lone_N, np.zeros(len(objects), np.int8)), OBJECT_PLACE: Column(off_N, class_N)}
