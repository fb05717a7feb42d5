"""The survey's own mask planes: fpM span tables painted onto the pixel grid.

Source: https://classic.sdss.org/dr7/dm/flatFiles/fpM.html. Each row of a plane is one object mask: a list of
spans (y, x1, x2), big-endian 16-bit, both ends included, relative to (row0, col0).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from pipeline.errors import FrameError
from pipeline.fitsfile import open_fits
from pipeline.hdus import Hdu
from pipeline.naming import FrameId
from pipeline.sequences import MaskBit

PLANES: Final = {"INTERP": MaskBit.INTERP, "SATUR": MaskBit.SATUR, "CR": MaskBit.CR, "GHOST": MaskBit.GHOST}


MAX_SPANS: Final = 300_000
"""Real planes have up to 10,000."""


def read_mask(path: Path, frame: FrameId, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Paint the planes INTERP, SATUR, CR and GHOST of an fpM file; bits as in `MaskBit`.

    Raises
    ------
    FrameError
        The file is corrupt, of another frame or of another image size.
    """
    with open_fits(path, f"a readable mask of frame {frame}") as hdus:
        _check_identity(hdus[0].header, frame, shape, path)
        return _paint(hdus, shape)


def _check_identity(header: fits.Header, frame: FrameId, shape: tuple[int, int], path: Path) -> None:
    said = tuple(int(header[card]) for card in ("RUN", "CAMCOL", "FIELD", "MASKROWS", "MASKCOLS"))
    if said != (frame.run, frame.camcol, frame.field, *shape):
        raise FrameError(f"{path.name} says run, camcol, field, rows, columns {said}; frame {frame} has {shape} pixels")


def _paint(hdus: Sequence[Hdu], shape: tuple[int, int]) -> NDArray[np.uint8]:
    mask_YX = np.zeros(shape, dtype=np.uint8)
    names = hdus[-1].table
    for attribute, value in zip(names["attributename"], names["value"], strict=True):
        bit = PLANES.get(attribute.decode().strip().removeprefix("S_MASK_"))
        if bit is not None and (plane := hdus[int(value) + 1]).data.nbytes:
            place_P = _pixels(_spans(plane), shape)
            mask_YX.reshape(-1)[place_P] |= np.uint8(bit)
    return mask_YX


def _spans(plane: Hdu) -> NDArray[np.int64]:
    """(y, x1, x2) of all spans of a plane, S × 3."""
    rows = plane.table
    count, offset = rows["s"].astype(np.int64).T
    if (count < 0).any() or (offset < 0).any() or (offset + count > len(plane.heap)).any():
        raise ValueError("spans outside their heap")
    triples = count // 6
    if triples.sum() > MAX_SPANS:
        raise ValueError(f"{triples.sum()} spans in a plane, more than any real one has")
    byte = np.repeat(offset - 6 * (np.cumsum(triples) - triples), triples) + 6 * np.arange(triples.sum())
    raw = np.frombuffer(plane.heap, np.uint8)[byte[:, None] + np.arange(6)]
    origin = np.stack([rows["row0"], rows["col0"], rows["col0"]], axis=1).astype(np.int64)
    return np.asarray(raw.view(">u2").astype(np.int64) - np.repeat(origin, triples, axis=0))


def _pixels(spans_S3: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.int64]:
    """Flat indices of all pixels of the spans that are inside the image."""
    y, x1, x2 = spans_S3[(spans_S3[:, 0] >= 0) & (spans_S3[:, 0] < shape[0])].T
    first, last = np.maximum(x1, 0), np.minimum(x2, shape[1] - 1)
    length = np.maximum(last - first + 1, 0)
    if length.sum() > 2 * shape[0] * shape[1]:
        raise ValueError(f"spans of {length.sum()} pixels, twice the image and more")
    start = y * shape[1] + first - (np.cumsum(length) - length)
    return np.asarray(np.repeat(start, length) + np.arange(length.sum()))
