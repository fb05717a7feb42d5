"""The benchmark survey as a published dataset: simulated objects on their own grids, without frames in between.

`stamps` makes the images and `publish` the dataset, the same that publishes a build. Objects are made in
chunks, each as a cell is: its files, then its marker.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.atomic import replacing, write_text
from pipeline.build import ID_DIGITS, Build, exclusive
from pipeline.catalog import Catalog
from pipeline.catalog import Target as ListedTarget
from pipeline.cellrecord import CellResult, marker_file, read_marker
from pipeline.cells import stack_records
from pipeline.classmap import read_class_map
from pipeline.costs import summarise
from pipeline.errors import PipelineError
from pipeline.naming import sequence_path
from pipeline.objectrow import manifest_row, pixel_moments
from pipeline.plan import Plan
from pipeline.publish import publish
from pipeline.sequences import SCHEMA_VERSION, write_sequence
from pipeline.sequences import Sequence as ImageSequence
from pipeline.simulate.benchmark import Benchmark, Scene, benchmark_of, objects_of, scene_of
from pipeline.simulate.camera import Strip, strips
from pipeline.simulate.conditions import draw_conditions
from pipeline.simulate.config import Label
from pipeline.simulate.objects import Target
from pipeline.simulate.stamps import expose, place_stamp, record
from pipeline.simulate.truth import epoch_table, epochs, object_table
from pipeline.survey import SurveyConfig
from pipeline.version import PIPELINE_VERSION
from pipeline.zeropoints import ZeropointCheck, ZeropointFlag, apply_check

CHUNK: Final = 32
"""Objects that are made and entered at a time."""
STANDARDS_PER_FRAME: Final = 15

Progress = Callable[[int, int], None]
"""Objects done, objects in all."""


@dataclass(frozen=True, slots=True)
class SequencesResult:
    """What was published, or found published."""

    dataset: Path
    truth: Path
    dataset_id: str
    fingerprint: str
    n_objects: int
    n_images: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Objects of one worker's turn."""

    number: int
    objects: tuple[tuple[int, Label, int], ...]

    @property
    def cell_id(self) -> str:
        """As the cell of a build."""
        return f"simulated-{self.number:05d}"


def simulate_sequences(
    survey: SurveyConfig,
    root: Path,
    *,
    n_objects: int | None = None,
    nights: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> SequencesResult:
    """Publish the benchmark of `survey` as a version of its dataset below `root`, with the injected truth beside it.

    The same survey and sizes give the same bytes, whatever `workers` (None: as many as the process may use). A killed
    call continues with the chunks that it had not finished.

    Raises
    ------
    ConfigError
        The survey describes no benchmark, or one that cannot be made.
    StorageError
        There is no room, or no right, to write.
    PipelineError
        A worker process died.
    """
    started = time.monotonic()
    benchmark = benchmark_of(survey, n_objects=n_objects, nights=nights)
    build = _build(survey, root, benchmark)
    with exclusive(build):
        chunks = _chunks(benchmark)
        done = _make_all(survey, benchmark, build.building, chunks, workers or len(os.sched_getaffinity(0)), progress)
        truth = _write_truth(root, benchmark, chunks)
        seconds = time.monotonic() - started
        dataset = publish(build, [done[chunk.number] for chunk in chunks], {"simulate": seconds})
    return SequencesResult(
        dataset.path,
        truth,
        dataset.info.dataset_id,
        benchmark.fingerprint(),
        len(dataset.objects),
        dataset.info.counts["images"],
        time.monotonic() - started,
    )


def _build(survey: SurveyConfig, root: Path, benchmark: Benchmark) -> Build:
    """As `build.prepare` makes one, of objects that need no exposures."""
    targets = [_listed(survey, scene_of(benchmark, *which).target) for which in objects_of(benchmark)]
    fingerprint = f"{PIPELINE_VERSION} {SCHEMA_VERSION} {survey.fingerprint()} {benchmark.fingerprint()}"
    digest = hashlib.sha256(fingerprint.encode()).hexdigest()
    catalog, plan = Catalog(tuple(targets), (), digest), Plan((), (), {})
    return Build(survey, root, catalog, plan, summarise(survey, plan), digest, "")


def _chunks(benchmark: Benchmark) -> list[_Chunk]:
    objects = objects_of(benchmark)
    return [_Chunk(k // CHUNK, tuple(objects[k : k + CHUNK])) for k in range(0, len(objects), CHUNK)]


def _make_all(
    survey: SurveyConfig,
    benchmark: Benchmark,
    building: Path,
    chunks: Sequence[_Chunk],
    workers: int,
    progress: Progress | None,
) -> dict[int, CellResult]:
    """Make the chunks, in processes if they are several; what each wrote, by number."""
    done: dict[int, CellResult] = {}
    total = sum(len(chunk.objects) for chunk in chunks)
    if workers == 1:
        for chunk in chunks:
            done[chunk.number] = _make_chunk(survey, benchmark, building, chunk)
            if progress:
                progress(sum(len(result.objects) for result in done.values()), total)
        return done
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(_make_chunk, survey, benchmark, building, chunk): chunk for chunk in chunks}
        try:
            for future in as_completed(waiting):
                done[waiting[future].number] = future.result()
                if progress:
                    progress(sum(len(result.objects) for result in done.values()), total)
        except BrokenProcessPool as error:
            raise PipelineError("a worker process died while objects were simulated: is memory short?") from error
        finally:
            pool.shutdown(cancel_futures=True)
    return done


def _make_chunk(survey: SurveyConfig, benchmark: Benchmark, building: Path, chunk: _Chunk) -> CellResult:
    """Write the files of a chunk, then its marker; or find them written."""
    marker, input_hash = marker_file(building, chunk.cell_id), benchmark.fingerprint()
    if (finished := read_marker(building, chunk.cell_id)) is not None and finished.input_hash == input_hash:
        return finished
    rows, moments = [], {}
    for cid, label, nth in chunk.objects:
        sequence = make_sequence(survey, benchmark, scene_of(benchmark, cid, label, nth))
        sha256 = write_sequence(building / sequence_path(sequence.object_id), sequence)
        rows.append(manifest_row(sequence, sha256, chunk.cell_id))
        moments[sequence.object_id] = pixel_moments(sequence, survey.thumbnails.bands)
    result = CellResult(
        cell_id=chunk.cell_id, input_hash=input_hash, objects=tuple(rows), frames=(), skips=(), moments=moments
    )
    write_text(marker, result.model_dump_json() + "\n")
    return result


def make_sequence(survey: SurveyConfig, benchmark: Benchmark, scene: Scene) -> ImageSequence:
    """Every image of one object, its zero points corrected by standard stars, with their error."""
    target = scene.target
    seen_by = [strip for strip in strips(scene.config) if strip.band in survey.thumbnails.bands]
    flux_S = epochs((target,), seen_by).flux_nmgy_TS[0]
    rng = np.random.default_rng([scene.config.seed, 10])
    records = []
    for strip, flux in zip(seen_by, flux_S.tolist(), strict=True):
        stamp = place_stamp(strip, target.ra_deg, target.dec_deg, survey.thumbnails.size)
        if stamp is None:
            continue
        conditions = draw_conditions(scene.config, strip)
        frame = expose(scene.config, strip, conditions, scene.population, np.array([flux]), stamp, rng)
        found = record(frame, target.ra_deg, target.dec_deg, survey.thumbnails)
        records.append(apply_check(found, _check(strip, benchmark, rng)))
    return stack_records(_listed(survey, target), records, survey)


def _check(strip: Strip, benchmark: Benchmark, rng: np.random.Generator) -> ZeropointCheck:
    """What standard stars say of the clouds, with the error of a few stars."""
    error = benchmark.sequences.zp_error_mag[strip.band]
    n_stars = 1 + int(rng.poisson(STANDARDS_PER_FRAME))
    offset = strip.run.clouds_mag + error * float(rng.standard_normal())
    flags = ZeropointFlag.CHECKED | ZeropointFlag.CORRECTED
    return ZeropointCheck(offset, error, error * n_stars**0.5, n_stars, flags)


def _listed(survey: SurveyConfig, target: Target) -> ListedTarget:
    """The object as a catalogue lists it."""
    meaning = read_class_map(survey.catalog.class_map).labels[target.label]
    return ListedTarget(
        str(target.cid), target.ra_deg, target.dec_deg, target.label, meaning.class_name, meaning.confirmation
    )


def _write_truth(root: Path, benchmark: Benchmark, chunks: Sequence[_Chunk]) -> Path:
    """objects.parquet and epochs.parquet, in a folder named after what they are the truth of."""
    folder = root / "truth" / benchmark.fingerprint()[:ID_DIGITS]
    folder.mkdir(parents=True, exist_ok=True)
    with (
        replacing(folder / "objects.parquet") as objects_file,
        replacing(folder / "epochs.parquet") as epochs_file,
        ExitStack() as stack,
    ):
        writers: list[pq.ParquetWriter] = []
        for chunk in chunks:
            tables = _truth_of(benchmark, chunk)
            if not writers:
                files = zip((objects_file, epochs_file), tables, strict=True)
                writers = [stack.enter_context(pq.ParquetWriter(file, table.schema)) for file, table in files]
            for writer, table in zip(writers, tables, strict=True):
                writer.write_table(table)
    return folder


def _truth_of(benchmark: Benchmark, chunk: _Chunk) -> tuple[pa.Table, pa.Table]:
    objects, seen = [], []
    for cid, label, nth in chunk.objects:
        scene = scene_of(benchmark, cid, label, nth)
        its_strips = strips(scene.config)
        objects.append(object_table((scene.target,)))
        seen.append(epoch_table((scene.target,), its_strips, epochs((scene.target,), its_strips)))
    return pa.concat_tables(objects), pa.concat_tables(seen)
