"""The flow `refresh-dataset`: what is new or changed since the latest version becomes the next one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.runtime import deployment
from prefect.states import Cancelled
from prefect.task_runners import ThreadPoolTaskRunner

from flows.build import MOST_AT_ONCE, Manner, Published, begin, bring_up_to_date, build_dataset
from flows.forms import described
from flows.steps import step
from pipeline.archive import Archive
from pipeline.build import Build, open_archive, prepare
from pipeline.errors import BeingBuilt
from pipeline.manifest import open_dataset
from pipeline.recheck import recheck_sources
from pipeline.survey import load_survey
from pipeline.versions import newest, versions


@flow(
    name="refresh-dataset",
    flow_run_name="{survey}",
    task_runner=ThreadPoolTaskRunner(max_workers=MOST_AT_ONCE),  # type: ignore[arg-type]
)
@described(like=build_dataset)
def refresh_dataset(
    survey: str = "demo",
    root: Path = Path("work"),
    archive_root: str | None = None,
    workers: int | None = None,
    large_transfer: bool = False,
    recheck_files: bool = False,
    max_removed: float = 0.05,
    dask: str | None = None,
    max_failed: float = 0.25,
    incomplete: bool = False,
    cell_hours: float = 48,
    wait_minutes: float = 0,
    report: bool = False,
    then: str | None = None,
) -> Published:
    """Ask for new objects, exposures and files, build the cells that they concern, and publish the next version.

    Where nothing has changed there is no new version. A first version is built if there is none. A deployment's run
    that meets another build of the survey ends as cancelled: the next one takes all that is new. Parameters that are
    not explained here are those of `build-dataset`.

    Parameters
    ----------
    recheck_files
        Ask the archives for every file behind the latest version whether it has changed; one request per file.
    max_removed
        Part of the objects, or of the images, that may disappear; more is taken for an accident, and nothing is
        published.
    """
    manner = Manner.of(
        workers=workers, large_transfer=large_transfer, retry_missing=True, dask=dask, max_failed=max_failed,
        incomplete=incomplete, cell_hours=cell_hours, wait_minutes=wait_minutes, max_removed=max_removed,
        report=report, then=then,
    )  # fmt: skip
    resolved = load_survey(survey).with_root(archive_root)
    clock, slots = begin(resolved, manner)
    with open_archive(resolved, root, retry_missing=True, max_connections=slots.connections) as archive:
        with clock("plan"):
            build = step("plan")(prepare)(resolved, root, archive, refresh_index=True)
        files: dict[str, int] = {}
        if recheck_files:
            with clock("recheck"):
                files = _recheck(build, archive)
        try:
            published = bring_up_to_date(build, archive, clock, slots, manner)
            return published.model_copy(update={"files": files})
        except BeingBuilt as error:
            if deployment.id is None:
                raise
            return Cancelled(message=f"left out: {error}")  # type: ignore[return-value]  # the state that the run ends in


def _recheck(build: Build, archive: Archive) -> dict[str, int]:
    """How many files the servers said are the same, changed, changed and refused, or gone."""
    found = newest(versions(build.versions)) if build.versions.is_dir() else None
    if found is None:
        return {}
    said = step("recheck-files")(recheck_sources)(open_dataset(found.path), build.survey, archive)
    logger = get_run_logger()
    logger.info(
        "of the files behind %s, %d are the same, %d have changed, %d have changed and are refused, %d are gone",
        found.name, said.same, said.changed, said.refused, said.gone,
    )  # fmt: skip
    if said.refused:
        logger.warning(
            "%d files have changed upstream and were not taken; `s82 cache show` lists them. To take them, set "
            'changed_files = "accept" in [[archives]] of the survey and refresh with --recheck-files again',
            said.refused,
        )  # fmt: skip
    if said.gone:
        logger.warning("%d files are not in their archives any more; what was made of them stays", said.gone)
    return asdict(said)
