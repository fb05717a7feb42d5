"""From finished cells to a dataset version: its tables, its description, and the one rename that makes it visible."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from pipeline.atomic import storing, sync_dir, write_text
from pipeline.build import ID_DIGITS, Build
from pipeline.card import dataset_card
from pipeline.cellrecord import CellResult, cell_files
from pipeline.croissant import croissant
from pipeline.differences import Changes, compare, n_lost_images
from pipeline.errors import DatasetError
from pipeline.fetching import SERVER_ADDRESS
from pipeline.manifest import (
    FRAMES_SCHEMA,
    MANIFEST_SCHEMA,
    SKIPS_SCHEMA,
    Dataset,
    DatasetInfo,
    Skip,
    content_hash,
    open_dataset,
    write_info,
    write_table,
)
from pipeline.naming import (
    CARD_FILE,
    CHANGES_FILE,
    CROISSANT_FILE,
    FRAMES_FILE,
    LOCKS_FOLDER,
    MANIFEST_FILE,
    PACKAGES_FILE,
    SKIPS_FILE,
)
from pipeline.pixelcheck import PIXEL_COLUMNS
from pipeline.reuse import share_equal_files
from pipeline.sources import sources_of, sources_sha256
from pipeline.splits import NO_FOLD, NO_STEP, assign_folds, assign_steps, duplicate_groups
from pipeline.statistics import band_statistics
from pipeline.sums import file_sha256, files_below, write_sums
from pipeline.transfer import file_url
from pipeline.verify import verify_dataset
from pipeline.version import installed_packages, software_versions
from pipeline.versions import hide, latest_version, note_plan, only_one, point_latest, versions, write_record
from pipeline.zeropoints import ZeropointFlag

LOG: Final = logging.getLogger(__name__)
Row = dict[str, Any]
CELL_FAILED: Final = "cell-failed"
NOTHING_FAILED: Final[Mapping[str, str]] = MappingProxyType({})


def publish(
    build: Build,
    results: Sequence[CellResult],
    seconds: Mapping[str, float],
    *,
    parent: Dataset | None = None,
    max_removed: float = 1.0,
    failed: Mapping[str, str] = NOTHING_FAILED,
) -> Dataset:
    """Complete the dataset and make it visible; if a version says the very same already, that one is given.

    Parameters
    ----------
    parent
        The version before: objects keep the folds that they have there, and `changes.json` says what is different.
    max_removed
        Part of the parent's objects, and of its images, that may be missing.
    failed
        Cells that the dataset shall do without, by id, and why. Their objects are skips of it; the next build or
        refresh tries these cells again.

    Raises
    ------
    DatasetError
        A cell is in neither `results` nor `failed`, no object has an image, or too many of the parent's objects are
        missing.
    StorageError
        There is no room, or no right, to write. The versions before are as they were.
    """
    missing = {cell.cell_id for cell in build.plan.cells} - {result.cell_id for result in results} - set(failed)
    if missing:
        raise DatasetError(f"{build.build_id}: cells {sorted(missing)} are not built; nothing was published")
    rows = sorted((dict(row) for result in results for row in result.objects), key=lambda row: str(row["object_id"]))
    if not rows:
        raise DatasetError(f"{build.build_id}: not one image could be cut; see the reasons in {build.building}")
    check_removals(parent, {str(row["object_id"]) for row in rows}, max_removed)
    _split(rows, build, parent)
    skips, frames = _skips(build, results, failed), _unique_frames(build, results)
    _keep_only(build, results)
    if parent is not None:
        share_equal_files(parent, build.building, {row["file"]: row["sha256"] for row in rows})
    write_table(build.building / MANIFEST_FILE, rows, MANIFEST_SCHEMA)
    write_table(build.building / SKIPS_FILE, (asdict(skip) for skip in skips), SKIPS_SCHEMA)
    write_table(build.building / FRAMES_FILE, frames, FRAMES_SCHEMA)
    packages = installed_packages()
    write_text(build.building / PACKAGES_FILE, packages)
    version = _content_version(rows, skips, frames, results)
    info = _describe(build, version, results, rows, skips, frames, packages)
    write_info(build.building, info)
    new = open_dataset(build.building)
    changes = compare(parent, new)
    _check_images(parent, new, changes, max_removed)
    write_text(build.building / CHANGES_FILE, changes.model_dump_json(indent=1) + "\n")
    write_text(build.building / CARD_FILE, dataset_card(info, rows, skips))
    write_text(build.building / CROISSANT_FILE, croissant(info, _described_files(build.building)))
    write_sums(build.building, {row["file"]: row["sha256"] for row in rows})
    return _make_visible(build, version, parent, seconds)


def _described_files(folder: Path) -> dict[str, tuple[str, int]]:
    """sha256 and size of the files that metadata tell of one by one: all that are not in a folder."""
    return {path.name: (file_sha256(path), path.stat().st_size) for path in sorted(folder.iterdir()) if path.is_file()}


def check_removals(parent: Dataset | None, present: set[str], max_removed: float) -> None:
    """Refuse to lose much of a dataset: half an object list, or an archive's bad day, look like that.

    Raises
    ------
    DatasetError
        More than that part of the parent's objects are not `present`.
    """
    if parent is None or not parent.objects:
        return
    lost = [row.object_id for row in parent.objects if row.object_id not in present]
    if len(lost) > max_removed * len(parent.objects):
        raise DatasetError(
            f"{len(lost)} of the {len(parent.objects)} objects of {parent.info.dataset_id} would be gone, first "
            f"{lost[0]}; is the object list whole, and the index? Nothing was published. If it is meant, allow it with "
            "--max-removed"
        )


def _check_images(parent: Dataset | None, new: Dataset, changes: Changes, max_removed: float) -> None:
    """The same for images: an index that has lost runs leaves every object, with fewer images."""
    before = sum(row.n_images for row in parent.objects) if parent else 0
    lost = n_lost_images(changes, parent, new) if parent else 0
    if parent is not None and lost > max_removed * before:
        raise DatasetError(
            f"{lost} of the {before} images of {parent.info.dataset_id} would be gone; is the index whole, and are the "
            "archives? Nothing was published. If it is meant, allow it with --max-removed"
        )


def _make_visible(build: Build, version: str, parent: Dataset | None, seconds: Mapping[str, float]) -> Dataset:
    target = build.versions / version
    with only_one(build.versions), storing(target):
        if target.exists() and not _is_whole(target):
            LOG.warning("%s is damaged: it is replaced by what was built now, which is the same whole", target)
            hide(target)
        if target.exists():
            note_plan(build.versions, version, build.input_hash)
        else:
            write_record(build.versions, version, parent.path.name if parent else None, seconds, build.input_hash)
            build.building.rename(target)
            sync_dir(target.parent)
        point_latest(build.versions, version)
        if build.building.exists():
            shutil.rmtree(build.building)
    return open_dataset(target)


def _is_whole(version: Path) -> bool:
    try:
        return not verify_dataset(version)
    except DatasetError:
        return False


def adopt(build: Build, dataset: Dataset, *, max_removed: float = 1.0) -> Dataset | None:
    """Make a version that is all that `build` would give the latest, if it is not; the one that was, if it is left.

    Raises
    ------
    DatasetError
        Too much of the one that was would be missing (`max_removed`, as in `publish`), or the version is gone.
    """
    with only_one(build.versions):
        before = latest_version(build.versions)
        previous = open_dataset(build.versions / before) if before and (build.versions / before).is_dir() else None
        if before == dataset.path.name:
            return previous
        check_removals(previous, {row.object_id for row in dataset.objects}, max_removed)
        _check_images(previous, dataset, compare(previous, dataset), max_removed)
        if not dataset.path.is_dir():
            raise DatasetError(f"{dataset.path} was removed by another process; run the same again")
        if before is not None:
            LOG.warning("all is as it was in version %s: it is the latest again, after %s", dataset.path.name, before)
        point_latest(build.versions, dataset.path.name)
    return previous


def _split(rows: Sequence[Row], build: Build, parent: Dataset | None) -> None:
    """Give each row its group of duplicates, named after its first member, its fold, and its step of training."""
    targets = {target.object_id: target for target in build.catalog.targets}
    objects = [targets[row["object_id"]] for row in rows]
    splits = build.survey.splits
    ra_deg, dec_deg = (np.array([row[key] for row in rows]) for key in ("ra_deg", "dec_deg"))
    groups = duplicate_groups(ra_deg, dec_deg, splits.duplicate_radius_arcsec)
    before = _earlier_splits(build, parent)
    had = [before.get(row["object_id"], (NO_FOLD, NO_STEP)) for row in rows]
    had_fold = np.array([fold for fold, _ in had], dtype=np.int16)
    folds = assign_folds(objects, groups, folds=splits.folds, seed=splits.seed, kept=had_fold)
    steps = assign_steps(objects, groups, folds, seed=splits.seed, kept=[step for _, step in had])
    names: dict[int, str] = {}
    for row, group, fold, step in zip(rows, groups.tolist(), folds.tolist(), steps, strict=True):
        row |= {"group": names.setdefault(group, row["object_id"]), "fold": fold, "step": step}


def _earlier_splits(build: Build, parent: Dataset | None) -> dict[str, tuple[int, str]]:
    """Fold and step that each object has had last, in the versions that are left and were dealt into the same folds."""
    rule = build.survey.splits
    split: dict[str, tuple[int, str]] = {}
    for dataset in [*_earlier(build), parent] if parent is not None else []:
        before = dataset.info.survey.get("splits", {})
        if (before.get("folds"), before.get("seed")) == (rule.folds, rule.seed):
            split |= {row.object_id: (row.fold, row.step) for row in dataset.objects}
    return split


def _earlier(build: Build) -> Iterator[Dataset]:
    """The versions that can be read; what is only in one that cannot be is dealt anew."""
    for version in versions(build.versions):
        try:
            if not version.problem:
                yield open_dataset(version.path)
        except DatasetError as error:
            LOG.warning("folds of %s are not heeded: %s", version.path, error)


def _skips(build: Build, results: Iterable[CellResult], failed: Mapping[str, str]) -> list[Skip]:
    """Everything that was left out, at every step; a frame that two cells wanted counts once."""
    why = {cell_id: f"cell {cell_id}: {SERVER_ADDRESS.sub('', said)}" for cell_id, said in failed.items()}
    of_failed = [
        Skip(CELL_FAILED, why[cell.cell_id], object_id=target.object_id)
        for cell in build.plan.cells
        if cell.cell_id in failed
        for target in cell.targets
    ]
    of_cells = [Skip(**skip) for result in results for skip in result.skips]
    once = {(skip.reason, skip.object_id, skip.frame): skip for skip in of_cells}
    return [*build.catalog.skips, *build.plan.skips, *of_failed, *once.values()]


_COUNTED: Final = ("n_thumbnails", "n_partly_covered")
_SEEN: Final = (*PIXEL_COLUMNS, "first_object")
"""Of a frame that two cells have read, as the one says that cut more of it."""


def _unique_frames(build: Build, results: Iterable[CellResult]) -> list[Row]:
    """One row per frame, with its address: neighbouring cells may both have read it."""
    frames: dict[tuple[str, str, str], Row] = {}
    first_url = {archive.name: archive.base_urls[0] for archive in build.survey.archives}
    for result in results:
        for row in result.frames:
            key = row["archive"], row["path"], row["sha256"]  # it may have changed between two cells
            if (seen := frames.get(key)) is None:
                frames[key] = {**row, "url": file_url(first_url[key[0]], key[1])}
                continue
            if row["n_thumbnails"] > seen["n_thumbnails"]:
                seen |= {name: row.get(name) for name in _SEEN}
            for count in _COUNTED:
                seen[count] += row[count]
    return [frames[key] for key in sorted(frames)]


def _keep_only(build: Build, results: Iterable[CellResult]) -> None:
    """Leave nothing of earlier attempts at the same plan, which may have had other files of an archive to cut from.

    Raises
    ------
    DatasetError
        A file that a cell has written is not there.
    """
    shutil.rmtree(build.building / LOCKS_FOLDER, ignore_errors=True)
    wanted = {name for result in results for name in cell_files(result)}
    here = set(files_below(build.building))
    if lost := sorted(wanted - here):
        raise DatasetError(
            f"{build.building} lacks {len(lost)} files that its cells have written, first {lost[0]}; nothing was "
            "published: run the same again, which makes them anew"
        )
    for name in here - wanted:
        (build.building / name).unlink()


def _content_version(
    rows: Iterable[Row], skips: Iterable[Skip], frames: Iterable[Row], results: Iterable[CellResult]
) -> str:
    """A hash of what the tables say, however they are written, and of what cells are made of.

    The same content is the same version; cells of another configuration are not, even if the same came of them: the
    next build takes over what a version says to be made as it would make it.
    """
    digest = hashlib.sha256()
    tables = (
        [[row[key] for key in ("object_id", "sha256", "fold", "group", "step")] for row in rows],
        sorted([skip.reason, skip.object_id, skip.frame] for skip in skips),
        [[row[key] for key in ("archive", "path", "sha256", "calibration_sha256", "mask_sha256")] for row in frames],
        [[result.cell_id, result.input_hash] for result in results],
    )
    for table in tables:
        digest.update(json.dumps(table).encode())
    return digest.hexdigest()[:ID_DIGITS]


def _describe(
    build: Build,
    version: str,
    results: Sequence[CellResult],
    rows: Sequence[Row],
    skips: Sequence[Skip],
    frames: Sequence[Row],
    packages: str,
) -> DatasetInfo:
    thumbnails = build.survey.thumbnails
    moments = {object_id: found for result in results for object_id, found in result.moments.items()}
    return DatasetInfo(
        dataset_id=f"{build.survey.name}-{version}",
        survey=build.survey.model_dump(mode="json"),
        software=software_versions(),
        packages_sha256=hashlib.sha256(packages.encode()).hexdigest(),
        input_hash=build.input_hash,
        content_hash=content_hash((row["object_id"], row["sha256"]) for row in rows),
        sources_sha256=sources_sha256(sources_of(frames, build.survey)),
        catalog_sha256=build.catalog.sha256,
        standards_sha256=build.standards_sha256,
        counts={
            "objects": len(rows),
            "images": sum(row["n_images"] for row in rows),
            "cells": len(results),
            "frames": len(frames),
            "frame_bytes": sum(row["bytes"] for row in frames),
            "partly_covered": sum(row["n_partly_covered"] for row in frames),
            **_zeropoint_counts(frames),
            "skips": len(skips),
        },
        size=thumbnails.size,
        pixel_scale_arcsec=thumbnails.pixel_scale_arcsec,
        band_statistics=band_statistics([row["fold"] for row in rows], [moments[row["object_id"]] for row in rows]),
    )


def _zeropoint_counts(frames: Sequence[Row]) -> dict[str, int]:
    """Frames whose zero points were checked, corrected, and found beyond the limits."""
    names = ZeropointFlag.CHECKED, ZeropointFlag.CORRECTED, ZeropointFlag.BEYOND_LIMIT
    return {f"zeropoints_{flag.name}".lower(): sum(bool(row["zp_flags"] & flag) for row in frames) for flag in names}
