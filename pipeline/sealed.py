"""A seal before an HDF5 file: the sha256 of everything after it, in the user block that HDF5 leaves to applications.

With it any changed byte of a file is found without its dataset, and without this package:
`tail -c +513 FILE | sha256sum` gives what `head -n 1 FILE` says.
"""

from __future__ import annotations

import hashlib
from typing import Final

SEAL_BYTES: Final = 512
"""The smallest user block that HDF5 knows."""
HDF5_SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
HEAD_BYTES: Final = SEAL_BYTES + len(HDF5_SIGNATURE)
_WORDS: Final = b"Stripe 82 sequence, HDF5 after byte 512, sha256 of which is "


def seal(body: bytes | memoryview) -> bytes:
    """The block that belongs before `body`."""
    return (_WORDS + hashlib.sha256(body).hexdigest().encode() + b"\n").ljust(SEAL_BYTES, b"\0")


def begins_well(head: bytes) -> bool:
    """Whether a file whose first `HEAD_BYTES` these are can be a sequence: what is none need not be read."""
    return head.startswith((_WORDS, HDF5_SIGNATURE)) or head[SEAL_BYTES:] == HDF5_SIGNATURE


def looks_sealed(content: bytes) -> bool:
    """Whether a seal, whole or damaged, is expected before the content: files of schema versions 1 and 2 had none."""
    return not content.startswith(HDF5_SIGNATURE)


def seal_is_whole(content: bytes) -> bool:
    """Whether the content begins with the very seal of the rest."""
    return content[:SEAL_BYTES] == seal(memoryview(content)[SEAL_BYTES:])
