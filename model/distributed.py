"""Several processes that torchrun started, on the GPUs of one or more machines.

They share the work in one of two ways. `models`: each trains whole models of its own, which needs no word between
them, so that N processes finish N models in the time of one; best while there are at least as many models as
processes, and the fifteen of the paper's protocol are small. `batch`: all train the same model, each on its part of
every batch, with the gradients, losses and batch statistics of one process that had it all.

Shapes: F maps (any number of blocks and time steps), C channels, H × W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, Self, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.autograd import Function

from model.errors import ModelConfigError

Parallel = Literal["models", "batch"]
T = TypeVar("T")
STORE_VARIABLE: Final = "S82_STORE"
"""Environment variable: a file, not there yet, for `torch.distributed` to keep its keys in. Its server of keys would
listen on all interfaces, and asks nobody who they are."""
_PATIENCE: Final = timedelta(days=30)
"""Processes with models of their own wait for each other only at the end."""


@dataclass(frozen=True, slots=True)
class Team:
    """The processes that work together, and which of them this is."""

    rank: int = 0
    size: int = 1

    @property
    def share(self) -> tuple[int, int]:
        """As `Loader.training_batches` takes it."""
        return self.rank, self.size

    @property
    def is_first(self) -> bool:
        """The one that writes files."""
        return self.rank == 0

    def part(self, things: Sequence[T]) -> Sequence[T]:
        """Every so-many-th, beginning with the rank."""
        return things[self.rank :: self.size]

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            distributed.barrier()

    def add_up(self, tensor: Tensor) -> Tensor:
        """Replace the tensor of each process by the sum of all."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def add_up_gradients(self, parameters: Iterable[Tensor]) -> None:
        """The same for gradients, in one message."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.size == 1 or not gradients:
            return
        flat = self.add_up(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, total in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(total.view_as(gradient))


ALONE: Final = Team()


def is_told() -> bool:
    """Whether this process prints what all have done: it is alone, or the first of those that torchrun started."""
    return not under_torchrun() or os.environ.get("RANK") == "0"


def under_torchrun() -> bool:
    """Whether torchrun started this process, with others or alone."""
    return distributed.is_available() and distributed.is_torchelastic_launched()


@contextmanager
def joined(device: str, parallel: Parallel) -> Iterator[Team]:
    """The team of this process: those that torchrun started, or itself.

    On GPUs, each process inside has one as its current device.

    Raises
    ------
    ModelConfigError
        Batches are to be shared by more processes than there are GPUs.
    """
    if not under_torchrun():
        yield ALONE
        return
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        _take_gpu(int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]), parallel)
    if on_gpu and parallel == "batch":
        device_id = torch.device("cuda", torch.cuda.current_device())
        distributed.init_process_group("nccl", device_id=device_id, **_meeting_place())
    else:
        patience = _PATIENCE if parallel == "models" else None
        distributed.init_process_group("gloo", timeout=patience, **_meeting_place())
    try:
        yield Team(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


def _meeting_place() -> dict[str, Any]:
    """Where processes of one machine find each other without a port: a file, if `STORE_VARIABLE` names one."""
    if not (file := os.environ.get(STORE_VARIABLE)):
        return {}
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = distributed.FileStore(file, size)  # type: ignore[attr-defined]
    return {"store": store, "rank": rank, "world_size": size}


def _take_gpu(local_rank: int, processes: int, parallel: Parallel) -> None:
    gpus = torch.cuda.device_count()
    if processes > gpus and parallel == "batch":
        raise ModelConfigError(
            f"{processes} processes cannot share batches on {gpus} GPUs: give torchrun --nproc-per-node {gpus}, "
            "or let each train models of its own (--parallel models)"
        )
    torch.cuda.set_device(local_rank % gpus)


class _SumOfAll(Function):
    """Each process adds its tensor to the sum, so the gradient of each is the sum of all gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: ARG004
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _SumOfAll.forward(ctx, gradient)


def _sum_of_all(tensor: Tensor) -> Tensor:
    total: Tensor = _SumOfAll.apply(tensor)  # type: ignore[no-untyped-call]
    return total


class TeamBatchNorm(nn.BatchNorm2d):
    """Batch normalisation with the statistics of all processes' maps together, of which some may have none.

    `nn.SyncBatchNorm` does the same on GPUs alone.
    """

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> Self:
        """With the weights and statistics of `norm` themselves, not copies."""
        new = cls(norm.num_features, norm.eps, norm.momentum)
        new._parameters, new._buffers, new.training = norm._parameters, norm._buffers, norm.training
        return new

    def forward(self, x_FCHW: Tensor) -> Tensor:
        """Also of values (F, C) that are no maps."""
        if not self.training:
            return super().forward(x_FCHW)
        others = [dim for dim in range(x_FCHW.dim()) if dim != 1]
        shape = [-1] + [1] * (x_FCHW.dim() - 2)  # channels before pixels
        full_FCHW = x_FCHW.float() if x_FCHW.dtype == torch.bfloat16 else x_FCHW
        count_1 = full_FCHW.new_full((1,), full_FCHW.numel() // self.num_features)
        total = _sum_of_all(torch.cat((full_FCHW.sum(dim=others), count_1)))
        mean_C, count = total[:-1] / total[-1], total[-1]
        centred_FCHW = full_FCHW - mean_C.view(shape)
        variance_C = _sum_of_all(centred_FCHW.square().sum(dim=others)) / count
        self._follow(mean_C.detach(), variance_C.detach(), count.detach())
        scale_C = self.weight * torch.rsqrt(variance_C + self.eps)
        y_FCHW: Tensor = centred_FCHW * scale_C.view(shape) + self.bias.view(shape)
        return y_FCHW.to(x_FCHW.dtype)

    @torch.no_grad()
    def _follow(self, mean_C: Tensor, variance_C: Tensor, count: Tensor) -> None:
        """Move the running statistics, the variance without bias, as `nn.BatchNorm2d` does."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        momentum = 0.1 if self.momentum is None else self.momentum
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean_C, momentum)
        self.running_var.lerp_(variance_C * count / (count - 1).clamp(min=1), momentum)


def share_statistics(network: nn.Module) -> None:
    """Let every batch normalisation of the network, in place, count what all processes have."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, TeamBatchNorm.of(child))
