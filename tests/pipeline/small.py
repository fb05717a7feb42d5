"""A small dataset of random content, as `publish` leaves one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.manifest import (
    FRAMES_SCHEMA,
    MANIFEST_SCHEMA,
    SKIPS_SCHEMA,
    Dataset,
    DatasetInfo,
    content_hash,
    open_dataset,
    read_info,
    read_table,
    write_info,
    write_table,
)
from pipeline.naming import FRAMES_FILE, MANIFEST_FILE, SKIPS_FILE, sequence_path
from pipeline.sequences import Sequence, write_sequence
from pipeline.sums import file_sha256
from pipeline.survey import load_survey
from tests.pipeline.test_sequences import make_sequence

OBJECTS = (
    ("7", "SNIa", 0, 2),
    ("679", "AGN", 1, 5),
    ("SN2005cg", "", -1, 4),
    ("80", "AGN", 0, 3),
    ("81", "SNIa", 1, 1),
)
"""Id, class, fold, number of images."""


def small_dataset(path: Path, change: Callable[[Sequence], Sequence] = lambda sequence: sequence) -> Dataset:
    """Five objects of 8 × 8 px, `change`d before they are written."""
    rows = []
    for object_id, class_name, fold, n_images in OBJECTS:
        made = make_sequence(n_images, seed=n_images)
        bands = np.arange(n_images, dtype=np.uint8) % 5 + 1
        sequence = change(dataclasses.replace(made, object_id=object_id, class_name=class_name, band_id=bands))
        file = sequence_path(object_id)
        write_sequence(path / file, sequence)
        row: dict[str, Any] = {field.name: "" if str(field.type) == "string" else 0 for field in MANIFEST_SCHEMA}
        row |= {
            name: getattr(sequence, name) for name in ("object_id", "class_name", "confirmation", "ra_deg", "dec_deg")
        }
        row |= {f"n_{band}": int((bands == number).sum()) for number, band in enumerate("ugriz", start=1)}
        row |= {"mjd_first": sequence.mjd_tai.min(), "mjd_last": sequence.mjd_tai.max()}
        row |= {"group": object_id, "fold": fold, "step": "train" if fold >= 0 else "", "file": file}
        rows.append(row | {"sha256": file_sha256(path / file), "n_images": n_images})
    rows.sort(key=lambda row: row["object_id"])
    write_table(path / MANIFEST_FILE, rows, MANIFEST_SCHEMA)
    write_table(path / SKIPS_FILE, [], SKIPS_SCHEMA)
    write_table(path / FRAMES_FILE, [], FRAMES_SCHEMA)
    write_info(path, small_info(content_hash((row["object_id"], row["sha256"]) for row in rows)))
    return open_dataset(path)


def republish(path: Path, sequence: Sequence) -> None:
    """Put another sequence of an object into a dataset without a list of sums, as if it had been published with it."""
    rows = read_table(path / MANIFEST_FILE).to_pylist()
    row = next(row for row in rows if row["object_id"] == sequence.object_id)
    row |= {"sha256": write_sequence(path / row["file"], sequence), "n_images": len(sequence)}
    write_table(path / MANIFEST_FILE, rows, MANIFEST_SCHEMA)
    hashed = content_hash((row["object_id"], row["sha256"]) for row in rows)
    write_info(path, read_info(path).model_copy(update={"content_hash": hashed}))


def small_info(hashed: str = "c0ffee") -> DatasetInfo:
    counts = ("cells", "frames", "frame_bytes", "partly_covered", "zeropoints_checked", "zeropoints_corrected", "skips")
    return DatasetInfo(
        dataset_id="tiny-0123456789ab",
        survey=load_survey("sdss-sn").model_dump(mode="json"),
        software={"numpy": "2"},
        input_hash="",
        content_hash=hashed,
        counts={"objects": 5, "images": 15, "zeropoints_beyond_limit": 3, **dict.fromkeys(counts, 0)},
        size=8,
        pixel_scale_arcsec=0.396,
    )
