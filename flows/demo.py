"""The flow `demo`: the whole way once, from a simulated archive served over HTTP to a page about the trained model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from prefect import flow, get_run_logger
from pydantic import BaseModel, ConfigDict

from flows.build import Published, build_dataset
from flows.progress import Stopwatch
from flows.steps import step
from flows.train import evaluate_model, fine_tune_model, train_model
from model.evaluate import Evaluation
from pipeline.naming import run_dir
from pipeline.realsample import write_real_sample
from pipeline.report import write_pages
from pipeline.simulate.archive import simulate_archive
from pipeline.simulate.server import ArchiveServer
from pipeline.survey import load_survey


class DemoResult(BaseModel):
    """What a demo made, and where its time went."""

    model_config = ConfigDict(frozen=True)

    report: Path
    published: Published
    evaluation: Evaluation | None
    seconds: dict[str, float]


@flow(name="demo")
def demo(root: Path = Path("work/demo"), workers: int | None = None) -> DemoResult:
    """Simulate an archive, build a dataset from it over HTTP, train and fine-tune a small ConvEntion, report."""
    clock = Stopwatch()
    archive, truth = root / "archive", root / "archive" / "truth"
    with clock("simulate the archive"):
        simulated = step("simulate")(simulate_archive)(
            load_survey("demo"), archive, workers=workers or os.cpu_count(), progress=_simulated_frames()
        )
    megabytes = simulated.n_bytes / 1e6
    get_run_logger().info("archive %s: %d images, %.0f MB", simulated.root, simulated.n_images, megabytes)
    with clock("build the dataset"), ArchiveServer(archive) as server:
        published = build_dataset(survey="demo", root=root, archive_root=server.url, workers=workers)
    run = run_dir(root, f"small-{published.dataset_id}")
    with clock("train"):
        train_model(published.path, run, model="small")
    with clock("fine-tune"):
        fine_tune_model(published.path, run)
    with clock("evaluate"):
        evaluation = evaluate_model(published.path, run)
    return _report(root, published, clock, run=run, truth=truth, evaluation=evaluation)


@flow(name="demo-real")
def demo_real(sdss: Path, root: Path = Path("work/demo-real"), workers: int | None = None) -> DemoResult:
    """Serve the real files below `sdss`, build a dataset of stars and galaxies from them, report."""
    clock = Stopwatch()
    with clock("build the dataset"), ArchiveServer(sdss / "archive") as server:
        survey = write_real_sample(sdss, server.url, root)
        published = build_dataset(survey=str(survey), root=root, workers=workers)
    return _report(root, published, clock)


def _report(
    root: Path,
    published: Published,
    clock: Stopwatch,
    *,
    run: Path | None = None,
    truth: Path | None = None,
    evaluation: Evaluation | None = None,
) -> DemoResult:
    with clock("report"):
        seconds = dict(clock.seconds)
        page = step("report")(write_pages)(root / "report", published.path, run=run, truth=truth, seconds=seconds)
    return DemoResult(report=page, published=published, evaluation=evaluation, seconds=clock.seconds)


def _simulated_frames() -> Callable[[int, int], None]:
    """Tell the progress of the simulation every fifth of the way."""
    logger = get_run_logger()

    def tell(done: int, total: int) -> None:
        if done * 5 // total > (done - 1) * 5 // total:
            logger.info("simulated %d of %d frames", done, total)

    return tell
