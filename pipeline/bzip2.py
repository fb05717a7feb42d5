"""The blocks of a bzip2 stream, each to be decoded alone: a frame has fourteen, and a thumbnail lies in one or two.

A block begins at any bit with a 48-bit magic number and the CRC of what it decodes to; the end of the stream has
another magic number and one CRC folded from those of all blocks, in order. That fold proves a list of blocks without
decoding any: a block that is missed, or a magic number that occurs by chance in a block's bits, changes it.

Source: bzip2 1.0.8, compress.c and decompress.c (https://sourceware.org/bzip2/).
"""

from __future__ import annotations

import bz2
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

BLOCK_MAGIC: Final = 0x314159265359
END_MAGIC: Final = 0x177245385090
MAGIC_BITS: Final = 48
CRC_BITS: Final = 32
HEADER_BITS: Final = 32
"""BZh and a digit, the level."""
SLACK_BYTES: Final = 19
"""bzip2 closes a block at level × 100,000 bytes less these."""
MAX_BLOCKS: Final = 1000
"""64 MB have 670 of the smallest; a file that pretends to have millions would take minutes to look at."""


class InDoubt(Exception):
    """A stream cannot be decoded in part with certainty; never leaves the reader, which then decodes all of it."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One bzip2 stream and where its blocks are."""

    raw: bytes
    level: int
    bounds: tuple[int, ...]
    """Bit at which each block begins, and the one after the last block."""

    @property
    def n_blocks(self) -> int:
        """How many there are."""
        return len(self.bounds) - 1

    @property
    def full_bytes(self) -> int:
        """What a block holds when it is closed, or up to four more: counted after runs are shortened.

        bzip2 shortens 4 to 255 equal bytes to four and a count before anything else. So a block decodes to these
        bytes, and to more if runs of six or more are in it, to less if runs of exactly four are.
        """
        return self.level * 100_000 - SLACK_BYTES

    def block(self, number: int) -> bytes:
        """What one block decodes to: it is made a stream of its own, and Python's bz2 checks its CRC.

        Raises
        ------
        InDoubt
            It is corrupt, or decodes to more than twice its usual size.
        """
        start, end = self.bounds[number], self.bounds[number + 1]
        bits = _bits(self.raw, start, end)
        crc = _bits(self.raw, start + MAGIC_BITS, start + MAGIC_BITS + CRC_BITS)
        bits = (bits << MAGIC_BITS | END_MAGIC) << CRC_BITS | crc
        size = end - start + MAGIC_BITS + CRC_BITS
        padding = -size % 8
        alone = b"BZh%d" % self.level + (bits << padding).to_bytes((size + padding) // 8, "big")
        decoder = bz2.BZ2Decompressor()
        try:
            content = decoder.decompress(alone, max_length=2 * self.full_bytes)
        except (OSError, ValueError) as error:
            raise InDoubt(f"block {number} is corrupt: {error}") from error
        if not decoder.eof:
            raise InDoubt(f"block {number} has no end, or opens to more than {2 * self.full_bytes} bytes")
        return content


def find_blocks(raw: bytes) -> Stream:
    """The blocks of a file that is one bzip2 stream and nothing else.

    Raises
    ------
    InDoubt
        It is something else, it is cut short, or the CRC of its end is not that of the blocks that were found.
    """
    if not (raw.startswith(b"BZh") and raw[3:4] in b"123456789"):
        raise InDoubt("no bzip2 stream")
    end = _end(raw)
    starts = sorted(at for at in _places(raw, BLOCK_MAGIC) if HEADER_BITS <= at < end)
    if not starts or starts[0] != HEADER_BITS:
        raise InDoubt("no block at the beginning")
    folded = 0
    for at in starts:
        crc = _bits(raw, at + MAGIC_BITS, at + MAGIC_BITS + CRC_BITS)
        folded = (folded << 1 | folded >> 31) & 0xFFFFFFFF ^ crc
    if folded != _bits(raw, end + MAGIC_BITS, end + MAGIC_BITS + CRC_BITS):
        raise InDoubt("the blocks that were found are not those that the stream was made of")
    return Stream(raw, int(raw[3:4]), (*starts, end))


def _end(raw: bytes) -> int:
    """Bit at which the end of the stream begins; up to 7 bits of padding follow it."""
    for padding in range(8):
        at = 8 * len(raw) - padding - CRC_BITS - MAGIC_BITS
        if at > HEADER_BITS and _bits(raw, at, at + MAGIC_BITS) == END_MAGIC:
            return at
    raise InDoubt("the stream has no end, or something follows it")


def _places(raw: bytes, magic: int) -> Iterator[int]:
    """All bits at which `magic` begins: in each of eight shifts its five whole bytes are looked for, then all of it."""
    for shift in range(8):
        middle = (magic << 8 >> shift).to_bytes(7, "big")[1:6]
        found = raw.find(middle, 1)
        for _ in range(MAX_BLOCKS):
            if found < 0:
                break
            at = 8 * (found - 1) + shift
            if _bits(raw, at, at + MAGIC_BITS) == magic:
                yield at
            found = raw.find(middle, found + 1)
        else:
            raise InDoubt(f"more than {MAX_BLOCKS} blocks")


def _bits(raw: bytes, start: int, end: int) -> int:
    """The bits from `start` up to `end`, counted from the most significant one of the first byte."""
    last = -(-end // 8)
    return int.from_bytes(raw[start // 8 : last], "big") >> (8 * last - end) & (1 << end - start) - 1
