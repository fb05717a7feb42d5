"""What the manifest says of one object: read off its sequence while that is in memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np

from pipeline.bands import BAND_ID, BANDS, Band
from pipeline.naming import sequence_path
from pipeline.pack import band_moments
from pipeline.sequences import MaskBit, Sequence

FLAGGED: Final = MaskBit.INTERP | MaskBit.SATUR | MaskBit.CR | MaskBit.GHOST


def manifest_row(sequence: Sequence, sha256: str, cell_id: str) -> dict[str, Any]:
    """The object's row of the manifest, without fold and group, which depend on the other objects."""
    counts = {f"n_{band}": int((sequence.band_id == number).sum()) for band, number in BAND_ID.items()}
    covered = (sequence.mask & MaskBit.UNCOVERED) == 0
    flagged = covered & ((sequence.mask & int(FLAGGED)) > 0)
    return {
        "object_id": sequence.object_id,
        "class_name": sequence.class_name,
        "confirmation": sequence.confirmation,
        "ra_deg": sequence.ra_deg,
        "dec_deg": sequence.dec_deg,
        "file": sequence_path(sequence.object_id),
        "sha256": sha256,
        "n_images": len(sequence),
        "mjd_first": float(sequence.mjd_tai[0]),
        "mjd_last": float(sequence.mjd_tai[-1]),
        "masked_fraction": float(flagged.sum() / max(covered.sum(), 1)),
        "coverage": float(sequence.coverage.mean(dtype=np.float64)),
        "psf_fwhm_arcsec": _median(sequence.psf_fwhm_arcsec),
        "cell": cell_id,
        **counts,
    }


def _median(values: np.ndarray[tuple[int], np.dtype[np.float32]]) -> float:
    """NaN where none is known, without numpy's warning."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else float("nan")


def pixel_moments(sequence: Sequence, bands: Iterable[Band]) -> dict[str, tuple[float, float, float]]:
    """Per band: number of covered pixels, their sum [nMgy] and sum of squares, added up in float64."""
    moments_53 = band_moments(sequence.image, sequence.band_id).tolist()
    found = dict(zip(BANDS, moments_53, strict=True))
    return {band: (found[band][0], found[band][1], found[band][2]) for band in bands}
