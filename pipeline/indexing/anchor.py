"""Solutions of fields whose great circle is not known, laid through the fields' own centres."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.astrometry import to_great_circle
from pipeline.exposures import ExposureIndex

CENTRE_ROW: Final = 744.5
CENTRE_COLUMN: Final = 1024.0
TOLERANCE_DEG: Final = 1.0 / 3600
"""The survey's RA and Dec of a field's centre are within 0.5″ of its solution in r (536 fields of run 94)."""


def anchored(index: ExposureIndex, ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64]) -> ExposureIndex:
    """The index with each solution moved so that the field's centre is at its RA and Dec, where it is not.

    A run whose true great circle differs from `node_deg`, `incl_deg` by a small angle is thus right to a pixel:
    the angle itself, 0.0095° for run 94, turns a field by 0.2 px from centre to edge.

    Parameters
    ----------
    ra_deg, dec_deg
        Of the centres; NaN where unknown.
    """
    mu_deg, nu_deg = to_great_circle(ra_deg, dec_deg, index.node_deg, index.incl_deg)
    (a, b, c), (d, e, f) = index.mu_N3.T, index.nu_N3.T
    move_mu = (mu_deg - (a + b * CENTRE_ROW + c * CENTRE_COLUMN) + 180) % 360 - 180
    move_nu = nu_deg - (d + e * CENTRE_ROW + f * CENTRE_COLUMN)
    is_off = np.hypot(move_mu, move_nu) > TOLERANCE_DEG  # False for NaN
    mu_N3, nu_N3 = index.mu_N3.copy(), index.nu_N3.copy()
    mu_N3[is_off, 0] = (a + move_mu)[is_off] % 360
    nu_N3[is_off, 0] += move_nu[is_off]
    return replace(index, mu_N3=mu_N3, nu_N3=nu_N3)
