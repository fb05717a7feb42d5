"""How files of earlier schema versions are read, for ever: what they lack, and what stands in for it.

Version 1: `variance` is that of independent pixels, and no zero point was held against stars.
Version 2: as 3, with the dataset's id and the software's version among the attributes, and no seal.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from pipeline.schema import ATTRIBUTES, COLUMNS, Column

ADDED_IN_2: Final[dict[str, float]] = {
    "noise_factor": 1,
    "zp_offset_mag": np.nan,
    "zp_error_mag": np.nan,
    "zp_scatter_mag": np.nan,
    "zp_stars": 0,
    "zp_flags": 0,
}
"""Columns that version 1 lacks, and what their absence means: apertures sum right with a factor of 1."""


def columns_of(version: int) -> dict[str, Column]:
    """The datasets that a file of that version holds."""
    return COLUMNS if version > 1 else {name: c for name, c in COLUMNS.items() if name not in ADDED_IN_2}


def attributes_of(version: int) -> dict[str, tuple[str, type]]:
    """The attributes that a file of that version holds, of those that are read."""
    return {key: of for key, of in ATTRIBUTES.items() if version > 2 or key != "pipeline_version"}


def complete(values: dict[str, Any], version: int) -> dict[str, Any]:
    """What was read from a file of that version, with what the present version has more."""
    added: dict[str, Any] = {} if version > 2 else {"pipeline_version": version}
    if version == 1:
        n_images = len(values["band_id"])
        added |= {name: np.full(n_images, value, COLUMNS[name].dtype) for name, value in ADDED_IN_2.items()}
    return values | added
