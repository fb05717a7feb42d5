"""The 3D CNN that turns each block of K images into one feature map (Sect. 3.2, Table 2).

Shapes: R blocks, T time steps, C channels, H × W pixels. Blocks that hold no image are left out beforehand (on a CPU),
or say so (`valid_R`), and then do not count in batch statistics.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.config import ConvLayer, ModelConfig
from model.norm import batch_norm, scale_and_shift
from model.spectral import Triple, conv3d_by_spectra, multiplications

WORTH_SPECTRA: Final = 3
"""Direct multiplications for one by spectra from which on these are faster: they are bound by memory."""


class BlockCNN(nn.Module):
    """(R, K, C, H, W) → (R, D, H', W'). Blocks do not see each other, so all are one batch."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            _Stage(shape, layer) for shape, layer in zip(config.shapes[:-1], config.convolutions, strict=True)
        )

    def forward(self, x_RTCHW: Tensor, valid_R: Tensor | None = None) -> Tensor:
        for stage in self.stages:
            x_RTCHW = stage(x_RTCHW, valid_R)  # shapes: ModelConfig.shapes
        return x_RTCHW.squeeze(1)  # one time step is left: (R, D, H', W')


class _Stage(nn.Module):
    """3D convolution, batch normalisation, ReLU."""

    def __init__(self, shape_TCHW: tuple[int, int, int, int], layer: ConvLayer) -> None:
        super().__init__()
        self.conv = nn.Conv3d(
            shape_TCHW[1],
            layer.channels,
            kernel_size=(layer.time_kernel, layer.kernel, layer.kernel),
            stride=(layer.time_stride, layer.stride, layer.stride),
            padding=(layer.time_padding, layer.padding, layer.padding),
        )
        # BatchNorm3d over (R, C, T, H, W) is BatchNorm2d over (R·T, C, H, W): the same sums, no transposition.
        self.norm = nn.BatchNorm2d(layer.channels)
        self.spectra_are_worth_it = _spectra_are_worth_it(shape_TCHW, layer)

    def forward(self, x_RTCHW: Tensor, valid_R: Tensor | None) -> Tensor:
        if self.spectra_are_worth_it and valid_R is None and _full_precision_on_cpu(x_RTCHW):
            return self._by_spectra(x_RTCHW)
        y_RTCHW = conv3d_real_taps(x_RTCHW, self.conv)
        valid_F = None if valid_R is None else valid_R.repeat_interleave(y_RTCHW.shape[1])
        y_FCHW = batch_norm(self.norm, y_RTCHW.flatten(0, 1), valid_F)  # (R·T, C, H, W)
        z_RTCHW: Tensor = functional.relu(y_FCHW, inplace=True).unflatten(0, y_RTCHW.shape[:2])
        return z_RTCHW

    def _by_spectra(self, x_RTCHW: Tensor) -> Tensor:
        """The same. The result lies in memory as (T, H, W, R, C), as the next stage wants it if it does this, too."""
        x_THWRC, weight_OCTHW, bias_O = x_RTCHW.permute(1, 3, 4, 0, 2), self.conv.weight, _bias(self.conv)
        padding: Triple = (int(self.conv.padding[0]), int(self.conv.padding[1]), int(self.conv.padding[2]))
        if self.training:
            y_THWRO = conv3d_by_spectra(x_THWRC, weight_OCTHW, bias_O, padding)
            y_THWRO = batch_norm(self.norm, y_THWRO.flatten(0, 3)).view_as(y_THWRO)
        else:  # normalisation is part of the weights
            scale_O, shift_O = scale_and_shift(self.norm)
            weight_OCTHW, bias_O = weight_OCTHW * scale_O[:, None, None, None, None], bias_O * scale_O + shift_O
            y_THWRO = conv3d_by_spectra(x_THWRC, weight_OCTHW, bias_O, padding)
        return functional.relu(y_THWRO, inplace=True).permute(3, 0, 4, 1, 2)


def _bias(conv: nn.Conv3d) -> Tensor:
    return conv.get_parameter("bias")


def _full_precision_on_cpu(x: Tensor) -> bool:
    """Where spectra are faster; compiled and exported networks keep to plain convolutions."""
    reduced = torch.is_autocast_enabled("cpu") or x.dtype not in (torch.float32, torch.float64)
    return x.device.type == "cpu" and not reduced and not torch.compiler.is_compiling()


def _spectra_are_worth_it(shape_TCHW: tuple[int, int, int, int], layer: ConvLayer) -> bool:
    """By the number of multiplications."""
    if layer.stride != 1 or layer.time_stride != 1:
        return False
    T, C, H, W = shape_TCHW
    starts = range(-layer.time_padding, T + layer.time_padding - layer.time_kernel + 1)
    taps = sum(min(start + layer.time_kernel, T) - max(start, 0) for start in starts)
    direct = taps * layer.kernel**2 * layer.size_after(H) * layer.size_after(W) * C * layer.channels
    kernel = (layer.time_kernel, layer.kernel, layer.kernel)
    padding = (layer.time_padding, layer.padding, layer.padding)
    return direct > WORTH_SPECTRA * multiplications((T, H, W), kernel, padding, (C, layer.channels))


def conv3d_real_taps(x_RTCHW: Tensor, conv: nn.Conv3d) -> Tensor:
    """`conv` over (time, height, width) without multiplying the zeros that pad time.

    Each output step is one 2D convolution whose channels are the input steps that the kernel really
    touches. In the paper's network this leaves out 4 of 9 taps of the first layer and 6 of 15 of
    the second, which holds most of the work.
    """
    kernel, stride, padding = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])
    steps = x_RTCHW.unbind(1)
    outputs = []
    for first in range(-padding, len(steps) + padding - kernel + 1, stride):
        start, stop = max(first, 0), min(first + kernel, len(steps))
        x_RCHW = torch.cat(steps[start:stop], dim=1)  # (R, taps·C, H, W)
        taps = conv.weight[:, :, start - first : stop - first].transpose(1, 2).flatten(1, 2)  # (O, taps·C, h, w)
        if x_RCHW.is_cuda:  # what its matrix units want
            x_RCHW, taps = (each.contiguous(memory_format=torch.channels_last) for each in (x_RCHW, taps))
        outputs.append(functional.conv2d(x_RCHW, taps, conv.bias, conv.stride[1:], conv.padding[1:]))
    return torch.stack(outputs, dim=1)  # (R, T', O, H', W')
