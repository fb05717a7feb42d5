"""The network as a table: its parts, their shapes, their parameters."""

from __future__ import annotations

import torch
from torch import nn

from model.config import Config, ModelConfig, preset
from model.convention import ConvEntion


class LayerDescription(Config):
    """One part of the network; shapes are those of one sequence, channels before pixels."""

    name: str
    shape_in: tuple[int, ...]
    shape_out: tuple[int, ...]
    parameters: int


class ModelDescription(Config):
    """What `s82 model describe` prints."""

    preset: str
    classes: tuple[str, ...]
    parameters: int
    layers: tuple[LayerDescription, ...]


def describe(name: str) -> ModelDescription:
    """Describe the network of a preset (raises ModelConfigError where there is none)."""
    config = preset(name).model
    return ModelDescription(
        preset=name,
        classes=config.classes,
        parameters=n_parameters(build_empty(config)),
        layers=describe_layers(config),
    )


def describe_layers(config: ModelConfig) -> tuple[LayerDescription, ...]:
    """The parts in the order the data passes them."""
    network = build_empty(config)
    M, N, D, F, S = config.images, config.n_blocks, config.channels, config.feature_size, config.size
    C, maps = len(config.inputs), (N, D, F, F)
    return (
        _layer("band embedding", (M, C, S, S), (M, config.block_channels, S, S), network.embed),
        _layer("3D CNN", (N, *config.shapes[0]), maps, network.backbone),
        _layer("positional encoding", maps, maps, network.clock),
        *(_layer(f"ConvBERT layer {n}", maps, maps, layer) for n, layer in enumerate(network.layers, start=1)),
        _layer("max over time, classifier", maps, (len(config.classes),), network.head),
    )


def build_empty(config: ModelConfig) -> ConvEntion:
    """The network without memory for its weights: shapes only."""
    with torch.device("meta"):
        return ConvEntion(config)


def n_parameters(module: nn.Module) -> int:
    """Number of learned values."""
    return sum(parameter.numel() for parameter in module.parameters())


def _layer(
    name: str, shape_in: tuple[int, ...], shape_out: tuple[int, ...], module: nn.Module | None
) -> LayerDescription:
    parameters = n_parameters(module) if module is not None else 0
    return LayerDescription(name=name, shape_in=shape_in, shape_out=shape_out, parameters=parameters)
