"""The state of a training step after an epoch, in one safetensors file: tensors, and JSON for the rest.

Random state needs no saving: every epoch draws from a seed of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.optim import Optimizer

from model.config import Config
from model.convention import ConvEntion
from model.errors import RunError
from model.export import save_tensors

_KEY: Final = "state"
_MOST_COPIES: Final = 5
"""Of all weights: the network's, the best epoch's, three slots of the optimiser."""
_MAX_HISTORY_BYTES: Final = 100 << 20


class EpochMetrics(Config):
    """One line of metrics.jsonl. Validation values are None where nothing is kept for validation."""

    epoch: int
    loss: float
    accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    validation_balanced_accuracy: float | None
    validation_macro_f1: float | None = None
    lr: float
    seconds: float


class History(Config):
    """What happened so far, and which epoch is kept."""

    metrics: tuple[EpochMetrics, ...] = ()
    best_epoch: int = 0
    micro_batch: int | None = None
    """Sequences computed at a time, once memory has run out."""

    @property
    def epochs_done(self) -> int:
        """Number of finished epochs."""
        return len(self.metrics)


@dataclass(slots=True)
class TrainingState:
    """All that the next epoch depends on, changed in place by each."""

    network: ConvEntion
    optimizer: Optimizer
    history: History
    best: dict[str, Tensor]
    """Weights of `history.best_epoch`."""


def save_checkpoint(path: Path, state: TrainingState) -> None:
    """Write the state, whole or not at all."""
    tensors = {f"network.{name}": tensor for name, tensor in state.network.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in state.best.items()}
    for index, slots in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{slot}": tensor for slot, tensor in slots.items()}
    save_tensors(path, tensors, {_KEY: state.history.model_dump_json()})


def restore_checkpoint(path: Path, state: TrainingState) -> None:
    """Continue from a checkpoint of the same run, if there is one.

    Raises
    ------
    RunError
        The file is damaged or of another network.
    """
    if not path.is_file():
        return
    limit = _MOST_COPIES * sum(tensor.nbytes for tensor in state.network.state_dict().values()) + _MAX_HISTORY_BYTES
    try:
        if (size := path.stat().st_size) > limit:
            raise ValueError(f"{size:,} bytes, but at most {limit:,} are expected")
        with safe_open(path, framework="pt") as opened:
            history = History.model_validate_json((opened.metadata() or {})[_KEY])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        state.network.load_state_dict(_below("network", tensors))
        state.optimizer.load_state_dict(
            {
                "state": _slots(tensors, list(state.network.parameters())),
                "param_groups": state.optimizer.state_dict()["param_groups"],
            }
        )
    except (SafetensorError, OSError, KeyError, IndexError, ValidationError, RuntimeError, ValueError) as error:
        raise RunError(f"{path} cannot be continued from ({error}): delete it to start this model again") from error
    state.history, state.best = history, _below("best", tensors)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")
    }


def _slots(tensors: dict[str, Tensor], parameters: list[Tensor]) -> dict[int, dict[str, Tensor]]:
    """Optimizer state by parameter number and name of the slot (step, exp_avg, …); ValueError where it does not fit."""
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below("optimizer", tensors).items():
        index, slot = name.split(".", 1)
        if tensor.dim() and tensor.shape != parameters[int(index)].shape:
            raise ValueError(f"{name} does not fit its weight")
        slots.setdefault(int(index), {})[slot] = tensor
    return slots
