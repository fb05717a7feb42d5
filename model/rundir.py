"""Every file name of a run directory, in one place.

config.json                          resolved configuration, dataset, software
fold-{k}/member-{m}/train/           metrics.jsonl, model.json, model.safetensors, checkpoint.safetensors
fold-{k}/member-{m}/fine-tune/       the same, and calibration.json
fold-{k}/calibration.json            of the fold's ensemble
evaluation.json, predictions.parquet, attention.npz, scores.md, scores.tex, README.md, pictures/
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

Step = Literal["train", "fine-tune"]

CONFIG_FILE: Final = "config.json"
EVALUATION_FILE: Final = "evaluation.json"
PREDICTIONS_FILE: Final = "predictions.parquet"
CALIBRATION_FILE: Final = "calibration.json"
ATTENTION_FILE: Final = "attention.npz"
TABLE_FILE: Final = "scores.md"
LATEX_FILE: Final = "scores.tex"
CARD_FILE: Final = "README.md"
METRICS_FILE: Final = "metrics.jsonl"
MODEL_FILE: Final = "model.json"
WEIGHTS_FILE: Final = "model.safetensors"
CHECKPOINT_FILE: Final = "checkpoint.safetensors"


def fold_dir(run_dir: Path, fold: int) -> Path:
    """Directory of all models of a fold."""
    return run_dir / f"fold-{fold}"


def step_dir(run_dir: Path, fold: int, member: int, step: Step) -> Path:
    """Directory of one model at one step."""
    return fold_dir(run_dir, fold) / f"member-{member}" / step


def is_finished(folder: Path) -> bool:
    """Whether the model of a step directory was written; its description is written last."""
    return (folder / MODEL_FILE).is_file()
