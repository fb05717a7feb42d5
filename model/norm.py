"""Normalisations that count only what is there.

Shapes: B sequences, N blocks, F maps of all blocks, D or C channels, H × W pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class SequenceNorm(nn.Module):
    """Layer normalisation over the whole [N, D, H, W] tensor of a sequence, counting valid blocks only.

    `nn.LayerNorm` where all N blocks are valid. The learned scale and shift are per element, as the paper's.
    """

    def __init__(self, shape_NDHW: tuple[int, int, int, int], eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(shape_NDHW))
        self.bias = nn.Parameter(torch.zeros(shape_NDHW))

    def forward(self, x_BNDHW: Tensor, valid_BN: Tensor) -> Tensor:
        N, x_BNDHW = x_BNDHW.shape[1], _exact(x_BNDHW)
        real_BN111 = valid_BN[:, :, None, None, None].to(x_BNDHW.dtype)
        count_B1111 = real_BN111.sum(dim=1, keepdim=True) * math.prod(x_BNDHW.shape[2:])
        mean_B1111 = (x_BNDHW * real_BN111).sum(dim=(1, 2, 3, 4), keepdim=True) / count_B1111
        centred_BNDHW = (x_BNDHW - mean_B1111) * real_BN111
        variance_B1111 = centred_BNDHW.square().sum(dim=(1, 2, 3, 4), keepdim=True) / count_B1111
        normed_BNDHW = centred_BNDHW * torch.rsqrt(variance_B1111 + self.eps)
        return (normed_BNDHW * self.weight[:N] + self.bias[:N]) * real_BN111


def batch_norm(norm: nn.BatchNorm2d, x_FCHW: Tensor, valid_F: Tensor | None = None) -> Tensor:
    """`norm` of maps (F, C, H, W), or of their values (F, C), which is faster where channels are last in memory.

    Where some maps are of blocks without image, batch statistics are those of the others (`valid_F`), as if only they
    had been passed.
    """
    plain, momentum = type(norm) is nn.BatchNorm2d, 0.1 if norm.momentum is None else norm.momentum
    if norm.training and valid_F is not None:
        return _of_valid(norm, x_FCHW, valid_F, momentum) if plain else _of_chosen(norm, x_FCHW, valid_F)
    if not plain or x_FCHW.dim() == 4:
        y_FCHW: Tensor = norm(x_FCHW)
        return y_FCHW
    _count_batch(norm)
    return functional.batch_norm(
        x_FCHW, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.training, momentum, norm.eps
    )


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What `norm` does outside training, x · scale + shift, for each channel."""
    mean_C, variance_C = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    scale_C = norm.weight * torch.rsqrt(variance_C + norm.eps)
    return scale_C, norm.bias - mean_C * scale_C


def _of_valid(norm: nn.BatchNorm2d, x_FCHW: Tensor, valid_F: Tensor, momentum: float) -> Tensor:
    """Without choosing the valid maps, which would make a GPU wait to say how many they are."""
    exact_FCHW = _exact(x_FCHW)
    real_F111 = valid_F[:, None, None, None].to(exact_FCHW.dtype)
    count = real_F111.sum() * math.prod(x_FCHW.shape[2:])
    mean_C = (exact_FCHW * real_F111).sum(dim=(0, 2, 3)) / count
    centred_FCHW = exact_FCHW - mean_C[:, None, None]
    variance_C = (centred_FCHW.square() * real_F111).sum(dim=(0, 2, 3)) / count
    _count_batch(norm)
    with torch.no_grad():
        norm.get_buffer("running_mean").lerp_(mean_C, momentum)
        norm.get_buffer("running_var").lerp_(variance_C * count / (count - 1), momentum)
    scale_C = norm.weight * torch.rsqrt(variance_C + norm.eps)
    return (centred_FCHW * scale_C[:, None, None] + norm.bias[:, None, None]).to(x_FCHW.dtype)


def _of_chosen(norm: nn.BatchNorm2d, x_FCHW: Tensor, valid_F: Tensor) -> Tensor:
    """By a kind of normalisation that knows nothing of blocks, such as one over several processes."""
    rows = valid_F.nonzero().squeeze(1)
    y_FCHW: Tensor = norm(x_FCHW.index_select(0, rows))
    return torch.zeros_like(x_FCHW, dtype=y_FCHW.dtype).index_copy(0, rows, y_FCHW)


def _count_batch(norm: nn.BatchNorm2d) -> None:
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)


def _exact(x: Tensor) -> Tensor:
    """At least single precision: a count or a mean in half of it is off by a percent."""
    return x if x.dtype == torch.float64 else x.float()
