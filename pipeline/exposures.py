"""The exposure index: every (run, camcol, field) an archive has, when it was taken, how good it is, where it lies.

`pipeline.indexing` reads it from the archives and keeps it; here is what it holds.

Shapes: N exposures; 5 bands in the order u g r i z.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.bands import BANDS

R: Final = BANDS.index("r")


@dataclass(frozen=True, slots=True)
class ExposureIndex:
    """One entry per (archive, run, rerun, camcol, field), as columns of equal length N."""

    archive: NDArray[np.str_]
    run: NDArray[np.int32]
    rerun: NDArray[np.int32]
    camcol: NDArray[np.int32]
    field: NDArray[np.int32]
    quality: NDArray[np.int32]
    """3 GOOD, 2 ACCEPTABLE, 1 BAD, 4 MISSING, 5 HOLE, 0 unknown."""
    mjd_tai_N5: NDArray[np.float64]
    """MJD (TAI) at which row 0 was read."""
    psf_fwhm_N5: NDArray[np.float64]
    """Effective PSF width [arcsec]; NaN or ≤ 0 where it was not measured."""
    sky_N5: NDArray[np.float64]
    """Sky [nMgy/arcsec²]; NaN where it is unknown."""
    image_status_N5: NDArray[np.int32]
    """Bits of DR8+ IMAGE_STATUS (bit 0 is CLEAR); 0, no bit at all, where the source has none."""
    calib_status_N5: NDArray[np.int32]
    """Bits of DR8+ CALIB_STATUS (bit 0 is PHOTOMETRIC); 0, no bit at all, where the source has none."""
    node_deg: NDArray[np.float64]
    incl_deg: NDArray[np.float64]
    mu_N3: NDArray[np.float64]
    """(a, b, c) [deg, deg/px, deg/px] in r: mu = a + b row + c column, the first pixel's centre at 0.5."""
    nu_N3: NDArray[np.float64]
    """(d, e, f): nu = d + e row + f column."""

    def __len__(self) -> int:
        return len(self.run)

    def take(self, indices: NDArray[np.intp] | slice) -> ExposureIndex:
        """The entries at `indices`, in their order."""
        return ExposureIndex(*(getattr(self, column.name)[indices] for column in fields(self)))


def join(parts: Sequence[ExposureIndex]) -> ExposureIndex:
    """All entries of `parts`, at least one, one after the other."""
    names = [column.name for column in fields(ExposureIndex)]
    return ExposureIndex(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def concatenate(parts: Sequence[ExposureIndex]) -> ExposureIndex:
    """All entries of `parts`; of equal ones (archive, run, rerun, camcol, field) the first."""
    whole = join(parts)
    _, archive = np.unique(whole.archive, return_inverse=True)
    keys = (whole.field, whole.camcol, whole.rerun, whole.run, archive)
    order = np.lexsort(keys)  # stable: equal entries stay in the order of `parts`
    is_first = np.zeros(len(order), dtype=bool)
    is_first[:1] = True
    for key in keys:
        is_first[1:] |= key[order][1:] != key[order][:-1]
    return whole.take(np.sort(order[is_first]))
