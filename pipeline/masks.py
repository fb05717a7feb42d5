"""The survey's own mask planes: fpM span tables painted onto the pixel grid.

Source: https://classic.sdss.org/dr7/dm/flatFiles/fpM.html. Each row of a plane is one object mask: a list of
spans (y, x1, x2), big-endian 16-bit, both ends included, relative to (row0, col0).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from pipeline.errors import FrameError
from pipeline.fitsfile import open_fits
from pipeline.naming import FrameId
from pipeline.sequences import MaskBit

PLANES: Final = {"INTERP": MaskBit.INTERP, "SATUR": MaskBit.SATUR, "CR": MaskBit.CR, "GHOST": MaskBit.GHOST}


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


def _paint(hdus: fits.HDUList, shape: tuple[int, int]) -> NDArray[np.uint8]:
    mask_YX = np.zeros(shape, dtype=np.uint8)
    names = hdus[-1].data
    prefix = "S_MASK_"
    for attribute, value in zip(names["attributeName"], names["Value"], strict=True):
        bit = PLANES.get(str(attribute).strip().removeprefix(prefix))
        if bit is None:
            continue
        for y, x1, x2 in _spans(hdus[int(value) + 1].data):
            if 0 <= y < shape[0]:
                mask_YX[y, max(x1, 0) : max(x2 + 1, 0)] |= np.uint8(bit)
    return mask_YX


def _spans(plane: fits.FITS_rec | None) -> list[tuple[int, int, int]]:
    """(y, x1, x2) of all spans of a plane. Columns are read whole: row by row, astropy takes 50 µs each."""
    if plane is None:
        return []
    spans: list[tuple[int, int, int]] = []
    for row0, col0, raw in zip(plane["row0"], plane["col0"], plane["s"], strict=True):
        triples = np.asarray(raw, dtype=np.uint8)[: len(raw) // 6 * 6].view(">u2").astype(np.int64).reshape(-1, 3)
        spans.extend((triples - (row0, col0, col0)).tolist())
    return spans
