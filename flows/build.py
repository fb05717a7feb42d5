"""The flow `build-dataset`: catalogue → exposures → plan → cells → published dataset."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any, Final

from prefect import flow, get_run_logger
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows.artifacts import (
    ProgressBar,
    can_draw,
    link_page,
    show_counts,
    show_pictures,
    tag_dataset,
    tag_this_run,
)
from flows.crews.cells import Site, build_all, too_many
from flows.crews.crew import CellWork, crew_for
from flows.crews.slots import Slots, slots_for
from flows.forms import described
from flows.handover import check_next, say_published, start_next
from flows.progress import BuildProgress, Stopwatch
from flows.steps import step
from pipeline.archive import Archive
from pipeline.build import Build, exclusive, open_archive, prepare
from pipeline.cellrecord import CellResult, claims_done
from pipeline.costs import PlanSummary, check_transfer
from pipeline.differences import compare, read_changes
from pipeline.errors import ConfigError, DatasetError
from pipeline.manifest import Dataset, open_dataset
from pipeline.naming import SKIPS_FILE, report_dir
from pipeline.plan import Cell
from pipeline.publish import adopt, check_removals, publish
from pipeline.reuse import Outlook, hold_against_versions, take_over
from pipeline.survey import SurveyConfig, load_survey
from pipeline.validation import explain
from pipeline.versions import read_record

SAID: Final = 20
"""Cells whose reason is logged."""
MOST_AT_ONCE: Final = 1024
"""Threads for tasks, on however large a cluster; only as many are made as it has room for cells."""


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
    cells_failed: int = 0
    """The version does without their objects."""
    files: dict[str, int] = Field(default_factory=dict)
    """Of the archive files behind the version before, where these were asked for: how many are the same, have changed,
    have changed and are refused, or are gone."""


class Manner(BaseModel):
    """How a build works. What comes of it is the same, unless cells fail."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: int | None = Field(default=None, ge=1)
    large_transfer: bool = False
    retry_missing: bool = False
    dask: str | None = None
    max_failed: float = Field(default=0.25, ge=0, le=1)
    incomplete: bool = False
    cell_hours: float = Field(default=48, gt=0)
    wait_minutes: float = Field(default=0, ge=0)
    max_removed: float = Field(default=1.0, ge=0, le=1)
    report: bool = False
    then: str | None = None

    @classmethod
    def of(cls, **given: Any) -> Manner:
        """From a flow's parameters (raises ConfigError where one is out of range)."""
        try:
            return cls(**given)
        except ValidationError as error:
            raise ConfigError(f"parameters of the build: {explain(error, cls)}") from error


@flow(
    name="build-dataset",
    flow_run_name="{survey}",
    task_runner=ThreadPoolTaskRunner(max_workers=MOST_AT_ONCE),  # type: ignore[arg-type]
)
@described()
def build_dataset(
    survey: str = "demo",
    root: Path = Path("work"),
    archive_root: str | None = None,
    workers: int | None = None,
    large_transfer: bool = False,
    retry_missing: bool = False,
    refresh_index: bool = False,
    dask: str | None = None,
    max_failed: float = 0.25,
    incomplete: bool = False,
    cell_hours: float = 48,
    wait_minutes: float = 0,
    report: bool = False,
    then: str | None = None,
) -> Published:
    """Build every object's image sequence and publish them as one dataset version.

    What the latest version holds already, as it would be now, is taken over from it.

    Parameters
    ----------
    survey
        Name of a survey description that ships with the package, or path of a .toml file.
    root
        Where datasets, training runs, reports and the download cache live.
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
    dask
        Address of the scheduler of a Dask cluster that builds the cells, such as tcp://10.0.0.5:8786; none: processes
        of this machine.
    max_failed
        Part of the cells that may fail before the build gives up on the others: 0 to 1.
    incomplete
        Publish even if cells failed, without their objects, which the next run tries again. Else nothing is published
        before all are built.
    cell_hours
        Longest that a cell may be fetched, and longest that it may be cut, outages of servers included; then it fails.
    wait_minutes
        How long to wait for another process that builds a dataset of this survey.
    report
        Write HTML pages about the dataset and the objects in it that are worth a look.
    then
        Deployment to start on a version that is new, such as train-model/train-model.
    """
    manner = Manner.of(
        workers=workers, large_transfer=large_transfer, retry_missing=retry_missing, dask=dask, max_failed=max_failed,
        incomplete=incomplete, cell_hours=cell_hours, wait_minutes=wait_minutes, report=report, then=then,
    )  # fmt: skip
    resolved = load_survey(survey).with_root(archive_root)
    clock, slots = begin(resolved, manner)
    with open_archive(resolved, root, retry_missing=retry_missing, max_connections=slots.connections) as archive:
        with clock("plan"):
            build = step("plan")(prepare)(resolved, root, archive, refresh_index=refresh_index)
        return bring_up_to_date(build, archive, clock, slots, manner)


def begin(survey: SurveyConfig, manner: Manner) -> tuple[Stopwatch, Slots]:
    """Find out what would break the run in the end, before anything is fetched."""
    check_next(manner.then)
    return Stopwatch(), slots_for(survey)


def bring_up_to_date(build: Build, archive: Archive, clock: Stopwatch, slots: Slots, manner: Manner) -> Published:
    """Build what no version has yet, take over the rest, publish, and hand over; nothing, if a version is all that."""
    logger = get_run_logger()
    logger.info("%s: %s", build.build_id, _outlook(build.summary))
    with exclusive(build, wait_s=60 * manner.wait_minutes):
        published = _bring_up_to_date(build, archive, clock, slots, manner)
    dataset = open_dataset(published.path)
    if published.built_now:
        say_published(dataset, manner.then)
    start_next(manner.then, dataset)  # also for a version whose run was lost before it came to this
    tag_this_run(tag_dataset(published.dataset_id))
    show_counts(
        "dataset",
        published.counts | published.changes | published.skips,
        f"Dataset {published.dataset_id} at {published.path}",
    )
    _show(dataset, build.root, published.built_now, manner)
    return published


def _bring_up_to_date(build: Build, archive: Archive, clock: Stopwatch, slots: Slots, manner: Manner) -> Published:
    logger = get_run_logger()
    with clock("compare"):
        outlook = step("compare")(hold_against_versions)(build, archive)
    if outlook.parent is not None and outlook.nothing_to_do:
        before = adopt(build, outlook.parent, max_removed=manner.max_removed)
        logger.info("%s is published already at %s", outlook.parent.info.dataset_id, outlook.parent.path)
        return _published(outlook.parent, before, built_now=False, cells_built=0)
    _say_what_and_why(outlook, len(build.plan.cells))
    planned = {target.object_id for cell in build.plan.cells for target in cell.targets}
    check_removals(outlook.parent, planned, manner.max_removed)
    check_transfer(build.summary, allowed=manner.large_transfer)
    known = {path.name for path in build.versions.iterdir()}
    with clock("take over"):
        step("take-over")(take_over)(build, outlook)
    with clock("cells"):
        results, failed = _build_cells(build, archive, slots, manner)
    with clock("publish"):
        dataset = step("publish")(publish)(
            build, results, clock.seconds, parent=outlook.parent, max_removed=manner.max_removed, failed=failed
        )
    return _published(
        dataset,
        outlook.parent,
        built_now=dataset.path.name not in known,
        cells_built=len(outlook.to_build.keys() - failed.keys()),
        cells_failed=len(failed),
    )


def _build_cells(
    build: Build, archive: Archive, slots: Slots, manner: Manner
) -> tuple[list[CellResult], dict[str, str]]:
    cells = build.plan.cells
    frames = sum(len(cell.visits) for cell in cells) * len(build.survey.thumbnails.bands)
    progress = BuildProgress(len(cells), frames, get_run_logger().info)
    work = CellWork(
        survey=build.survey,
        root=build.root,
        building=build.building,
        standards_sha256=build.standards_sha256,
        retry_missing=manner.retry_missing,
        seconds=3600 * manner.cell_hours,
        connections=slots.connections,
    )
    workers = manner.workers or os.cpu_count() or 1

    def is_done(cell: Cell) -> bool:
        return claims_done(build.building, cell.cell_id, cell.input_hash(build.survey, build.standards_sha256))

    with crew_for(work, archive, dask=manner.dask, workers=workers, tell=progress.frame_done) as crew:
        bar = ProgressBar("cells", f"Cells of {build.build_id}")
        site = Site(crew, slots, progress, is_done)
        results, failed = build_all(cells, site, max_failed=manner.max_failed, show=bar.show)
    if failed and not manner.incomplete:
        raise DatasetError(
            f"{too_many(failed, len(cells))}. Or run with `incomplete` to publish what there is, without these objects"
        )
    return results, failed


def _show(dataset: Dataset, root: Path, is_new: bool, manner: Manner) -> None:
    """Pictures and a page for people; only where they can be drawn, which a build does not depend on."""
    if not can_draw():
        return
    from pipeline.report import write_pages
    from pipeline.report.glance import glance

    if is_new:
        pictures = step("glance")(glance)(dataset)
        show_pictures(
            "thumbnails", pictures, f"Objects of {dataset.info.dataset_id}: a row per band, a column per night"
        )
    if manner.report:
        page = step("report")(write_pages)(report_dir(root, dataset.info.dataset_id), dataset.path)
        link_page("dataset-report", page, root, f"Report on {dataset.info.dataset_id}")


def _say_what_and_why(outlook: Outlook, n_cells: int) -> None:
    """What is to be built of a dataset that is there already."""
    if outlook.parent is None:
        return
    logger = get_run_logger()
    logger.info(
        "%d of %d cells are to be built, in %d only labels changed, the others are as in %s",
        len(outlook.to_build), n_cells, len(outlook.to_relabel), outlook.parent.info.dataset_id,
    )  # fmt: skip
    for cell_id, why in list(outlook.to_build.items())[:SAID]:
        logger.info("cell %s: %s", cell_id, why)


def _outlook(summary: PlanSummary) -> str:
    return (
        f"{summary.objects} objects, {summary.exposures} exposures, {summary.frames} frames "
        f"to be read {summary.frame_reads} times in {summary.cells} cells, "
        f"about {summary.fetch_gb:.2f} GB to fetch and {summary.core_hours:.2f} core hours to cut"
    )


def _published(
    dataset: Dataset, before: Dataset | None, *, built_now: bool, cells_built: int, cells_failed: int = 0
) -> Published:
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
        cells_failed=cells_failed,
    )
