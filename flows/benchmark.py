"""The flow `benchmark`: a preset on the simulated benchmark survey, whose truth is known and which needs no archive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger

from flows.forms import described
from flows.steps import step
from flows.train import evaluate_model, fine_tune_model, train_model
from model.config import preset
from model.distributed import Parallel
from model.evaluate import Evaluation
from pipeline.naming import run_dir
from pipeline.simulate.sequences import simulate_sequences
from pipeline.survey import load_survey


@flow(name="benchmark")
@described(like=train_model)
def benchmark(
    model: str = "light",
    changes: dict[str, Any] | None = None,
    survey: str = "benchmark",
    root: Path = Path("work"),
    objects: int | None = None,
    nights: int | None = None,
    folds: list[int] | None = None,
    processes: int | None = None,
    parallel: Parallel = "models",
    workers: int | None = None,
    report: bool = False,
) -> Evaluation:
    """Train, fine-tune and evaluate a preset on the benchmark survey, which is simulated first if it is not there.

    Parameters
    ----------
    survey
        Name of a survey description with a benchmark, or path of a .toml file.
    root
        Where datasets, training runs and reports live.
    objects
        How many objects; default: as the survey says.
    nights
        How many nights each has; default: as the survey says.
    workers
        Processes that simulate; default one per core.
    report
        Write an HTML page about dataset and run.
    """
    preset(model).updated(**(changes or {}))  # what is wrong with it is said before an hour of simulation
    made = step("simulate")(simulate_sequences)(
        load_survey(survey), root, n_objects=objects, nights=nights, workers=workers
    )
    get_run_logger().info("%s: %d objects, %d images", made.dataset_id, made.n_objects, made.n_images)
    run = run_dir(root, f"{model}-{made.dataset_id}")
    train_model(made.dataset, run, model=model, changes=changes, folds=folds, processes=processes, parallel=parallel)
    fine_tune_model(made.dataset, run, processes=processes, parallel=parallel)
    return evaluate_model(made.dataset, run, report=report)
