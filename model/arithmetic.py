"""How the numbers of a training step are computed: precision, compilation, and algorithms that repeat to the bit."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from model.config import TrainConfig

log = logging.getLogger(__name__)
WORTH_COMPILING: Final = 1000
"""Steps of a model's training that make up for the time the compiler takes."""


@contextmanager
def arithmetic(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Inside, the network computes with the configured precision."""
    low = config.precision == "bfloat16" or (config.precision == "auto" and device.type == "cuda")
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=low):
        yield


@contextmanager
def repeatable(wanted: bool) -> Iterator[None]:
    """Inside, if wanted, torch takes only deterministic algorithms; afterwards, what it took before."""
    if not wanted:
        yield
        return
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats itself with this alone
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)


def for_training(network: nn.Module, config: TrainConfig, device: torch.device, steps: int) -> Callable[..., Tensor]:
    """The network as training calls it, compiled if so configured and `steps` are enough."""
    wanted = config.compile == "on" or (config.compile == "auto" and device.type == "cuda" and steps >= WORTH_COMPILING)
    return _Compiled(network) if wanted else network


class _Compiled:
    """A network that torch compiles when it is first called; where that fails, the network as it is."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._call: Callable[..., Tensor] = torch.compile(network)

    def __call__(self, *inputs: Tensor) -> Tensor:
        try:
            return self._call(*inputs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a compiler may raise whatever it likes
            if self._call is self._network:
                raise
            reason: Any = str(error).strip().splitlines() or [type(error).__name__]
            log.warning("the network cannot be compiled here, training goes on without: %s", reason[0])
            self._call = self._network
        logit_BC: Tensor = self._network(*inputs)  # what was not the compiler's fault is raised again
        return logit_BC
