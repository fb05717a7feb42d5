"""Cells on a Dask cluster: what two workers do, measured, and what a hundred would, simulated.

First a simulated archive is built three times, each time from nothing: by the processes of this machine, by a Dask
cluster of two workers that are processes of their own with one thread each, and by such a cluster of which a worker is
killed (SIGKILL) halfway. The datasets must be the same to the last byte.

Then the schedule of a whole `sdss-sn` build is simulated cell by cell (`support/schedule.py`) for 1 to 100 workers, in
front of three archives. Its cells are planned from a synthetic exposure index; they take the time per frame that was
measured on real files, scattered as the cells of the run above, with stragglers and deaths of workers on top.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev
from subprocess import Popen
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.support.daskcluster import DaskProcesses, wait_for
from benchmarks.support.nightsky import cost_of, plan_sdss_sn
from benchmarks.support.schedule import CellCost, Cluster, Outcome, least_hours, simulate
from flows.crews.cells import MOST_TASKS
from flows.crews.cluster import DaskCrew
from flows.crews.crew import CellWork, Crew, LocalCrew
from flows.crews.workers import worker_pool
from pipeline.archive import Archive
from pipeline.build import Build, open_archive, prepare
from pipeline.costs import CUT_CPU_S
from pipeline.manifest import Dataset
from pipeline.plan import Cell
from pipeline.publish import publish
from pipeline.simulate.archive import simulate_archive
from pipeline.simulate.server import ArchiveServer
from pipeline.survey import load_survey

WORKERS = 2
PROJECTED = (1, 2, 4, 8, 16, 32, 64, 100)
ARCHIVES = {
    "8 connections of 2 MB/s": {"connections": 8, "mb_per_s": 2.0},
    "32 connections of 8 MB/s": {"connections": 32, "mb_per_s": 8.0},
    "a copy beside the workers": {"connections": 0},
}
"""What is taken for granted of the SDSS servers; what a mirror nearby may give; a shared file system."""
SEEDS = 5
TROUBLE: dict[str, float] = {"stragglers": 0.01, "slower": 10.0, "hours_between_deaths": 24.0}
"""One cell in a hundred takes ten times as long; each worker dies once a day."""


@dataclass(frozen=True, slots=True)
class Run:
    """One way of building."""

    seconds: float
    digest: str
    """sha256 over all files of the published dataset that are made of frames."""
    cells: int
    redone: int = 0
    """Cells that were begun, not done, and begun again."""
    log_spread: float = 0.0
    """Of the seconds that a frame takes, over the cells, in its logarithm."""


@dataclass(frozen=True, slots=True)
class Site:
    """A planned build."""

    build: Build
    work: CellWork
    archive: Archive

    def run(self, crew: Crew) -> tuple[float, str]:
        """Build all cells, as many at once as the crew has room for, and publish: seconds of the cells, and digest."""
        cells = self.build.plan.cells
        started = time.perf_counter()
        with ThreadPoolExecutor(crew.room) as threads:
            results = list(threads.map(lambda cell: crew.build(cell, crew.fetch(cell)), cells))
        seconds = time.perf_counter() - started
        self.build.versions.mkdir(parents=True, exist_ok=True)
        return seconds, digest_of(publish(self.build, results, {}))


@contextmanager
def site(tree: Path, root: Path, survey_name: str) -> Iterator[Site]:
    """The simulated survey, served over HTTP and planned in cells as narrow as can be."""
    survey = load_survey(survey_name)
    survey = survey.model_copy(update={"cells": survey.cells.model_copy(update={"ra_width_deg": 0.01})})
    with ArchiveServer(tree) as server:
        at = survey.with_root(server.url)
        with open_archive(at, root) as archive:
            build = prepare(at, root, archive)
            work = CellWork(
                at, root, build.building, build.standards_sha256, retry_missing=False, seconds=600, connections=4
            )
            yield Site(build, work, archive)


def digest_of(dataset: Dataset) -> str:
    """Of every object's file, every marker and the dataset's id; not of the records of times and of this machine."""
    digest = hashlib.sha256(dataset.info.dataset_id.encode())
    for file in sorted([*dataset.path.glob("objects/*/*.h5"), *dataset.path.glob("cells/*")]):
        digest.update(f"{file.relative_to(dataset.path)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def at_home(tree: Path, root: Path, survey: str) -> Run:
    """The processes of this machine."""
    with site(tree, root, survey) as here, worker_pool(WORKERS) as executor:
        crew = LocalCrew(here.work, here.archive, executor, WORKERS, lambda _: None)
        return Run(*here.run(crew), len(here.build.plan.cells))


def on_dask(tree: Path, root: Path, survey: str, dask: DaskProcesses, victim: Popen[bytes] | None = None) -> Run:
    """The workers of a cluster; halfway the victim, which is worker a, is killed."""
    with site(tree, root, survey) as here, ThreadPoolExecutor(1) as killer:
        n_cells = len(here.build.plan.cells)
        with DaskCrew(dask.address, here.work, lambda _: None) as crew:
            if victim is not None:
                killer.submit(_kill_halfway, crew, victim, dask.address_of("a"), n_cells)
            seconds, digest = here.run(crew)
            events = crew.events()
    if victim is not None and victim.poll() is None:
        sys.exit("the worker was not killed in time: the figures would say nothing")
    counts = Counter(event["what"] for event in events)
    return Run(seconds, digest, n_cells, counts["begun"] - counts["done"], _log_spread(events, here.build))


def _kill_halfway(crew: DaskCrew, worker: Popen[bytes], address: str, n_cells: int) -> None:
    """Once half of the cells are done, while it is at one."""

    def in_the_act() -> bool:
        events = crew.events()
        mine = [event["what"] for event in events if event["worker"] == address]
        return sum(event["what"] == "done" for event in events) * 2 >= n_cells and mine[-1:] == ["begun"]

    wait_for(in_the_act, 600)
    worker.kill()


def _log_spread(events: list[dict[str, Any]], build: Build) -> float:
    """Standard deviation over the cells of the logarithm of time over costs, without the first of each worker."""
    begun: dict[tuple[str, str], float] = {}
    factors: dict[str, list[float]] = {}
    costs = {cell.cell_id: _cut_s(cell, build) for cell in build.plan.cells}
    for event in events:
        key = event["cell"], event["worker"]
        if event["what"] == "begun":
            begun[key] = event["at"]
        else:
            factors.setdefault(event["worker"], []).append((event["at"] - begun[key]) / costs[event["cell"]])
    logs = [math.log(factor) for of_worker in factors.values() for factor in of_worker[1:]]
    return stdev(logs) if len(logs) > 1 else 0.0


def _cut_s(cell: Cell, build: Build) -> float:
    return len(build.survey.thumbnails.bands) * sum(CUT_CPU_S[visit.exposure.layout] for visit in cell.visits)


def measure(tree: Path, folder: Path, survey: str) -> dict[str, Run]:
    """The three builds, each below a root of its own."""
    runs = {"this machine": at_home(tree, folder / "home", survey)}
    with DaskProcesses(folder / "dask") as dask:
        workers = {name: dask.start_worker(name) for name in "ab"}
        for name in workers:
            dask.address_of(name)  # it is there
        runs["two Dask workers"] = on_dask(tree, folder / "undisturbed", survey, dask)
        runs["one of them killed"] = on_dask(tree, folder / "killed", survey, dask, workers["a"])
    if len({run.digest for run in runs.values()}) != 1:
        sys.exit(f"the datasets are not the same: { {name: run.digest[:12] for name, run in runs.items()} }")
    return runs


def project(cells: Sequence[CellCost], log_spread: float, batch: int) -> list[dict[str, Any]]:
    """A row per archive and number of workers: the middle one of several simulations."""
    rows = []
    for archive, limits in ARCHIVES.items():
        for workers in PROJECTED:
            cluster = Cluster(workers, **limits, log_spread=log_spread, **TROUBLE)
            outcome = typical(cells, cluster, batch)
            least = least_hours(outcome, cluster)
            bound = max(least, key=lambda name: least[name])
            busy = outcome.busy_s / 3600 / workers / outcome.hours
            row = {"archive": archive, "workers": workers, "hours": outcome.hours, "least": least[bound]}
            rows.append(row | {"bound": bound, "busy": busy, "redone": outcome.redone})
    return rows


def typical(cells: Sequence[CellCost], cluster: Cluster, batch: int) -> Outcome:
    """Of `SEEDS` simulations, the one with the median time."""
    outcomes = sorted((simulate(cells, cluster, batch=batch, seed=n) for n in range(SEEDS)), key=lambda one: one.hours)
    return outcomes[SEEDS // 2]


def show(runs: dict[str, Run], rows: list[dict[str, Any]], batches: dict[int, float]) -> None:
    """The tables."""
    print(f"{'cells built by':<22} {'s':>6} {'cells':>6} {'redone':>7}  dataset")
    for name, run in runs.items():
        print(f"{name:<22} {run.seconds:>6.1f} {run.cells:>6} {run.redone:>7}  {run.digest[:12]}")
    print(f"\nscatter of the seconds per frame over the cells: a factor of {math.exp(spread_of(runs)):.2f}")
    print("\na whole sdss-sn, simulated")
    print(f"{'archive':<27} {'workers':>7} {'hours':>7} {'at least':>9}  {'bound by':<13} {'busy':>5} {'redone':>6}")
    for row in rows:
        print(
            f"{row['archive']:<27} {row['workers']:>7} {row['hours']:>7.2f} {row['least']:>9.2f}  {row['bound']:<13} "
            f"{row['busy']:>5.0%} {row['redone']:>6}"
        )
    sizes = ", ".join(f"{hours:.2f} h with {size}" for size, hours in batches.items())
    print(f"\n100 workers beside a copy, by cells per task: {sizes}")


def spread_of(runs: dict[str, Run]) -> float:
    """Of the undisturbed run; two cores shared with others scatter more than a cluster's."""
    return runs["two Dask workers"].log_spread


def flat(runs: dict[str, Run], rows: list[dict[str, Any]], batches: dict[int, float]) -> dict[str, float]:
    """Everything the tables show, by keys with units."""
    result: dict[str, float] = {"log_spread": spread_of(runs)}
    for name, run in runs.items():
        key = name.replace(" ", "_")
        result |= {f"{key}_s": run.seconds, f"{key}_cells": run.cells, f"{key}_cells_redone": run.redone}
    for row in rows:
        key = f"{row['archive'].replace(' ', '_').replace('/', '_per_')}_{row['workers']}_workers"
        result |= {f"{key}_hours": row["hours"], f"{key}_least_hours": row["least"]}
    return result | {f"batches_of_{size}_hours": hours for size, hours in batches.items()}


def main() -> None:
    """Measure, simulate, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller archive for the measured part")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    survey = "tiny" if arguments.quick else "demo"
    with TemporaryDirectory() as name:
        folder = Path(name)
        simulate_archive(load_survey(survey), folder / "archive", workers=WORKERS)
        runs = measure(folder / "archive", folder, survey)
    plan, which = plan_sdss_sn()
    cells = [cost_of(cell) for cell in plan.cells]
    batch = -(-len(cells) // MOST_TASKS)
    rows = project(cells, spread_of(runs), batch)
    beside = Cluster(PROJECTED[-1], connections=0, log_spread=spread_of(runs), **TROUBLE)
    batches = {size: typical(cells, beside, size).hours for size in (1, batch)}
    terabytes, core_hours = sum(one.megabytes for one in cells) / 1e6, sum(one.core_s for one in cells) / 3600
    print(f"{len(cells)} cells of {which}: {terabytes:.2f} TB, {core_hours:.1f} core hours, {batch} cells to a task\n")
    show(runs, rows, batches)
    if arguments.json:
        arguments.json.write_text(json.dumps(flat(runs, rows, batches), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
