"""Fields from the survey's own field tables: DR8+ photoField (a run and camcol) and DR7 tsField (one field).

Data models: https://data.sdss.org/datamodel/ and https://classic.sdss.org/dr7/dm/flatFiles/tsField.html.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from pipeline.bands import BANDS
from pipeline.errors import ExposureIndexError, FrameError
from pipeline.exposures import ExposureIndex, R
from pipeline.fitsfile import open_fits
from pipeline.indexing.columns import NMGY_PER_MAGGY, known_bits, known_sky
from pipeline.indexing.parts import Part, Reading
from pipeline.naming import photofield_path, tsfield_path
from pipeline.survey import PhotoFieldIndex, TsFieldIndex

_KEYS: Final = ("run", "rerun", "camcol", "field", "quality")


def read_photofields(source: PhotoFieldIndex, reading: Reading) -> list[Part]:
    """A part per photoField table.

    Raises
    ------
    ArchiveError
        The archive lacks a table, or does not give it.
    ExposureIndexError
        A file is not the table that it must be.
    """
    sas_root = reading.config.sas_root
    keys = [(run, source.rerun, camcol) for run in source.runs for camcol in source.camcols]
    paths = {photofield_path(*key, sas_root=sas_root): key for key in keys}

    def part(path: str) -> Part:
        return _part(path, reading, lambda file: _photofield(file, reading.config.name, paths[path]))

    return _at_once(part, list(paths), reading)


def read_tsfields(source: TsFieldIndex, reading: Reading) -> list[Part]:
    """A part per tsField table; errors as `read_photofields` has them."""
    paths = {tsfield_path(*key): key for key in source.fields}

    def part(path: str) -> Part:
        return _part(path, reading, lambda file: _tsfield(file, reading.config.name, paths[path]))

    return _at_once(part, list(paths), reading)


def _at_once(part: Callable[[str], Part], paths: Sequence[str], reading: Reading) -> list[Part]:
    """All parts in order, with as many connections as the archive allows."""
    with ThreadPoolExecutor(reading.config.max_connections) as pool:
        try:
            return list(pool.map(part, paths))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _part(path: str, reading: Reading, read: Callable[[Path], ExposureIndex]) -> Part:
    """The part in an archive's file; a file that turns out to be something else is dropped from the cache.

    Where an earlier index has it, the server is asked whether it has changed.
    """
    file = reading.archive.fetch(reading.config.name, path, refresh=path in reading.known)
    try:
        return reading.of_file(path, path, file.sha256, reading.config.base_urls, lambda: read(file.path))
    except FrameError as error:
        reading.archive.discard(reading.config.name, path)
        raise ExposureIndexError(f"{path}: {error}; run again to fetch it anew") from error


def _photofield(file: Path, archive: str, key: tuple[int, int, int]) -> ExposureIndex:
    """All fields of (run, rerun, camcol) = `key`."""
    with open_fits(file, "a photoField table") as hdus:
        header, rows = hdus[0].header, hdus[1].table

        def integers(name: str) -> NDArray[np.int32]:
            return np.asarray(rows[name]).astype(np.int32)

        keys: dict[str, NDArray[Any]] = {name: integers(name) for name in _KEYS}
        found = set(zip(*(keys[name].tolist() for name in ("run", "rerun", "camcol")), strict=True))
        if found != {key}:
            raise ValueError(f"it says run, rerun, camcol = {sorted(found)[:3]}")
        return ExposureIndex(
            archive=np.full(len(rows), archive),
            **keys,
            sky_N5=known_sky(np.asarray(rows["sky"], dtype=np.float64)),
            image_status_N5=known_bits(integers("image_status")),
            calib_status_N5=known_bits(integers("calib_status")),
            **_common_columns(header, rows, f_name="ff"),
        )


def _tsfield(file: Path, archive: str, key: tuple[int, int, int, int]) -> ExposureIndex:
    """One field, which must be (run, rerun, camcol, field) = `key`."""
    with open_fits(file, "the tsField table of that field") as hdus:
        header, rows = hdus[0].header, hdus[1].table
        found = (int(header["RUN"]), int(header["RERUN"]), int(header["CAMCOL"]), int(rows["field"][0]))
        if found != key or len(rows) != 1:
            raise ValueError(f"it says run, rerun, camcol, field = {found} in {len(rows)} rows")
        values = zip(_KEYS, (*found, rows["quality"][0]), strict=True)
        keys: dict[str, NDArray[Any]] = {name: np.array([value], dtype=np.int32) for name, value in values}
        # tsField has the sky in maggies/arcsec², photoField in nanomaggies/arcsec².
        sky_nmgy = NMGY_PER_MAGGY * np.asarray(rows["sky"], dtype=np.float64).reshape(1, len(BANDS))
        none = np.zeros((1, len(BANDS)), dtype=np.int32)
        return ExposureIndex(
            archive=np.array([archive]),
            **keys,
            sky_N5=known_sky(sky_nmgy),
            image_status_N5=none,
            calib_status_N5=none,
            **_common_columns(header, rows, f_name="f"),
        )


def _common_columns(header: fits.Header, rows: NDArray[np.void], *, f_name: str) -> dict[str, NDArray[Any]]:
    """What photoField and tsField spell alike (column names are in lower case), in r where it depends on the band.

    NODE and INCL are those of the table's own header: the ones that its a to f were fitted with.
    """
    n_rows = len(rows)

    def column(name: str) -> NDArray[np.float64]:
        return np.asarray(rows[name], dtype=np.float64).reshape(n_rows, len(BANDS))

    return {
        "mjd_tai_N5": column("mjd"),
        "psf_fwhm_N5": column("psf_width"),
        "node_deg": np.full(n_rows, float(header["NODE"])),
        "incl_deg": np.full(n_rows, float(header["INCL"])),
        "mu_N3": np.stack([column(term)[:, R] for term in "abc"], axis=1),
        "nu_N3": np.stack([column(term)[:, R] for term in ("d", "e", f_name)], axis=1),
    }
