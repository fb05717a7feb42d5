"""Open FITS files that cannot be trusted: whatever is wrong with one is a FrameError that names it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning

from pipeline.compressed import read_bytes
from pipeline.errors import FrameError, PipelineError
from pipeline.hdus import Hdu, split_hdus

MAX_WORDS = 200
"""Length of astropy's own words in a message; it can go on for pages."""


@contextmanager
def open_fits(path: Path, what: str, *, name: str = "") -> Iterator[tuple[Hdu, ...]]:
    """Give the HDUs of a FITS file, compressed or not, for reading; `what` says what it must be, with its article.

    `name` is what the archive calls it, where the file itself has a temporary name.

    Bad cards make their reader fail in a dozen ways, some only when a card or column is first touched, so
    that every exception of the body counts as the file's fault.

    Raises
    ------
    FrameError
        The file cannot be read, or the body could not use what it found. Errors of this package pass as they are.
    """
    name = name or path.name
    with blaming(f"{name} is not {what}", FrameError):
        yield split_hdus(read_bytes(path, name=name))


@contextmanager
def map_fits(path: Path, what: str) -> Iterator[fits.HDUList]:
    """As `open_fits` for a file of any size, not compressed, which is read only where it is looked at."""
    with blaming(f"{path.name} is not {what}", FrameError), path.open("rb") as file:
        with warnings.catch_warnings(action="error", category=AstropyUserWarning):
            hdus = fits.open(file, memmap=True, lazy_load_hdus=False)
        with hdus:
            yield hdus


def parse_fits(content: bytes) -> fits.HDUList:
    """All HDUs of a FITS file; fails in any way at all where it is none, so to be used inside `blaming`."""
    with warnings.catch_warnings(action="error", category=AstropyUserWarning):  # says so of a truncated file
        # SDSS has no tile-compressed images, and a small one can open to gigabytes.
        return fits.open(BytesIO(content), memmap=False, lazy_load_hdus=False, disable_image_compression=True)


@contextmanager
def blaming(complaint: str, kind: type[PipelineError]) -> Iterator[None]:
    """Turn every exception of the body into a `kind` that begins with `complaint`; errors of this package pass."""
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())[:MAX_WORDS]
        raise kind(f"{complaint}: {words}") from error
