"""Write a whole simulated archive: images, tables, catalogue, exposure index, truth."""

from __future__ import annotations

import bz2
import json
import multiprocessing
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.atomic import storing, sync_dir
from pipeline.errors import ConfigError, PipelineError
from pipeline.naming import (
    CAS_FIELDS,
    DAS_FOLDER,
    MASTER_TABLE,
    SIMULATION_FILE,
    SKYSERVER_FIELDS,
    TRUTH_FOLDER,
    frame_path,
    mask_path,
    photofield_path,
    tsfield_path,
)
from pipeline.simulate.camera import FIELD_STEP, N_ROWS, Strip, strips
from pipeline.simulate.catalogs import field_table, master_table
from pipeline.simulate.conditions import Conditions, draw_conditions
from pipeline.simulate.config import SimulationConfig, simulation_config
from pipeline.simulate.fpc import fpc_bytes, gzipped, tsfield_bytes
from pipeline.simulate.fpm import fpm_bytes
from pipeline.simulate.frame import SkyModel, calibrated, frame_bytes, photofield_bytes
from pipeline.simulate.population import Population, draw_population
from pipeline.simulate.render import Recorded, render
from pipeline.simulate.truth import Epochs, epochs, write_truth
from pipeline.survey import SurveyConfig

FORMAT_VERSION: Final = 2
"""Raised when the same configuration comes to give other bytes."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """What was written, or found already written."""

    root: Path
    fingerprint: str
    n_objects: int
    n_runs: int
    n_images: int
    n_files: int
    n_bytes: int
    seconds: float
    """That writing it took, now or then."""
    reused: bool


@dataclass(frozen=True, slots=True)
class _Job:
    """One strip to record and write; all a worker process needs besides the population."""

    strip: Strip
    conditions: Conditions
    point_flux_nmgy: NDArray[np.float64]


def simulate_archive(
    survey: SurveyConfig, out: Path, *, workers: int | None = None, progress: Progress | None = None
) -> SimulationResult:
    """Write the simulated archive of `survey` to the folder `out`, or find it there.

    The same configuration gives the same bytes, whatever `workers` (None: as many as the process may
    use); only `seconds` in truth/archive.json differs. The folder appears under its name when it is
    complete. `progress` is called with (strips done, strips in all).

    Raises
    ------
    ConfigError
        The survey has no usable `[simulation]`, or `out` holds something else.
    PipelineError
        A worker process died.
    """
    config = simulation_config(survey)
    if out.exists():
        return _existing(out, config)
    with storing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    try:
        counts, seconds = _write_archive(config, building, workers or len(os.sched_getaffinity(0)), progress)
        building.chmod(0o755)
        building.rename(out)
        sync_dir(out.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return SimulationResult(out, _fingerprint(config), **counts, seconds=seconds, reused=False)


def _existing(out: Path, config: SimulationConfig) -> SimulationResult:
    try:
        record = json.loads((out / SIMULATION_FILE).read_text(encoding="utf-8"))
        found, counts = record["fingerprint"], record["counts"]
        result = SimulationResult(out, found, **counts, seconds=record["seconds"], reused=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{out} exists but is no simulated archive: give another folder, or remove it") from error
    if found != _fingerprint(config):
        raise ConfigError(
            f"{out} holds the archive of another [simulation] configuration: give another folder, or remove it"
        )
    return result


def _fingerprint(config: SimulationConfig) -> str:
    return f"{FORMAT_VERSION}-{config.fingerprint()}"


def _write_archive(
    config: SimulationConfig, root: Path, workers: int, progress: Progress | None
) -> tuple[dict[str, int], float]:
    started = time.perf_counter()
    population, all_strips = draw_population(config), strips(config)
    seen = epochs(population.targets, all_strips)
    nights = [draw_conditions(config, strip) for strip in all_strips]
    _write_tables(root, population, all_strips, nights, seen)
    jobs = [
        _Job(strip, night, seen.flux_nmgy_TS[:, s])
        for s, (strip, night) in enumerate(zip(all_strips, nights, strict=True))
        if strip.band in config.written_bands
    ]
    # Longest first, so that no bzip2 is left alone at the end.
    jobs.sort(key=lambda job: (job.strip.run.layout, job.strip.n_fields), reverse=True)
    _run(config, root, population, jobs, workers, progress)
    counts = {
        "n_objects": len(population.targets),
        "n_runs": len(config.runs),
        "n_images": sum(job.strip.n_fields for job in jobs),
        **_volume(root),
    }
    seconds = round(time.perf_counter() - started, 1)
    _write_record(root, config, counts, seconds)
    return counts, seconds


def _volume(root: Path) -> dict[str, int]:
    sizes = [path.stat().st_size for path in root.rglob("*") if path.is_file()]
    return {"n_files": len(sizes), "n_bytes": sum(sizes)}


def _write_record(root: Path, config: SimulationConfig, counts: dict[str, int], seconds: float) -> None:
    record: dict[str, Any] = {
        "fingerprint": _fingerprint(config),
        "config": config.model_dump(mode="json"),
        "software": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("stripe82-convention", "galsim", "numpy", "scipy", "astropy")},
        },
        "counts": counts,
        "seconds": seconds,
    }
    (root / SIMULATION_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _write_tables(
    root: Path, population: Population, all_strips: Sequence[Strip], nights: Sequence[Conditions], seen: Epochs
) -> None:
    write_truth(root / TRUTH_FOLDER, population, all_strips, seen)
    red = [s for s, strip in enumerate(all_strips) if strip.band == "r"]
    master = master_table(population.targets, list(seen.flux_nmgy_TS[:, red]), list(seen.mjd_tai_TS[:, red]))
    _put(root, MASTER_TABLE, master.encode())
    dr7, dr8 = [], []
    for strips_5, nights_5 in _by_run(all_strips, nights):
        run, camcol = strips_5[0].run, strips_5[0].camcol
        if run.layout == "sas-dr8":
            _put(root, photofield_path(run.run, run.rerun, camcol), photofield_bytes(strips_5, nights_5))
            dr8.append((strips_5, nights_5))
            continue
        dr7.append((strips_5, nights_5))
        for index in range(strips_5[0].n_fields):
            path = tsfield_path(run.run, run.rerun, camcol, run.field + index)
            _put(root, f"{DAS_FOLDER}/{path}", tsfield_bytes(strips_5, index, nights_5))
    for place, rows in ((SKYSERVER_FIELDS, dr7), (CAS_FIELDS, dr8)):
        if rows:
            _put(root, place, field_table(rows).encode())


def _by_run(
    all_strips: Sequence[Strip], nights: Sequence[Conditions]
) -> Iterator[tuple[list[Strip], list[Conditions]]]:
    """The five strips and nights of each run, in ugriz order."""
    pairs = zip(all_strips, nights, strict=True)
    for _, group in groupby(pairs, key=lambda pair: pair[0].run.run):
        members = list(group)
        yield [strip for strip, _ in members], [night for _, night in members]


def _put(root: Path, path: str, content: bytes) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


_shared: dict[str, tuple[SimulationConfig, Path, Population]] = {}
"""Of a worker process: set once when it starts, so that the population is not sent with every job."""


def _run(
    config: SimulationConfig,
    root: Path,
    population: Population,
    jobs: Sequence[_Job],
    workers: int,
    progress: Progress | None,
) -> None:
    report = progress or (lambda _done, _total: None)
    if workers == 1:
        for done, job in enumerate(jobs, start=1):
            _write_strip(config, root, population, job)
            report(done, len(jobs))
        return
    # Not forked: the caller may have threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (config, root, population)) as pool:
        try:
            futures = [pool.submit(_work, job) for job in jobs]
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                report(done, len(jobs))
        except BrokenProcessPool as error:
            raise PipelineError(
                f"a worker process died, perhaps for want of memory: try fewer than {workers}"
            ) from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _start_worker(config: SimulationConfig, root: Path, population: Population) -> None:
    _shared["archive"] = config, root, population


def _work(job: _Job) -> None:
    _write_strip(*_shared["archive"], job)


def _write_strip(config: SimulationConfig, root: Path, population: Population, job: _Job) -> None:
    recorded = render(config, job.strip, job.conditions, population, job.point_flux_nmgy)
    if job.strip.run.layout == "sas-dr8":
        _write_frames(root, job, recorded)
    else:
        _write_fpcs(root, job, recorded)


def _write_frames(root: Path, job: _Job, recorded: Recorded) -> None:
    sky = SkyModel.of(job.strip, job.conditions)
    image_RC = calibrated(recorded.dn_RC, sky.on_pixels(job.strip.n_rows), job.conditions)
    for index in range(job.strip.n_fields):
        frame = job.strip.frame(index)
        content = frame_bytes(job.strip, index, job.conditions, image_RC[_rows(index)], sky)
        _put(root, frame_path(frame), bz2.compress(content))
        _put(root, mask_path(frame), gzipped(_masks(job.strip, index, recorded)))


def _write_fpcs(root: Path, job: _Job, recorded: Recorded) -> None:
    for index in range(job.strip.n_fields):
        frame = job.strip.frame(index)
        content = fpc_bytes(job.strip, index, job.conditions, recorded.dn_RC[_rows(index)])
        _put(root, f"{DAS_FOLDER}/{frame_path(frame)}", gzipped(content))
        _put(root, f"{DAS_FOLDER}/{mask_path(frame)}", _masks(job.strip, index, recorded))


def _rows(index: int) -> slice:
    return slice(index * FIELD_STEP, index * FIELD_STEP + N_ROWS)


def _masks(strip: Strip, index: int, recorded: Recorded) -> bytes:
    rows = _rows(index)
    planes = {
        "INTERP": recorded.interp_RC[rows],
        "SATUR": recorded.satur_RC[rows],
        "GHOST": recorded.ghost_RC[rows],
        "CR": recorded.cosmic_ray_RC[rows],
    }
    return fpm_bytes(strip, index, planes)
