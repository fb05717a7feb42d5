"""The flow `build-dataset`: catalogue → exposures → plan → cells → published dataset."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import Executor
from pathlib import Path

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
from pipeline.build import Build, exclusive, open_archive, prepare, publish
from pipeline.cells import CellResult, build_cell, lacks_files
from pipeline.costs import CELLS_AT_ONCE, PlanSummary, check_transfer
from pipeline.errors import DatasetError
from pipeline.manifest import SKIPS_FILE, Dataset
from pipeline.survey import load_survey


class Published(BaseModel):
    """What `build-dataset` made."""

    model_config = ConfigDict(frozen=True)

    path: Path
    dataset_id: str
    counts: dict[str, int]
    skips: dict[str, int]
    seconds: dict[str, float]
    built_now: bool
    """False: an earlier run had published this very dataset."""


class Site:
    """The live things that cells share; a plain object, so that Prefect passes it on without looking inside."""

    def __init__(
        self,
        build: Build,
        archive: Archive,
        executor: Executor,
        workers: int,
        progress: BuildProgress,
        *,
        retry_missing: bool,
    ) -> None:
        self.build = build
        self.cells = {cell.cell_id: cell for cell in build.plan.cells}
        self.archive = archive
        self.executor = executor
        self.workers = workers
        self.progress = progress
        self.retry_missing = retry_missing


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
    logger = get_run_logger()
    clock = Stopwatch()
    resolved = load_survey(survey).with_root(archive_root)
    n_workers = workers or os.cpu_count() or 1
    with open_archive(resolved, root, retry_missing=retry_missing) as archive:
        with clock("plan"):
            build = step("plan")(prepare)(resolved, root, archive, refresh_index=refresh_index)
        logger.info("%s: %s", build.dataset_id, _outlook(build.summary))
        if (dataset := build.published()) is not None:
            _refuse_retry(dataset, wanted=retry_missing)
            logger.info("%s is published already at %s", build.dataset_id, dataset.path)
            return _published(dataset, built_now=False)
        check_transfer(build.summary, allowed=large_transfer)
        with exclusive(build):
            with clock("cells"), worker_pool(n_workers) as executor:
                results = _run_cells(build, archive, executor, n_workers, retry_missing=retry_missing)
            with clock("publish"):
                dataset = step("publish")(publish)(build, results, clock.seconds)
    published = _published(dataset, built_now=True)
    create_table_artifact(
        key="dataset",
        table=[{"what": key, "count": value} for key, value in (published.counts | published.skips).items()],
        description=f"Dataset {published.dataset_id} at {published.path}",
    )
    return published


def _run_cells(
    build: Build, archive: Archive, executor: Executor, workers: int, *, retry_missing: bool
) -> list[CellResult]:
    """Build all cells; those that fail do not stop the others, and are tried again by the next run."""
    cells = build.plan.cells
    frames = sum(len(cell.visits) for cell in cells) * len(build.survey.thumbnails.bands)
    progress = BuildProgress(len(cells), frames, get_run_logger().info)
    site = Site(build, archive, executor, workers, progress, retry_missing=retry_missing)
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


def _refuse_retry(dataset: Dataset, *, wanted: bool) -> None:
    """A published version never changes: what was missing when it was built is missing in it for good."""
    lacking = lacks_files(dataset.table(SKIPS_FILE).to_pylist()) if wanted else 0
    if lacking:
        raise DatasetError(
            f"{dataset.info.dataset_id} is published and lacks {lacking} files that its archives did not have; to ask "
            f"for them again, move {dataset.path} away and run this again: what is in the cache is not fetched again"
        )


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
        dataset_id=build.dataset_id,
        workers=site.workers,
        retry_missing=site.retry_missing,
        progress=site.progress.frame_done,
    )
    site.progress.cell_done(cell_id)
    return result


def _published(dataset: Dataset, *, built_now: bool) -> Published:
    return Published(
        path=dataset.path,
        dataset_id=dataset.info.dataset_id,
        counts=dataset.info.counts,
        skips=Counter(dataset.table(SKIPS_FILE).column("reason").to_pylist()),
        seconds=dataset.info.seconds,
        built_now=built_now,
    )
