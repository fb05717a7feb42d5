"""Ask the archives whether the files that a dataset was made of are still what they were."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Final

from pipeline.archive import Archive
from pipeline.errors import ArchiveError, BadPayload, ChangedUpstream, NotInArchive
from pipeline.manifest import Dataset
from pipeline.naming import FRAMES_FILE
from pipeline.sources import SourceFile, sources_of
from pipeline.survey import SurveyConfig

LOG: Final = logging.getLogger(__name__)
AT_ONCE: Final = 16
"""Requests under way; each archive's own `max_connections` holds."""


@dataclass(frozen=True, slots=True)
class Rechecked:
    """What the servers said."""

    same: int
    changed: int
    """Taken, as `changed_files` says: what was made of them will be made anew."""
    refused: int
    """Changed, but `changed_files` says not to take them."""
    gone: int
    """Not there any more, or not readable: what was made of them stays."""


def recheck_sources(dataset: Dataset, survey: SurveyConfig, archive: Archive) -> Rechecked:
    """Ask for every archive file behind `dataset` whether it has changed; what has is fetched.

    Raises
    ------
    ArchiveError
        A server did not answer after all retries.
    """
    known = {one.name for one in survey.archives}
    rows = [row for row in dataset.table(FRAMES_FILE).to_pylist() if row["archive"] in known]
    sources = sorted(set(sources_of(rows, survey)))
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="recheck") as threads:
        said = [threads.submit(copy_context().run, partial(_ask, source, archive)) for source in sources]
        try:
            return _count(future.result() for future in said)
        except ArchiveError:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def _ask(source: SourceFile, archive: Archive) -> str:
    try:
        return "same" if archive.recheck(source.archive, source.path) == source.sha256 else "changed"
    except ChangedUpstream:
        return "refused"  # and logged by the archive
    except (NotInArchive, BadPayload) as error:
        LOG.warning("%s; what was made of it stays", error)
        return "gone"


def _count(answers: Iterable[str]) -> Rechecked:
    counts = {"same": 0, "changed": 0, "refused": 0, "gone": 0}
    for answer in answers:
        counts[answer] += 1
    return Rechecked(**counts)
