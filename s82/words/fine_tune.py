"""`s82 fine-tune`"""

from __future__ import annotations

from pathlib import Path

import click

from model.distributed import Parallel, is_told, under_torchrun
from model.runs import fine_tune, open_run
from model.watching import watcher
from s82.output import as_json, show, stderr_line
from s82.words.train import parallel_option


@click.command("fine-tune")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.argument("run", type=click.Path(file_okay=False, path_type=Path))
@parallel_option
@as_json
def command(dataset: Path, run: Path, parallel: Parallel, as_json: bool) -> None:
    """Step 2: continue the models of RUN on the spectroscopically confirmed objects of DATASET.

    Several GPUs: torchrun --nproc-per-node N -m s82 fine-tune DATASET RUN
    """
    open_run(dataset, run)  # say what is wrong before Prefect takes its ten seconds
    if under_torchrun():
        result = fine_tune(dataset, run, progress=watcher(stderr_line) if is_told() else None, parallel=parallel)
        if is_told():
            show(result.model_dump(mode="json"), as_json=as_json)
        return
    from flows.train import fine_tune_model

    show(fine_tune_model(dataset, run).model_dump(mode="json"), as_json=as_json)
