"""`s82 train`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import click

from model.config import preset as preset_of
from model.distributed import Parallel, is_told, under_torchrun
from model.runs import train
from model.watching import watcher
from pipeline.manifest import open_dataset
from pipeline.outputs import check_output
from s82.options import Command
from s82.output import as_json, show, stderr_line


def parse_settings(settings: tuple[str, ...]) -> dict[str, Any]:
    """Nest `train.epochs=5` as {"train": {"epochs": 5}}; values are JSON, else text."""
    changes: dict[str, Any] = {}
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator or not all(key.split(".")):
            raise click.BadParameter(f"{setting!r} is not of the form part.name=value", param_hint="--set")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        *parts, name = key.split(".")
        place = changes
        for part in parts:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise click.BadParameter(f"{setting!r}: {part} was set to {place!r} before", param_hint="--set")
        place[name] = value
    return changes


def parallel_option(command: Command) -> Command:
    """`--parallel`: what several processes share."""
    return click.option(
        "--parallel",
        type=click.Choice(get_args(Parallel)),
        default="models",
        show_default=True,
        help="Under torchrun: each process trains models of its own, or all share every batch.",
    )(command)


@click.command("train")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.argument("run", type=click.Path(file_okay=False, path_type=Path))
@click.option("--preset", default="small", show_default=True, help="paper, light or small.")
@click.option("--set", "settings", multiple=True, metavar="PART.NAME=VALUE", help="Change one setting of the preset.")
@click.option("--fold", "folds", type=int, multiple=True, help="Train this fold only; may be repeated.")
@parallel_option
@as_json
def command(
    dataset: Path,
    run: Path,
    preset: str,
    settings: tuple[str, ...],
    folds: tuple[int, ...],
    parallel: Parallel,
    as_json: bool,
) -> None:
    """Step 1: train on the photometrically typed objects of DATASET into the run directory RUN.

    Several GPUs: torchrun --nproc-per-node N -m s82 train DATASET RUN …
    """
    changes = parse_settings(settings)
    config = preset_of(preset).updated(**changes)  # say what is wrong before Prefect takes its ten seconds
    open_dataset(dataset)
    check_output(run)
    if under_torchrun():
        bars = watcher(stderr_line) if is_told() else None
        result = train(dataset, run, config, folds=list(folds) or None, progress=bars, parallel=parallel)
        if is_told():
            show(result.model_dump(mode="json"), as_json=as_json)
        return
    from flows.train import train_model

    result = train_model(dataset, run, model=preset, changes=changes, folds=list(folds) or None)
    show(result.model_dump(mode="json"), as_json=as_json)
