"""FITS headers and tables with the cards and columns of real SDSS files.

`formats.json` holds the header cards of one real file of each kind (DR7 fpC, tsField and fpM of run
6377; DR8+ frame and photoField of run 94) and the column names of `sdsssn_master.dat2`. A simulated
file starts from these cards, so that order, comments, oddities and even stale checksums are the real
ones. HDUs are put together as bytes, because astropy would tidy the oddities away.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal

import numpy as np
from astropy.io.fits import Card, Header
from numpy.typing import NDArray

Kind = Literal["fpC", "tsField", "fpM", "frame", "photoField"]
BLOCK: Final = 2880
_TYPES: Final = {"A": "S", "B": "u1", "I": ">i2", "J": ">i4", "E": ">f4", "D": ">f8"}


@cache
def _formats() -> dict[str, list[Any]]:
    text = (files(__package__) / "formats.json").read_text(encoding="utf-8")
    content: dict[str, list[Any]] = json.loads(text)
    return content


def master_columns() -> list[str]:
    """The 138 columns of `sdsssn_master.dat2`, in its order."""
    return list(_formats()["sdsssn_master"])


def header(kind: Kind, hdu: int, values: Mapping[str, object] | None = None) -> Header:
    """The real header of that HDU, with the values of some of its cards replaced.

    Raises
    ------
    KeyError
        The real header has no such card.
    """
    cards = Header([Card.fromstring(image) for image in _formats()[kind][hdu]])
    for keyword, value in (values or {}).items():
        if keyword not in cards:
            raise KeyError(f"a real {kind} has no card {keyword} in HDU {hdu}")
        cards[keyword] = value
    return cards


def row_dtype(kind: Kind, hdu: int) -> np.dtype[Any]:
    """Big-endian structured type of one row of a binary table, from its TTYPE, TFORM and TDIM cards."""
    cards = header(kind, hdu)
    fields: list[tuple[str, str, tuple[int, ...]]] = []
    for number in range(1, int(cards["TFIELDS"]) + 1):
        form = str(cards[f"TFORM{number}"]).strip()
        if form.startswith("1P"):
            fields.append((str(cards[f"TTYPE{number}"]).strip(), ">i4", (2,)))
            continue
        count, letter = int(form[:-1] or 1), form[-1]
        name = str(cards[f"TTYPE{number}"]).strip()
        if letter == "A":
            fields.append((name, f"S{count}", ()))
        else:
            fields.append((name, _TYPES[letter], _shape(cards.get(f"TDIM{number}"), count)))
    return np.dtype(fields)


def _shape(tdim: object, count: int) -> tuple[int, ...]:
    if tdim is not None:
        return tuple(int(size) for size in reversed(str(tdim).strip("() ").split(",")))
    return (count,) if count > 1 else ()


def hdu_bytes(cards: Header, data: NDArray[Any] | bytes = b"") -> bytes:
    """One HDU as it lies in a file: header and big-endian data, each padded to whole blocks."""
    payload = data if isinstance(data, bytes) else data.tobytes()
    head = "".join(card.image for card in cards.cards) + "END".ljust(80)
    return _padded(head.encode("ascii"), b" ") + _padded(payload, b"\0")


def _padded(content: bytes, filler: bytes) -> bytes:
    return content + filler * (-len(content) % BLOCK)
