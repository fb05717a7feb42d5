"""What Prefect costs a build: a second here and there, and some milliseconds for each task, against what cells take.

Cells that do nothing go through the very code of the flows (`flows.crews.cells.build_all`, on the embedded server): how
much more a run with more of them takes is the cost of a task, in processor time of flow and server together. Then a
simulated archive is built by the flow `build-dataset` and by the same functions without Prefect. Last, what both come
to in a build of the whole `sdss-sn`, whose cells take what `s82 plan` counts, planned from a synthetic exposure index.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

import psutil

from benchmarks.support.nightsky import cost_of, plan_sdss_sn
from benchmarks.support.schedule import Cluster, simulate
from pipeline.build import exclusive, open_archive, prepare
from pipeline.cellrecord import CellResult
from pipeline.plan import Cell
from pipeline.publish import publish
from pipeline.reuse import hold_against_versions, take_over
from pipeline.simulate.archive import simulate_archive
from pipeline.simulate.server import ArchiveServer
from pipeline.survey import load_survey

N_CELLS = (50, 300)
"""Of the two runs whose difference is the cost of a task; more than the second go several to a task."""
ROOM = 4
STEPS = ("plan", "cells", "all")
WORKERS = 2
BAR_PERCENT = 1.0
ONE_FLOW = "import flows; from prefect import flow; flow(lambda: None, name='nothing')()"


class IdleCrew:
    """Builds nothing, at once."""

    room = ROOM

    def fetch(self, cell: Cell) -> None:
        """Nothing."""

    def build(self, cell: Cell, near: str | None) -> CellResult:
        """Nothing."""
        return cast(CellResult, f"{cell.cell_id} {near}")


def start_s(home: Path) -> float:
    """Of a Python process that runs an empty flow, on a server of its own with its database in `home`."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", ONE_FLOW], check=True, capture_output=True, env=environment(home))
    return time.perf_counter() - started


def environment(home: Path) -> dict[str, str]:
    """Ours, with a Prefect database of this benchmark's and no server but the embedded one."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return variables | {"PREFECT_HOME": str(home), "PREFECT_LOGGING_LEVEL": "ERROR"}


def idle_s(n_cells: int) -> tuple[float, float]:
    """Elapsed and processor time of a flow run with so many cells that do nothing."""
    from prefect import flow
    from prefect.task_runners import ThreadPoolTaskRunner

    from flows.crews.cells import Site, build_all
    from flows.crews.slots import Slots
    from flows.progress import BuildProgress

    cells = [cast(Cell, SimpleNamespace(cell_id=f"cell-{number:05d}")) for number in range(n_cells)]

    @flow(name="idle-cells", task_runner=ThreadPoolTaskRunner(max_workers=ROOM))  # type: ignore[arg-type]
    def idle() -> int:
        site = Site(IdleCrew(), Slots(4, shared=False), BuildProgress(n_cells, n_cells, _ignore))
        results, failed = build_all(cells, site, max_failed=0, show=_ignore)
        return len(results) - len(failed)

    before_s, started = settled_cpu_s(), time.perf_counter()
    if idle() != n_cells:
        sys.exit(f"not all of {n_cells} cells that do nothing were done")
    elapsed_s = time.perf_counter() - started
    return elapsed_s, settled_cpu_s() - before_s


def settled_cpu_s() -> float:
    """Of this process and the server that it has started, once that has written down what it was told."""
    for _ in range(40):
        before = cpu_s()
        time.sleep(0.5)
        if (after := cpu_s()) - before < 0.1:
            break
    return after


def cpu_s() -> float:
    """Of this process and those that it has started and that run."""
    this = psutil.Process()
    times = [one.cpu_times() for one in (this, *this.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def _ignore(_: object) -> None:
    pass


def by_flow(tree: Path, root: Path, survey: str) -> dict[str, float]:
    """Seconds of the flow `build-dataset`: of the whole, and of its steps."""
    from flows.build import build_dataset

    with ArchiveServer(tree) as server:
        started = time.perf_counter()
        published = build_dataset(survey=survey, root=root, archive_root=server.url, workers=WORKERS)
        return published.seconds | {"all": time.perf_counter() - started}


def by_functions(tree: Path, root: Path, survey_name: str) -> dict[str, float]:
    """The same by the same functions, without Prefect."""
    from flows.crews.crew import CellWork, crew_for
    from flows.progress import Stopwatch

    clock = Stopwatch()
    started = time.perf_counter()
    with ArchiveServer(tree) as server:
        survey = load_survey(survey_name).with_root(server.url)
        with open_archive(survey, root) as archive:
            with clock("plan"):
                build = prepare(survey, root, archive)
            work = CellWork(survey, root, build.building, build.standards_sha256, False, 3600.0, 4)
            with exclusive(build):
                outlook = hold_against_versions(build, archive)
                take_over(build, outlook)
                with (
                    clock("cells"),
                    crew_for(work, archive, dask=None, workers=WORKERS, tell=_ignore) as crew,
                    ThreadPoolExecutor(crew.room) as threads,
                ):
                    results = list(threads.map(lambda cell: crew.build(cell, None), build.plan.cells))
                publish(build, results, clock.seconds, parent=outlook.parent)
    return clock.seconds | {"all": time.perf_counter() - started}


def measure(folder: Path, *, quick: bool) -> dict[str, float]:
    """Everything the tables show, flat."""
    home = folder / "prefect"
    result = {"first_start_s": start_s(home)}
    os.environ.update(environment(home))
    result["start_s"], _ = idle_s(1)  # the server of this process starts
    idle = {n: [idle_s(n) for _ in range(1 if quick else 3)] for n in N_CELLS}
    for kind, which in (("s", 0), ("cpu_s", 1)):
        few, many = (min(times[which] for times in idle[n]) for n in N_CELLS)
        per_task = (many - few) / (N_CELLS[1] - N_CELLS[0])
        result |= {f"run_{kind}": max(0.0, few - N_CELLS[0] * per_task), f"task_m{kind}": 1000 * per_task}
        result |= {f"idle_{N_CELLS[0]}_cells_{kind}": few, f"idle_{N_CELLS[1]}_cells_{kind}": many}
    survey = "tiny" if quick else "demo"
    simulate_archive(load_survey(survey), folder / "archive", workers=WORKERS)
    if not quick:
        by_functions(folder / "archive", folder / "warm", survey)  # machine code is compiled once
    for way, build in (("functions", by_functions), ("flow", by_flow)):
        seconds = build(folder / "archive", folder / way, survey)
        result |= {f"{way}_{step}_s": seconds[step] for step in STEPS}
    return result | projection(result)


def projection(result: dict[str, float]) -> dict[str, float]:
    """What starting, a run and its tasks come to in a whole `sdss-sn`, in percent of the time that it takes."""
    from flows.crews.cells import MOST_TASKS

    plan, _ = plan_sdss_sn()
    cells = [cost_of(cell) for cell in plan.cells]
    core_s = [cell.core_s for cell in cells]
    batch = -(-len(core_s) // MOST_TASKS)
    tasks = -(-len(core_s) // batch)
    once_s = result["start_s"] + result["run_cpu_s"]
    tasks_s = tasks * result["task_mcpu_s"] / 1000
    by_100_s = 3600 * simulate(cells, Cluster(100, connections=0), batch=batch).hours
    return {
        "sdss_sn_cells": len(core_s),
        "sdss_sn_core_hours": sum(core_s) / 3600,
        "sdss_sn_cells_per_task": batch,
        "sdss_sn_tasks": tasks,
        "sdss_sn_tasks_s": tasks_s,
        "sdss_sn_orchestration_s": once_s + tasks_s,
        "sdss_sn_percent_of_one_core": 100 * (once_s + tasks_s) / sum(core_s),
        "sdss_sn_by_100_workers_s": by_100_s,
        "sdss_sn_percent_of_100_workers": 100 * (once_s + tasks_s) / by_100_s,
    }


def show(result: dict[str, float]) -> None:
    """The tables."""
    print(f"an empty flow in a new process: {result['first_start_s']:.1f} s the first time ever, then ", end="")
    print(f"{result['start_s']:.1f} s")
    for kind, name in (("s", "elapsed"), ("cpu_s", "processor")):
        idle = ", ".join(f"{n} in {result[f'idle_{n}_cells_{kind}']:.2f} s" for n in N_CELLS)
        print(f"cells that do nothing, {name} time: {idle}: {result[f'task_m{kind}']:.1f} ms a task")
    print(f"\n{'a simulated survey, s':<24} {'plan':>7} {'cells':>7} {'all':>7}")
    for way, name in (("functions", "plain functions"), ("flow", "flow build-dataset")):
        steps: Sequence[float] = [result[f"{way}_{step}_s"] for step in STEPS]
        print(f"{name:<24} {steps[0]:>7.2f} {steps[1]:>7.2f} {steps[2]:>7.2f}")
    print("all: with the start of the archive's server, and in the flow with pictures of what was built")
    print("\na whole sdss-sn: ", end="")
    print(f"{result['sdss_sn_cells']:.0f} cells of {result['sdss_sn_core_hours']:.1f} core hours in ", end="")
    print(f"{result['sdss_sn_tasks']:.0f} tasks of up to {result['sdss_sn_cells_per_task']:.0f}")
    print(f"Prefect: {result['sdss_sn_orchestration_s']:.1f} s, of which tasks {result['sdss_sn_tasks_s']:.1f} s")
    print(f"of the time of one core: {result['sdss_sn_percent_of_one_core']:.3f} %; ", end="")
    print(f"of 100 workers beside a copy of the archive, {result['sdss_sn_by_100_workers_s']:.0f} s: ", end="")
    print(f"{result['sdss_sn_percent_of_100_workers']:.2f} %, if nobody had cut meanwhile")


def main() -> None:
    """Measure, print, and write JSON if asked; exit code 1 where Prefect takes more than its part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller archive, everything once")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    with TemporaryDirectory() as name:
        result: dict[str, Any] = measure(Path(name), quick=arguments.quick)
    show(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if result["sdss_sn_percent_of_one_core"] >= BAR_PERCENT:
        sys.exit(f"Prefect takes more than {BAR_PERCENT:g} %")


if __name__ == "__main__":
    main()
