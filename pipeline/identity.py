"""Whether a file of an archive is whole and the one that its name says: checksum, FITS structure, identity.

Sources: data models of frame, photoField (https://data.sdss.org/datamodel/), fpC, fpM, tsField and psField
(https://classic.sdss.org/dr7/dm/flatFiles/).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from astropy.io import fits

from pipeline.bands import FRAME_MINUS_FIELD
from pipeline.compressed import read_bytes
from pipeline.errors import FrameError
from pipeline.fitsfile import open_fits
from pipeline.hdus import Hdu
from pipeline.naming import ArchiveName, parse_archive_name

SHAPE: Final = (1489, 2048)
"""Rows × columns of every SDSS frame; rows run along the scan."""
FITS_SUFFIXES: Final = (".fit", ".fits")
PACKED_SUFFIXES: Final = (".gz", ".bz2")


def check_file(file: Path, name: str) -> None:
    """Read the whole of `file`, which the archive calls `name`, and refuse it if it is not what that name means.

    A compressed stream is decompressed in memory, within bounds, for its own checksum; a FITS file must have all the
    bytes that its headers announce; image, mask and calibration files must be of the run, camcol, field and band in
    their name. Names of no known form are held to as much of this as their suffix tells.

    Raises
    ------
    FrameError
        It is corrupt, cut short, too large, or another file.
    """
    suffixes = [suffix for suffix in Path(name).suffixes if suffix in (*FITS_SUFFIXES, *PACKED_SUFFIXES)]
    if any(suffix in FITS_SUFFIXES for suffix in suffixes):
        with open_fits(file, "a whole FITS file", name=name) as hdus:
            check_identity(hdus, name)
    elif suffixes:
        read_bytes(file, name=name)


def check_identity(hdus: Sequence[Hdu], name: str, *, rerun: int | None = None) -> None:
    """Compare what an opened file says of itself with its `name`, and with `rerun` where that is known; images with
    the size that all have.

    Raises
    ------
    FrameError
        They differ; the message says in what.
    """
    expected = parse_archive_name(name)
    if expected is None:
        return
    _compare(_said(hdus, expected), expected, name, rerun)
    if expected.kind in ("frame", "fpC"):
        _check_shape(hdus[0], name)


def check_image_header(hdu: Hdu, name: str) -> None:
    """The same for the first header of an image file alone, whose data need not be there.

    Raises
    ------
    FrameError
        It is another file's, or the name is no image's.
    """
    expected = parse_archive_name(name)
    if expected is None or expected.kind not in ("frame", "fpC"):
        raise FrameError(f"{name} is not the name of an SDSS image")
    _compare(_image(hdu.header, expected), expected, name, None)
    _check_shape(hdu, name)


def _compare(said: list[tuple[str, int | str]], expected: ArchiveName, name: str, rerun: int | None) -> None:
    wanted = asdict(expected) | ({} if rerun is None else {"rerun": rerun})
    wrong = [f"{key} {value}" for key, value in said if wanted[key] not in (None, value)]
    if wrong:
        raise FrameError(f"{name} contradicts its name: its header says {', '.join(dict.fromkeys(wrong))}")


def _check_shape(hdu: Hdu, name: str) -> None:
    if hdu.shape != SHAPE:
        raise FrameError(f"{name} has {hdu.shape} pixels, expected {SHAPE}: not a whole SDSS frame")


def _said(hdus: Sequence[Hdu], expected: ArchiveName) -> list[tuple[str, int | str]]:
    """Run, camcol and, where such a file tells them, rerun, field and band; a frame tells some of them twice."""
    header = hdus[0].header
    match expected.kind:
        case "frame":
            row = hdus[3].table[0]
            band = row["filter"].decode().strip()
            return [*_image(header, expected), ("band", band), *_numbers(row, "rerun", "field")]
        case "fpC":
            return _image(header, expected)
        case "photoField":
            return _numbers(header, "RUN", "CAMCOL")
        case "tsField":
            return [*_numbers(header, "RUN", "CAMCOL", "RERUN"), *_numbers(hdus[1].table[0], "field")]
        case "psField" | "fpM":
            return _numbers(header, "RUN", "CAMCOL", "FIELD")


def _image(header: fits.Header, expected: ArchiveName) -> list[tuple[str, int | str]]:
    """FRAME runs ahead of the field from band to band; the FIELD card is often 'NA'."""
    ahead = FRAME_MINUS_FIELD[expected.band] if expected.band else 0
    field = int(header["FRAME"]) - ahead
    return [*_numbers(header, "RUN", "CAMCOL"), ("band", str(header["FILTER"]).strip()), ("field", field)]


def _numbers(table: Any, *names: str) -> list[tuple[str, int | str]]:
    return [(name.lower(), int(table[name])) for name in names]
