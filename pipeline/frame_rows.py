"""A DR8+ frame file of which no more is decoded than will be looked at: its HDUs, and some rows of its image.

A frame is bzip2-compressed, in 14 blocks. The first has the header. The last has the end of the image, the three HDUs
after it, and with them the size of the file. Between these two, each block begins within a few bytes of where it
should, and its own pixels say at which of them:

Call a pixel *plain* if it is +0.0, or if its first byte is not 0 and its last one and a half are (real frames keep 10
to 12 binary digits). In an image of plain pixels four equal bytes in a row can only be zeros; and a run of zeros has up
to three, from the end of one number, or five and more, as it then holds a whole +0.0 and the byte before. bzip2 cuts
runs at 255 and writes 4 to 255 equal bytes as four and a count: so it never writes more than it reads, but for a run of
four that is left over from one of 255. It closes a block when `full_bytes` or up to four more are written. Hence
each block between the first and the last decodes to `full_bytes` or more. If together they decode to less than 249
more, no run of 255 is among them, and the *drift*, the sum of what the blocks before one have too many, never falls
from block to block. It is 0 after the first block and known before the last. Of a block that is decoded it is known
but for multiples of four, from where its pixels begin; where one number alone fits, the block's place is proven.

The proof needs plain pixels, and bzip2's way of closing a block, in the blocks that are not decoded, too. Every block
that is decoded is held to both; a file made to deceive is not found out. A pixel that is not plain was not rounded as
all of the survey's frames are, or lies within 2.4e-38 nMgy of zero (real ones: 2.8e-8 and more, or zero).

In any doubt the whole file is decoded in the ordinary way, and whatever is wrong with it is found there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.bzip2 import InDoubt, Stream, find_blocks
from pipeline.compressed import MAX_BYTES
from pipeline.fitsfile import open_fits
from pipeline.hdus import BLOCK, Hdu, header_bytes, split_hdus

N_HDUS: Final = 4
"""Image, calibration vector, sky, astrometry."""
PIXEL_BYTES: Final = 4
LONGEST_RUN: Final = 255
"""bzip2 cuts longer ones."""
MAX_DRIFT: Final = 248
"""A run of 255 bytes, written as five, adds 250; four equal bytes left over from it take one away."""
FIRST_BYTE: Final = 0x000000FF
LOW_BITS: Final = 0xFF0F0000
"""The first byte of a pixel and its last twelve bits, where its four bytes are read as a little-endian integer."""


@dataclass(frozen=True, slots=True)
class FrameFile:
    """An opened frame file."""

    path: Path
    hdus: tuple[Hdu, ...]
    read_Y: NDArray[np.bool_] | None = None
    """Which rows of the image have been read, all others being zeros; None: all."""
    part: Part | None = None
    """What the rows that have not been read are read from."""

    def with_rows(self, rows: Iterable[slice]) -> FrameFile:
        """The file with at least these rows read.

        Raises
        ------
        FrameError
            It had to be decoded whole, and is corrupt.
        """
        if self.part is None:
            return self
        try:
            return replace(self, read_Y=self.part.read(list(rows)))
        except InDoubt:
            return open_frame(self.path, in_part=False)


def open_frame(path: Path, *, in_part: bool) -> FrameFile:
    """The HDUs of a file; `in_part`: of a `frame-*.fits.bz2`, without its image where that can be left out.

    Raises
    ------
    FrameError
        It is corrupt, cut short, no FITS file, or opens to more than any SDSS file.
    """
    if in_part and path.name.endswith(".bz2") and path.stat().st_size <= MAX_BYTES:
        try:
            return _open_ends(path)
        except (InDoubt, ValueError):  # whatever it is, decoding all of it says it better
            return open_frame(path, in_part=False)
    with open_fits(path, "a readable SDSS frame") as hdus:
        return FrameFile(path, hdus)


@dataclass(frozen=True, slots=True)
class Part:
    """A file of which the first and the last block are decoded, and others on demand."""

    stream: Stream
    content: bytearray
    """Everything at its place; zeros, which take no memory, where nothing has been decoded."""
    height: int
    row_bytes: int
    image_start: int
    first_end: int
    """Where the second block begins."""
    last_start: int
    """Where the last block begins."""

    @property
    def drift(self) -> int:
        """How much more than they should the blocks between the first and the last decode to."""
        return self.last_start - self._nominal(self.stream.n_blocks - 1)

    def _nominal(self, number: int) -> int:
        """Where a block begins if those before it hold what they should."""
        return self.first_end + (number - 1) * self.stream.full_bytes

    def read(self, rows: Sequence[slice]) -> NDArray[np.bool_]:
        """Decode the blocks that hold `rows`; which rows have then been read.

        Raises
        ------
        InDoubt
            A block is corrupt or has no provable place.
        """
        spans = [(0, self.first_end), (self.last_start, len(self.content))]
        before, drift = 0, 0
        for number in self._blocks_of(rows):
            block = self.stream.block(number)
            most = drift if number == before + 1 else self.drift
            start = self._nominal(number) + _drift(block, self._nominal(number) - self.image_start, drift, most)
            end = start + len(block)
            self._check_end(number, block, end)
            self.content[start:end] = block
            spans.append((start, end))
            before, drift = number, end - self._nominal(number + 1)
        read_Y = self._rows_within(spans)
        if not all(read_Y[wanted].all() for wanted in rows):
            raise InDoubt("the blocks do not hold the rows that they should")
        return read_Y

    def _blocks_of(self, rows: Sequence[slice]) -> list[int]:
        """Numbers of the blocks that may hold a byte of `rows`, but for the first and the last."""
        numbers: set[int] = set()
        for wanted in rows:
            first, stop, _ = wanted.indices(self.height)
            start, end = (self.image_start + row * self.row_bytes for row in (first, stop))
            numbers.update(
                number
                for number in range(1, self.stream.n_blocks - 1)
                if self._nominal(number) < end and start < self._nominal(number + 1) + self.drift
            )
        return sorted(numbers)

    def _check_end(self, number: int, block: bytes, end: int) -> None:
        """Refuse a block that is shorter than any can be, or leaves the others no room to be as long as they must."""
        drift = end - self._nominal(number + 1)
        is_last = number == self.stream.n_blocks - 2
        if len(block) < self.stream.full_bytes or drift > self.drift or (is_last and drift != self.drift):
            raise InDoubt(f"block {number} decodes to {len(block)} bytes")

    def _rows_within(self, spans: Iterable[tuple[int, int]]) -> NDArray[np.bool_]:
        """Which rows lie wholly inside spans of bytes, of which neighbours touch."""
        read_Y = np.zeros(self.height, dtype=np.bool_)
        for start, end in _joined(spans):
            first = -(-max(start - self.image_start, 0) // self.row_bytes)
            read_Y[first : max(first, (end - self.image_start) // self.row_bytes)] = True
        return read_Y


def _open_ends(path: Path) -> FrameFile:
    """A file of which the first and the last block are decoded.

    Raises
    ------
    InDoubt, ValueError
        It is not as the module describes it.
    """
    stream = find_blocks(path.read_bytes())
    if stream.n_blocks < 3:
        raise InDoubt("too few blocks to leave any out")
    first, last = stream.block(0), stream.block(stream.n_blocks - 1)
    image_start = len(header_bytes(first))
    height, width = Hdu(first[:image_start], memoryview(b"")).shape
    image_end = image_start + PIXEL_BYTES * height * width
    tables_start = image_start + _padded(image_end - image_start)
    last_start = tables_start - last.find(b"XTENSION=")
    size = last_start + len(last)
    if not (image_start + PIXEL_BYTES <= len(first) <= last_start <= image_end and size <= MAX_BYTES):
        raise InDoubt("blocks between the first and the last hold more than pixels")
    if first.endswith(bytes(LONGEST_RUN)):
        raise InDoubt("four zeros may be left over from a run that the first block ends with")
    if not (
        _is_plain(first, image_start) and _is_plain(last[: image_end - last_start], (image_start - last_start) % 4)
    ):
        raise InDoubt("pixels that are not plain")
    content = bytearray(size)
    content[: len(first)], content[last_start:] = first, last
    hdus = split_hdus(memoryview(content).toreadonly())
    ends_at = sum(len(hdu.cards) + _padded(len(hdu.data)) for hdu in hdus)
    if len(hdus) != N_HDUS or hdus[0].image.dtype != ">f4" or ends_at != size:
        raise InDoubt("the file does not end where its last HDU does")
    part = Part(stream, content, height, PIXEL_BYTES * width, image_start, len(first), last_start)
    if not 0 <= part.drift <= MAX_DRIFT:
        raise InDoubt(f"blocks hold {part.drift} bytes more than they should")
    return FrameFile(path, hdus, part.read([]), part)


def _drift(block: bytes, nominal: int, least: int, most: int) -> int:
    """How far from its `nominal` place in the image a block begins: the one number from `least` to `most` that fits.

    Raises
    ------
    InDoubt
        None fits, or several do.
    """
    phase = _first_pixel(block)
    fitting = [drift for drift in range(least, most + 1) if (nominal + drift + phase) % PIXEL_BYTES == 0]
    if len(fitting) != 1:
        raise InDoubt(f"a block may begin at {len(fitting)} places")
    return fitting[0]


def _first_pixel(block: bytes) -> int:
    """Byte of a block, 0 to 3, at which a pixel begins.

    Raises
    ------
    InDoubt
        Its pixels are not plain, or are so in several ways.
    """
    fitting = [start for start in range(PIXEL_BYTES) if _is_plain(block, start)]
    if len(fitting) != 1:
        raise InDoubt(f"pixels may begin at {len(fitting)} bytes")
    return fitting[0]


def _is_plain(data: bytes, start: int) -> bool:
    """Whether all whole pixels of `data`, of which the first begins at byte `start`, are plain."""
    pixels = np.frombuffer(data, "<u4", (len(data) - start) // PIXEL_BYTES, start)
    if int(np.bitwise_or.reduce(pixels)) & LOW_BITS:
        return False
    return bool(np.count_nonzero(pixels & FIRST_BYTE) == np.count_nonzero(pixels))


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in order, those that touch made one."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and joined[-1][1] == start:
            start, _ = joined.pop()
        joined.append((start, end))
    return joined


def _padded(size: int) -> int:
    """Bytes that data of this size take in a FITS file."""
    return -(-size // BLOCK) * BLOCK
