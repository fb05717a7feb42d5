"""An HDF5 file that is bytes in memory: opened without a copy, and without what HDF5 never comes back from.

HDF5 keeps the texts of attributes in collections, objects one after the other, each with its length. It steps from one
to the next by these lengths, and where a damaged one leads to a length of 0 it stays there for ever, with the
interpreter locked. Through a Python file object HDF5 reads a collection with a request of its own, from its first
byte: each is walked here before HDF5 gets it.
"""

from __future__ import annotations

from io import BytesIO
from struct import Struct
from typing import Any, Final

import h5py
from h5py import h5f, h5fd, h5p

_COLLECTION: Final = b"GCOL\x01"
_HEADER_BYTES: Final = 16
_OBJECT: Final = Struct("<H6xQ")
"""Index and length of an object, before its content."""
_ALIGNMENT: Final = 8
_SIZES: Final = (8, 8)
"""Bytes of an address and of a length in the file: what HDF5 writes wherever nobody asks for less."""


def open_bytes(content: bytes) -> h5py.File:
    """Open the content of an HDF5 file, with or without a user block before it.

    Raises
    ------
    ValueError, OSError, or whatever else h5py makes of damage
        It cannot be read.
    """
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_fileobj_driver(h5fd.fileobj_driver, _Checked(content))
    file = h5f.open(b"in memory", h5f.ACC_RDONLY, access)
    if (sizes := file.get_create_plist().get_sizes()) != _SIZES:
        raise ValueError(f"its addresses and lengths have {sizes} bytes, expected {_SIZES}")
    return h5py.File(file)


class _Checked(BytesIO):
    """Bytes that give away no collection which does not end."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._content = memoryview(content)

    def readinto(self, buffer: Any) -> int:
        start = self.tell()
        n_bytes = super().readinto(buffer)
        if bytes(buffer[: len(_COLLECTION)]) == _COLLECTION and not _ends(self._content[start:]):
            raise ValueError(f"the collection of texts at byte {start} is damaged")
        return n_bytes


def _ends(collection: memoryview) -> bool:
    """Whether steps from object to object lead to the very end of the collection."""
    end = int.from_bytes(collection[8:_HEADER_BYTES], "little")
    if end > len(collection):
        return False
    place = _HEADER_BYTES
    while place + _OBJECT.size <= end:
        index, length = _OBJECT.unpack_from(collection, place)
        if index:
            length = _OBJECT.size + length + -length % _ALIGNMENT
        if length == 0:
            return False
        place += length
    return place <= end
