"""What the index is made of: parts, each with the record of where it came from.

A part is what is fetched, compared and replaced as one: the fields in one file, or of one run of a database.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from pipeline.archive import Archive
from pipeline.exposures import ExposureIndex
from pipeline.indexing.pace import Pace
from pipeline.survey import ArchiveConfig
from pipeline.version import software_version


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a part came from."""

    section: int
    """Which `[[index]]` of the survey, from 0."""
    kind: str
    """Its kind."""
    key: str
    """Names the part inside its section."""
    servers: tuple[str, ...]
    """Addresses, one of which gave or last confirmed the part; empty for a file on this machine."""
    path: str
    """Below one of `servers`, or on this machine."""
    queries: tuple[str, ...]
    """SQL, in the order of asking; empty for a file."""
    sha256: tuple[str, ...]
    """Of the bytes that came: one per query, or of the file."""
    state: str
    """What shows cheaply whether the part has changed: counts of a run, sha256 of a file."""
    n_rows: int
    asked_utc: str
    """When the bytes came."""
    confirmed_utc: str
    """When a server last said that they are still right."""
    software: str


@dataclass(frozen=True, slots=True)
class Part:
    """Exposures, and where they came from."""

    provenance: Provenance
    rows: ExposureIndex


def utc_now() -> str:
    """The time, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class Reading:
    """What the reader of one `[[index]]` works with."""

    section: int
    kind: str
    config: ArchiveConfig
    archive: Archive
    known: Mapping[str, Part]
    """Parts that an earlier index has of this section, by key."""
    pace: Pace = field(default_factory=Pace)
    made: list[Part] = field(default_factory=list)
    """All that `keep` and `new` have made: what there is if the rest fails."""

    def keep(self, part: Part, servers: tuple[str, ...]) -> Part:
        """A part of the earlier index that a server has just confirmed."""
        part = Part(replace(part.provenance, servers=servers, confirmed_utc=utc_now()), part.rows)
        self.made.append(part)
        return part

    def new(
        self,
        rows: ExposureIndex,
        *,
        key: str,
        state: str,
        servers: tuple[str, ...],
        path: str,
        sha256: tuple[str, ...],
        queries: tuple[str, ...] = (),
    ) -> Part:
        """A part that has just been read."""
        now = utc_now()
        provenance = Provenance(
            section=self.section,
            kind=self.kind,
            key=key,
            servers=servers,
            path=path,
            queries=queries,
            sha256=sha256,
            state=state,
            n_rows=len(rows),
            asked_utc=now,
            confirmed_utc=now,
            software=software_version(),
        )
        part = Part(provenance, rows)
        self.made.append(part)
        return part

    def of_file(
        self, key: str, path: str, sha256: str, servers: tuple[str, ...], read: Callable[[], ExposureIndex]
    ) -> Part:
        """The part in a file: `read` is called only where an earlier index does not have these very bytes."""
        known = self.known.get(key)
        if known is not None and known.provenance.state == sha256:
            return self.keep(known, servers)
        return self.new(read(), key=key, state=sha256, servers=servers, path=path, sha256=(sha256,))
