"""An object list from catalogues of real SDSS files on disk: isolated stars and galaxies with known fluxes.

For trying the pipeline on real data without the internet; the files are laid out like the two servers.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Final

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipeline.atomic import write_text
from pipeline.bands import BANDS
from pipeline.errors import ConfigError
from pipeline.survey import SurveyConfig, load_survey

PHOTOOBJ: Final = "archive/sas/dr17/eboss/photoObj/301/94/1/photoObj-000094-1-0012.fits"
REFERENCE: Final = "catalog/stripe82_reference_objects.fits"
REFERENCE_FIELD: Final = (351.575, 351.715, 0.0, 0.21)
"""RA and Dec range that fields 4192/300 and 6377/399 of camcol 4 both cover [deg]."""
ISOLATION_ARCSEC: Final = 8.0
STAR, GALAXY = 6, 3
SATURATED: Final = 1 << 18
"""photoObj FLAGS bit: https://www.sdss4.org/dr17/algorithms/photo_flags_recommend/"""


@dataclass(frozen=True, slots=True)
class KnownObject:
    """A catalogued source: where it is, what it is, and its flux in u g r i z [nMgy]."""

    object_id: str
    ra_deg: float
    dec_deg: float
    kind: str
    """'star' or 'galaxy'."""
    flux_nmgy: tuple[float, ...]
    """Stars: PSF flux. Galaxies: flux in a 3″ aperture."""


def known_objects(sdss: Path, *, at_most: int = 60) -> tuple[KnownObject, ...]:
    """Isolated, unsaturated stars and galaxies of run 94, and stars of the fpC field, brightest first.

    Raises
    ------
    ConfigError
        The catalogues are not below `sdss`.
    """
    try:
        legacy, reference = fits.getdata(sdss / PHOTOOBJ), fits.getdata(sdss / REFERENCE)
    except OSError as error:
        raise ConfigError(
            f"{sdss} has no real SDSS catalogues: {error}; set S82_REAL_DATA to where they are"
        ) from error
    return (
        *_from_photoobj(legacy, STAR, at_most),
        *_from_photoobj(legacy, GALAXY, at_most),
        *_from_reference(reference, at_most),
    )


def _from_photoobj(table: fits.FITS_rec, kind: int, at_most: int) -> list[KnownObject]:
    """Objects well inside the field, measured in all bands, bright but not saturated in r."""
    leaf = table["NCHILD"] == 0
    flux = table["PSFFLUX"] if kind == STAR else table["APERFLUX"].reshape(len(table), 5, 8)[:, :, 4]
    good = (
        leaf
        & (table["OBJC_TYPE"] == kind)
        & ((table["FLAGS"] & SATURATED) == 0).all(axis=1)
        & (np.abs(table["OBJC_ROWC"] - 744.5) < 670)
        & (np.abs(table["OBJC_COLC"] - 1024) < 990)
        & (flux[:, 2] > 15)
        & (flux[:, 2] < 3000)
    )
    crowd = leaf & (table["PSFFLUX"][:, 2] > 1)
    good &= _isolated(table["RA"], table["DEC"], crowd)
    best = np.flatnonzero(good)[np.argsort(-flux[good, 2])][:at_most]
    name = "star" if kind == STAR else "galaxy"
    return [
        KnownObject(str(table["OBJID"][i]).strip(), float(table["RA"][i]), float(table["DEC"][i]), name, _five(flux[i]))
        for i in best
    ]


def _from_reference(table: fits.FITS_rec, at_most: int) -> list[KnownObject]:
    """Stars inside both epochs of the fpC field."""
    ra_deg = table["ra"] % 360
    ra_min, ra_max, dec_min, dec_max = REFERENCE_FIELD
    inside = (ra_deg > ra_min) & (ra_deg < ra_max) & (table["dec"] > dec_min) & (table["dec"] < dec_max)
    flux = np.stack([10 ** (0.4 * (22.5 - table[band])) for band in BANDS], axis=1)
    good = inside & (table["r"] > 15.5) & (table["r"] < 20) & (table["u"] < 23)
    good &= _isolated(ra_deg, table["dec"], np.ones(len(table), dtype=bool))
    best = np.flatnonzero(good)[np.argsort(-flux[good, 2])][:at_most]
    return [
        KnownObject(f"ref-{table['id'][i]}", float(ra_deg[i]), float(table["dec"][i]), "star", _five(flux[i]))
        for i in best
    ]


def _five(flux: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(value) for value in flux)


def _isolated(ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64], crowd: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether nothing else of `crowd` is within the isolation radius; near the equator, so a flat sky will do."""
    places = np.column_stack([ra_deg * np.cos(np.deg2rad(dec_deg)), dec_deg]) * 3600
    neighbours = cKDTree(places[crowd]).query_ball_point(places, ISOLATION_ARCSEC, return_length=True)
    return np.asarray(neighbours - crowd <= 0)


def write_real_sample(sdss: Path, archive_root: str, out: Path) -> Path:
    """Write the object list and a survey description that uses it below `out`; return the description's path."""
    rows = StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(["cid", "ra_deg", "dec_deg"])
    writer.writerows((known.object_id, repr(known.ra_deg), repr(known.dec_deg)) for known in known_objects(sdss))
    objects = out / "objects.csv"
    write_text(objects, rows.getvalue())
    survey = load_survey("real-sample").with_root(archive_root)
    resolved: SurveyConfig = survey.model_copy(
        update={"catalog": survey.catalog.model_copy(update={"source": str(objects.resolve())})}
    )
    path = out / "survey.json"
    write_text(path, resolved.model_dump_json(indent=2))
    return path
