"""Fields from `window_flist.fits` of the resolve step: all fields of DR8+ in one file of 353 MB.

Data model: https://data.sdss.org/datamodel/files/PHOTO_RESOLVE/window_flist.html. It has no affine solution but
the field's centre (RA, DEC), its great circle (NODE, INCL) and the window of it that resolve keeps: MU_START to
MU_END along the scan, NU_START to NU_END across, 1920 of the 2048 columns.

The solution is rebuilt as an upright field of square pixels, NU_END - NU_START over 1920, about the centre. Against
the true one of the 536 fields of run 94 camcol 1 (whose photoField has both) a pixel of a field moves by at most
1.9 px along rows and 1.1 px along columns; about the middle of the window, which resolve puts on a regular grid,
it would be 27 and 3 px.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from pipeline.astrometry import to_great_circle
from pipeline.bands import BANDS
from pipeline.errors import ExposureIndexError, FrameError
from pipeline.exposures import ExposureIndex
from pipeline.fitsfile import map_fits
from pipeline.indexing.anchor import CENTRE_COLUMN, CENTRE_ROW
from pipeline.indexing.columns import known_bits, known_sky
from pipeline.indexing.local import fetch_source, forget_source
from pipeline.indexing.parts import Part, Reading
from pipeline.survey import WindowFlistIndex

MAX_MB: Final = 1024
WINDOW_COLUMNS: Final = 1920
"""Columns between NU_START and NU_END: 64 on each side go to the neighbours."""
MIDDLE_TO_ROW_0_S: Final = 26.9506
"""TAI is the middle of row 0's exposure, 53.9 s long and ended by its reading (run 94: MJD - TAI 26.949-26.952 s)."""


def read_window_flist(source: WindowFlistIndex, reading: Reading) -> list[Part]:
    """One part: the fields of the runs that `source` names.

    Raises
    ------
    ArchiveError
        The file cannot be had.
    ExposureIndexError
        It is not such a table, or lacks one of the runs.
    """
    file, servers = fetch_source(source.source, reading, MAX_MB)

    def read() -> ExposureIndex:
        return _read(file.path, source, reading.config.name)

    try:
        return [reading.of_file("window_flist", source.source, file.sha256, servers, read)]
    except FrameError as error:
        forget_source(source.source, reading)
        raise ExposureIndexError(f"{source.source}: {error}; fetch it anew") from error


def _read(file: Path, source: WindowFlistIndex, archive: str) -> ExposureIndex:
    with map_fits(file, "a window_flist table") as hdus:
        table = hdus[1].data
        of_runs = np.flatnonzero(np.isin(table["RUN"], source.runs))
        rows = table[of_runs]
        rows = rows[np.char.strip(np.asarray(rows["RERUN"]).astype(str)) == str(source.rerun)]
        found = set(np.unique(rows["RUN"]).tolist())
        if lacking := sorted(set(source.runs) - found):
            raise ExposureIndexError(
                f"{file} has no field of runs {lacking[:10]} in rerun {source.rerun}; take them out of [[index]] runs"
            )
        return _index_of(rows, archive)


def _index_of(rows: fits.FITS_rec, archive: str) -> ExposureIndex:
    def column(name: str, dtype: type = np.float64) -> NDArray[Any]:
        return np.asarray(rows[name]).astype(dtype)

    node_deg, incl_deg = column("NODE"), column("INCL")
    mu_N3, nu_N3 = solution(
        *to_great_circle(column("RA"), column("DEC"), node_deg, incl_deg),
        pixel_deg=(column("NU_END") - column("NU_START")) / WINDOW_COLUMNS,
    )
    return ExposureIndex(
        archive=np.full(len(rows), archive),
        run=column("RUN", np.int32),
        rerun=column("RERUN", np.int32),
        camcol=column("CAMCOL", np.int32),
        field=column("FIELD", np.int32),
        quality=np.zeros(len(rows), np.int32),
        mjd_tai_N5=((column("TAI") + MIDDLE_TO_ROW_0_S) / 86400).reshape(-1, len(BANDS)),
        psf_fwhm_N5=column("PSF_FWHM"),
        sky_N5=known_sky(column("SKYFLUX")),
        image_status_N5=known_bits(column("IMAGE_STATUS", np.int32)),
        calib_status_N5=known_bits(column("CALIB_STATUS", np.int32)),
        node_deg=node_deg,
        incl_deg=incl_deg,
        mu_N3=mu_N3,
        nu_N3=nu_N3,
    )


def solution(
    mu_deg: NDArray[np.float64], nu_deg: NDArray[np.float64], *, pixel_deg: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(mu_N3, nu_N3) of upright fields of square pixels with their centres at (mu, nu)."""
    zero = np.zeros_like(pixel_deg)
    mu_N3 = np.stack([(mu_deg - pixel_deg * CENTRE_ROW) % 360, pixel_deg, zero], axis=1)
    nu_N3 = np.stack([nu_deg - pixel_deg * CENTRE_COLUMN, zero, pixel_deg], axis=1)
    return mu_N3, nu_N3
