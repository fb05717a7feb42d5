"""Decompress bytes from an archive: bounded, and with the stream's own checksum enforced."""

from __future__ import annotations

import bz2
import zlib
from pathlib import Path

from pipeline.errors import FrameError

MAX_BYTES = 64 * 2**20
"""Largest file that SDSS imaging holds, opened: a frame is 12.4 MB, a run's photoField 1.5–3 MB."""

CHUNK_BYTES = 1 << 16

MAX_STREAMS = 100
"""SDSS's files are one. The rest is copied for each, so that many empty ones would take hours."""


def read_bytes(path: Path, *, name: str = "", max_bytes: int = MAX_BYTES) -> bytes:
    """Content of `path`, decompressed if its name, or the `name` that it will have, ends in .bz2 or .gz.

    Raises
    ------
    FrameError
        The stream is corrupt, cut short, or opens to more than `max_bytes`.
    """
    name = name or path.name
    raw = path.read_bytes()
    if len(raw) > max_bytes:
        raise FrameError(f"{name} is {len(raw)} bytes, more than the {max_bytes} any SDSS file has")
    try:
        if name.endswith(".bz2"):
            return _drain(name, raw, max_bytes, bz2.BZ2Decompressor)
        if name.endswith(".gz"):
            return _drain(name, raw, max_bytes, lambda: _Gzip())
    except (OSError, zlib.error) as error:
        raise FrameError(f"{name} is corrupt: {error}") from error
    return raw


def read_start(path: Path, n_bytes: int) -> bytes:
    """The first `n_bytes` of a file's content, or fewer if it has no more, decompressing little beyond them.

    What was read has not met its checksum, but for the blocks of a bzip2 stream that are complete.

    Raises
    ------
    FrameError
        The stream is corrupt before that.
    """
    opened = bytearray()
    try:
        with path.open("rb") as file:
            if path.suffix not in (".bz2", ".gz"):
                return file.read(n_bytes)
            stream = bz2.BZ2Decompressor() if path.suffix == ".bz2" else _Gzip()
            while len(opened) < n_bytes and not stream.eof and (raw := file.read(CHUNK_BYTES)):
                opened += stream.decompress(raw, n_bytes - len(opened))
    except (OSError, zlib.error) as error:
        raise FrameError(f"{path.name} is corrupt: {error}") from error
    return bytes(opened)


def unpack(name: str, raw: bytes, *, max_bytes: int) -> bytes:
    """`raw`, decompressed if it begins as gzip and bzip2 do; for files whose name cannot be relied on.

    Raises
    ------
    FrameError
        The stream is corrupt, cut short, or opens to more than `max_bytes`.
    """
    try:
        if raw.startswith(b"\x1f\x8b"):
            return _drain(name, raw, max_bytes, lambda: _Gzip())
        if raw.startswith(b"BZh"):
            return _drain(name, raw, max_bytes, bz2.BZ2Decompressor)
    except (OSError, zlib.error) as error:
        raise FrameError(f"{name} is corrupt: {error}") from error
    return raw


class _Gzip:
    """zlib's gzip reader with the interface of `bz2.BZ2Decompressor`; checks CRC and length at the end."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=31)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._stream.decompress(data, max_length)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data


def _drain(name: str, raw: bytes, max_bytes: int, new_stream) -> bytes:  # type: ignore[no-untyped-def]
    """Decompress all concatenated streams of `raw` in memory."""
    parts: list[bytes] = []
    room = max_bytes
    while raw:
        if len(parts) == MAX_STREAMS:
            raise FrameError(f"{name} is more than {MAX_STREAMS} compressed streams in a row: refused")
        stream = new_stream()
        part = stream.decompress(raw, room + 1)
        if len(part) > room:
            raise FrameError(f"{name} opens to more than {max_bytes} bytes: refused")
        if not stream.eof:
            raise FrameError(f"{name} is cut short: its compressed stream has no end")
        parts.append(part)
        room -= len(part)
        raw = stream.unused_data.lstrip(b"\0")
    return b"".join(parts)
