"""The exposure index of a survey: read from its sources once, kept, and renewed part by part."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pipeline.archive import Archive
from pipeline.errors import ArchiveError, ExposureIndexError
from pipeline.exposures import ExposureIndex, concatenate
from pipeline.indexing.cas import read_cas
from pipeline.indexing.fits_tables import read_photofields, read_tsfields
from pipeline.indexing.local import servers_of
from pipeline.indexing.pace import Pace
from pipeline.indexing.parts import Part, Reading
from pipeline.indexing.skyserver import read_skyserver
from pipeline.indexing.store import FORMAT_VERSION, read_parts, write_parts
from pipeline.indexing.table_file import read_table_file
from pipeline.indexing.window_flist import read_window_flist
from pipeline.naming import index_path
from pipeline.survey import (
    CasIndex,
    FileIndex,
    IndexConfig,
    PhotoFieldIndex,
    SkyServerIndex,
    SurveyConfig,
    TsFieldIndex,
    WindowFlistIndex,
)


def build_index(survey: SurveyConfig, archive: Archive, root: Path, *, refresh: bool = False) -> ExposureIndex:
    """The index of all sources of a survey, kept below `root`.

    A stored index is used without asking a server, as long as the survey's servers are those that it came from.
    With `refresh`, and where a server is another one, the servers are asked what has changed, and only that is
    read: runs whose counts differ, files that are not what they were. Files on this machine are compared always.
    A stored index that is damaged, or of other sources, is built anew. What was read before a failure is kept, and
    the next call goes on from there.

    Raises
    ------
    ExposureIndexError
        A source does not answer, or its answer is not what it must be, or there is no exposure at all.
    """
    fingerprint = index_fingerprint(survey)
    place = index_path(root, survey.name, fingerprint)
    stored, is_complete = _read_stored(place, fingerprint)
    pace = Pace()
    parts: list[Part] = []
    for section, source in enumerate(survey.index):
        known = [part for part in stored if part.provenance.section == section]
        if is_complete and not refresh and _is_current(source, known, survey):
            parts += known
            continue
        by_key = {part.provenance.key: part for part in known}
        reading = Reading(section, source.kind, survey.archive(source.archive), archive, by_key, pace)
        try:
            parts += _read(source, reading)
        except BaseException:
            if not is_complete:
                _keep_unfinished(place, [*stored, *parts, *reading.made], fingerprint)
            raise
    if not sum(len(part.rows) for part in parts):
        raise ExposureIndexError(f"survey {survey.name}: the exposure index is empty; check its [[index]] sources")
    if refresh or not is_complete or _has_changed(parts, stored):
        _store(place, parts, fingerprint)
    return concatenate([part.rows for part in parts])


def _read_stored(place: Path, fingerprint: str) -> tuple[list[Part], bool]:
    """The stored parts, and whether they are all; none where the file is not there, or not to be trusted."""
    try:
        return read_parts(place, fingerprint)
    except ExposureIndexError:
        return [], False


def _keep_unfinished(place: Path, parts: Sequence[Part], fingerprint: str) -> None:
    """Store what a reading that failed has got, so that the next one need not ask for it again."""
    newest = {(part.provenance.section, part.provenance.key): part for part in parts}
    if newest:
        with suppress(OSError):  # the failure itself is what is to be told
            write_parts(place, list(newest.values()), fingerprint, complete=False)


def index_fingerprint(survey: SurveyConfig) -> str:
    """sha256 of what decides the content of the index: its sources without their addresses."""
    archives = {name: survey.archive(name) for name in sorted({source.archive for source in survey.index})}
    content = {
        "format": FORMAT_VERSION,
        "index": [source.model_dump(mode="json", exclude={"url", "source"}) for source in survey.index],
        "archives": {name: [config.layout, config.sas_root] for name, config in archives.items()},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_current(source: IndexConfig, known: Sequence[Part], survey: SurveyConfig) -> bool:
    """Whether the parts are those of the servers that the survey now names."""
    match source:
        case SkyServerIndex() | CasIndex():
            servers: tuple[str, ...] = (source.url,)
        case PhotoFieldIndex() | TsFieldIndex():
            servers = survey.archive(source.archive).base_urls
        case WindowFlistIndex() | FileIndex():
            servers = servers_of(source.source)
    return bool(known and servers) and all(part.provenance.servers == servers for part in known)


def _read(source: IndexConfig, reading: Reading) -> list[Part]:
    try:
        match source:
            case SkyServerIndex():
                return read_skyserver(source, reading)
            case CasIndex():
                return read_cas(source, reading)
            case PhotoFieldIndex():
                return read_photofields(source, reading)
            case TsFieldIndex():
                return read_tsfields(source, reading)
            case WindowFlistIndex():
                return read_window_flist(source, reading)
            case FileIndex():
                return read_table_file(source, reading)
    except ArchiveError as error:
        raise ExposureIndexError(f"exposure index of archive {source.archive}: {error}") from error


def _has_changed(parts: Sequence[Part], stored: Sequence[Part]) -> bool:
    """Whether anything but the time of the last confirmation has."""

    def identity(part: Part) -> tuple[object, ...]:
        record = part.provenance
        return record.section, record.key, record.state, record.servers, record.asked_utc

    return [identity(part) for part in parts] != [identity(part) for part in stored]


def _store(place: Path, parts: Sequence[Part], fingerprint: str) -> None:
    try:
        write_parts(place, parts, fingerprint)
    except OSError as error:
        raise ExposureIndexError(f"cannot keep {place}: {error}; free space there, or choose another root") from error
