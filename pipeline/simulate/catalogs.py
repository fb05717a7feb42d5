"""The tables that say what there is: the master table of candidates, and SkyServer's table of fields."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.bands import BANDS
from pipeline.simulate.camera import Strip
from pipeline.simulate.conditions import Conditions
from pipeline.simulate.headers import field_sky_box
from pipeline.simulate.objects import Target
from pipeline.simulate.templates import master_columns

NULL: Final = r"\N"
BRIGHT_ENOUGH_NMGY: Final = 1.5
"""Five sigma of a point source in a usual r image."""


def master_table(
    targets: Sequence[Target], flux_r_nmgy: Sequence[NDArray[np.float64]], mjd: Sequence[NDArray[np.float64]]
) -> str:
    """`sdsssn_master.dat2`: whitespace-separated, a header line, `\\N` for nulls, RA in (-180, 180].

    `flux_r_nmgy` and `mjd` hold each object's r light curve.
    """
    columns = master_columns()
    rows = [_master_row(target, flux, times) for target, flux, times in zip(targets, flux_r_nmgy, mjd, strict=True)]
    cells = [columns, *([row.get(column, NULL) for column in columns] for row in rows)]
    widths = [max(len(line[k]) for line in cells) for k in range(len(columns))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)
    return "".join(f"  {line.rstrip()}\n" for line in lines)


def _master_row(target: Target, flux_r_nmgy: NDArray[np.float64], mjd: NDArray[np.float64]) -> dict[str, str]:
    peak = int(np.argmax(flux_r_nmgy))
    seen = int((flux_r_nmgy > BRIGHT_ENOUGH_NMGY).sum())
    spectroscopic = target.label in ("SNIa", "SNII", "SNIb", "SNIc", "SLSN", "SNIa?", "AGN")
    row = {
        "CID": str(target.cid),
        "RA": f"{(target.ra_deg + 180.0) % 360.0 - 180.0:.6f}",
        "DEC": f"{target.dec_deg:.6f}",
        "Nsearchepoch": str(seen),
        "Classification": target.label,
        "Peakrmag": f"{22.5 - 2.5 * np.log10(max(float(flux_r_nmgy[peak]), 1e-3)):.3f}",
        "MJDatPeakrmag": f"{mjd[peak]:.1f}",
        "NepochSNR5": str(seen),
        "nSNspec": "1" if spectroscopic else "0",
        "nGALspec": "1" if target.label.startswith("z") else "0",
    }
    redshift = target.parameters.get("redshift")
    if redshift is not None and (spectroscopic or target.label.startswith("z")):
        row |= {"zspecHelio": f"{redshift:.7f}", "zspecerrHelio": "0.0000200"}
        row |= {"zCMB": f"{redshift - 0.0012:.7f}", "zerrCMB": "0.0000200"}
    if spectroscopic and target.is_supernova:
        row["IAUName"] = f"2005{_letters(target.cid)}"
    if target.host_flux_nmgy[2] > 0:
        row |= _host(target)
    return row


def _letters(number: int) -> str:
    return chr(ord("a") + number // 26 % 26) + chr(ord("a") + number % 26)


def _host(target: Target) -> dict[str, str]:
    east = (target.ra_deg - target.host_ra_deg + 180) % 360 - 180
    separation = 3600 * np.hypot(east * np.cos(np.deg2rad(target.dec_deg)), target.dec_deg - target.host_dec_deg)
    magnitudes = 22.5 - 2.5 * np.log10(target.host_flux_nmgy)
    return {
        "objIDHost": str(1237663000000000000 + target.cid),
        "RAhost": f"{(target.host_ra_deg + 180.0) % 360.0 - 180.0:.10f}",
        "DEChost": f"{target.host_dec_deg:.10f}",
        "separationhost": f"{separation:.5f}",
        **{f"dered{band}host": f"{mag:.4f}" for band, mag in zip(BANDS, magnitudes, strict=True)},
    }


FIELD_PER_BAND: Final = ("mjd", "airmass", "psfWidth", "sky", "gain", "darkVariance", "aterm", "kterm", *"abcdef")
STATUS_PER_BAND: Final = ("imageStatus", "calibStatus")
"""DR8 and later alone; 1 is CLEAR and PHOTOMETRIC."""


def field_table(rows: Sequence[tuple[Sequence[Strip], Sequence[Conditions]]]) -> str:
    """SkyServer's `Field` table as CSV, for runs of one layout given as their five strips.

    In DR7 (the Stripe 82 context) the sky is in maggies/arcsec² and there is no status; in DR8+ it is in nanomaggies.
    """
    names = ["fieldID", "skyVersion", "run", "rerun", "camcol", "field", "quality", "ra", "dec"]
    names += ["raMin", "raMax", "decMin", "decMax", *(f"{name}_{band}" for name in FIELD_PER_BAND for band in BANDS)]
    if rows and rows[0][0][0].run.layout == "sas-dr8":
        names += [f"{name}_{band}" for name in STATUS_PER_BAND for band in BANDS]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for strips_5, conditions_5 in rows:
        writer.writerows(_field_row(strips_5, conditions_5, index) for index in range(strips_5[0].n_fields))
    return text.getvalue()


def _field_row(strips_5: Sequence[Strip], conditions_5: Sequence[Conditions], index: int) -> list[object]:
    strip, red = strips_5[0], strips_5[2]
    field, is_dr8 = strip.run.field + index, strip.run.layout == "sas-dr8"
    box = field_sky_box(red, index)
    middle = (box[0] + ((box[1] - box[0]) % 360.0) / 2) % 360.0
    row: list[object] = [_field_id(strip, field), 1, strip.run.run, strip.run.rerun, strip.camcol, field]
    row += [strip.run.quality, f"{middle:.8f}", f"{(box[2] + box[3]) / 2:.8f}", *(f"{value:.8f}" for value in box)]
    solutions = [one.field_astrometry(index) for one in strips_5]
    per_band: list[list[float]] = [
        [one.field_tai_s(index) / 86400.0 for one in strips_5],
        [one.airmass for one in conditions_5],
        [one.psf.width_arcsec for one in conditions_5],
        [one.sky_nmgy_arcsec2 * (1 if is_dr8 else 1e-9) for one in conditions_5],
        [one.ccd.gain_e_per_dn for one in conditions_5],
        [one.ccd.dark_variance_dn2 for one in conditions_5],
        [one.aa_mag for one in conditions_5],
        [one.ccd.extinction_kk_mag for one in conditions_5],
        *([getattr(solution, letter) for solution in solutions] for letter in "abcdef"),
    ]
    status = [1] * (len(STATUS_PER_BAND) * len(BANDS)) if is_dr8 else []
    return row + [f"{value:.14g}" for values in per_band for value in values] + status


def _field_id(strip: Strip, field: int) -> int:
    """SDSS's packed identifier: skyVersion 1 | rerun | run | camcol | field (skyserver.sdss.org, "objID")."""
    return 1 << 59 | strip.run.rerun << 48 | strip.run.run << 32 | strip.camcol << 29 | field << 16
