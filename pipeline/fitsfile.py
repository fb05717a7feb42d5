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

MAX_WORDS = 200
"""Length of astropy's own words in a message; it can go on for pages."""


@contextmanager
def open_fits(path: Path, what: str, *, mapped: bool = False) -> Iterator[fits.HDUList]:
    """Give the HDUs of a FITS file, compressed or not, for reading; `what` says what it must be, with its article.

    With `mapped` the file, not compressed and of any size, is read only where it is looked at.

    Bad cards make astropy fail in a dozen ways, some only when a card or column is first touched, so
    that every exception of the body counts as the file's fault.

    Raises
    ------
    FrameError
        The file cannot be read, or the body could not use what it found. Errors of this package pass as they are.
    """
    try:
        with path.open("rb") if mapped else BytesIO(read_bytes(path)) as content:
            with warnings.catch_warnings(action="error", category=AstropyUserWarning):  # says so of a truncated file
                hdus = fits.open(content, memmap=mapped, lazy_load_hdus=False)
            with hdus:
                yield hdus
    except PipelineError:
        raise
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())[:MAX_WORDS]
        raise FrameError(f"{path.name} is not {what}: {words}") from error
