"""The mask planes, `fpM-*.fit`: each plane a table of objects, each object a list of pixel runs."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.simulate.camera import Strip
from pipeline.simulate.templates import hdu_bytes, header, row_dtype

Mask = NDArray[np.bool_]

PLANES: Final = (
    "INTERP", "SATUR", "NOTCHECKED", "OBJECT", "BRIGHTOBJECT",
    "BINOBJECT", "CATOBJECT", "SUBTRACTED", "GHOST", "CR",
)  # fmt: skip


def fpm_bytes(strip: Strip, index: int, planes: dict[str, Mask]) -> bytes:
    """One field's masks: HDU 1-10 are `PLANES`, empty where not given, HDU 11 their names."""
    primary = header(
        "fpM",
        0,
        {
            "RUN": strip.run.run,
            "CAMCOL": strip.camcol,
            "FIELD": strip.run.field + index,
            "PS_ID": f"2007-01-26T09:33:28 14235 camCol {strip.camcol}",
        },
    )
    empty = np.zeros((1, 1), dtype=bool)
    hdus = [hdu_bytes(primary), *(_plane_bytes(planes.get(name, empty)) for name in PLANES), _names_bytes()]
    return b"".join(hdus)


def _plane_bytes(mask_RC: Mask) -> bytes:
    if not mask_RC.any():
        mask_RC = mask_RC[:1, :1]  # nothing to look for
    labels_RC, count = ndimage.label(mask_RC, structure=np.ones((3, 3), dtype=int))
    table = np.zeros(count, row_dtype("fpM", 1))
    heap = bytearray()
    for number, box in enumerate(ndimage.find_objects(labels_RC)):
        corner = np.array([box[0].start, box[1].start, box[1].start])
        spans = pixel_runs(labels_RC[box] == number + 1) + corner
        row = table[number : number + 1]
        row["refcntr"], row["nspan"] = 1, len(spans)
        row["rmin"], row["rmax"] = box[0].start, box[0].stop - 1
        row["cmin"], row["cmax"] = box[1].start, box[1].stop - 1
        row["npix"] = int((spans[:, 2] - spans[:, 1] + 1).sum())
        row["s"] = (6 * len(spans), len(heap))
        heap += spans.astype(">u2").tobytes()
    size = table.dtype.itemsize * count
    cards = header("fpM", 1, {"NAXIS2": count, "PCOUNT": len(heap), "THEAP": size})
    return hdu_bytes(cards, table.tobytes() + bytes(heap))


def pixel_runs(mask_RC: Mask) -> NDArray[np.int64]:
    """(row, first column, last column) of every run of set pixels, row by row."""
    padded = np.pad(mask_RC, ((0, 0), (1, 1)))
    edges = np.diff(padded.astype(np.int8), axis=1)
    rows, first = np.nonzero(edges == 1)
    _, behind = np.nonzero(edges == -1)
    return np.stack([rows, first, behind - 1], axis=1)


def _names_bytes() -> bytes:
    table = np.zeros(len(PLANES) + 1, row_dtype("fpM", 2))
    table["defName"] = "S_MASKTYPE"
    table["attributeName"] = [*(f"S_MASK_{name}" for name in PLANES), "S_NMASK_TYPES"]
    table["Value"] = np.arange(len(PLANES) + 1)
    return hdu_bytes(header("fpM", 2), table)
