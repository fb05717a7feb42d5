"""The store: writing objects, compressing them, packing, refreshing, and how all of it grows.

writing      one object of 100 images of 32 × 32 px in all columns: our `write_sequence`, against a script that opens
             the file for each image as its frame comes in and makes every dataset longer by one, and one that does so
             for the five bands of a night at once; all with fsync and without
compression  image, variance and mask by each filter, on synthetic and, where there are any, real thumbnails
packing      a dataset into one array, checked and hashed, against a plain h5py loop (`f["image"][:]`, nothing checked,
             nothing written), and against only reading and only hashing the same files
refresh      one cell in a hundred was observed once more: the next version, against building all. No frame is cut in
             this benchmark; what cutting costs is measured with one frame and projected on the cells that are built,
             fetching left out (`nightly.py` refreshes with everything, over HTTP)
growth       three sizes from nothing to the pages, each in a process of its own with its peak memory

Objects are synthetic (`benchmarks/support/synthetic.py`). Ways that are compared take turns in one process; a ratio is
the median of the ratios of single turns. Files are warm in the system's cache.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final
from unittest.mock import patch

import h5py
import numpy as np

from benchmarks.support.appending import append_all
from benchmarks.support.codecs import PLANES, STORED, codecs, compare, real_thumbnails
from benchmarks.support.files import (
    FIRST_EPOCH,
    LEGACY,
    NO_REAL_FILES,
    SECOND_EPOCH,
    FrameFiles,
    random_places,
    real_data,
)
from benchmarks.support.synthetic import (
    OBJECTS_PER_CELL,
    Sky,
    build_cell,
    build_dataset,
    plan_build,
    with_new_exposures,
)
from pipeline.archive import Archive
from pipeline.bands import BANDS
from pipeline.build import Build, open_archive
from pipeline.cells import build_cell as check_cell
from pipeline.cutting import cut_frame
from pipeline.manifest import Dataset
from pipeline.packing import pack_dataset
from pipeline.plan import Cell
from pipeline.publish import publish
from pipeline.reuse import hold_against_versions, take_over
from pipeline.sequences import write_sequence
from pipeline.survey import ThumbnailConfig

APPEND_BAR: Final = 50.0
"""Over the script that appends image by image."""
APPENDED_AT_ONCE: Final = {"append": 1, "append_night": 5}
REFRESH_BAR: Final = 0.05
MOST_CHANGED: Final = 0.01
"""Part of the cells, for which the bar is meant."""
MEMORY_BAR_MB: Final = 3000.0
STAGES: Final = ("write", "publish", "verify", "pack", "verify_pack", "report")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    appended: int
    """Objects written both ways."""
    compressed: int
    """Sequences."""
    turns: int
    packed: int
    refreshed: int
    sizes: tuple[int, ...]


FULL: Final = Plan(appended=10, compressed=20, turns=5, packed=2000, refreshed=5000, sizes=(1000, 3000, 10_258))
QUICK: Final = Plan(appended=1, compressed=2, turns=1, packed=100, refreshed=200, sizes=(50, 200))


def seconds(call: Callable[[], object]) -> float:
    """That it takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def writing(plan: Plan, folder: Path) -> dict[str, float]:
    """Milliseconds per object by each way, and how many times longer the script takes."""
    sky = Sky()
    build = plan_build(folder, plan.appended + 1, sky)
    cell = build.plan.cells[0]
    exposures = [visit.exposure for visit in cell.visits]
    spent: dict[str, list[float]] = defaultdict(list)
    for number, target in enumerate(cell.targets):
        sequence = sky.sequence(target, exposures)
        for synced in (True, False):
            suffix = "fsync" if synced else "no_fsync"
            with patch("os.fsync", os.fsync if synced else lambda _: None):
                spent[f"once_{suffix}"].append(seconds(partial(write_sequence, folder / "once.h5", sequence)))
                for way, at_once in APPENDED_AT_ONCE.items():
                    path = folder / f"{number}-{way}-{suffix}.h5"
                    call = partial(append_all, path, sequence, at_once=at_once, fsync=synced)
                    spent[f"{way}_{suffix}"].append(seconds(call))
    counted = {way: times[1:] for way, times in spent.items()}  # the first warms up
    result = {f"{way}_ms": 1e3 * median(times) for way, times in counted.items()}
    for way in APPENDED_AT_ONCE:
        for suffix in ("fsync", "no_fsync"):
            pairs = zip(counted[f"{way}_{suffix}"], counted[f"once_{suffix}"], strict=True)
            result[f"{way}_over_once_{suffix}"] = median(slow / fast for slow, fast in pairs)
        result[f"{way}_kb"] = (folder / f"0-{way}-fsync.h5").stat().st_size / 1e3
    return result | {"once_kb": (folder / "once.h5").stat().st_size / 1e3}


def compression(plan: Plan, real: Sequence[FrameFiles]) -> dict[str, float]:
    """Of synthetic and of real thumbnails."""
    sky = Sky()
    cell = plan_build(Path(), plan.compressed, sky).plan.cells[0]
    sequences = [sky.sequence(target, [visit.exposure for visit in cell.visits]) for target in cell.targets]
    planes = [{name: getattr(sequence, name) for name in STORED} for sequence in sequences]
    result = prefixed("synthetic_", compare(planes, plan.turns))
    if real:
        result |= prefixed("real_", compare(real_thumbnails(real, plan.compressed), plan.turns))
    return result


def packing(plan: Plan, root: Path) -> dict[str, float]:
    """MB of object files per second by each way, and their times over that of a pack."""
    dataset = build_dataset(plan_build(root, plan.packed, sky := Sky()), sky)
    megabytes = sum((dataset.path / row.file).stat().st_size for row in dataset.objects) / 1e6
    ways: dict[str, Callable[[int], object]] = {
        "read": lambda _: [(dataset.path / row.file).read_bytes() for row in dataset.objects],
        "sha256": lambda _: [hashlib.sha256((dataset.path / row.file).read_bytes()) for row in dataset.objects],
        "h5py": lambda _: by_h5py(dataset),
        "pack_1_thread": lambda turn: pack_dataset(dataset.path, root / f"pack-1-{turn}", workers=1),
        "pack": lambda turn: pack_dataset(dataset.path, root / f"pack-{turn}"),
    }
    spent: dict[str, list[float]] = defaultdict(list)
    for turn in range(plan.turns + 1):
        for name, way in ways.items():
            spent[name].append(seconds(partial(way, turn)))
    result = {"objects": float(plan.packed), "object_files_mb": megabytes}
    for name, times in spent.items():
        result[f"{name}_mb_per_s"] = megabytes / median(times[1:])
        result[f"pack_over_{name}"] = median(a / b for a, b in zip(spent["pack"][1:], times[1:], strict=True))
    return result


def by_h5py(dataset: Dataset) -> np.ndarray:
    """All images by a loop over the files."""
    size = dataset.info.size
    images = np.empty((sum(row.n_images for row in dataset.objects), size, size), np.float16)
    end = 0
    for row in dataset.objects:
        with h5py.File(dataset.path / row.file) as file:
            images[end : end + row.n_images] = file["image"][:]
        end += row.n_images
    return images


def refreshing(plan: Plan, root: Path, real: Sequence[FrameFiles]) -> dict[str, float]:
    """Seconds of a build of all cells and of a refresh after one in a hundred has changed."""
    sky = Sky()
    build = plan_build(root, plan.refreshed, sky)
    full_s = seconds(lambda: build_dataset(build, sky))
    changed = with_new_exposures(build, max(1, len(build.plan.cells) // 100))
    with open_archive(build.survey, root) as archive:
        started = time.perf_counter()
        built = refresh(changed, archive, sky)
        refresh_s = time.perf_counter() - started
    result = {
        "objects": plan.refreshed,
        "cells": len(build.plan.cells),
        "cells_changed": len(built),
        "store_full_s": full_s,
        "store_refresh_s": refresh_s,
        "store_refresh_over_full": refresh_s / full_s,
    }
    if real:
        frame_s, full, again = cutting_s(real), frames_of(build.plan.cells), frames_of(built)
        whole_s, whole_refresh_s = full_s + full * frame_s, refresh_s + again * frame_s
        result |= {
            "cut_frame_ms": 1e3 * frame_s,
            "full_frames": full,
            "refresh_frames": again,
            "full_s": whole_s,
            "refresh_s": whole_refresh_s,
            "refresh_over_full": whole_refresh_s / whole_s,
        }
    return result


def refresh(build: Build, archive: Archive, sky: Sky) -> list[Cell]:
    """Make the next version as `refresh-dataset` does: take over, check, build what changed, publish."""
    outlook = hold_against_versions(build, archive)
    take_over(build, outlook)
    results, built = [], []
    with ThreadPoolExecutor(1) as unused:
        for cell in build.plan.cells:
            if cell.cell_id in outlook.to_build:
                built.append(cell)
                results.append(build_cell(build, cell, sky))
            else:  # is done, but every file of it is read
                results.append(check_cell(cell, build.survey, archive, unused, build.building, workers=1))
    publish(build, results, {}, parent=outlook.parent)
    return built


def frames_of(cells: Sequence[Cell]) -> int:
    """How many are cut for them."""
    return len(BANDS) * sum(len(cell.visits) for cell in cells)


def cutting_s(real: Sequence[FrameFiles]) -> float:
    """What one frame with the objects of a cell costs, of the format that is cut faster."""
    files = real[0]
    job = files.job(*random_places(files, OBJECTS_PER_CELL, np.random.default_rng(82)), ThumbnailConfig())
    cut_frame(job)
    return median(seconds(lambda: cut_frame(job)) for _ in range(5))


def growth(sizes: Sequence[int]) -> dict[str, float]:
    """Of each size; the data are deleted as soon as it is measured."""
    result: dict[str, float] = {}
    for n_objects in sizes:
        with TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "benchmarks.support.scale", folder, str(n_objects)]
            path = os.pathsep.join([str(Path(__file__).resolve().parents[1]), *filter(None, sys.path)])
            done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, check=True)
        result |= prefixed(f"{n_objects}_objects_", json.loads(done.stdout))
    return result


def measure(plan: Plan) -> dict[str, float]:
    """Everything the tables show, flat."""
    folder = real_data()
    if folder is None:
        print(NO_REAL_FILES)
    frames = (*FIRST_EPOCH, *SECOND_EPOCH, *LEGACY) if folder else ()
    real = [FrameFiles.below(folder / "archive", frame) for frame in frames] if folder else []
    result: dict[str, float] = {"processors": len(os.sched_getaffinity(0)), "load_average_1min": os.getloadavg()[0]}
    parts: dict[str, Callable[[Path], dict[str, float]]] = {
        "writing_": lambda folder: writing(plan, folder),
        "compression_": lambda _: compression(plan, real),
        "packing_": lambda folder: packing(plan, folder),
        "refresh_": lambda folder: refreshing(plan, folder, real),
    }
    for prefix, part in parts.items():
        with TemporaryDirectory() as scratch:
            result |= prefixed(prefix, part(Path(scratch)))
    return result | prefixed("growth_", growth(plan.sizes))


def prefixed(prefix: str, found: Mapping[str, float]) -> dict[str, float]:
    """The same figures under longer names."""
    return {f"{prefix}{key}": value for key, value in found.items()}


def verdict(value: float, bar: float, *, least: bool = False) -> str:
    """The bar beside a figure, and whether it is met."""
    met = value >= bar if least else value <= bar
    return f"({'≥' if least else '≤'} {bar:g} {'met' if met else 'MISSED'})"


def show_writing(result: Mapping[str, float]) -> None:
    """Once against appending."""
    print("\none object of 100 images, ms")
    print(f"{'':<28}{'fsync':>12}{'no fsync':>12}{'KB':>10}")
    for way, label in {
        "once": "written once (ours)",
        "append": "image by image",
        "append_night": "night by night",
    }.items():
        cells = [result[f"writing_{way}_{suffix}_ms"] for suffix in ("fsync", "no_fsync")]
        print(f"{label:<28}" + "".join(f"{cell:>12.1f}" for cell in cells) + f"{result[f'writing_{way}_kb']:>10.0f}")
    for suffix, words in {"fsync": "all with fsync", "no_fsync": "all without"}.items():
        image, night = (result[f"writing_{way}_over_once_{suffix}"] for way in APPENDED_AT_ONCE)
        judged = verdict(image, APPEND_BAR, least=True)
        print(f"  {words}: image by image × {image:.0f} {judged}, night by night × {night:.0f}")


def show_compression(result: Mapping[str, float]) -> None:
    """By plane and filter."""
    for source in ("real", "synthetic"):
        if f"compression_{source}_images" not in result:
            continue
        number = result[f"compression_{source}_images"]
        print(f"\n{number:.0f} {source} thumbnails: times smaller, µs per thumbnail to write, to read")
        print(f"{'':<18}" + "".join(f"{codec.name:>24}" for codec in codecs()))
        for plane in PLANES:
            cells = []
            for codec in codecs():
                key = f"compression_{source}_{plane}_{codec.name}"
                smaller, write, read = (result[f"{key}_{what}"] for what in ("times_smaller", "write_us", "read_us"))
                cells.append(f"{smaller:.2f} ×{write:>8.0f}{read:>6.0f}")
            print(f"{plane:<18}" + "".join(f"{cell:>24}" for cell in cells))


def show_packing(result: Mapping[str, float]) -> None:
    """Each way, and a pack's time in it."""
    size = result["packing_object_files_mb"]
    print(f"\npacking {result['packing_objects']:.0f} objects, {size:.0f} MB of files")
    print(f"{'':<28}{'MB/s':>10}{'pack takes':>14}")
    labels = {
        "read": "only reading",
        "sha256": "reading and hashing",
        "h5py": "plain h5py loop",
        "pack_1_thread": "pack, one thread",
        "pack": "pack",
    }
    for way, label in labels.items():
        print(f"{label:<28}{result[f'packing_{way}_mb_per_s']:>10.0f}{result[f'packing_pack_over_{way}']:>12.2f} ×")


def show_refresh(result: Mapping[str, float]) -> None:
    """One cell in a hundred."""
    changed, cells = result["refresh_cells_changed"], result["refresh_cells"]
    print(f"\nrefresh, {changed:.0f} of {cells:.0f} cells changed, {result['refresh_objects']:.0f} objects, s")
    print(f"{'':<28}{'all':>10}{'refresh':>10}{'ratio':>8}")
    kinds = {"store_": "storing and publishing", "": "with cutting, projected"}
    for prefix, label in kinds.items():
        if f"refresh_{prefix}full_s" in result:
            full, again = (result[f"refresh_{prefix}{which}_s"] for which in ("full", "refresh"))
            print(f"{label:<28}{full:>10.1f}{again:>10.1f}{again / full:>8.3f}")
    if "refresh_refresh_over_full" in result:
        judged = verdict(result["refresh_refresh_over_full"], REFRESH_BAR)
        if changed > MOST_CHANGED * cells:
            judged = f"(not judged: {changed / cells:.1%} of the cells changed, the bar is for {MOST_CHANGED:.0%})"
        print(f"  {judged}; a frame is cut in {result['refresh_cut_frame_ms']:.0f} ms, all are")
        print(f"  {result['refresh_full_frames']:.0f}, those of the refresh {result['refresh_refresh_frames']:.0f}")


def show_growth(result: Mapping[str, float], sizes: Sequence[int]) -> None:
    """Three sizes."""
    print("\nfrom nothing to the pages, s (µs per image)")
    print(f"{'objects':<28}" + "".join(f"{n:>18,}" for n in sizes))
    for stage in STAGES:
        cells = [(result[f"growth_{n}_objects_{stage}_s"], n) for n in sizes]
        print(f"{stage:<28}" + "".join(f"{f'{spent:.1f} ({1e4 * spent / n:.0f})':>18}" for spent, n in cells))
    sums = [sum(result[f"growth_{n}_objects_{stage}_s"] for stage in STAGES) for n in sizes]
    print(
        f"{'together':<28}" + "".join(f"{f'{s:.1f} ({1e4 * s / n:.0f})':>18}" for s, n in zip(sums, sizes, strict=True))
    )
    sizes_gb = [(result[f"growth_{n}_objects_dataset_gb"], result[f"growth_{n}_objects_pack_gb"]) for n in sizes]
    print(f"{'dataset + pack, GB':<28}" + "".join(f"{f'{data:.2f} + {pack:.2f}':>18}" for data, pack in sizes_gb))
    peaks = [max(result[f"growth_{n}_objects_{stage}_peak_mb"] for stage in STAGES) for n in sizes]
    print(f"{'peak memory, MB':<28}" + "".join(f"{peak:>18.0f}" for peak in peaks))
    print(f"  largest: {verdict(max(peaks), MEMORY_BAR_MB)}")


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few objects and turns")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    result = measure(plan)
    print(f"{result['processors']:.0f} processors, load {result['load_average_1min']:.1f} at the beginning")
    show_writing(result)
    show_compression(result)
    show_packing(result)
    show_refresh(result)
    show_growth(result, plan.sizes)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
