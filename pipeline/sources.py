"""The archive files that a cell was made of: which they were, and whether they are still what they were."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pipeline.archive import Archive
from pipeline.bands import Band
from pipeline.errors import BadPayload, ChangedUpstream, NotInArchive
from pipeline.ledger import Key
from pipeline.manifest import NO_MASK, VANISHED
from pipeline.naming import FrameId, calibration_path, frame_path, mask_path
from pipeline.plan import Cell, Exposure
from pipeline.survey import SurveyConfig

NOT_IN_ARCHIVE: Final = "not-in-archive"
BAD_PAYLOAD: Final = "bad-payload"
BAD_FRAME: Final = "bad-frame"
BAD_ZEROPOINT: Final = "bad-zeropoint"
LOW_COVERAGE: Final = "low-coverage"
_MAY_COME: Final = (NOT_IN_ARCHIVE, NO_MASK, BAD_PAYLOAD, BAD_FRAME, VANISHED)
"""Reasons of skips that a later run may find gone."""


@dataclass(frozen=True, slots=True, order=True)
class SourceFile:
    """One file of an archive, as it was when it was read."""

    archive: str
    path: str
    sha256: str


def frame_of(row: Mapping[str, Any], survey: SurveyConfig) -> FrameId:
    """The frame that a row of frames.parquet is about."""
    layout = survey.archive(row["archive"]).layout
    return FrameId(layout, *(row[key] for key in ("run", "rerun", "camcol", "field", "band")))


def sources_of(frames: Iterable[Mapping[str, Any]], survey: SurveyConfig) -> Iterator[SourceFile]:
    """Image, calibration table and, where there was one, mask planes behind each row of frames.parquet."""
    for row in frames:
        config, frame = survey.archive(row["archive"]), frame_of(row, survey)
        yield SourceFile(row["archive"], row["path"], row["sha256"])
        if row.get("calibration_sha256"):  # before schema version 3 nothing was said of it
            yield SourceFile(
                row["archive"], calibration_path(frame, sas_root=config.sas_root), row["calibration_sha256"]
            )
        if row.get("mask_sha256"):
            yield SourceFile(row["archive"], mask_path(frame, sas_root=config.sas_root), row["mask_sha256"])


def sources_sha256(sources: Iterable[SourceFile]) -> str:
    """sha256 over all of them, each once, in the order of their names."""
    digest = hashlib.sha256()
    for source in sorted(set(sources)):
        digest.update(f"{source.archive} {source.path} {source.sha256}\n".encode())
    return digest.hexdigest()


def changed_sources(sources: Iterable[SourceFile], archive: Archive) -> set[SourceFile]:
    """Those that were fetched since with another content; what the ledger does not know is taken to be the same."""
    of_archive: dict[str, set[SourceFile]] = defaultdict(set)
    for source in sources:
        of_archive[source.archive].add(source)
    changed = set()
    for name, files in of_archive.items():
        known = archive.ledger.sha256_of(name, sorted(file.path for file in files))
        changed |= {file for file in files if known.get(file.path, file.sha256) != file.sha256}
    return changed


def came_since(skips: Iterable[Mapping[str, str]], cell: Cell, survey: SurveyConfig, archive: Archive) -> str | None:
    """The first frame of a cell that was left out, or cut without mask, for a file that is there now; None: none is.

    Only an archive that retries what was missing asks its servers. What comes is kept in the cache.

    Raises
    ------
    ArchiveError
        A server did not answer after all retries.
    """
    if not archive.retry_missing:
        return None
    wanted = {skip["frame"]: skip["reason"] for skip in skips if skip["reason"] in _MAY_COME}
    for exposure, band in _frames_of(cell, survey) if wanted else ():
        frame = exposure.frame(band)
        if (reason := wanted.get(str(frame))) is None:
            continue
        image, table, planes = frame_files(exposure, band, survey)
        by_reason = {NO_MASK: (planes,), BAD_FRAME: (image, table, planes), VANISHED: (image, table, planes)}
        paths = by_reason.get(reason, (image, table))
        if _is_there_now(exposure.archive, paths, archive, only_if_changed=reason == BAD_FRAME):
            return str(frame)
    return None


def _is_there_now(archive_name: str, paths: Iterable[str], archive: Archive, *, only_if_changed: bool) -> bool:
    """Whether all files can be had; or, where they could be but were bad, whether any is another one now."""
    changed = False
    for path in paths:
        before = archive.ledger.origin(Key(archive_name, path))
        try:
            sha256 = archive.recheck(archive_name, path)
        except (NotInArchive, BadPayload, ChangedUpstream):
            if not only_if_changed:
                return False
        else:
            changed |= before is None or before.sha256 != sha256
    return changed or not only_if_changed


def frame_files(exposure: Exposure, band: Band, survey: SurveyConfig) -> tuple[str, str, str]:
    """Image, calibration table and mask planes of a frame, below the archive's base URL."""
    frame, sas_root = exposure.frame(band), survey.archive(exposure.archive).sas_root
    return (
        frame_path(frame, sas_root=sas_root),
        calibration_path(frame, sas_root=sas_root),
        mask_path(frame, sas_root=sas_root),
    )


def _frames_of(cell: Cell, survey: SurveyConfig) -> Iterator[tuple[Exposure, Band]]:
    return ((visit.exposure, band) for visit in cell.visits for band in survey.thumbnails.bands)
