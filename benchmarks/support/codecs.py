"""What compressing the planes of sequences gains and costs, filter by filter.

Each plane of each sequence is one chunk, which is the best that filters can be given. hdf5plugin's filters are
measured where it is installed. Times are those of h5py with a file per sequence, as the store has them.
"""

from __future__ import annotations

import importlib
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from benchmarks.support.files import FrameFiles, random_places
from pipeline.cutting import cut_frame
from pipeline.survey import ThumbnailConfig

Planes = Mapping[str, NDArray[Any]]
"""Image, variance and mask of one object."""
PLANES: Final = ("image", "variance", "variance_10_bits", "mask")
STORED: Final = ("image", "variance", "mask")
IMAGES: Final = 100
KEPT_BITS: Final = 10
"""Of the mantissa of a rounded variance: its error is under 0.05 %, that of a σ under 0.025 %."""


@dataclass(frozen=True, slots=True)
class Codec:
    """A filter, and the options by which h5py is asked for it; with none a dataset is contiguous."""

    name: str
    options: Mapping[str, Any]


def codecs() -> list[Codec]:
    """All that can be had here."""
    return [
        Codec("none", {}),
        Codec("gzip4", {"compression": "gzip", "compression_opts": 4, "shuffle": True}),
        Codec("lzf", {"compression": "lzf", "shuffle": True}),
        *_plugins(),
    ]


def _plugins() -> Iterator[Codec]:
    try:
        hdf5plugin = importlib.import_module("hdf5plugin")
    except ModuleNotFoundError:
        return
    yield Codec("bitshuffle_lz4", hdf5plugin.Bitshuffle())
    yield Codec("bitshuffle_zstd", hdf5plugin.Bitshuffle(cname="zstd"))


def rounded(values: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """To the nearest number with so many bits of mantissa; NaN stays NaN."""
    dropped = np.uint32(23 - bits)
    raw = values.view(np.uint32)
    near = (raw + (np.uint32(1) << (dropped - np.uint32(1)))) >> dropped << dropped
    return np.where(np.isfinite(values), near.view(np.float32), values)


def real_thumbnails(frames: Sequence[FrameFiles], number: int) -> list[Planes]:
    """Sequences of 100 thumbnails at random places of real frames, the frames in turn."""
    rng = np.random.default_rng(82)
    each = -(-number * IMAGES // len(frames))
    cuts = [cut_frame(files.job(*random_places(files, each, rng), ThumbnailConfig())).records for files in frames]
    in_turn = [record for records in zip(*(cut.values() for cut in cuts), strict=True) for record in records]
    return [
        {name: np.stack([record[name] for record in in_turn[first : first + IMAGES]]) for name in STORED}
        for first in range(0, number * IMAGES, IMAGES)
    ]


def compare(sequences: Sequence[Planes], repeats: int) -> dict[str, float]:
    """Per plane and codec: how many times smaller, and microseconds to write and to read one thumbnail."""
    images = sum(len(planes["mask"]) for planes in sequences)
    result: dict[str, float] = {"sequences": len(sequences), "images": images}
    spent: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(repeats):
        for plane in PLANES:
            arrays = [_plane(planes, plane) for planes in sequences]
            n_bytes = sum(array.nbytes for array in arrays)
            for codec in codecs():  # in turns, so that what else the machine does falls on all
                key = f"{plane}_{codec.name}"
                with TemporaryDirectory() as folder:
                    spent[key, "write"].append(_write(arrays, codec, Path(folder)))
                    read_s, stored = _read(arrays, Path(folder))
                spent[key, "read"].append(read_s)
                result[f"{key}_times_smaller"] = n_bytes / stored
    return result | {f"{key}_{what}_us": 1e6 * median(times) / images for (key, what), times in spent.items()}


def _plane(planes: Planes, name: str) -> NDArray[Any]:
    if name == "variance_10_bits":
        return rounded(planes["variance"], KEPT_BITS)
    return planes[name]


def _write(arrays: Sequence[NDArray[Any]], codec: Codec, folder: Path) -> float:
    started = time.perf_counter()
    for number, array in enumerate(arrays):
        with h5py.File(folder / f"{number}.h5", "w", libver=("v110", "v110")) as file:
            chunks = {"chunks": array.shape} if codec.options else {}
            file.create_dataset("plane", data=array, track_times=False, **chunks, **codec.options)
    return time.perf_counter() - started


def _read(arrays: Sequence[NDArray[Any]], folder: Path) -> tuple[float, int]:
    """Seconds, and bytes that the planes take on disk; what comes back must be what was written."""
    spent, stored = 0.0, 0
    for number, array in enumerate(arrays):
        started = time.perf_counter()
        with h5py.File(folder / f"{number}.h5") as file:
            back = file["plane"][()]
            stored += file["plane"].id.get_storage_size()
        spent += time.perf_counter() - started
        assert np.array_equal(back, array, equal_nan=back.dtype.kind == "f")
    return spent, stored
