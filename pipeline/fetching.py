"""Fetch the frames of a cell and hand each to a decoding process, a bounded number at a time."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Final

from pipeline.archive import Archive, Fetched
from pipeline.bands import Band
from pipeline.catalog import Target
from pipeline.cutting import FrameCut, FrameJob, cut_frame
from pipeline.errors import BadPayload, FrameError, NotInArchive, WorkerDied
from pipeline.inthreads import in_threads
from pipeline.manifest import NO_MASK, Skip
from pipeline.naming import FrameId
from pipeline.plan import Cell, Exposure
from pipeline.sources import BAD_FRAME, BAD_PAYLOAD, NOT_IN_ARCHIVE, frame_files
from pipeline.starphot import Positions
from pipeline.survey import SurveyConfig

SERVER_ADDRESS: Final = re.compile(r"https?://[^/\s]+/")
"""Left out of recorded reasons: the same dataset from another mirror has the same bytes."""
IN_FLIGHT_PER_WORKER: Final = 3
"""Frames fetched ahead of each decoding worker: enough to never wait, few enough to bound memory."""

Used = Callable[[str, str], None]
"""Called with archive and path after each use of a file."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one frame: its cut, or the reason why there is none."""

    archive: str
    cut: FrameCut | None
    skips: tuple[Skip, ...]
    bytes_fetched: int


@dataclass(frozen=True, slots=True)
class Source:
    """Where frames come from and who decodes them."""

    survey: SurveyConfig
    archive: Archive
    executor: Executor
    workers: int
    used: Used
    spoilt: dict[FrameId, BadPayload] = field(default_factory=dict)
    """Frames for which the servers sent something else when stars were sought: they are not asked for again."""
    give_up_at: float = math.inf
    """Reading of the monotonic clock after which a cell is no longer waited for."""


def cut_frames(cell: Cell, source: Source, stars: Positions | None) -> Iterator[Outcome]:
    """Fetch and cut all frames of the cell, in whatever order they finish, and measure `stars` on the DR7 ones.

    Raises
    ------
    ArchiveError
        A server did not answer after all retries.
    OutOfTime
        The cell's time is up.
    WorkerDied
        A decoding process ended.
    """
    targets = {target.object_id: target for target in cell.targets}
    calls = (
        partial(_one_frame, visit.exposure, band, tuple(targets[one] for one in visit.object_ids), source, stars)
        for visit in cell.visits
        for band in source.survey.thumbnails.bands
    )
    return in_threads(calls, at_once=source.workers * IN_FLIGHT_PER_WORKER, until=source.give_up_at)


def uses(cell: Cell, survey: SurveyConfig) -> Counter[tuple[str, str]]:
    """How often `cut_frames` reads each file, by archive and path: a calibration table serves several frames."""
    return Counter(
        (visit.exposure.archive, path)
        for visit in cell.visits
        for band in survey.thumbnails.bands
        for path in frame_files(visit.exposure, band, survey)
    )


def fetch_frame(exposure: Exposure, band: Band, source: Source) -> tuple[FrameJob, tuple[Skip, ...], int]:
    """A job without targets, a note if the frame has no mask planes, and the bytes that came over the network.

    Raises
    ------
    NotInArchive, BadPayload
        The image or its calibration table cannot be had.
    ArchiveError
        A server did not answer after all retries.
    """
    survey, archive = source.survey, source.archive
    image_path, table_path, planes_path = frame_files(exposure, band, survey)
    image = archive.fetch(exposure.archive, image_path)
    table = archive.fetch(exposure.archive, table_path)
    files = [image, table]
    planes: Fetched | None = None
    notes: tuple[Skip, ...] = ()
    frame = exposure.frame(band)
    try:
        planes = archive.fetch(exposure.archive, planes_path)
        files.append(planes)
    except NotInArchive as error:
        detail = SERVER_ADDRESS.sub("", f"cut without mask planes: {error}")
        notes = (Skip(NO_MASK, detail, frame=str(frame)),)
    in_part = survey.archive(exposure.archive).partial_decoding
    job = FrameJob(
        exposure.archive, image_path, frame, image, table, planes, (), survey.thumbnails, partial_decoding=in_part
    )
    return job, notes, sum(file.n_bytes for file in files if not file.from_cache)


def _one_frame(
    exposure: Exposure, band: Band, targets: tuple[Target, ...], source: Source, stars: Positions | None
) -> Outcome:
    """Fetch and cut one frame, and let its files make room for others."""
    try:
        return _fetch_and_cut(exposure, band, targets, source, stars)
    finally:
        for path in frame_files(exposure, band, source.survey):
            source.used(exposure.archive, path)


def _fetch_and_cut(
    exposure: Exposure, band: Band, targets: tuple[Target, ...], source: Source, stars: Positions | None
) -> Outcome:
    """Fetch one frame with its sidecars and cut it; a corrupt file is thrown away and fetched once more."""
    frame = exposure.frame(band)
    if (known := source.spoilt.get(frame)) is not None:
        return _skipped(BAD_PAYLOAD, exposure, frame, known)
    for last_attempt in (False, True):
        try:
            job, notes, n_bytes = fetch_frame(exposure, band, source)
        except NotInArchive as error:
            return _skipped(NOT_IN_ARCHIVE, exposure, frame, error)
        except BadPayload as error:
            return _skipped(BAD_PAYLOAD, exposure, frame, error)
        job = replace(job, targets=targets, stars=stars if exposure.layout == "das-dr7" else None)
        try:
            return Outcome(exposure.archive, source.executor.submit(cut_frame, job).result(), notes, n_bytes)
        except BrokenExecutor as error:
            raise WorkerDied(f"a decoding process died while frame {frame} was cut: out of memory?") from error
        except FrameError as error:
            if last_attempt:
                return _skipped(BAD_FRAME, exposure, frame, error)
            _discard_named(error, job, frame_files(exposure, band, source.survey), source.archive)
    raise AssertionError("unreachable: the last attempt returns")


def _skipped(reason: str, exposure: Exposure, frame: FrameId, error: Exception) -> Outcome:
    skip = Skip(reason, SERVER_ADDRESS.sub("", str(error)), frame=str(frame))
    return Outcome(exposure.archive, None, (skip,), 0)


def _discard_named(error: FrameError, job: FrameJob, paths: tuple[str, ...], archive: Archive) -> None:
    """Throw away the cached file that the error names, if it is still the one that was read."""
    for path, file in zip(paths, (job.frame_file, job.calibration_file, job.mask_file), strict=True):
        if file is not None and PurePosixPath(path).name in str(error):
            archive.discard(job.archive, path, file.sha256)
