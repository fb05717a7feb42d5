"""SDSS astrometry: great-circle coordinates and the full pixel solution (asTrans terms) of a field.

Source: https://classic.sdss.org/dr7/products/general/astrometry.html and the asTrans data model. The TAN
solution in a frame's header is an approximation to this, off by up to 0.17″ in declination.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Solution(Protocol):
    """Where the sky falls on a frame."""

    def world_to_pixel(self, ra_deg: Floats, dec_deg: Floats) -> tuple[Floats, Floats]:
        """0-based (x, y), 0 at the centre of the first pixel, of sky positions of any shape."""
        ...

    def pixel_to_world(self, x_pix: Floats, y_pix: Floats) -> tuple[Floats, Floats]:
        """RA, Dec [deg] of such places."""
        ...


@dataclass(frozen=True, slots=True)
class HeaderSolution:
    """The TAN solution of a frame's header, whichever of RA and Dec its first axis is.

    Source: Calabretta & Greisen 2002, A&A 395, 1077, Sect. 5.1.3. astropy's WCS, the oracle, takes 4 ms to set up.
    """

    ra_deg: float
    dec_deg: float
    """CRVAL"""
    crpix: tuple[float, float]
    """Of x and y, counted from 1."""
    cd_22: Floats
    """Degrees towards East and North (rows) per pixel of x and y (columns)."""
    inverse_22: Floats

    @classmethod
    def of_header(cls, header: Mapping[str, Any]) -> HeaderSolution:
        """Read CTYPE, CRVAL, CRPIX and CD.

        Raises
        ------
        KeyError, ValueError
            A card is missing or no number, the axes are not RA and Dec in TAN, or CD is singular.
        """
        types = [str(header[f"CTYPE{axis}"]).strip() for axis in (1, 2)]
        if sorted(types) != ["DEC--TAN", "RA---TAN"]:
            raise ValueError(f"axes are {types}, expected RA---TAN and DEC--TAN")
        order = [types.index(name) + 1 for name in ("RA---TAN", "DEC--TAN")]
        ra_deg, dec_deg = (float(header[f"CRVAL{axis}"]) for axis in order)
        crpix = float(header["CRPIX1"]), float(header["CRPIX2"])
        cd_22 = np.array([[float(header[f"CD{axis}_{pixel}"]) for pixel in (1, 2)] for axis in order])
        determinant = cd_22[0, 0] * cd_22[1, 1] - cd_22[0, 1] * cd_22[1, 0]
        if not (np.isfinite([ra_deg, dec_deg, *crpix, determinant]).all() and abs(dec_deg) <= 90 and determinant):
            raise ValueError(f"CRVAL {ra_deg}, {dec_deg}, CRPIX {crpix}, CD {cd_22.tolist()} are no solution")
        return cls(ra_deg, dec_deg, crpix, cd_22, np.linalg.inv(cd_22))

    def world_to_pixel(self, ra_deg: Floats, dec_deg: Floats) -> tuple[Floats, Floats]:
        """0-based (x, y) of sky positions; NaN for those that are not on the hemisphere of the frame."""
        ra, dec = np.deg2rad(ra_deg - self.ra_deg), np.deg2rad(dec_deg)
        dec0 = np.deg2rad(self.dec_deg)
        depth = np.sin(dec) * np.sin(dec0) + np.cos(dec) * np.cos(dec0) * np.cos(ra)
        depth = np.where(depth > 0, depth, np.nan)
        east = np.rad2deg(np.cos(dec) * np.sin(ra) / depth)
        north = np.rad2deg((np.sin(dec) * np.cos(dec0) - np.cos(dec) * np.sin(dec0) * np.cos(ra)) / depth)
        x_pix = self.inverse_22[0, 0] * east + self.inverse_22[0, 1] * north + self.crpix[0] - 1
        y_pix = self.inverse_22[1, 0] * east + self.inverse_22[1, 1] * north + self.crpix[1] - 1
        return x_pix, y_pix

    def pixel_to_world(self, x_pix: Floats, y_pix: Floats) -> tuple[Floats, Floats]:
        """RA, Dec [deg] of 0-based pixel positions; RA in [0, 360)."""
        x, y = x_pix - self.crpix[0] + 1, y_pix - self.crpix[1] + 1
        east = np.deg2rad(self.cd_22[0, 0] * x + self.cd_22[0, 1] * y)
        north = np.deg2rad(self.cd_22[1, 0] * x + self.cd_22[1, 1] * y)
        dec0 = np.deg2rad(self.dec_deg)
        depth = np.cos(dec0) - north * np.sin(dec0)
        ra_deg = self.ra_deg + np.rad2deg(np.arctan2(east, depth))
        dec_deg = np.rad2deg(np.arctan2(np.sin(dec0) + north * np.cos(dec0), np.hypot(east, depth)))
        return ra_deg % 360, dec_deg


def to_great_circle(
    ra_deg: Floats, dec_deg: Floats, node_deg: Floats | float, incl_deg: Floats | float
) -> tuple[Floats, Floats]:
    """(mu, nu) of sky positions in the great-circle system of a run [deg]; mu in [node - 180, node + 180)."""
    ra, dec = np.deg2rad(ra_deg - node_deg), np.deg2rad(dec_deg)
    incl = np.deg2rad(incl_deg)
    x, y, z = np.cos(ra) * np.cos(dec), np.sin(ra) * np.cos(dec), np.sin(dec)
    mu = np.arctan2(y * np.cos(incl) + z * np.sin(incl), x)
    nu = np.arcsin(np.clip(z * np.cos(incl) - y * np.sin(incl), -1, 1))
    return np.rad2deg(mu) + node_deg, np.rad2deg(nu)


def from_great_circle(
    mu_deg: Floats, nu_deg: Floats, node_deg: Floats | float, incl_deg: Floats | float
) -> tuple[Floats, Floats]:
    """(RA, Dec) of great-circle positions [deg]; RA in [0, 360)."""
    ra, dec = to_great_circle(mu_deg, nu_deg, node_deg, -incl_deg)
    return ra % 360, dec


@dataclass(frozen=True, slots=True)
class AsTrans:
    """Full solution of one field and band: pixel → (mu, nu) → (RA, Dec).

    mu = a + b row' + c col', nu = d + e row' + f col' [deg], where row' and col' are rows and columns
    counted from the pixel's lower edge and corrected by a cubic in the column. Terms in the colour of a
    star (under 0.02 px for usual colours) are left out.
    """

    node_deg: float
    incl_deg: float
    mu: tuple[float, float, float]
    """a, b, c"""
    nu: tuple[float, float, float]
    """d, e, f"""
    d_row: tuple[float, float, float, float]
    d_col: tuple[float, float, float, float]
    """Cubic coefficients in the column, constant first [px]."""

    @classmethod
    def of_table(cls, node_deg: float, incl_deg: float, column: Callable[[str], float]) -> AsTrans:
        """Read the terms of one band from a table row; `column` gives a column's value in that band.

        tsField and the fourth HDU of a frame have them in double precision; photoField's are too coarse (0.1″).
        """
        cubics = ((column(f"d{axis}{power}") for power in range(4)) for axis in ("Row", "Col"))
        d_row, d_col = (tuple(terms) for terms in cubics)
        mu, nu = (column("a"), column("b"), column("c")), (column("d"), column("e"), column("f"))
        return cls(node_deg, incl_deg, mu, nu, d_row, d_col)  # type: ignore[arg-type]

    def pixel_to_world(self, x_pix: Floats, y_pix: Floats) -> tuple[Floats, Floats]:
        """RA, Dec [deg] of 0-based pixel positions (0 at the centre of the first pixel)."""
        column = x_pix + 0.5
        row_corrected = y_pix + 0.5 + np.polynomial.polynomial.polyval(column, self.d_row)
        column_corrected = column + np.polynomial.polynomial.polyval(column, self.d_col)
        mu = self.mu[0] + self.mu[1] * row_corrected + self.mu[2] * column_corrected
        nu = self.nu[0] + self.nu[1] * row_corrected + self.nu[2] * column_corrected
        return from_great_circle(mu, nu, self.node_deg, self.incl_deg)

    def world_to_pixel(self, ra_deg: Floats, dec_deg: Floats) -> tuple[Floats, Floats]:
        """0-based (x, y) of sky positions; the cubic (below 0.5 px, slope below 1e-3) is inverted by iteration."""
        mu, nu = to_great_circle(ra_deg, dec_deg, self.node_deg, self.incl_deg)
        d_mu = (mu - self.mu[0] + 180) % 360 - 180
        d_nu = nu - self.nu[0]
        determinant = self.mu[1] * self.nu[2] - self.mu[2] * self.nu[1]
        row_corrected = (self.nu[2] * d_mu - self.mu[2] * d_nu) / determinant
        column_corrected = (self.mu[1] * d_nu - self.nu[1] * d_mu) / determinant
        column = column_corrected
        for _ in range(4):
            column = column_corrected - np.polynomial.polynomial.polyval(column, self.d_col)
        row = row_corrected - np.polynomial.polynomial.polyval(column, self.d_row)
        return column - 0.5, row - 0.5
