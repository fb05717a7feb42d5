"""Build one cell: fetch its frames, cut them one by one, and leave finished per-object files.

A cell is idempotent: its done-marker lists the sha256 of every file it wrote, and a rerun redoes
the cell only if its inputs or those files changed. Decoding runs in the executor it is given.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.archive import Archive, Fetched
from pipeline.atomic import write_text
from pipeline.bands import BAND_ID, Band
from pipeline.catalog import Target
from pipeline.cutting import FrameCut, FrameJob, cut_frame
from pipeline.errors import ArchiveError, BadPayload, FrameError, NotInArchive, WorkerDied
from pipeline.manifest import Skip, file_sha256
from pipeline.naming import CELLS_FOLDER, FrameId, calibration_path, frame_path, mask_path, sequence_path
from pipeline.plan import Cell, Exposure
from pipeline.sequences import COLUMNS, Sequence, write_sequence
from pipeline.survey import SurveyConfig
from pipeline.thumbnails import target_wcs_header
from pipeline.version import software_version

SERVER_ADDRESS = re.compile(r"https?://[^/\s]+/")
"""Left out of recorded reasons: the same dataset from another mirror has the same bytes."""
NOT_IN_ARCHIVE = "not-in-archive"
NO_MASK = "no-mask"
"""Reasons of skips that a later run may find gone."""
IN_FLIGHT_PER_WORKER = 3
"""Frames fetched ahead of each decoding worker: enough to never wait, few enough to bound memory."""


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

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell_id: str
    input_hash: str
    objects: tuple[dict[str, Any], ...]
    """Rows of the manifest, without the fold."""
    frames: tuple[dict[str, Any], ...]
    skips: tuple[dict[str, str], ...]
    band_moments: dict[str, tuple[float, float, float]]
    """Per band: number of covered pixels, their sum [nMgy] and sum of squares."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of one frame: its cut, or the reason why there is none."""

    archive: str
    cut: FrameCut | None
    skips: tuple[Skip, ...]
    bytes_fetched: int


@dataclass(slots=True)
class _Harvest:
    """What accumulates while a cell's frames come in; touched by one thread only."""

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
    dataset_id: str,
    workers: int,
    retry_missing: bool = False,
    progress: Callable[[CellProgress], None] | None = None,
) -> CellResult:
    """Fetch, cut and write one cell into the dataset directory `dataset`; do nothing if it is done already.

    With `retry_missing`, a cell that lacks files which its archive did not have counts as not done. Frames that the
    archive lacks or that stay corrupt after a second download become counted skips.

    Raises
    ------
    ArchiveError
        A server did not answer after all retries, or too many frames of an archive are missing or spoilt;
        nothing of the cell is marked done.
    WorkerDied
        A process of `executor` ended while cutting.
    """
    input_hash = cell.input_hash(survey.fingerprint())
    total = len(cell.visits) * len(survey.thumbnails.bands)
    finished = _finished(dataset, cell.cell_id, input_hash)
    if finished is not None and not (retry_missing and lacks_files(finished.skips)):
        if progress:
            progress(CellProgress(cell.cell_id, total, total, 0, sum(row["n_images"] for row in finished.objects)))
        return finished
    harvest = _Harvest()
    for outcome in _outcomes(cell, survey, archive, executor, workers):
        _collect(outcome, survey, harvest)
        if progress:
            progress(CellProgress(cell.cell_id, harvest.done, total, harvest.bytes_fetched, harvest.thumbnails))
    _check_archives(cell, survey, harvest, archive)
    result = _write_objects(cell, survey, dataset, dataset_id, input_hash, harvest)
    write_text(_marker(dataset, cell.cell_id), result.model_dump_json() + "\n")
    return result


def lacks_files(skips: Iterable[Mapping[str, str]]) -> int:
    """How many frames or masks were left out because their archive said not to have them."""
    return sum(skip["reason"] in (NOT_IN_ARCHIVE, NO_MASK) for skip in skips)


def claims_done(dataset: Path, cell_id: str, input_hash: str) -> bool:
    """Whether there is a done-marker of these inputs; a build believes it only if its files are still the same."""
    return _claim(dataset, cell_id, input_hash) is not None


def _marker(dataset: Path, cell_id: str) -> Path:
    return dataset / CELLS_FOLDER / f"{cell_id}.json"


def _claim(dataset: Path, cell_id: str, input_hash: str) -> CellResult | None:
    """The content of a cell's done-marker, if it is one of these inputs."""
    try:
        result = CellResult.model_validate_json(_marker(dataset, cell_id).read_bytes())
    except (OSError, ValidationError):
        return None
    return result if result.input_hash == input_hash else None


def _finished(dataset: Path, cell_id: str, input_hash: str) -> CellResult | None:
    """The marker's content if it is of these inputs and every file it lists is still what it was."""
    result = _claim(dataset, cell_id, input_hash)
    if result is None:
        return None
    for row in result.objects:
        file = dataset / row["file"]
        if not file.is_file() or file_sha256(file) != row["sha256"]:
            return None
    return result


def _outcomes(
    cell: Cell, survey: SurveyConfig, archive: Archive, executor: Executor, workers: int
) -> Iterator[_Outcome]:
    """Fetch and cut all frames of the cell, a bounded number at a time, in whatever order they finish."""
    targets = {target.object_id: target for target in cell.targets}
    tasks = iter(
        (visit.exposure, band, tuple(targets[object_id] for object_id in visit.object_ids))
        for visit in cell.visits
        for band in survey.thumbnails.bands
    )
    room = workers * IN_FLIGHT_PER_WORKER
    with (
        archive.needing(_uses(cell, survey)) as used,
        ThreadPoolExecutor(max_workers=room, thread_name_prefix="frame") as threads,
    ):
        pending: set[Future[_Outcome]] = set()
        try:
            while True:
                for task in islice(tasks, room - len(pending)):
                    work = partial(_one_frame, *task, survey, archive, executor, used)
                    # In the caller's context: what a thread logs belongs to the caller's run.
                    pending.add(threads.submit(copy_context().run, work))
                if not pending:
                    return
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            for future in pending:
                future.cancel()


def _uses(cell: Cell, survey: SurveyConfig) -> Counter[tuple[str, str]]:
    """How often the cell reads each file: a calibration table serves several frames."""
    return Counter(
        (visit.exposure.archive, path)
        for visit in cell.visits
        for band in survey.thumbnails.bands
        for path in _paths(visit.exposure, visit.exposure.frame(band), survey)
    )


def _one_frame(
    exposure: Exposure,
    band: Band,
    targets: tuple[Target, ...],
    survey: SurveyConfig,
    archive: Archive,
    executor: Executor,
    used: Callable[[str, str], None],
) -> _Outcome:
    """Fetch and cut one frame, and let its files make room for others."""
    frame = exposure.frame(band)
    try:
        return _fetch_and_cut(exposure, frame, targets, survey, archive, executor)
    finally:
        for path in _paths(exposure, frame, survey):
            used(exposure.archive, path)


def _fetch_and_cut(
    exposure: Exposure,
    frame: FrameId,
    targets: tuple[Target, ...],
    survey: SurveyConfig,
    archive: Archive,
    executor: Executor,
) -> _Outcome:
    """Fetch one frame with its sidecars and cut it; a corrupt file is thrown away and fetched once more."""
    for last_attempt in (False, True):
        try:
            job, notes, n_bytes = _fetch(exposure, frame, targets, survey, archive)
        except NotInArchive as error:
            return _skipped(NOT_IN_ARCHIVE, exposure, frame, error)
        except BadPayload as error:
            return _skipped("bad-payload", exposure, frame, error)
        try:
            return _Outcome(exposure.archive, executor.submit(cut_frame, job).result(), notes, n_bytes)
        except BrokenExecutor as error:
            raise WorkerDied(f"a decoding process died while frame {frame} was cut: out of memory?") from error
        except FrameError as error:
            if last_attempt:
                return _skipped("bad-frame", exposure, frame, error)
            _discard_named(error, job, _paths(exposure, frame, survey), archive)
    raise AssertionError("unreachable: the last attempt returns")


def _skipped(reason: str, exposure: Exposure, frame: FrameId, error: Exception) -> _Outcome:
    skip = Skip(reason, SERVER_ADDRESS.sub("", str(error)), frame=str(frame))
    return _Outcome(exposure.archive, None, (skip,), 0)


def _discard_named(error: FrameError, job: FrameJob, paths: tuple[str, ...], archive: Archive) -> None:
    """Throw away the cached file that the error names, if it is still the one that was read."""
    for path, file in zip(paths, (job.frame_file, job.calibration_file, job.mask_file), strict=True):
        if file is not None and PurePosixPath(path).name in str(error):
            archive.discard(job.archive, path, file.sha256)


def _check_archives(cell: Cell, survey: SurveyConfig, harvest: _Harvest, archive: Archive) -> None:
    """Tell a frame that is missing from an archive that is out of order, whose word is not remembered."""
    wanted = Counter(visit.exposure.archive for visit in cell.visits for _ in survey.thumbnails.bands)
    for name, missing in harvest.missing.items():
        if len(missing) > survey.selection.max_missing_fraction * wanted[name]:
            archive.forget_missing(name, (path for of, path in _uses(cell, survey) if of == name))
            raise ArchiveError(
                f"cell {cell.cell_id}: {len(missing)} of {wanted[name]} frames of archive {name} could not be had, "
                f"first {missing[0].frame}: {missing[0].detail}; is the server healthy and base_urls right? "
                "If they are really missing, raise selection.max_missing_fraction"
            )


def _paths(exposure: Exposure, frame: FrameId, survey: SurveyConfig) -> tuple[str, str, str]:
    """Image, calibration table and mask planes of a frame, below the archive's base URL."""
    sas_root = survey.archive(exposure.archive).sas_root
    return (
        frame_path(frame, sas_root=sas_root),
        calibration_path(frame, sas_root=sas_root),
        mask_path(frame, sas_root=sas_root),
    )


def _fetch(
    exposure: Exposure, frame: FrameId, targets: tuple[Target, ...], survey: SurveyConfig, archive: Archive
) -> tuple[FrameJob, tuple[Skip, ...], int]:
    """The frame's three files, a note if it has no mask planes, and the bytes that came over the network."""
    image_path, table_path, planes_path = _paths(exposure, frame, survey)
    image = archive.fetch(exposure.archive, image_path)
    table = archive.fetch(exposure.archive, table_path)
    files = [image, table]
    planes: Fetched | None = None
    notes: tuple[Skip, ...] = ()
    try:
        planes = archive.fetch(exposure.archive, planes_path)
        files.append(planes)
    except NotInArchive as error:
        detail = SERVER_ADDRESS.sub("", f"cut without mask planes: {error}")
        notes = (Skip(NO_MASK, detail, frame=str(frame)),)
    job = FrameJob(exposure.archive, image_path, frame, image, table, planes, targets, survey.thumbnails)
    return job, notes, sum(file.n_bytes for file in files if not file.from_cache)


def _collect(outcome: _Outcome, survey: SurveyConfig, harvest: _Harvest) -> None:
    """Take the thumbnails that are covered well enough; count the others."""
    harvest.done += 1
    harvest.bytes_fetched += outcome.bytes_fetched
    harvest.skips.extend(outcome.skips)
    if outcome.cut is None:
        harvest.missing.setdefault(outcome.archive, []).extend(outcome.skips)
        return
    kept = 0
    for object_id, record in outcome.cut.records.items():
        if record["coverage"] < survey.selection.min_coverage:
            detail = f"{record['coverage']:.2f} of the thumbnail on the frame"
            harvest.skips.append(Skip("low-coverage", detail, object_id=object_id, frame=str(outcome.cut.frame)))
            continue
        harvest.records.setdefault(object_id, []).append(record)
        kept += 1
    harvest.thumbnails += kept
    harvest.frames.append(outcome.cut.row | {"n_thumbnails": kept})


def _write_objects(
    cell: Cell, survey: SurveyConfig, dataset: Path, dataset_id: str, input_hash: str, harvest: _Harvest
) -> CellResult:
    rows = []
    moments = {band: np.zeros(3) for band in survey.thumbnails.bands}
    for target in cell.targets:
        records = harvest.records.get(target.object_id)
        if not records:
            harvest.skips.append(Skip("no-image", "every frame that covers it was skipped", object_id=target.object_id))
            continue
        sequence = _sequence(target, records, survey, dataset_id)
        file = sequence_path(target.object_id)
        write_sequence(dataset / file, sequence)
        rows.append(_manifest_row(target, sequence, file, dataset / file, cell.cell_id))
        for band, moment in moments.items():
            pixels = sequence.image[sequence.band_id == BAND_ID[band]].astype(np.float64)
            pixels = pixels[np.isfinite(pixels)]
            moment += (pixels.size, pixels.sum(), np.square(pixels).sum())
    return CellResult(
        cell_id=cell.cell_id,
        input_hash=input_hash,
        objects=tuple(rows),
        frames=tuple(sorted(harvest.frames, key=lambda row: row["path"])),
        skips=tuple(
            asdict(skip) for skip in sorted(harvest.skips, key=lambda skip: (skip.reason, skip.object_id, skip.frame))
        ),
        band_moments={band: (float(n), float(s), float(q)) for band, (n, s, q) in moments.items()},
    )


def _sequence(target: Target, records: list[dict[str, Any]], survey: SurveyConfig, dataset_id: str) -> Sequence:
    """Stack an object's records in time order."""
    ordered = sorted(records, key=lambda record: (record["mjd_tai"], record["band_id"], record["run"]))
    arrays = {
        name: np.array([record[name] for record in ordered], dtype=column.dtype) for name, column in COLUMNS.items()
    }
    size, scale = survey.thumbnails.size, survey.thumbnails.pixel_scale_arcsec
    return Sequence(
        object_id=target.object_id,
        survey=survey.name,
        dataset_id=dataset_id,
        ra_deg=target.ra_deg,
        dec_deg=target.dec_deg,
        class_name=target.class_name,
        confirmation=target.confirmation,
        pixel_scale_arcsec=scale,
        wcs_header=target_wcs_header(target.ra_deg, target.dec_deg, size=size, pixel_scale_arcsec=scale),
        software_version=software_version(),
        **arrays,
    )


def _manifest_row(target: Target, sequence: Sequence, file: str, path: Path, cell_id: str) -> dict[str, Any]:
    counts = {f"n_{band}": int((sequence.band_id == number).sum()) for band, number in BAND_ID.items()}
    return {
        "object_id": target.object_id,
        "class_name": target.class_name,
        "confirmation": target.confirmation,
        "ra_deg": target.ra_deg,
        "dec_deg": target.dec_deg,
        "file": file,
        "sha256": file_sha256(path),
        "n_images": len(sequence),
        "mjd_first": float(sequence.mjd_tai[0]),
        "mjd_last": float(sequence.mjd_tai[-1]),
        "cell": cell_id,
        **counts,
    }
