"""The 3D CNN that turns each block of K images into one feature map (Sect. 3.2, Table 2).

Shapes: R blocks (those of all sequences that hold at least one image), T time steps, C channels,
H × W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.config import ConvLayer, ModelConfig


class BlockCNN(nn.Module):
    """(R, K, C, H, W) → (R, D, H', W'). Blocks do not see each other, so all are one batch."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        inputs = [shape[1] for shape in config.shapes[:-1]]
        self.stages = nn.ModuleList(
            _Stage(channels, layer) for channels, layer in zip(inputs, config.convolutions, strict=True)
        )

    def forward(self, x_RTCHW: Tensor) -> Tensor:
        for stage in self.stages:
            x_RTCHW = stage(x_RTCHW)  # shapes: ModelConfig.shapes
        return x_RTCHW.squeeze(1)  # one time step is left: (R, D, H', W')


class _Stage(nn.Module):
    """3D convolution, batch normalisation, ReLU."""

    def __init__(self, channels: int, layer: ConvLayer) -> None:
        super().__init__()
        self.conv = nn.Conv3d(
            channels,
            layer.channels,
            kernel_size=(layer.time_kernel, layer.kernel, layer.kernel),
            stride=(layer.time_stride, layer.stride, layer.stride),
            padding=(layer.time_padding, layer.padding, layer.padding),
        )
        # BatchNorm3d over (R, C, T, H, W) is BatchNorm2d over (R·T, C, H, W): the same sums, no transposition.
        self.norm = nn.BatchNorm2d(layer.channels)

    def forward(self, x_RTCHW: Tensor) -> Tensor:
        y_RTCHW = conv3d_real_taps(x_RTCHW, self.conv)
        y_FCHW = self.norm(y_RTCHW.flatten(0, 1))  # (R·T, C, H, W)
        z_RTCHW: Tensor = functional.relu(y_FCHW, inplace=True).unflatten(0, y_RTCHW.shape[:2])
        return z_RTCHW


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
        outputs.append(functional.conv2d(x_RCHW, taps, conv.bias, conv.stride[1:], conv.padding[1:]))
    return torch.stack(outputs, dim=1)  # (R, T', O, H', W')
