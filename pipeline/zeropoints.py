"""A frame's zero point against standard stars: how far it is off, how well that is known, what is done about it.

docs/decisions/010-zero-points.md has the rule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntFlag
from typing import Any, Final

import numpy as np

from pipeline.bands import BANDS, Band
from pipeline.frame import ZeropointSource
from pipeline.robust import robust_mean
from pipeline.standards import Standards, magnitudes
from pipeline.starphot import StarFluxes
from pipeline.survey import CalibrationConfig

SIGNIFICANT: Final = 3.0
"""Errors that an offset must be away from 0 to be believed."""


class ZeropointFlag(IntFlag):
    """Bits of `zp_flags`."""

    CHECKED = 1
    CORRECTED = 2
    BEYOND_LIMIT = 4
    TOO_FEW_STARS = 8


@dataclass(frozen=True, slots=True)
class ZeropointCheck:
    """What the standard stars say of one frame."""

    offset_mag: float
    """Measured less standard magnitude; positive: the frame is too faint. NaN: not measured."""
    error_mag: float
    scatter_mag: float
    """Of the stars: 1.48 × their median deviation."""
    stars: int
    flags: ZeropointFlag

    @property
    def factor(self) -> float:
        """By which fluxes are multiplied."""
        return float(10 ** (0.4 * self.offset_mag)) if self.flags & ZeropointFlag.CORRECTED else 1.0

    def columns(self) -> dict[str, Any]:
        """As columns of an image, or of a frame."""
        return {
            "zp_offset_mag": self.offset_mag,
            "zp_error_mag": self.error_mag,
            "zp_scatter_mag": self.scatter_mag,
            "zp_stars": self.stars,
            "zp_flags": int(self.flags),
        }


UNCHECKED: Final = ZeropointCheck(math.nan, math.nan, math.nan, 0, ZeropointFlag(0))


def check_zeropoint(stars: StarFluxes, band: Band, standards: Standards, config: CalibrationConfig) -> ZeropointCheck:
    """Compare a frame's stars with the standards, and apply the rule."""
    star_M, mag_M, sigma_M = magnitudes(stars)
    column = BANDS.index(band)
    standard_M = standards.flux_nmgy_S5[star_M, column]
    known_M = np.isfinite(standard_M)
    n_stars = int(known_M.sum())
    if n_stars < config.min_stars:
        return ZeropointCheck(math.nan, math.nan, math.nan, n_stars, ZeropointFlag.TOO_FEW_STARS)
    difference = mag_M[known_M] + 2.5 * np.log10(standard_M[known_M])
    sigma = np.hypot(sigma_M[known_M], standards.error_mag_S5[star_M, column][known_M])
    offset, error, scatter = robust_mean(difference, sigma)
    error = math.hypot(error, 2.5 / math.log(10) * stars.correction_error)
    flags = ZeropointFlag.CHECKED
    if config.correct == "significant" and abs(offset) > max(config.tolerance_mag, SIGNIFICANT * error):
        flags |= ZeropointFlag.CORRECTED
    if abs(offset) > config.max_offset_mag or scatter > config.max_scatter_mag:
        flags |= ZeropointFlag.BEYOND_LIMIT
    return ZeropointCheck(offset, error, scatter, n_stars, flags)


def apply_check(record: dict[str, Any], check: ZeropointCheck) -> dict[str, Any]:
    """One image's record with its zero point corrected, and what was found."""
    corrected = record | check.columns()
    if check.flags & ZeropointFlag.CORRECTED:
        factor = check.factor
        corrected |= {name: record[name] * np.float32(factor) for name in ("image", "zeropoint", "sky_nmgy_arcsec2")}
        corrected |= {
            "variance": record["variance"] * np.float32(factor**2),
            "zeropoint_source": int(ZeropointSource.STANDARD_STARS),
        }
    return corrected
