"""The HDUs of a FITS file as bytes: headers by astropy, images and tables as views by numpy.

Astropy's own HDU objects describe every column of a table in Python: 20 ms for the one row of a tsField, 100 ms for
the spans of an fpM, as much as all else that is done to a frame. Where nothing but the numbers is wanted, a numpy
type made from the header's TTYPE and TFORM cards gives the same ones in microseconds.

Source: FITS Standard 4.0 (https://fits.gsfc.nasa.gov/fits_standard.html), Sects. 4.4.1, 5.3, 7.3.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

BLOCK: Final = 2880
CARD: Final = 80
MAX_HDUS: Final = 64
"""fpM, with the most of what SDSS imaging has, has 12."""
MAX_AXES: Final = 4
IMAGE_TYPES: Final = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
COLUMN_TYPES: Final = {"L": "i1", "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8", "A": "S"}
_FORM: Final = re.compile(r"(\d*)([LBIJKEDAPQ])(.*)")


@dataclass(frozen=True)
class Hdu:
    """One header with the bytes that belong to it."""

    cards: bytes
    """The header as it is in the file, END and padding included."""
    data: memoryview

    @cached_property
    def header(self) -> fits.Header:
        """All cards, parsed when one is asked for."""
        return fits.Header.fromstring(self.cards)

    @property
    def shape(self) -> tuple[int, ...]:
        """Axes in numpy's order, slowest first; () where there are no data."""
        return tuple(reversed(_axes(self.cards)))

    @property
    def image(self) -> NDArray[Any]:
        """The pixels as they are stored, big-endian and without BSCALE and BZERO; a view, not a copy.

        Raises
        ------
        ValueError
            BITPIX is none of FITS's.
        """
        kind = IMAGE_TYPES.get(bitpix := _number(self.cards, "BITPIX"))
        if kind is None:
            raise ValueError(f"BITPIX is {bitpix}")
        return np.frombuffer(self.data, kind, math.prod(self.shape)).reshape(self.shape)

    @property
    def table(self) -> NDArray[np.void]:
        """The rows of a binary table, column names in lower case; a view, not a copy.

        A column of variable length has its two descriptors, count and offset; its values are in `heap`.

        Raises
        ------
        ValueError
            It is no binary table, or its columns do not fill its rows.
        """
        row_bytes, n_rows = _axes(self.cards)
        kind = row_type(self.cards)
        if kind.itemsize != row_bytes:
            raise ValueError(f"columns of {kind.itemsize} bytes in rows of {row_bytes}")
        return np.frombuffer(self.data, kind, n_rows)

    @property
    def heap(self) -> memoryview:
        """What follows the rows of a table: the values of its columns of variable length."""
        row_bytes, n_rows = _axes(self.cards)
        return self.data[max(_number(self.cards, "THEAP", row_bytes * n_rows), row_bytes * n_rows) :]


def split_hdus(content: bytes | memoryview) -> tuple[Hdu, ...]:
    """All HDUs of a FITS file in memory.

    Raises
    ------
    ValueError
        It is no FITS file, or has not all the bytes that its headers announce.
    """
    view = memoryview(content)
    found = tuple(_walk(view))
    if not found:
        raise ValueError("no FITS header at its beginning")
    return found


def _walk(view: memoryview) -> Iterator[Hdu]:
    start = 0
    while start < len(view) and bytes(view[start : start + 9]) in (b"SIMPLE  =", b"XTENSION="):
        if start and view[start] != ord("X"):
            raise ValueError(f"a second beginning at byte {start}")
        cards = header_bytes(view, start)
        first = start + len(cards)
        size = _data_size(cards)
        if first + size > len(view):
            raise ValueError(f"cut short: {len(view)} bytes, its headers announce {first + size}")
        yield Hdu(cards, view[first : first + size])
        start = first + -(-size // BLOCK) * BLOCK


def header_bytes(view: memoryview | bytes, start: int = 0) -> bytes:
    """The header that begins at `start`, up to the end of the block with its END card.

    Raises
    ------
    ValueError
        There is none.
    """
    for end in range(start + BLOCK, len(view) + 1, BLOCK):
        block = bytes(view[end - BLOCK : end])
        if any(block[card : card + CARD].rstrip() == b"END" for card in range(0, BLOCK, CARD)):
            return bytes(view[start:end])
    raise ValueError("a header without END")


def _number(cards: bytes, keyword: str, default: int | None = None) -> int:
    """An integer among the mandatory cards, which have a fixed format."""
    label = f"{keyword:<8}= ".encode()
    for start in range(0, len(cards), CARD):
        if cards.startswith(label, start):
            return int(cards[start + 10 : start + CARD].split(b"/")[0])
    if default is None:
        raise ValueError(f"no card {keyword}")
    return default


def _axes(cards: bytes) -> list[int]:
    """NAXIS1, NAXIS2, …"""
    n_axes = _number(cards, "NAXIS")
    if not 0 <= n_axes <= MAX_AXES:
        raise ValueError(f"NAXIS is {n_axes}")
    axes = [_number(cards, f"NAXIS{axis}") for axis in range(1, n_axes + 1)]
    if any(axis < 0 for axis in axes):
        raise ValueError(f"axes of {axes}")
    return axes


def _data_size(cards: bytes) -> int:
    """Bytes of data, without padding (Eqs. 1 and 2 of the standard)."""
    axes = _axes(cards)
    if not axes:
        return 0
    extra, groups = _number(cards, "PCOUNT", 0), _number(cards, "GCOUNT", 1)
    size = abs(_number(cards, "BITPIX")) // 8 * groups * (extra + math.prod(axes))
    if extra < 0 or groups < 0:
        raise ValueError(f"PCOUNT {extra}, GCOUNT {groups}")
    return size


@lru_cache(maxsize=64)
def row_type(cards: bytes) -> np.dtype[np.void]:
    """numpy's type of one row of a binary table; remembered, as all files of a kind have the same columns.

    Raises
    ------
    ValueError
        A column has no name or no type that is known.
    """
    header = fits.Header.fromstring(cards)
    if str(header["XTENSION"]).strip() != "BINTABLE":
        raise ValueError(f"{header['XTENSION']} is no binary table")
    fields = []
    for number in range(1, int(header["TFIELDS"]) + 1):
        name, form = str(header[f"TTYPE{number}"]), str(header[f"TFORM{number}"]).strip()
        match = _FORM.fullmatch(form)
        if match is None:
            raise ValueError(f"column {name} has TFORM {form}")
        repeat = int(match[1] or 1)
        if match[2] == "A":
            fields.append((name.strip().lower(), f"S{repeat}"))
            continue
        kind, shape = COLUMN_TYPES.get(match[2], ">i4"), _column_shape(header, number, repeat)
        if match[2] in "PQ":  # descriptors: count, offset
            kind, shape = (">i4" if match[2] == "P" else ">i8"), (2,) if repeat else (0,)
        fields.append((name.strip().lower(), kind, shape))  # type: ignore[arg-type]
    return np.dtype(fields)


def _column_shape(header: fits.Header, number: int, repeat: int) -> tuple[int, ...]:
    """() for one value per row; TDIM's shape, or the number of values."""
    if repeat == 1:
        return ()
    tdim = re.fullmatch(r"\(([\d, ]+)\)", str(header.get(f"TDIM{number}", "")).strip())
    shape = tuple(int(axis) for axis in reversed(tdim[1].split(","))) if tdim else (repeat,)
    return shape if math.prod(shape) == repeat else (repeat,)
