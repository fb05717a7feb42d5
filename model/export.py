"""A trained model as two files that can be used alone: model.safetensors and model.json. No pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.config import Config, ModelConfig
from model.convention import ConvEntion
from model.data import Normalisation
from model.describe import build_empty
from model.errors import WeightsError
from model.rundir import MODEL_FILE, WEIGHTS_FILE, Step
from model.seeding import seeded
from pipeline.atomic import replacing, write_text
from pipeline.validation import explain

MAX_VALUES: Final = 500_000_000
"""A network with more weights than this is a mistake or an attack."""
_MAX_DESCRIPTION_BYTES: Final = 1 << 20
_MAX_HEADER_BYTES: Final = 1 << 20


class ModelFile(Config):
    """Content of model.json: all that is needed to apply the weights beside it."""

    format_version: Literal[1] = 1
    model: ModelConfig
    normalisation: Normalisation
    dataset_id: str
    fold: int
    member: int
    step: Step
    epoch: int
    """Epoch whose weights these are, from 1."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A network in evaluation mode with its weights, and its description."""

    network: ConvEntion
    file: ModelFile


def save_model(folder: Path, weights: Mapping[str, Tensor], file: ModelFile) -> None:
    """Write weights, then description: where model.json is, the model is whole."""
    save_tensors(folder / WEIGHTS_FILE, weights)
    write_text(folder / MODEL_FILE, file.model_dump_json(indent=2) + "\n")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write safetensors, whole or not at all."""
    with replacing(path) as temporary:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, temporary, metadata)


def load_model(folder: Path, device: torch.device | None = None) -> LoadedModel:
    """Read a model written by `save_model`; nothing in the files is executed or trusted for its size.

    Raises
    ------
    WeightsError
        A file is missing, damaged or too large, or the weights are not those of the described network.
    """
    device = device or torch.device("cpu")
    file = read_description(folder)
    expected = build_empty(file.model).state_dict()
    if (values := sum(tensor.numel() for tensor in expected.values())) > MAX_VALUES:
        raise WeightsError(f"{folder / MODEL_FILE} describes {values:,} weights; at most {MAX_VALUES:,} are read")
    weights = _read_weights(folder / WEIGHTS_FILE, expected, device)
    with seeded(0, torch.device("cpu")):  # the initial weights are thrown away
        network = ConvEntion(file.model)
    network.load_state_dict(weights)
    return LoadedModel(network.to(device).eval(), file)


def read_description(folder: Path) -> ModelFile:
    """Read the model.json of a model written by `save_model` (raises WeightsError where it is not one)."""
    path = folder / MODEL_FILE
    try:
        if path.stat().st_size > _MAX_DESCRIPTION_BYTES:
            raise WeightsError(f"{path} is over {_MAX_DESCRIPTION_BYTES} bytes: it is no model description")
        return ModelFile.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(f"no model at {path.parent}: it has no {path.name}; was the training finished?") from error
    except ValidationError as error:
        raise WeightsError(f"{path} is not a model description: {explain(error)}") from error
    except UnicodeDecodeError as error:
        raise WeightsError(f"{path} is not a model description: it is not text") from error


def _read_weights(path: Path, expected: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    limit = sum(tensor.numel() * tensor.element_size() for tensor in expected.values()) + _MAX_HEADER_BYTES
    try:
        if (size := path.stat().st_size) > limit:
            raise WeightsError(f"{path} has {size:,} bytes, but the network it is for needs fewer than {limit:,}")
        with safe_open(path, framework="pt") as opened:
            found = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        if problems := _mismatches(found, {name: tuple(tensor.shape) for name, tensor in expected.items()}):
            raise WeightsError(f"{path} does not fit the network of its {MODEL_FILE}: {problems}")
        return load_file(path, device=str(device))
    except FileNotFoundError as error:
        raise WeightsError(f"no weights at {path}: fetch or train the model again") from error
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file: {error}") from error


def _mismatches(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> str:
    """In words, the first few differences between two sets of named shapes."""
    differing = [
        f"{name} is {found.get(name, 'missing')}, expected {expected.get(name, 'nothing of this name')}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]
    more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
    return "; ".join(differing[:3]) + more
