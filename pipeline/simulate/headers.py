"""Header cards that DR7 and DR8+ images share: when and where the telescope looked."""

from __future__ import annotations

from typing import Final

import numpy as np
from astropy.time import Time

from pipeline.bands import Band
from pipeline.simulate.camera import BAND_DELAY_S, N_COLS, N_ROWS, PIXEL_DEG, SIDEREAL_DEG_PER_S, Strip

CAMERA_ROW: Final[dict[Band, int]] = {"r": 1, "i": 2, "u": 3, "z": 4, "g": 5}
BORESIGHT_BEHIND_DEG: Final = 0.4858
"""How far west of the first row of r the boresight is when that row is read."""


def time_cards(tai_s: float, *, old_style: bool) -> dict[str, object]:
    """TAI, DATE-OBS and TAIHMS of the first row; `old_style`: DATE-OBS as DD/MM/YY, as before 1999."""
    date, clock = Time(tai_s / 86400.0, format="mjd", scale="tai", precision=2).iso.split()
    year, month, day = date.split("-")
    return {
        "TAI": round(tai_s, 2),
        "DATE-OBS": f"{day}/{month}/{year[2:]}" if old_style else date,
        "TAIHMS": clock,
    }


def pointing_cards(strip: Strip, index: int) -> dict[str, object]:
    """Cards of the scan: boresight (not the frame's centre), run, FRAME, CCD, stripe, great circle, clock."""
    delay_s = BAND_DELAY_S * (strip.frame_number(index) - strip.run.field - index) / 2
    row_0 = strip.field_astrometry(index).a
    boresight = row_0 - BORESIGHT_BEHIND_DEG + delay_s * SIDEREAL_DEG_PER_S
    stripe = 100 if strip.run.stripe_100 else 82
    return {
        **time_cards(strip.field_tai_s(index), old_style=strip.run.stripe_100),
        "RA": round(boresight % 360.0, 5),
        "RUN": strip.run.run,
        "FRAME": strip.frame_number(index),
        "CCDLOC": 10 * CAMERA_ROW[strip.band] + strip.camcol,
        "CAMROW": CAMERA_ROW[strip.band],
        "CAMCOL": strip.camcol,
        "STRIPE": stripe,
        "STRIP": "S",
        "OBJECT": f"{stripe} S",
        "NODE": strip.header_circle.node_deg,
        "INCL": strip.header_circle.incl_deg,
        "EXPTIME": f"{strip.exptime_s:.6f}",
        "C_OBS": strip.row_clock_us,
        "FILTER": strip.band,
        "PS_ID": f"2007-01-26T09:33:28 14235 camCol {strip.camcol}",
    }


def wcs_cards(strip: Strip, index: int, *, crpix: tuple[float, float], swapped: bool = False) -> dict[str, object]:
    """TAN solution; `swapped` writes declination as the first axis, as some DR7 reruns do."""
    astrometry = strip.field_astrometry(index)
    # FITS counts the centre of the first pixel as 1, rows and columns count it as 0.5.
    ra, dec, *matrix = astrometry.tangent_wcs(crpix[1] - 0.5, crpix[0] - 0.5)
    cd_ra, cd_dec = matrix[:2], matrix[2:]
    types, values, rows = ("RA---TAN", "DEC--TAN"), (ra, dec), (cd_ra, cd_dec)
    if swapped:
        types, values, rows = types[::-1], values[::-1], rows[::-1]
    cards: dict[str, object] = {"CRPIX1": crpix[0], "CRPIX2": crpix[1]}
    for axis in (1, 2):
        cards[f"CTYPE{axis}"] = types[axis - 1]
        cards[f"CRVAL{axis}"] = round(values[axis - 1], 12)
        for pixel in (1, 2):
            cards[f"CD{axis}_{pixel}"] = float(f"{rows[axis - 1][pixel - 1]:.12e}")
    return cards


def field_sky_box(strip: Strip, index: int) -> tuple[float, float, float, float]:
    """(raMin, raMax, decMin, decMax) of the field's corners [deg]; raMin may be over 359 where raMax is under 1."""
    row, col = np.array([0.0, 0.0, N_ROWS, N_ROWS]), np.array([0.0, N_COLS, 0.0, N_COLS])
    ra, dec = strip.field_astrometry(index).to_sky(row, col)
    middle = float(ra[0]) + PIXEL_DEG * N_ROWS / 2
    along = middle + (ra - middle + 180.0) % 360.0 - 180.0
    return float(along.min()) % 360.0, float(along.max()) % 360.0, float(dec.min()), float(dec.max())
