"""A flow that leaves many task runs behind and then hands a dataset over, as a large build does.

python -m tests.drills.many_tasks 500 DATASET
"""

from __future__ import annotations

import sys
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import wait
from prefect.task_runners import ThreadPoolTaskRunner

from flows.handover import say_published, start_next
from pipeline.manifest import open_dataset


@task(cache_policy=NO_CACHE, persist_result=False)
def nothing() -> None:
    """Be recorded."""


@flow(task_runner=ThreadPoolTaskRunner(max_workers=32))  # type: ignore[arg-type]
def publish_after(tasks: int, dataset: Path) -> None:
    """Record as many task runs, then do what `build-dataset` does when a version is new."""
    wait([nothing.submit() for _ in range(tasks)])
    version = open_dataset(dataset)
    say_published(version, "train-model/train-model")
    start_next("train-model/train-model", version)


if __name__ == "__main__":
    publish_after(int(sys.argv[1]), Path(sys.argv[2]))
