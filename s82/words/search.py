"""`s82 search`"""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from model.config import preset as preset_of
from model.search import TrialRecord, search
from s82.output import as_json, show, table
from s82.words.train import parse_settings


@click.command("search")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--trials", type=click.IntRange(1), required=True, help="Until so many are finished, earlier ones counted."
)
@click.option("--preset", default="small", show_default=True, help="Where the search begins: paper, light or small.")
@click.option("--set", "settings", multiple=True, metavar="PART.NAME=VALUE", help="Change one setting of the preset.")
@click.option("--fold", "folds", type=int, multiple=True, default=[0], show_default=True, help="May be repeated.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of what is tried.")
@as_json
def command(
    dataset: Path,
    out: Path,
    trials: int,
    preset: str,
    settings: tuple[str, ...],
    folds: tuple[int, ...],
    seed: int,
    as_json: bool,
) -> None:
    """Search hyper-parameters on the photometrically typed objects of DATASET; the same command continues in OUT."""
    config = preset_of(preset).updated(**parse_settings(settings))
    result = search(dataset, out, config, trials=trials, folds=folds, seed=seed, progress=None if as_json else _tell)
    if as_json:
        show(result.model_dump(mode="json"), as_json=True)
        return
    ranked = sorted(result.trials, key=lambda trial: -(trial.macro_f1 or 0.0))
    table([_row(trial) for trial in ranked])
    chosen = " ".join(f"--set {shlex.quote(setting)}" for setting in (*settings, *result.best.settings))
    click.echo(f"\nbest: s82 train {dataset} RUN --preset {preset} {chosen}")


def _tell(trial: TrialRecord) -> None:
    outcome = trial.reason or (f"macro F1 {trial.macro_f1:.3f}" if trial.macro_f1 is not None else "")
    click.echo(f"trial {trial.number}: {trial.state} after {trial.epochs} epochs {outcome}".rstrip(), err=True)


def _row(trial: TrialRecord) -> dict[str, object]:
    settings = dict(
        setting.split("=", 1) for setting in trial.settings if not setting.startswith("model.convolutions=")
    )
    return {
        "trial": trial.number,
        "state": trial.state,
        "macro F1": None if trial.macro_f1 is None else round(trial.macro_f1, 3),
        "epochs": trial.epochs,
        "settings": " ".join(f"{name}={value[:7]}" for name, value in settings.items()),
    }
