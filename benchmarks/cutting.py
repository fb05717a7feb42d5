"""Cutting frames: our time per frame against scripts that an astronomer would write, and against decoding alone.

The files lie on disk, warm in the system's cache; nothing is fetched. Objects are at random places of the frame, the
same for all. Compared with ours (`pipeline.cutting.cut_frame`: read, check, decode, sky, masks; image, variance and
mask of every thumbnail; of fpC, where the pipeline checks zero points, the fluxes of the frame's standard stars) are

floor       decoding the image, and for fpC our model of its sky: what no way of cutting can do without
floor, sep  the same with one plain pass of `sep.Background` for a sky: for information
naive       for each object `fits.open`, `Cutout2D`, `reproject_interp` (its default, linear), append to an HDF5 file
astrocut    for each object a `FITSCutout` of a float32 file decompressed before, untimed; no resampling; if installed
reproject   decode and sky as the floor, then for each object a crop through `reproject_interp` with a quintic spline

None of the last three works out variances or masks, and naive and astrocut do not subtract a sky: they do less.

All ways take turns on the same frames in one process; a ratio is the median of the ratios of single turns, so that
what else the machine does falls on both sides. "~" marks a way that was too slow for so many objects and was timed with
fewer: the rest in proportion. Then: where the time of one job goes, by the module at work; how two processes do against
one, with their processor time over wall time (over 1: a worker has threads, which compete with the other workers); the
memory of a worker; and what starting a process and compiling cost, once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
from astropy.io import fits
from astropy.wcs import FITSFixedWarning

from benchmarks.support.files import (
    FIRST_EPOCH,
    FORMATS,
    LEGACY,
    NO_REAL_FILES,
    SECOND_EPOCH,
    FrameFiles,
    random_places,
    real_data,
    simulated_frames,
)
from benchmarks.support.rivals import CONFIG, LABELS, Task, decode, ways
from benchmarks.support.stages import STAGE_NAMES, StageClock
from pipeline.cutting import cut_frame
from pipeline.naming import parse_frame_file
from pipeline.simulate.archive import simulate_archive
from pipeline.survey import SurveyConfig, load_survey

OBJECTS: Final = (1, 2, 5, 10, 50)
FLOOR_BAR: Final = {1: 1.15, 5: 1.15, 50: 1.4}
"""Most that our time may be, in floors, by objects per frame."""
NAIVE_BAR: Final = {("fpC", 2): 10.0, ("fpC", 10): 40.0, ("frame", 2): 10.0}
"""Least that the naive script's time must be, in ours."""
TWO_PROCESSES_BAR: Final = 1.8
MEMORY_BAR_MB: Final = 400.0
GROWTH_BAR: Final = 0.05
"""Of the peak, from the 20th job to the last."""
QUIET: Final = 0.95
"""Of a processor that each worker must have had for their number to be judged."""
PROFILED_OBJECTS: Final = (5, 50)
WARM_UP_OBJECTS: Final = 300
"""Enough to meet edges, flags and saturated stars, whose kernels are compiled when one is first met."""
SIMULATED_RUNS: Final = (2662, 5582)
THREADS_BAR: Final = 1.05
"""Processor time over wall time of a worker's jobs."""

START: Final = """
import sys, time
started = time.perf_counter()
import pipeline.cutting
imported = time.perf_counter() - started
from benchmarks.cutting import first_jobs
print(imported, *first_jobs(sys.argv[1:]))
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    repeats: Mapping[str, int]
    """Turns per format."""
    naive_up_to: Mapping[str, int]
    astrocut_up_to: int
    throughput: Mapping[str, int]
    """Jobs per pool and format."""
    memory_jobs: int
    profile_repeats: int
    compile_too: bool
    """Measure what compiling costs."""
    also_simulated: bool
    """Beside real frames; where there are none they are simulated anyway."""

    def most_objects(self, way: str, image_format: str) -> int:
        """That a way is timed with; all but two are fast enough for any number."""
        return {"naive": self.naive_up_to[image_format], "astrocut": self.astrocut_up_to}.get(way, max(OBJECTS))


FULL: Final = Plan({"fpC": 10, "frame": 5}, {"fpC": 50, "frame": 5}, 5, {"fpC": 80, "frame": 40}, 200, 5, True, True)
QUICK: Final = Plan({"fpC": 3, "frame": 1}, {"fpC": 5, "frame": 2}, 2, {"fpC": 40}, 40, 1, False, False)


def seconds(call: Callable[[], object]) -> float:
    """That it takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def take_turns(frames: Sequence[FrameFiles], plan: Plan, rng: np.random.Generator) -> dict[str, float]:
    """Milliseconds of each way per frame, and ratios to ours, by number of objects; of frames of one format."""
    times: dict[tuple[str, int], list[float]] = defaultdict(list)
    image_format = frames[0].format
    for files in frames[: plan.repeats[image_format] + 1]:
        cut_frame(files.job(*random_places(files, WARM_UP_OBJECTS, rng), CONFIG))
    for turn in range(plan.repeats[image_format] + 1):
        with TemporaryDirectory() as folder:
            opened = Path(folder) / "opened.fits"
            write_opened(frames[turn % len(frames)], opened)
            for n_objects in OBJECTS if turn else OBJECTS[:1]:
                task = make_task(frames[turn % len(frames)], n_objects, opened, rng)
                for name, way in ways(image_format).items():
                    if n_objects <= plan.most_objects(name, image_format):
                        times[name, n_objects].append(seconds(partial(way, task)))
        if turn == 0:  # it warmed up the others' caches
            times.clear()
    return {key: value for n in OBJECTS for key, value in figures(times, n, image_format, plan).items()}


def write_opened(files: FrameFiles, path: Path) -> None:
    """The image as float32 without compression, for astrocut."""
    image_YX, hdu = decode(files)
    header = hdu.header.copy()
    for card in ("BZERO", "BSCALE"):
        header.remove(card, ignore_missing=True)
    fits.writeto(path, image_YX.astype(np.float32), header, output_verify="silentfix")


def make_task(files: FrameFiles, n_objects: int, opened: Path, rng: np.random.Generator) -> Task:
    """Draw the objects; what the naive script writes goes to a folder of its own."""
    folder = opened.parent / str(n_objects)
    folder.mkdir()
    return Task(files, files.job(*random_places(files, n_objects, rng), CONFIG), opened, folder)


def figures(
    times: Mapping[tuple[str, int], list[float]], n_objects: int, image_format: str, plan: Plan
) -> dict[str, float]:
    """Flat figures of one number of objects."""
    result: dict[str, float] = {}
    for name in ways(image_format):
        timed = min(plan.most_objects(name, image_format), n_objects)
        spent = [n_objects / timed * one for one in times[name, timed]] if timed < n_objects else times[name, timed]
        result[f"{n_objects}_objects_{name}_ms"] = 1e3 * median(spent)
        result[f"{n_objects}_objects_{name}_timed_with"] = timed
        if name != "ours":
            ratios = [other / own for other, own in zip(spent, times["ours", n_objects], strict=True)]
            result[f"{n_objects}_objects_{name}_over_ours"] = median(ratios)
    result[f"{n_objects}_objects_ours_over_floor"] = median(
        own / least for own, least in zip(times["ours", n_objects], times["floor", n_objects], strict=True)
    )
    return result


def profile(files: FrameFiles, n_objects: int, repeats: int, rng: np.random.Generator) -> dict[str, float]:
    """Milliseconds per stage of one job, medians, and of the whole with and without the clock running."""
    job = files.job(*random_places(files, n_objects, rng), CONFIG)
    whole, clocked, stages = [], [], []
    for _ in range(repeats):
        whole.append(seconds(partial(cut_frame, job)))
        with StageClock() as clock:
            clocked.append(seconds(partial(cut_frame, job)))
        stages.append(dict(clock.seconds))
    result = {f"{name}_ms": 1e3 * median(one.get(name, 0.0) for one in stages) for name in STAGE_NAMES}
    return result | {"whole_ms": 1e3 * median(whole), "whole_clocked_ms": 1e3 * median(clocked)}


def first_jobs(arguments: Sequence[str]) -> tuple[float, float]:
    """Of a new process: seconds of its first job and of its second."""
    image, table, mask, rerun, ra_deg, dec_deg = arguments
    frame = parse_frame_file(Path(image).name, rerun=int(rerun))
    files = FrameFiles(frame, Path(image), Path(table), Path(mask))
    job = files.job(np.array([float(ra_deg)]), np.array([float(dec_deg)]), CONFIG, check_stars=False)
    return seconds(partial(cut_frame, job)), seconds(partial(cut_frame, job))


def start(files: FrameFiles, rng: np.random.Generator, *, compile_too: bool) -> dict[str, float]:
    """What a new process spends before it is up to speed [s]: with nothing compiled, and with all of it on disk."""
    (ra_deg,), (dec_deg,) = random_places(files, 1, rng)
    arguments = [files.image, files.table, files.mask, files.frame.rerun, float(ra_deg), float(dec_deg)]
    result: dict[str, float] = {}
    with TemporaryDirectory() as folder:
        own_cache = {"NUMBA_CACHE_DIR": folder} if compile_too else {}
        for state in ("compiling", "compiled")[0 if compile_too else 1 :]:
            imported, first, second = map(float, python("-c", START, *map(str, arguments), **own_cache).split())
            result |= {"import_s": imported, f"first_job_{state}_extra_s": first - second}
    return result


def sources(folder: Path, plan: Plan) -> Iterator[tuple[str, list[FrameFiles]]]:
    """Real frames if there are any, and simulated ones if there are none or the plan wants them too."""
    real = real_data()
    if real is None:
        print(NO_REAL_FILES)
    else:
        frames = (*FIRST_EPOCH, *SECOND_EPOCH, *LEGACY)
        yield "real", [FrameFiles.below(real / "archive", frame) for frame in frames]
    if real is None or plan.also_simulated:
        yield "simulated", simulated_frames(simulate_archive(two_nights(), folder / "simulated", workers=2).root)


def two_nights() -> SurveyConfig:
    """The survey that tests simulate, cut down to one night of each format."""
    survey = load_survey("tiny")
    assert survey.simulation is not None
    runs = [run for run in survey.simulation["runs"] if run["run"] in SIMULATED_RUNS]
    photofield = {"runs": tuple(run["run"] for run in runs if run["layout"] == "sas-dr8")}
    index = tuple(one.model_copy(update=photofield if one.kind == "photofield" else {}) for one in survey.index)
    return survey.model_copy(update={"simulation": {**survey.simulation, "runs": runs}, "index": index})


def measure(plan: Plan) -> dict[str, float]:
    """Everything the tables show, flat: source, format, what."""
    rng = np.random.default_rng(82)
    result: dict[str, float] = {"processors": len(os.sched_getaffinity(0)), "load_average_1min": os.getloadavg()[0]}
    with TemporaryDirectory() as folder:
        for number, (source, frames) in enumerate(sources(Path(folder), plan)):
            by_format = {name: [one for one in frames if one.format == name] for name in FORMATS.values()}
            for name, some in by_format.items():
                result |= prefixed(f"{source}_{name}_", take_turns(some, plan, rng))
            if number == 0:
                result |= behind_the_figures(by_format, plan, rng)
    return result


def behind_the_figures(
    frames: Mapping[str, Sequence[FrameFiles]], plan: Plan, rng: np.random.Generator
) -> dict[str, float]:
    """Profile, processes and their start."""
    result: dict[str, float] = {}
    for name, some in frames.items():
        for n_objects in PROFILED_OBJECTS:
            spent = profile(some[0], n_objects, plan.profile_repeats, rng)
            result |= prefixed(f"{name}_profile_{n_objects}_objects_", spent)
    for name, jobs in plan.throughput.items():
        result |= prefixed(f"{name}_", processes(frames[name], jobs, plan.memory_jobs))
    return result | prefixed("start_", start(frames["fpC"][0], rng, compile_too=plan.compile_too))


def processes(frames: Sequence[FrameFiles], jobs: int, memory_jobs: int) -> dict[str, float]:
    """Throughput of one and two processes, and memory of one that lives long."""
    names = [f"{one.image},{one.table},{one.mask},{one.frame.rerun}" for one in frames]
    done = python("-m", "benchmarks.support.workers", str(jobs), str(memory_jobs), *names)
    return dict(json.loads(done))


def python(*arguments: str, **environment: str) -> str:
    """What another Python process prints."""
    root = str(Path(__file__).resolve().parents[1])
    everything = os.environ | {"PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)])} | environment
    done = subprocess.run([sys.executable, *arguments], env=everything, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def prefixed(prefix: str, found: Mapping[str, float]) -> dict[str, float]:
    """The same figures under longer names."""
    return {f"{prefix}{key}": value for key, value in found.items()}


def verdict(value: float, bar: float | None, *, least: bool = False) -> str:
    """The bar beside a figure, and whether it is met."""
    if bar is None:
        return ""
    met = value >= bar if least else value <= bar
    return f"({'≥' if least else '≤'} {bar:g} {'met' if met else 'MISSED'})"


def show_turns(result: Mapping[str, float], source: str, name: str) -> None:
    """The table of one kind of frames."""
    print(f"\n{source} {name}, ms per frame (× ours)")
    print(f"{'objects per frame':<28}" + "".join(f"{n:>18}" for n in OBJECTS))
    for way, label in LABELS.items():
        cells = []
        for n in OBJECTS:
            key = f"{source}_{name}_{n}_objects_{way}"
            if f"{key}_ms" in result:
                about = "~" if result[f"{key}_timed_with"] < n else ""
                ratio = f"(× {result[f'{key}_over_ours']:.2f})" if way != "ours" else ""
                cells.append(f"{about}{result[f'{key}_ms']:.0f} {ratio:>9}")
        print(f"{label:<28}" + "".join(f"{cell:>18}" for cell in cells) if cells else f"{label:<28} not measured")
    for n, bar in FLOOR_BAR.items():
        value = result[f"{source}_{name}_{n}_objects_ours_over_floor"]
        print(f"  ours / floor at {n} objects: {value:.3f} {verdict(value, bar)}")
    for (which, n), bar in NAIVE_BAR.items():
        if which == name:
            key = f"{source}_{name}_{n}_objects_"
            value, most = result[f"{key}naive_over_ours"], result[f"{key}naive_ms"] / result[f"{key}floor_ms"]
            judged = verdict(value, bar, least=True)
            print(f"  naive / ours at {n} objects: {value:.1f} {judged}; naive / floor {most:.1f}")


def show_profile(result: Mapping[str, float]) -> None:
    """Where the time of one job goes."""
    columns = [(name, n) for name in ("fpC", "frame") for n in (5, 50)]
    print("\nwhere the time of one job goes, ms")
    print(f"{'':<28}" + "".join(f"{f'{name}, {n} objects':>18}" for name, n in columns))
    for stage in (*STAGE_NAMES, "whole_clocked", "whole"):
        label = {"whole_clocked": "together", "whole": "without the clock"}.get(stage, stage)
        values = [result[f"{name}_profile_{n}_objects_{stage}_ms"] for name, n in columns]
        print(f"{label:<28}" + "".join(f"{value:>18.1f}" for value in values))
    for name in ("fpC", "frame"):
        few, many = (result[f"{name}_profile_{n}_objects_cut_ms"] for n in (5, 50))
        print(f"  {name}: {(many - few) / 45:.2f} ms more per object")


def show_processes(result: Mapping[str, float], name: str) -> None:
    """One process against two, and memory, with frames of one format."""
    one, two = (result[f"{name}_{workers}_process_frames_per_s"] for workers in (1, 2))
    ratio, by_cpu = result[f"{name}_two_processes_over_one"], result[f"{name}_two_processes_over_one_by_cpu"]
    alone, share = (result[f"{name}_{workers}_process_cpu_over_wall"] for workers in (1, 2))
    judged = verdict(ratio, TWO_PROCESSES_BAR, least=True)
    if min(alone, share) < QUIET:
        judged = f"(not judged: others were at work, a worker had {alone:.2f} and {share:.2f} of a processor)"
    print(f"  {name}: {one:.1f} frames/s with one process, {two:.1f} with two, {result[f'{name}_jobs']:.0f} frames")
    print(f"    two over one: × {ratio:.2f} {judged}; by processor time × {by_cpu:.2f}")
    print(f"    processor time / wall time of a worker: {alone:.2f}, of two {share:.2f} {verdict(alone, THREADS_BAR)}")
    peak, growth = result[f"{name}_memory_peak_mb"], result[f"{name}_memory_growth"]
    print(
        f"    memory of a worker: peak {peak:.0f} MB {verdict(peak, MEMORY_BAR_MB)}, from job 20 to "
        f"{result[f'{name}_memory_jobs']:.0f} {growth:+.1%} {verdict(growth, GROWTH_BAR)}"
    )


def show_start(result: Mapping[str, float]) -> None:
    """What a new process spends."""
    print(f"\na new process imports for {result['start_import_s']:.1f} s; its first frame takes", end=" ")
    extra = {state: result.get(f"start_first_job_{state}_extra_s") for state in ("compiled", "compiling")}
    print(f"{extra['compiled']:.1f} s more than its second", end="")
    print(f", and {extra['compiling']:.1f} s more where nothing is compiled" if extra["compiling"] else "")


def show(result: Mapping[str, float], plan: Plan) -> None:
    """All tables."""
    if not find_spec("astrocut"):
        print("astrocut is not installed here: its rows are left out")
    for source in ("real", "simulated"):
        for name in ("fpC", "frame"):
            if any(key.startswith(f"{source}_{name}_") for key in result):
                show_turns(result, source, name)
    show_profile(result)
    print(f"\n{result['processors']:.0f} processors, load {result['load_average_1min']:.1f} at the beginning")
    for name in plan.throughput:
        show_processes(result, name)
    show_start(result)


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="fewer turns and jobs, real frames only where there are any"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    warnings.simplefilter("ignore", FITSFixedWarning)  # real headers are old, which astropy's ways say every time
    result = measure(plan)
    show(result, plan)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
