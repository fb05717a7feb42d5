"""Runs and models that were never trained: all that their files promise, in no time."""

from __future__ import annotations

from pathlib import Path

import torch

from model.config import RunConfig, preset
from model.convention import ConvEntion
from model.data import Normalisation
from model.export import ModelFile, save_model
from model.rundir import CONFIG_FILE, step_dir
from model.runs import RunRecord
from pipeline.atomic import write_text
from pipeline.manifest import open_dataset

CONSTANTS = Normalisation(
    mean_nmgy=(0.1, 0.2, 0.3, 0.4, 0.5), std_nmgy=(1, 1.5, 2, 2.5, 3), weight_per_nmgy=(0.9, 0.8, 0.7, 0.6, 0.5)
)
TINY = preset("small").updated(
    model={
        "images": 12,
        "layers": 1,
        "convolutions": [
            {"channels": 8, "kernel": 5, "stride": 4, "padding": 2, "time_stride": 2, "time_padding": 1},
            {"channels": 8, "kernel": 3, "time_kernel": 2},
        ],
    },
    device="cpu",
    protocol={"members": 2, "validation_fraction": 0.4},
)


def write_model(folder: Path, config: RunConfig, *, seed: int = 0, fold: int = 0, member: int = 0) -> ConvEntion:
    """A model of random weights, also where training starts with ones and zeros."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = ConvEntion(config.model).eval()
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    file = ModelFile(
        model=config.model,
        normalisation=CONSTANTS,
        dataset_id="synthetic-0123456789ab",
        fold=fold,
        member=member,
        step="fine-tune",
        epoch=1,
    )
    save_model(folder, network.state_dict(), file)
    return network


def write_run(run_dir: Path, dataset_path: Path, config: RunConfig, folds: tuple[int, ...] = (0, 1)) -> Path:
    """A run whose folds are all fine-tuned, as far as one can see."""
    info = open_dataset(dataset_path).info
    record = RunRecord(
        config=config, dataset_id=info.dataset_id, dataset_content_hash=info.content_hash, software={"torch": "2"}
    )
    write_text(run_dir / CONFIG_FILE, record.model_dump_json())
    for fold in folds:
        for member in range(config.protocol.members):
            folder = step_dir(run_dir, fold, member, "fine-tune")
            write_model(folder, config, seed=10 * fold + member, fold=fold, member=member)
    return run_dir
