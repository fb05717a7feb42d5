"""Build one cell: fetch its frames, cut them one by one, and leave finished per-object files.

A cell is idempotent: its done-marker lists the sha256 of every file it read and wrote, and a rerun
redoes the cell only if its inputs or those files changed. Decoding runs in the executor it is given.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.archive import Archive
from pipeline.atomic import storing, write_text
from pipeline.catalog import Target
from pipeline.cellstars import StarCheck, detection_uses, star_check
from pipeline.cutting import FrameCut
from pipeline.errors import ArchiveError, CellTimeout, ConfigError
from pipeline.fetching import Outcome, Source, cut_frames, uses
from pipeline.inthreads import OutOfTime
from pipeline.manifest import Skip, file_sha256
from pipeline.naming import CELLS_FOLDER, LOCKS_FOLDER, sequence_path
from pipeline.objectrow import manifest_row, pixel_moments
from pipeline.plan import Cell
from pipeline.sequences import COLUMNS, Sequence, write_sequence
from pipeline.sources import came_since, changed_source, sources_of
from pipeline.standards import write_standards
from pipeline.starphot import Positions
from pipeline.survey import SurveyConfig
from pipeline.thumbnails import target_wcs_header
from pipeline.version import PIPELINE_VERSION
from pipeline.zeropoints import UNCHECKED, ZeropointFlag, apply_check

BAD_ZEROPOINT: Final = "bad-zeropoint"


@dataclass(frozen=True, slots=True)
class CellProgress:
    """Where a cell stands; given to the progress callback after every frame."""

    cell_id: str
    frames_done: int
    frames_total: int
    bytes_fetched: int
    thumbnails: int


class CellResult(BaseModel):
    """What a cell wrote; also the content of its done-marker."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    cell_id: str
    input_hash: str
    objects: tuple[dict[str, Any], ...]
    """Rows of the manifest, without the fold."""
    frames: tuple[dict[str, Any], ...]
    skips: tuple[dict[str, str], ...]
    standards_sha256: str | None = None
    """Of the cell's standard stars, where it has made any."""
    moments: dict[str, dict[str, tuple[float, float, float]]]
    """Per object and band: number of covered pixels, their sum [nMgy] and sum of squares."""


@dataclass(slots=True)
class _Harvest:
    """What accumulates while a cell's frames come in; touched by one thread only."""

    cuts: list[FrameCut] = field(default_factory=list)
    records: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    frames: list[dict[str, Any]] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    missing: dict[str, list[Skip]] = field(default_factory=dict)
    """Frames that could not be had, per archive."""
    done: int = 0
    bytes_fetched: int = 0
    thumbnails: int = 0


def build_cell(
    cell: Cell,
    survey: SurveyConfig,
    archive: Archive,
    executor: Executor,
    dataset: Path,
    *,
    workers: int,
    seconds: float = math.inf,
    progress: Callable[[CellProgress], None] | None = None,
) -> CellResult:
    """Fetch, cut and write one cell into the dataset directory `dataset`; do nothing if it is done already.

    Frames that the archive lacks or that stay corrupt after a second download become counted skips. Where the
    archive retries what was missing, a cell that lacks files which are there by now is not done. Of several
    processes that are given the same cell, one builds it and the others wait for it. After `seconds` it is given up,
    outages of servers included.

    Raises
    ------
    CellTimeout
        It is not done after `seconds`.
    ArchiveError
        A server did not answer after all retries, or too many frames of an archive are missing or spoilt;
        nothing of the cell is marked done.
    WorkerDied
        A process of `executor` ended while cutting.
    StorageError
        There is no room, or no right, to write.
    """
    with _alone(dataset, cell.cell_id):
        check = star_check(cell, survey, archive)
        total = len(cell.visits) * len(survey.thumbnails.bands)
        finished = read_marker(dataset, cell.cell_id)
        changed = why_not_done(finished, cell, check.standards_sha256, survey, archive)
        if finished is not None and changed is None and _files_are_whole(dataset, finished):
            if progress:
                progress(CellProgress(cell.cell_id, total, total, 0, sum(row["n_images"] for row in finished.objects)))
            return finished
        give_up_at = time.monotonic() + seconds
        try:
            return _build(cell, survey, archive, executor, dataset, check, workers, give_up_at, progress)
        except OutOfTime as error:
            raise CellTimeout(
                f"cell {cell.cell_id} was not done in {seconds / 3600:.3g} h; the log says what it waited for"
            ) from error


def _build(
    cell: Cell,
    survey: SurveyConfig,
    archive: Archive,
    executor: Executor,
    dataset: Path,
    check: StarCheck,
    workers: int,
    give_up_at: float,
    progress: Callable[[CellProgress], None] | None,
) -> CellResult:
    total = len(cell.visits) * len(survey.thumbnails.bands)
    harvest = _Harvest()
    with archive.needing(uses(cell, survey) + detection_uses(cell, survey)) as used:
        source = Source(survey, archive, executor, workers, used, give_up_at=give_up_at)
        stars = check.stars_to_measure(cell, source)
        for outcome in cut_frames(cell, source, stars):
            _collect(outcome, survey, harvest)
            if progress:
                progress(CellProgress(cell.cell_id, harvest.done, total, harvest.bytes_fetched, harvest.thumbnails))
    _check_archives(cell, survey, harvest, archive)
    standards_sha256 = _check_zeropoints(check, stars, survey, harvest, standards_file(dataset, cell.cell_id))
    input_hash = cell.input_hash(survey, check.standards_sha256)
    result = _write_objects(cell, survey, dataset, input_hash, harvest, standards_sha256)
    write_text(marker_file(dataset, cell.cell_id), result.model_dump_json() + "\n")
    return result


@contextmanager
def _alone(dataset: Path, cell_id: str) -> Iterator[None]:
    """Be the only one that builds this cell."""
    folder = dataset / LOCKS_FOLDER
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{cell_id}.lock")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def read_marker(dataset: Path, cell_id: str) -> CellResult | None:
    """The content of a cell's done-marker; None where there is none that can be read, or that speaks of other files."""
    try:
        result = CellResult.model_validate_json(marker_file(dataset, cell_id).read_bytes())
        in_place = all(row["file"] == sequence_path(row["object_id"]) for row in result.objects)
    except (OSError, ValidationError, ConfigError, KeyError, TypeError):
        return None
    return result if result.cell_id == cell_id and in_place else None


def cell_files(result: CellResult) -> dict[str, str | None]:
    """Paths of a finished cell's files in its dataset, with their sha256 where the marker says it."""
    files: dict[str, str | None] = {row["file"]: row["sha256"] for row in result.objects}
    if result.standards_sha256:
        files[f"{CELLS_FOLDER}/{result.cell_id}.stars.parquet"] = result.standards_sha256
    return files | {f"{CELLS_FOLDER}/{result.cell_id}.json": None}


def claims_done(dataset: Path, cell_id: str, input_hash: str) -> bool:
    """Whether there is a done-marker of these inputs; a build believes it only if its files are still the same."""
    marker = read_marker(dataset, cell_id)
    return marker is not None and marker.input_hash == input_hash


def why_not_done(
    result: CellResult | None, cell: Cell, standards_sha256: str, survey: SurveyConfig, archive: Archive
) -> str | None:
    """Why what a done-marker says is not what a cell would give now; None: it is. Its files are not looked at.

    Raises
    ------
    ArchiveError
        A server did not answer when it was asked for what it lacked before.
    """
    if result is None:
        return "new"
    if result.input_hash != cell.input_hash(survey, standards_sha256):
        return "objects, exposures or configuration changed"
    if source := changed_source(sources_of(result.frames, survey), archive):
        return f"{source.path} changed upstream"
    if frame := came_since(result.skips, cell, survey, archive):
        return f"frame {frame} was missing and is there now"
    return None


def marker_file(dataset: Path, cell_id: str) -> Path:
    """Where a cell's done-marker is."""
    return dataset / CELLS_FOLDER / f"{cell_id}.json"


def standards_file(dataset: Path, cell_id: str) -> Path:
    """Where the standard stars that a cell has made are."""
    return dataset / CELLS_FOLDER / f"{cell_id}.stars.parquet"


def _files_are_whole(dataset: Path, result: CellResult) -> bool:
    """Whether every file that a marker lists is still what it was."""
    for name, sha256 in cell_files(result).items():
        file = dataset / name
        if not file.is_file() or (sha256 is not None and file_sha256(file) != sha256):
            return False
    return True


def _check_archives(cell: Cell, survey: SurveyConfig, harvest: _Harvest, archive: Archive) -> None:
    """Tell a frame that is missing from an archive that is out of order, whose word is not remembered."""
    wanted = Counter(visit.exposure.archive for visit in cell.visits for _ in survey.thumbnails.bands)
    for name, missing in harvest.missing.items():
        if len(missing) > survey.selection.max_missing_fraction * wanted[name]:
            archive.forget_missing(name, (path for of, path in uses(cell, survey) if of == name))
            raise ArchiveError(
                f"cell {cell.cell_id}: {len(missing)} of {wanted[name]} frames of archive {name} could not be had, "
                f"first {missing[0].frame}: {missing[0].detail}; is the server healthy and base_urls right? "
                "If they are really missing, raise selection.max_missing_fraction"
            )


def _collect(outcome: Outcome, survey: SurveyConfig, harvest: _Harvest) -> None:
    """Take a frame's cut, and count its thumbnails that are covered well enough."""
    harvest.done += 1
    harvest.bytes_fetched += outcome.bytes_fetched
    harvest.skips.extend(outcome.skips)
    if outcome.cut is None:
        harvest.missing.setdefault(outcome.archive, []).extend(outcome.skips)
        return
    least = survey.selection.min_coverage
    harvest.thumbnails += sum(record["coverage"] >= least for record in outcome.cut.records.values())
    harvest.cuts.append(outcome.cut)


def _check_zeropoints(
    check: StarCheck, stars: Positions | None, survey: SurveyConfig, harvest: _Harvest, file: Path
) -> str | None:
    """Correct, flag or drop frames by their standard stars; turn the cuts into records of objects.

    Returns the sha256 of the file of standards, if any were made.
    """
    checks, standards = check.judge(harvest.cuts, stars)
    for cut in harvest.cuts:
        found = checks.get(cut.frame, UNCHECKED)
        row = cut.row | found.columns()
        if found.flags & ZeropointFlag.BEYOND_LIMIT and survey.calibration.beyond_limit == "drop":
            detail = f"off by {found.offset_mag:.3f} mag, its {found.stars} stars scatter by {found.scatter_mag:.3f}"
            harvest.skips.append(Skip(BAD_ZEROPOINT, detail, frame=str(cut.frame)))
            harvest.frames.append(row | {"n_thumbnails": 0, "n_partly_covered": 0})
            continue
        corrected = {object_id: apply_check(record, found) for object_id, record in cut.records.items()}
        harvest.frames.append(row | _keep(cut, corrected, survey, harvest))
    if standards is None:
        return None
    write_standards(file, standards)
    return file_sha256(file)


def _keep(cut: FrameCut, records: dict[str, dict[str, Any]], survey: SurveyConfig, harvest: _Harvest) -> dict[str, int]:
    """Take the thumbnails that are covered well enough, and name the others; how many were taken."""
    kept = partly = 0
    for object_id, record in records.items():
        if record["coverage"] < survey.selection.min_coverage:
            detail = f"{record['coverage']:.2f} of the thumbnail on the frame"
            harvest.skips.append(Skip("low-coverage", detail, object_id=object_id, frame=str(cut.frame)))
            continue
        harvest.records.setdefault(object_id, []).append(record)
        kept += 1
        partly += record["coverage"] < 1
    return {"n_thumbnails": kept, "n_partly_covered": partly}


def _write_objects(
    cell: Cell,
    survey: SurveyConfig,
    dataset: Path,
    input_hash: str,
    harvest: _Harvest,
    standards_sha256: str | None,
) -> CellResult:
    rows = []
    moments = {}
    for target in cell.targets:
        records = harvest.records.get(target.object_id)
        if not records:
            harvest.skips.append(Skip("no-image", "every frame that covers it was skipped", object_id=target.object_id))
            continue
        sequence = stack_records(target, records, survey)
        sha256 = write_sequence(dataset / sequence_path(target.object_id), sequence)
        rows.append(manifest_row(sequence, sha256, cell.cell_id))
        moments[target.object_id] = pixel_moments(sequence, survey.thumbnails.bands)
    return CellResult(
        cell_id=cell.cell_id,
        input_hash=input_hash,
        standards_sha256=standards_sha256,
        objects=tuple(rows),
        frames=tuple(sorted(harvest.frames, key=lambda row: row["path"])),
        skips=tuple(
            asdict(skip) for skip in sorted(harvest.skips, key=lambda skip: (skip.reason, skip.object_id, skip.frame))
        ),
        moments=moments,
    )


def stack_records(target: Target, records: list[dict[str, Any]], survey: SurveyConfig) -> Sequence:
    """Stack an object's records in time order."""
    ordered = sorted(records, key=lambda record: (record["mjd_tai"], record["band_id"], record["run"]))
    arrays = {
        name: np.array([record[name] for record in ordered], dtype=column.dtype) for name, column in COLUMNS.items()
    }
    size, scale = survey.thumbnails.size, survey.thumbnails.pixel_scale_arcsec
    return Sequence(
        object_id=target.object_id,
        survey=survey.name,
        ra_deg=target.ra_deg,
        dec_deg=target.dec_deg,
        class_name=target.class_name,
        confirmation=target.confirmation,
        pixel_scale_arcsec=scale,
        wcs_header=target_wcs_header(target.ra_deg, target.dec_deg, size=size, pixel_scale_arcsec=scale),
        pipeline_version=PIPELINE_VERSION,
        **arrays,
    )
