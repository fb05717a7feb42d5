"""Build one cell: fetch its frames, cut them one by one, and leave finished per-object files.

A cell is idempotent: its done-marker lists the sha256 of every file it read and wrote, and a rerun
redoes the cell only if its inputs or those files changed, and of these only what did. Decoding runs in the executor it
is given.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from pipeline.archive import Archive
from pipeline.atomic import storing, write_text
from pipeline.catalog import Target
from pipeline.cellrecord import (
    CellResult,
    files_are_whole,
    marker_file,
    read_marker,
    standards_file,
    why_not_done,
)
from pipeline.cellstars import StarCheck, detection_uses, star_check
from pipeline.cutting import FrameCut
from pipeline.earlier import EarlierCell
from pipeline.errors import ArchiveError, CellTimeout
from pipeline.fetching import Outcome, Source, cut_frames, uses
from pipeline.finished import FinishedFrame, finish
from pipeline.inthreads import OutOfTime
from pipeline.kept import keepable, read_kept, stand_ins
from pipeline.manifest import Skip
from pipeline.naming import LOCKS_FOLDER, sequence_path
from pipeline.objectrow import manifest_row, pixel_moments
from pipeline.pixelcheck import PixelCheck
from pipeline.plan import Cell
from pipeline.sequences import COLUMNS, Sequence, write_sequence
from pipeline.standards import write_standards
from pipeline.starphot import Positions
from pipeline.sums import file_sha256
from pipeline.survey import SurveyConfig
from pipeline.thumbnails import target_wcs_header
from pipeline.version import PIPELINE_VERSION
from pipeline.zeropoints import UNCHECKED


@dataclass(frozen=True, slots=True)
class CellProgress:
    """Where a cell stands; given to the progress callback after every frame."""

    cell_id: str
    frames_done: int
    frames_total: int
    bytes_fetched: int
    thumbnails: int


@dataclass(slots=True)
class _Harvest:
    """What accumulates while a cell's frames come in; touched by one thread only."""

    done: int
    thumbnails: int
    cuts: list[FrameCut] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    missing: dict[str, list[Skip]] = field(default_factory=dict)
    """Frames that could not be had, per archive."""
    bytes_fetched: int = 0


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

    Frames that the archive lacks or that stay corrupt after a second download become counted skips; where an earlier
    build of the cell had them, their images stay as they were. Where the
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
        if finished is not None and changed is None and files_are_whole(dataset, finished):
            if progress:
                progress(CellProgress(cell.cell_id, total, total, 0, sum(row["n_images"] for row in finished.objects)))
            return finished
        give_up_at = time.monotonic() + seconds
        try:
            earlier = EarlierCell(finished, dataset) if finished else None
            return _build(cell, survey, archive, executor, dataset, check, earlier, workers, give_up_at, progress)
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
    earlier: EarlierCell | None,
    workers: int,
    give_up_at: float,
    progress: Callable[[CellProgress], None] | None,
) -> CellResult:
    total = len(cell.visits) * len(survey.thumbnails.bands)
    recipe = cell.recipe(survey, check.standards_sha256)
    kept = read_kept(earlier, cell, keepable(earlier, cell, recipe, survey, archive)) if earlier else {}
    finished = [frame for frames in kept.values() for frame in frames]
    harvest = _Harvest(done=len(finished), thumbnails=sum(len(frame.records) for frame in finished))
    rest = cell.without(kept)
    with archive.needing(uses(rest, survey) + detection_uses(rest, survey)) as used:
        source = Source(survey, archive, executor, workers, used, give_up_at=give_up_at)
        stars = check.stars_to_measure(rest, source)
        for outcome in cut_frames(rest, source, stars):
            _collect(outcome, survey, harvest)
            if progress:
                progress(CellProgress(cell.cell_id, harvest.done, total, harvest.bytes_fetched, harvest.thumbnails))
    _check_archives(cell, survey, harvest, archive)
    rows = {str(cut.frame): cut.row for cut in harvest.cuts}
    instead = stand_ins(earlier, rest, recipe, harvest.skips, rows) if earlier else {}
    cuts = [cut for cut in harvest.cuts if str(cut.frame) not in instead]
    skips = [skip for skip in harvest.skips if skip.frame not in instead]
    judged, standards_sha256 = _judge(check, stars, survey, cuts, standards_file(dataset, cell.cell_id))
    result = CellResult(
        cell_id=cell.cell_id,
        input_hash=cell.input_hash(survey, check.standards_sha256),
        recipe=recipe,
        standards_sha256=standards_sha256,
        **_write_objects(cell, survey, dataset, [*finished, *instead.values(), *judged], skips),
    )
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


def _judge(
    check: StarCheck, stars: Positions | None, survey: SurveyConfig, cuts: list[FrameCut], file: Path
) -> tuple[list[FinishedFrame], str | None]:
    """Hold frames against their standard stars; with the sha256 of the file of standards, if any were made of them."""
    checks, standards = check.judge(cuts, stars)
    frames = [finish(cut, checks.get(cut.frame, UNCHECKED), survey) for cut in cuts]
    if standards is None:
        return frames, None
    write_standards(file, standards)
    return frames, file_sha256(file)


def _write_objects(
    cell: Cell, survey: SurveyConfig, dataset: Path, frames: list[FinishedFrame], skips: Iterable[Skip]
) -> dict[str, Any]:
    """Write the file of every object that has an image; what the cell's record says of objects and frames."""
    images: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for frame in frames:
        for object_id, record in frame.records.items():
            images[object_id].append(record)
    rows, moments, left_out = [], {}, [*skips, *(skip for frame in frames for skip in frame.skips)]
    pixels = PixelCheck()
    for target in cell.targets:
        if target.object_id not in images:
            left_out.append(Skip("no-image", "every frame that covers it was skipped", object_id=target.object_id))
            continue
        sequence = stack_records(target, images[target.object_id], survey)
        sha256 = write_sequence(dataset / sequence_path(target.object_id), sequence)
        rows.append(manifest_row(sequence, sha256, cell.cell_id))
        pixels.add(sequence)
        moments[target.object_id] = pixel_moments(sequence, survey.thumbnails.bands)
    return {
        "objects": tuple(rows),
        "frames": tuple(
            sorted((frame.row | pixels.columns(frame.row["sha256"]) for frame in frames), key=lambda row: row["path"])
        ),
        "skips": tuple(
            asdict(skip) for skip in sorted(left_out, key=lambda skip: (skip.reason, skip.object_id, skip.frame))
        ),
        "moments": moments,
    }


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
