"""The script that an astronomer writes first: one HDF5 file per object, which grows as frame after frame comes in."""

from __future__ import annotations

import os
from pathlib import Path

import h5py

from pipeline.schema import COLUMNS
from pipeline.sequences import Sequence


def append_all(path: Path, sequence: Sequence, *, at_once: int, fsync: bool) -> None:
    """Write every column of every image, opening and closing the file for each `at_once` images."""
    for start in range(0, len(sequence), at_once):
        rows = slice(start, min(start + at_once, len(sequence)))
        with h5py.File(path, "a") as file:
            for name, column in COLUMNS.items():
                values = getattr(sequence, name)
                if name not in file:
                    shape, most = (0, *values.shape[1:]), (None, *values.shape[1:])
                    file.create_dataset(name, shape, column.dtype, maxshape=most, chunks=(1, *values.shape[1:]))
                file[name].resize(rows.stop, axis=0)
                file[name][rows] = values[rows]
        if fsync:
            with path.open("rb+") as written:
                os.fsync(written.fileno())
