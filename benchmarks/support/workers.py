"""Frame jobs in worker processes as a build has them: throughput, processor time, memory.

A command of its own, `python -m benchmarks.support.workers JOBS MEMORY_JOBS FRAME…`, each frame as image, table, mask
and rerun separated by commas: a spawned worker imports what its parent's script imports, and would hold all that the
benchmark compares with besides what it needs. Prints JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

from benchmarks.support.files import FrameFiles, random_places
from benchmarks.support.memory import peak_mb
from flows.crews.workers import worker_pool
from pipeline.cutting import FrameJob, cut_frame
from pipeline.naming import parse_frame_file
from pipeline.survey import ThumbnailConfig

OBJECTS: Final = 2
"""Of each job, as most frames of the survey have."""
CHUNKS: Final = 4
"""Parts of the jobs that one process and two take in turns."""
SETTLED_AFTER_JOBS: Final = 20


@dataclass(frozen=True, slots=True)
class Worked:
    """What one job cost in its worker."""

    pid: int
    wall_s: float
    cpu_s: float
    peak_mb: float


def work(job: FrameJob) -> Worked:
    """Cut a frame, and look at the process."""
    wall, cpu = time.perf_counter(), time.process_time()
    cut_frame(job)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Worked(os.getpid(), wall, cpu, peak_mb())


def jobs_of(frames: Sequence[FrameFiles], number: int) -> list[FrameJob]:
    """So many jobs over these frames in turn, at the same random places each time."""
    rng = np.random.default_rng(82)
    jobs = [files.job(*random_places(files, OBJECTS, rng), ThumbnailConfig()) for files in frames]
    return [jobs[n % len(jobs)] for n in range(number)]


def wait_for(workers: int, pool: Executor, job: FrameJob) -> None:
    """Until each process has cut a frame."""
    seen: set[int] = set()
    while len(seen) < workers:
        seen |= {worked.pid for worked in pool.map(work, [job] * 2 * workers)}


def throughput(jobs: Sequence[FrameJob]) -> tuple[dict[str, float], list[float]]:
    """Speed of one process and of two, in turns; and the peak memory of the one after each job [MB]."""
    spent: dict[int, list[float]] = {1: [], 2: []}
    worked: dict[int, list[Worked]] = {1: [], 2: []}
    with ExitStack() as stack:
        pools = {workers: stack.enter_context(worker_pool(workers)) for workers in spent}
        for workers, pool in pools.items():
            wait_for(workers, pool, jobs[0])
        for chunk in range(CHUNKS):
            for workers, pool in pools.items():
                started = time.perf_counter()
                worked[workers] += pool.map(work, jobs[chunk::CHUNKS])
                spent[workers].append(time.perf_counter() - started)
    result = {"jobs": float(len(jobs))}
    for workers, costs in worked.items():
        cpu_s, wall_s = (sum(getattr(one, key) for one in costs) for key in ("cpu_s", "wall_s"))
        result[f"{workers}_process_frames_per_s"] = len(jobs) / sum(spent[workers])
        result[f"{workers}_process_cpu_ms_per_frame"] = 1e3 * cpu_s / len(jobs)
        result[f"{workers}_process_cpu_over_wall"] = cpu_s / wall_s
    result["two_processes_over_one"] = median(one / two for one, two in zip(spent[1], spent[2], strict=True))
    result["two_processes_over_one_by_cpu"] = (
        2 * result["1_process_cpu_ms_per_frame"] / result["2_process_cpu_ms_per_frame"]
    )
    return result, [one.peak_mb for one in worked[1]]


def memory(peaks_mb: Sequence[float]) -> dict[str, float]:
    """Early and late in the life of a worker."""
    early, late = peaks_mb[min(SETTLED_AFTER_JOBS, len(peaks_mb)) - 1], peaks_mb[-1]
    return {"memory_peak_mb": late, "memory_growth": late / early - 1, "memory_jobs": len(peaks_mb)}


def main() -> None:
    """Measure and print."""
    frames = []
    for argument in sys.argv[3:]:
        *paths, rerun = argument.split(",")
        image, table, mask = map(Path, paths)
        frames.append(FrameFiles(parse_frame_file(image.name, rerun=int(rerun)), image, table, mask))
    result, peaks_mb = throughput(jobs_of(frames, int(sys.argv[1])))
    if (number := int(sys.argv[2])) > len(peaks_mb):
        with worker_pool(1) as pool:
            peaks_mb = [one.peak_mb for one in pool.map(work, jobs_of(frames, number))]
    print(json.dumps(result | memory(peaks_mb)))


if __name__ == "__main__":
    main()
