"""The archive files that a cell was made of: which they were, and whether they are still what they were."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from pipeline.archive import Archive
from pipeline.bands import Band
from pipeline.errors import BadPayload, NotInArchive
from pipeline.ledger import Key
from pipeline.naming import FrameId, calibration_path, frame_path, mask_path
from pipeline.plan import Cell, Exposure
from pipeline.survey import SurveyConfig

NOT_IN_ARCHIVE: Final = "not-in-archive"
NO_MASK: Final = "no-mask"
"""Reasons of skips that a later run may find gone."""


@dataclass(frozen=True, slots=True, order=True)
class SourceFile:
    """One file of an archive, as it was when it was read."""

    archive: str
    path: str
    sha256: str


def sources_of(frames: Iterable[Mapping[str, Any]], survey: SurveyConfig) -> Iterator[SourceFile]:
    """Image, calibration table and, where there was one, mask planes behind each row of frames.parquet."""
    for row in frames:
        config = survey.archive(row["archive"])
        frame = FrameId(config.layout, *(row[key] for key in ("run", "rerun", "camcol", "field", "band")))
        yield SourceFile(row["archive"], row["path"], row["sha256"])
        yield SourceFile(row["archive"], calibration_path(frame, sas_root=config.sas_root), row["calibration_sha256"])
        if row["mask_sha256"]:
            yield SourceFile(row["archive"], mask_path(frame, sas_root=config.sas_root), row["mask_sha256"])


def sources_sha256(sources: Iterable[SourceFile]) -> str:
    """sha256 over all of them, each once, in the order of their names."""
    digest = hashlib.sha256()
    for source in sorted(set(sources)):
        digest.update(f"{source.archive} {source.path} {source.sha256}\n".encode())
    return digest.hexdigest()


def changed_source(sources: Iterable[SourceFile], archive: Archive) -> SourceFile | None:
    """The first that was fetched since with another content; what the ledger does not know is taken to be the same."""
    for source in sources:
        origin = archive.ledger.origin(Key(source.archive, source.path))
        if origin is not None and origin.sha256 != source.sha256:
            return source
    return None


def lacks_files(skips: Iterable[Mapping[str, str]]) -> int:
    """How many frames or masks were left out because their archive said not to have them."""
    return sum(skip["reason"] in (NOT_IN_ARCHIVE, NO_MASK) for skip in skips)


def came_since(skips: Iterable[Mapping[str, str]], cell: Cell, survey: SurveyConfig, archive: Archive) -> str | None:
    """The first frame of a cell that lacked a file which its archive now gives; None: all are still missing.

    An archive that does not retry what is missing answers from memory. What comes is kept in the cache.

    Raises
    ------
    ArchiveError
        A server did not answer after all retries.
    """
    wanted = {skip["frame"]: skip["reason"] for skip in skips if skip["reason"] in (NOT_IN_ARCHIVE, NO_MASK)}
    if not wanted:
        return None
    for exposure, band in _frames_of(cell, survey):
        frame = exposure.frame(band)
        if (reason := wanted.get(str(frame))) is None:
            continue
        image, table, planes = frame_files(exposure, band, survey)
        with suppress(NotInArchive, BadPayload):  # still not there
            for path in (planes,) if reason == NO_MASK else (image, table):
                archive.fetch(exposure.archive, path)
            return str(frame)
    return None


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
