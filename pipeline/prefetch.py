"""Have the files of a cell on this machine before it is cut, so that its turn at the archive is short.

A build alone fetches while it cuts. Where many workers share few connections to an archive, a worker has its turn only
while it fetches, and others fetch while it cuts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from pipeline.archive import Archive
from pipeline.cellrecord import read_marker, why_not_done
from pipeline.cells import CellProgress
from pipeline.cellstars import detection_uses
from pipeline.earlier import EarlierCell
from pipeline.errors import BadPayload, CellTimeout, NotInArchive
from pipeline.fetching import uses
from pipeline.inthreads import OutOfTime, in_threads
from pipeline.kept import keepable
from pipeline.plan import Cell
from pipeline.survey import SurveyConfig


def fetch_cell(
    cell: Cell,
    survey: SurveyConfig,
    archive: Archive,
    dataset: Path,
    *,
    standards_sha256: str,
    connections: int,
    seconds: float = math.inf,
    progress: Callable[[CellProgress], None] | None = None,
) -> int:
    """Fetch every file that a cell still needs into the cache of `archive`; how many there are.

    After each of them `progress` is told how many bytes came over the network; no frame is cut yet. Files that the
    archive does not have are no error here: `build_cell` counts them.

    Raises
    ------
    CellTimeout
        Not all is here after `seconds`, outages of servers included.
    ArchiveError
        A server did not answer after all retries, or its files have changed.
    """
    earlier = read_marker(dataset, cell.cell_id)
    if why_not_done(earlier, cell, standards_sha256, survey, archive) is None:
        return 0
    rest = cell
    if earlier is not None:
        recipe = cell.recipe(survey, standards_sha256)
        rest = cell.without(keepable(EarlierCell(earlier, dataset), cell, recipe, survey, archive))
    files = sorted(uses(rest, survey) + detection_uses(rest, survey))
    total, n_bytes = len(cell.visits) * len(survey.thumbnails.bands), 0
    calls = (partial(_fetch, archive, *file) for file in files)
    try:
        for fetched in in_threads(calls, at_once=connections, until=time.monotonic() + seconds):
            n_bytes += fetched
            if progress:
                progress(CellProgress(cell.cell_id, 0, total, n_bytes, 0))
    except OutOfTime as error:
        raise CellTimeout(f"cell {cell.cell_id} was not fetched in {seconds / 3600:.3g} h") from error
    return len(files)


def _fetch(archive: Archive, name: str, path: str) -> int:
    """How many bytes came over the network."""
    with suppress(NotInArchive, BadPayload):
        file = archive.fetch(name, path)
        return 0 if file.from_cache else file.n_bytes
    return 0
