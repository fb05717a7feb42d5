"""Have the files of a cell on this machine before it is cut, so that its turn at the archive is short.

A build alone fetches while it cuts. Where many workers share few connections to an archive, a worker has its turn only
while it fetches, and others fetch while it cuts.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path

from pipeline.archive import Archive
from pipeline.cells import read_marker, why_not_done
from pipeline.cellstars import detection_uses
from pipeline.errors import BadPayload, NotInArchive
from pipeline.fetching import uses
from pipeline.inthreads import in_threads
from pipeline.plan import Cell
from pipeline.survey import SurveyConfig


def fetch_cell(
    cell: Cell, survey: SurveyConfig, archive: Archive, dataset: Path, *, standards_sha256: str, connections: int
) -> int:
    """Fetch every file of a cell that is not done into the cache of `archive`; how many there are.

    Files that the archive does not have are no error here: `build_cell` counts them.

    Raises
    ------
    ArchiveError
        A server did not answer after all retries, or its files have changed.
    """
    if why_not_done(read_marker(dataset, cell.cell_id), cell, standards_sha256, survey, archive) is None:
        return 0
    files = sorted(uses(cell, survey) + detection_uses(cell, survey))
    for _ in in_threads((partial(_fetch, archive, *file) for file in files), at_once=connections):
        pass
    return len(files)


def _fetch(archive: Archive, name: str, path: str) -> None:
    with suppress(NotInArchive, BadPayload):
        archive.fetch(name, path)
