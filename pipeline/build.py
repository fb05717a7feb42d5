"""From a survey description to a published dataset: the steps between which an orchestrator stands.

`prepare` finds out what there is to do, `pipeline.cells.build_cell` does one cell of it, `publish`
makes the dataset visible by one rename. A dataset's id is a hash of everything that decides its
content, so that preparing the same build twice finds the first one's work.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
from filelock import FileLock, Timeout

from pipeline.archive import Archive
from pipeline.atomic import sync_dir, write_text
from pipeline.card import dataset_card
from pipeline.catalog import Catalog, read_catalog
from pipeline.cells import CellResult, claims_done
from pipeline.cellstars import content_fingerprint
from pipeline.costs import Known, PlanSummary, summarise
from pipeline.errors import DatasetError
from pipeline.indexing.build import build_index
from pipeline.manifest import (
    FRAMES_SCHEMA,
    MANIFEST_SCHEMA,
    SKIPS_SCHEMA,
    TABLES,
    Dataset,
    DatasetInfo,
    Skip,
    content_hash,
    file_sha256,
    open_dataset,
    write_info,
    write_table,
)
from pipeline.naming import (
    CARD_FILE,
    FRAMES_FILE,
    MANIFEST_FILE,
    SKIPS_FILE,
    building_dir,
    cache_dir,
    dataset_dir,
    latest_pointer,
)
from pipeline.plan import Plan, make_plan
from pipeline.sequences import SCHEMA_VERSION
from pipeline.splits import assign_folds
from pipeline.survey import SurveyConfig
from pipeline.version import software_versions
from pipeline.zeropoints import ZeropointFlag

VERSION_DIGITS = 12
PIPELINE_VERSION = 2
"""Raised whenever the same inputs give other thumbnails; part of every dataset id."""


@dataclass(frozen=True, slots=True)
class Build:
    """A planned build: what to do, and where it goes."""

    survey: SurveyConfig
    root: Path
    catalog: Catalog
    plan: Plan
    summary: PlanSummary
    input_hash: str

    @property
    def version(self) -> str:
        """Name of the dataset version."""
        return self.input_hash[:VERSION_DIGITS]

    @property
    def dataset_id(self) -> str:
        """Survey and version."""
        return f"{self.survey.name}-{self.version}"

    @property
    def building(self) -> Path:
        """Where the dataset grows."""
        return building_dir(self.root, self.survey.name, self.version)

    @property
    def target(self) -> Path:
        """Where it is once published."""
        return dataset_dir(self.root, self.survey.name, self.version)

    def published(self) -> Dataset | None:
        """The dataset, if an earlier run has published it.

        Raises
        ------
        DatasetError
            It is there, but not whole any more.
        """
        if not self.target.exists():
            return None
        dataset = open_dataset(self.target)
        if gone := [row.file for row in dataset.objects if not (self.target / row.file).is_file()]:
            raise DatasetError(
                f"{self.target} is published but damaged: {len(gone)} files are missing, first {gone[0]}; "
                "move it away and build again"
            )
        _point_latest(self)  # a power cut may have come between publishing and pointing
        return dataset


def open_archive(survey: SurveyConfig, root: Path, *, retry_missing: bool = False) -> Archive:
    """The survey's servers behind one cache below `root`; see `Archive` for `retry_missing`."""
    return Archive(survey.archives, cache_dir(root), limits=survey.cache, retry_missing=retry_missing)


def prepare(survey: SurveyConfig, root: Path, archive: Archive, *, refresh_index: bool = False) -> Build:
    """Read catalogue and exposure index and plan the cells; nothing is downloaded but these two.

    An index that an earlier call has kept below `root` is used as it is, unless `refresh_index`.

    Raises
    ------
    CatalogError, ExposureIndexError, ArchiveError
        The object list or the index cannot be had or used.
    DatasetError
        Not one object can be built.
    """
    table = archive.fetch_url(survey.catalog.source, f"{survey.name}-catalog", refresh=True, or_stale=True)
    catalog = read_catalog(table.path, survey.catalog, survey.selection.seasons)
    plan = make_plan(survey, catalog, build_index(survey, archive, root, refresh=refresh_index))
    if not plan.cells:
        reasons = Counter(skip.reason for skip in (*catalog.skips, *plan.skips))
        raise DatasetError(f"survey {survey.name}: no object has an exposure; left out: {dict(reasons)}")
    digest = hashlib.sha256(f"{PIPELINE_VERSION} {SCHEMA_VERSION} {catalog.sha256}\n".encode())
    fingerprint = content_fingerprint(survey, archive, refresh=True)
    hashes = {cell.cell_id: cell.input_hash(fingerprint) for cell in plan.cells}
    for input_hash in hashes.values():
        digest.update(input_hash.encode())
    version = digest.hexdigest()
    known = Known(archive.held(), _done_cells(survey, root, version, hashes), archive.rates())
    summary = summarise(survey, plan, known)
    return Build(survey=survey, root=root, catalog=catalog, plan=plan, summary=summary, input_hash=version)


def _done_cells(survey: SurveyConfig, root: Path, input_hash: str, hashes: Mapping[str, str]) -> set[str]:
    """Of cells, by id and input hash, those that an earlier run says to have built; a build checks their files too."""
    version = input_hash[:VERSION_DIGITS]
    if dataset_dir(root, survey.name, version).exists():
        return set(hashes)
    building = building_dir(root, survey.name, version)
    return {cell_id for cell_id, wanted in hashes.items() if claims_done(building, cell_id, wanted)}


def publish(build: Build, results: Sequence[CellResult], seconds: Mapping[str, float]) -> Dataset:
    """Write manifest, skips, frames, description and card, then make the dataset visible by one rename.

    Raises
    ------
    DatasetError
        A cell is missing from `results`, or no object has an image.
    """
    missing = {cell.cell_id for cell in build.plan.cells} - {result.cell_id for result in results}
    if missing:
        raise DatasetError(f"{build.dataset_id}: cells {sorted(missing)} are not built; nothing was published")
    rows = sorted((dict(row) for result in results for row in result.objects), key=lambda row: str(row["object_id"]))
    if not rows:
        raise DatasetError(f"{build.dataset_id}: not one image could be cut; see the reasons in {build.building}")
    for row, fold in zip(rows, _folds(rows, build), strict=True):
        row["fold"] = fold
    skips = _skips(build, results)
    frames = _unique_frames(results)
    folder = build.building
    write_table(folder / MANIFEST_FILE, rows, MANIFEST_SCHEMA)
    write_table(folder / SKIPS_FILE, (asdict(skip) for skip in skips), SKIPS_SCHEMA)
    write_table(folder / FRAMES_FILE, frames, FRAMES_SCHEMA)
    info = _describe(build, results, rows, skips, frames, seconds)
    write_info(folder, info)
    write_text(folder / CARD_FILE, dataset_card(info, rows, skips))
    return _make_visible(build)


def _make_visible(build: Build) -> Dataset:
    if build.target.exists():
        shutil.rmtree(build.building)
        return open_dataset(build.target)
    build.building.rename(build.target)
    sync_dir(build.target.parent)
    write_text(latest_pointer(build.root, build.survey.name), build.version + "\n")
    return open_dataset(build.target)


def _point_latest(build: Build) -> None:
    """Name this version the latest where nothing is named yet."""
    pointer = latest_pointer(build.root, build.survey.name)
    if not pointer.exists():
        write_text(pointer, build.version + "\n")


def _folds(rows: Sequence[Mapping[str, object]], build: Build) -> list[int]:
    targets = {target.object_id: target for target in build.catalog.targets}
    splits = build.survey.splits
    objects = [targets[str(row["object_id"])] for row in rows]
    radius = splits.duplicate_radius_arcsec
    folds = assign_folds(objects, folds=splits.folds, seed=splits.seed, duplicate_radius_arcsec=radius)
    return [int(fold) for fold in folds]


def _skips(build: Build, results: Iterable[CellResult]) -> list[Skip]:
    """Everything that was left out, at every step; a frame that two cells wanted counts once."""
    of_cells = [Skip(**skip) for result in results for skip in result.skips]
    once = {(skip.reason, skip.object_id, skip.frame): skip for skip in of_cells}
    return [*build.catalog.skips, *build.plan.skips, *once.values()]


_COUNTED: Final = ("n_thumbnails", "n_partly_covered")


def _unique_frames(results: Iterable[CellResult]) -> list[dict[str, object]]:
    """One row per frame: neighbouring cells may both have read it."""
    frames: dict[tuple[str, str], dict[str, object]] = {}
    for result in results:
        for row in result.frames:
            seen = frames.setdefault((row["archive"], row["path"]), {**row, **dict.fromkeys(_COUNTED, 0)})
            for count in _COUNTED:
                seen[count] += row[count]
    return [frames[key] for key in sorted(frames)]


def _describe(
    build: Build,
    results: Sequence[CellResult],
    rows: Sequence[Mapping[str, object]],
    skips: Sequence[Skip],
    frames: Sequence[Mapping[str, object]],
    seconds: Mapping[str, float],
) -> DatasetInfo:
    mean, std = _band_statistics(results)
    thumbnails = build.survey.thumbnails
    return DatasetInfo(
        dataset_id=build.dataset_id,
        survey=build.survey.model_dump(mode="json"),
        software=software_versions(),
        input_hash=build.input_hash,
        content_hash=content_hash((str(row["object_id"]), str(row["sha256"])) for row in rows),
        tables={name: file_sha256(build.building / name) for name in TABLES},
        counts={
            "objects": len(rows),
            "images": sum(int(str(row["n_images"])) for row in rows),
            "cells": len(results),
            "frames": len(frames),
            "frame_bytes": sum(int(str(row["bytes"])) for row in frames),
            "partly_covered": sum(int(str(row["n_partly_covered"])) for row in frames),
            **_zeropoint_counts(frames),
            "skips": len(skips),
        },
        seconds=dict(seconds),
        size=thumbnails.size,
        pixel_scale_arcsec=thumbnails.pixel_scale_arcsec,
        band_mean_nmgy=mean,
        band_std_nmgy=std,
    )


def _zeropoint_counts(frames: Sequence[Mapping[str, object]]) -> dict[str, int]:
    """Frames whose zero points were checked, corrected, and found beyond the limits."""
    flags = [int(str(row["zp_flags"])) for row in frames]
    names = ZeropointFlag.CHECKED, ZeropointFlag.CORRECTED, ZeropointFlag.BEYOND_LIMIT
    return {f"zeropoints_{flag.name}".lower(): sum(bool(found & flag) for found in flags) for flag in names}


def _band_statistics(results: Iterable[CellResult]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and standard deviation of all covered pixels per band [nMgy]."""
    total: dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]] = {}
    for result in results:
        for band, moments in result.band_moments.items():
            total[band] = total.get(band, np.zeros(3)) + np.array(moments)
    mean = {band: float(s / n) if n else 0.0 for band, (n, s, _) in total.items()}
    std = {band: float(np.sqrt(max(q / n - mean[band] ** 2, 0))) if n else 0.0 for band, (n, _, q) in total.items()}
    return mean, std


@contextmanager
def exclusive(build: Build) -> Iterator[None]:
    """Be the only process that builds this dataset, and sweep up what a killed one left half-written.

    Raises
    ------
    DatasetError
        Another process is building the same dataset.
    """
    build.building.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(build.building.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DatasetError(f"{build.dataset_id} is being built by another process; wait for it or stop it") from error
    try:
        for leftover in build.building.rglob(".*.part"):
            leftover.unlink(missing_ok=True)
        yield
    finally:
        lock.release()
