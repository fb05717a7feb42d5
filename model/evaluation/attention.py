"""What the network looked at: temporal attention weights of a few test objects, with the images they belong to.

The published attention gives every block the same context, so there is one weight per head, pixel and block, no
n × m matrix; of the additive one, these are the mean over the blocks that look.

Shapes: V objects, M images, N blocks, L layers, T heads, C channels, h × w pixels of a feature map, H × W of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.convention import ConvEntion
from model.loader import Batch
from pipeline.atomic import replacing

PER_CLASS: Final = 2
"""Objects of each class that are shown."""
Array = NDArray[Any]


def examples_of(true_V: Array, n_classes: int, seed: int) -> list[int]:
    """A few places of each class, drawn by the seed."""
    random = np.random.default_rng(seed)
    return [
        int(place)
        for c in range(n_classes)
        for place in np.sort(random.permutation(np.flatnonzero(true_V == c))[:PER_CLASS])
    ]


@torch.inference_mode()
def temporal_weights(network: ConvEntion, batch: Batch) -> Tensor:
    """Weight of each block in each layer: (L, B, N, T, h, w), 0 where there is no image."""
    weights: list[Tensor] = []

    def keep(attention: Any, inputs: tuple[Tensor, Tensor]) -> None:
        weights.append(attention.temporal_weights(*inputs)[0])

    hooks = [layer.attention.register_forward_pre_hook(keep) for layer in network.layers]  # type: ignore[union-attr]
    try:
        network(*batch)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(weights)


def write_examples(path: Path, block: int, shown: Sequence[dict[str, Array]]) -> None:
    """Write what a picture needs, in arrays named `<number>_<what>`; read them with `numpy.load`, without pickle."""
    arrays: dict[str, Any] = {
        f"{number}_{name}": array for number, one in enumerate(shown) for name, array in one.items()
    }
    with replacing(path) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(handle, block=np.array(block), **arrays)
