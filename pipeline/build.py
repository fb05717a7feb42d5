"""From a survey description to what there is to do: the first of the steps between which an orchestrator stands.

`prepare` plans, `reuse.take_over` takes from the version before what is still the same, `cells.build_cell` does one
cell of the rest, `publish.publish` makes the dataset visible by one rename. A build's id is a hash of everything that
is planned, so that preparing the same build twice finds the first one's work.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from pipeline.archive import Archive
from pipeline.atomic import make_folder, storing
from pipeline.catalog import Catalog, read_catalog
from pipeline.cellrecord import read_marker
from pipeline.cellstars import standards_sha256
from pipeline.costs import Known, PlanSummary, summarise
from pipeline.earlier import EarlierCell
from pipeline.errors import BeingBuilt, DatasetError
from pipeline.indexing.build import build_index
from pipeline.kept import keepable
from pipeline.naming import building_dir, cache_dir, survey_dir
from pipeline.plan import Cell, Exposure, Plan, make_plan
from pipeline.relabel import as_labelled_in
from pipeline.sequences import SCHEMA_VERSION
from pipeline.survey import SurveyConfig
from pipeline.transfer import no_web_page
from pipeline.version import PIPELINE_VERSION
from pipeline.versions import BUILD_LOCK_FILE, latest_version

ID_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class Build:
    """A planned build: what to do, and where it goes."""

    survey: SurveyConfig
    root: Path
    catalog: Catalog
    plan: Plan
    summary: PlanSummary
    input_hash: str
    standards_sha256: str
    """Of the survey's catalogue of standard stars, where it gives one."""

    @property
    def build_id(self) -> str:
        """Survey and the beginning of the hash of what is planned. The dataset's id says what came of it."""
        return f"{self.survey.name}-{self.input_hash[:ID_DIGITS]}"

    @property
    def building(self) -> Path:
        """Where the dataset grows."""
        return building_dir(self.root, self.survey.name, self.input_hash[:ID_DIGITS])

    @property
    def versions(self) -> Path:
        """Where it is one of several, once published."""
        return survey_dir(self.root, self.survey.name)


def open_archive(
    survey: SurveyConfig, root: Path, *, retry_missing: bool = False, max_connections: int | None = None
) -> Archive:
    """The survey's servers behind one cache below `root`; see `Archive` for `retry_missing`.

    With `max_connections`, no more than that to any one of them, whatever the survey allows.
    """
    archives = survey.archives
    if max_connections is not None:
        archives = tuple(
            archive.model_copy(update={"max_connections": min(archive.max_connections, max_connections)})
            for archive in archives
        )
    return Archive(archives, cache_dir(root), limits=survey.cache, retry_missing=retry_missing)


def prepare(survey: SurveyConfig, root: Path, archive: Archive, *, refresh_index: bool = False) -> Build:
    """Read catalogue and exposure index and plan the cells; nothing is downloaded but these two.

    An index that an earlier call has kept below `root` is used as it is, unless `refresh_index`.

    Raises
    ------
    CatalogError, ExposureIndexError, ArchiveError
        The object list or the index cannot be had or used.
    DatasetError
        Not one object can be built.
    """
    table = archive.fetch_url(
        survey.catalog.source, f"{survey.name}-catalog", refresh=True, or_stale=True, check=no_web_page
    )
    catalog = read_catalog(table.path, survey.catalog, survey.selection.seasons)
    plan = make_plan(survey, catalog, build_index(survey, archive, root, refresh=refresh_index))
    if not plan.cells:
        reasons = Counter(skip.reason for skip in (*catalog.skips, *plan.skips))
        raise DatasetError(f"survey {survey.name}: no object has an exposure; left out: {dict(reasons)}")
    standards = standards_sha256(survey, archive, refresh=True)
    hashes = {cell.cell_id: cell.input_hash(survey, standards) for cell in plan.cells}
    input_hash = _input_hash(survey, catalog, hashes)
    done, kept = _built_before(plan.cells, _folders(survey, root, input_hash), survey, standards, archive)
    summary = summarise(survey, plan, Known(archive.held(), done, kept, archive.rates()))
    return Build(survey, root, catalog, plan, summary, input_hash, standards)


def _input_hash(survey: SurveyConfig, catalog: Catalog, cells: Mapping[str, str]) -> str:
    digest = hashlib.sha256(f"{PIPELINE_VERSION} {SCHEMA_VERSION} {survey.fingerprint()} {catalog.sha256}\n".encode())
    for of_cell in cells.values():
        digest.update(of_cell.encode())
    return digest.hexdigest()


def _folders(survey: SurveyConfig, root: Path, input_hash: str) -> list[Path]:
    """Where cells may be: in a broken-off build of the same, and in the latest version."""
    versions = survey_dir(root, survey.name)
    latest = latest_version(versions)
    return [building_dir(root, survey.name, input_hash[:ID_DIGITS]), *([versions / latest] if latest else [])]


def _built_before(
    cells: Iterable[Cell], folders: Iterable[Path], survey: SurveyConfig, standards: str, archive: Archive
) -> tuple[set[str], dict[str, Collection[Exposure]]]:
    """Cells that are there, but for labels of objects; and exposures whose images others have. A build looks closer."""
    done: set[str] = set()
    kept: dict[str, Collection[Exposure]] = {}
    for cell in cells:
        found = [EarlierCell(marker, folder) for folder in folders if (marker := read_marker(folder, cell.cell_id))]
        as_labelled = (as_labelled_in(one.marker, cell).input_hash(survey, standards) for one in found)
        if any(one.marker.input_hash == wanted for one, wanted in zip(found, as_labelled, strict=True)):
            done.add(cell.cell_id)
        elif found:
            kept[cell.cell_id] = keepable(found[-1], cell, cell.recipe(survey, standards), survey, archive).keys()
    return done, kept


@contextmanager
def exclusive(build: Build, *, wait_s: float = 0) -> Iterator[None]:
    """Be the only process that builds a dataset of this survey, and sweep up what a killed one left half-written.

    Raises
    ------
    BeingBuilt
        Another process is at it, and still is after `wait_s`.
    StorageError
        There is no room, or no right, to write.
    """
    with storing(build.versions):
        make_folder(build.versions)
        lock = FileLock(build.versions / BUILD_LOCK_FILE)
        try:
            lock.acquire(timeout=wait_s)
        except Timeout as error:
            raise BeingBuilt(
                f"a dataset of survey {build.survey.name} is being built by another process; wait for it or stop it"
            ) from error
    try:
        for leftover in build.building.rglob(".*.part"):
            leftover.unlink(missing_ok=True)
        yield
    finally:
        lock.release()
