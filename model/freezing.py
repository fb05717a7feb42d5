"""Which parts of the network an epoch trains; the rest keeps its weights and its batch statistics."""

from __future__ import annotations

from torch import nn

from model.config import TrainConfig
from model.convention import ConvEntion


def ready_for_training(network: ConvEntion, config: TrainConfig, epoch: int) -> None:
    """Put the parts that this epoch (from 1) trains into training mode, all others into evaluation mode, frozen."""
    network.requires_grad_(False)
    network.eval()
    for part in _trained(network, config, epoch):
        part.requires_grad_(True)
        part.train()


def _trained(network: ConvEntion, config: TrainConfig, epoch: int) -> list[nn.Module]:
    """Parts from the top down: the head, the ConvBERT layers, and with everything else the 3D CNN."""
    if config.freeze == "nothing":
        return [network]
    if config.freeze == "encoder":
        return [network.head]
    joined = (epoch - 1) // config.unfreeze_every
    layers = list(network.layers)[::-1]
    return [network] if joined > len(layers) else [network.head, *layers[:joined]]
