"""The flow `build-dataset`: catalogue → exposures → plan → cells → published dataset."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import Executor
from pathlib import Path
from typing import Final

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import wait
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import BaseModel, ConfigDict

from flows.progress import BuildProgress, Stopwatch
from flows.steps import step, worth_retrying
from flows.workers import worker_pool
from pipeline.archive import Archive
from pipeline.build import Build, exclusive, open_archive, prepare
from pipeline.cells import CellResult, build_cell
from pipeline.costs import CELLS_AT_ONCE, PlanSummary, check_transfer
from pipeline.differences import compare, read_changes
from pipeline.errors import DatasetError
from pipeline.manifest import Dataset
from pipeline.naming import SKIPS_FILE
from pipeline.publish import adopt, check_removals, publish
from pipeline.reuse import Outlook, hold_against_versions, take_over
from pipeline.survey import load_survey
from pipeline.versions import read_record

SAID: Final = 20
"""Cells whose reason is logged."""


class Published(BaseModel):
    """What `build-dataset` or `refresh-dataset` made."""

    model_config = ConfigDict(frozen=True)

    path: Path
    dataset_id: str
    counts: dict[str, int]
    skips: dict[str, int]
    seconds: dict[str, float]
    built_now: bool
    """False: an earlier run had published this very dataset."""
    parent: str | None
    """Id of the version that was the latest before; None where this is the first."""
    changes: dict[str, int]
    """Objects added, changed, removed and unchanged against that version; empty if it is the same."""
    cells_built: int
    """The others were taken over from the version before."""


class Site:
    """The live things that cells share; a plain object, so that Prefect passes it on without looking inside."""

    def __init__(
        self,
        build: Build,
        archive: Archive,
        executor: Executor,
        workers: int,
        progress: BuildProgress,
    ) -> None:
        self.build = build
        self.cells = {cell.cell_id: cell for cell in build.plan.cells}
        self.archive = archive
        self.executor = executor
        self.workers = workers
        self.progress = progress


@flow(name="build-dataset", task_runner=ThreadPoolTaskRunner(max_workers=CELLS_AT_ONCE))  # type: ignore[arg-type]
def build_dataset(
    survey: str = "demo",
    root: Path = Path("work"),
    archive_root: str | None = None,
    workers: int | None = None,
    large_transfer: bool = False,
    retry_missing: bool = False,
    refresh_index: bool = False,
) -> Published:
    """Build every object's image sequence and publish them as one dataset version.

    What the latest version holds already, as it would be now, is taken over from it.

    Parameters
    ----------
    survey
        Name of a survey description that ships with the package, or path of a .toml file.
    root
        Where datasets and the download cache live.
    archive_root
        Address of a local archive, for surveys that do not fix one.
    workers
        Decoding processes; default one per core.
    large_transfer
        Fetch even more than a terabyte: the archive's keepers have been told.
    retry_missing
        Ask once more for files that their archives said not to have.
    refresh_index
        Ask the servers again which exposures there are.
    """
    resolved = load_survey(survey).with_root(archive_root)
    clock = Stopwatch()
    with open_archive(resolved, root, retry_missing=retry_missing) as archive:
        with clock("plan"):
            build = step("plan")(prepare)(resolved, root, archive, refresh_index=refresh_index)
        return bring_up_to_date(build, archive, clock, workers=workers, large_transfer=large_transfer)


def bring_up_to_date(
    build: Build,
    archive: Archive,
    clock: Stopwatch,
    *,
    workers: int | None,
    large_transfer: bool,
    max_removed: float = 1.0,
) -> Published:
    """Build what no version has yet, take over the rest, and publish; nothing, if a version is all that already."""
    logger = get_run_logger()
    logger.info("%s: %s", build.build_id, _outlook(build.summary))
    with exclusive(build):
        with clock("compare"):
            outlook = step("compare")(hold_against_versions)(build, archive)
        if outlook.parent is not None and outlook.nothing_to_do:
            before = adopt(build, outlook.parent)
            logger.info("%s is published already at %s", outlook.parent.info.dataset_id, outlook.parent.path)
            return _published(outlook.parent, before, built_now=False, cells_built=0)
        _say_what_and_why(outlook, len(build.plan.cells))
        planned = {target.object_id for cell in build.plan.cells for target in cell.targets}
        check_removals(outlook.parent, planned, max_removed)
        check_transfer(build.summary, allowed=large_transfer)
        known = {path.name for path in build.versions.iterdir()}
        dataset = _build_and_publish(build, outlook, archive, clock, workers or os.cpu_count() or 1, max_removed)
    published = _published(
        dataset, outlook.parent, built_now=dataset.path.name not in known, cells_built=len(outlook.to_build)
    )
    create_table_artifact(
        key="dataset",
        table=[
            {"what": key, "count": value}
            for key, value in (published.counts | published.changes | published.skips).items()
        ],
        description=f"Dataset {published.dataset_id} at {published.path}",
    )
    return published


def _build_and_publish(
    build: Build, outlook: Outlook, archive: Archive, clock: Stopwatch, workers: int, max_removed: float
) -> Dataset:
    with clock("take over"):
        step("take-over")(take_over)(build, outlook)
    with clock("cells"), worker_pool(workers) as executor:
        results = _run_cells(build, archive, executor, workers)
    with clock("publish"):
        return step("publish")(publish)(build, results, clock.seconds, parent=outlook.parent, max_removed=max_removed)


def _say_what_and_why(outlook: Outlook, n_cells: int) -> None:
    """What is to be built of a dataset that is there already."""
    if outlook.parent is None:
        return
    logger = get_run_logger()
    logger.info(
        "%d of %d cells are to be built, the others are as in %s",
        len(outlook.to_build), n_cells, outlook.parent.info.dataset_id,
    )  # fmt: skip
    for cell_id, why in list(outlook.to_build.items())[:SAID]:
        logger.info("cell %s: %s", cell_id, why)


def _run_cells(build: Build, archive: Archive, executor: Executor, workers: int) -> list[CellResult]:
    """Build all cells; those that fail do not stop the others, and are tried again by the next run."""
    cells = build.plan.cells
    frames = sum(len(cell.visits) for cell in cells) * len(build.survey.thumbnails.bands)
    progress = BuildProgress(len(cells), frames, get_run_logger().info)
    site = Site(build, archive, executor, workers, progress)
    futures = [build_one_cell.with_options(task_run_name=cell.cell_id).submit(cell.cell_id, site) for cell in cells]
    wait(futures)
    failed = [
        f"{cell.cell_id}: {future.state.message}"
        for cell, future in zip(cells, futures, strict=True)
        if not future.state.is_completed()
    ]
    if failed:
        raise DatasetError(
            f"{len(failed)} of {len(cells)} cells failed, nothing was published; "
            f"run again to build only these. First: {failed[0]}"
        )
    return [future.result() for future in futures]


def _outlook(summary: PlanSummary) -> str:
    return (
        f"{summary.objects} objects, {summary.exposures} exposures, {summary.frames} frames "
        f"to be read {summary.frame_reads} times in {summary.cells} cells, "
        f"about {summary.fetch_gb:.2f} GB to fetch and {summary.core_hours:.2f} core hours to cut"
    )


@task(
    name="build-cell",
    retries=2,
    retry_delay_seconds=[5, 30],
    retry_condition_fn=worth_retrying,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def build_one_cell(cell_id: str, site: Site) -> CellResult:
    """One cell; done-markers in the dataset, not Prefect's cache, say what need not be done again."""
    build = site.build
    result = build_cell(
        site.cells[cell_id],
        build.survey,
        site.archive,
        site.executor,
        build.building,
        workers=site.workers,
        progress=site.progress.frame_done,
    )
    site.progress.cell_done(cell_id)
    return result


def _published(dataset: Dataset, before: Dataset | None, *, built_now: bool, cells_built: int) -> Published:
    """What came of it, held against the version that was the latest before."""
    record = read_record(dataset.path)
    changes = {}
    if built_now:
        changes = read_changes(dataset).counts  # found out when it was published
    elif before is not None and before.path != dataset.path:
        changes = compare(before, dataset).counts
    return Published(
        path=dataset.path,
        dataset_id=dataset.info.dataset_id,
        counts=dataset.info.counts,
        skips=Counter(dataset.table(SKIPS_FILE).column("reason").to_pylist()),
        seconds=record.seconds if record else {},
        built_now=built_now,
        parent=before.info.dataset_id if before else None,
        changes=changes,
        cells_built=cells_built,
    )
