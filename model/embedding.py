"""Which band an image is of, and which place in the sequence and in time a block has.

Shapes: B sequences, M images, S = 5 bands, N blocks, K images of a block, C channels of an image, H × W pixels,
D channels of a block.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.bands import BANDS

PADDING = 0
"""Band id of a slot that holds no image; u, g, r, i, z are 1 to 5."""
PERIODS_DAY: Final = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
"""Of the sinusoids that encode a date: from night to night to over a season; the log of a gap tells seasons apart."""


class BandEmbed(nn.Module):
    """Give each image one more channel that says its band: one learned H × W map per band (Eqs. 1-2).

    It comes second, after the flux. The padding row stays zero, so that a slot without image is zero in all
    channels, as the zero-padding of the convolutions is.
    """

    def __init__(self, rows: int, size: int, init_std: float = 1.0) -> None:
        super().__init__()
        self.size = size
        self.table = nn.Embedding(rows, size * size, padding_idx=PADDING)
        with torch.no_grad():
            self.table.weight.mul_(init_std)

    def forward(self, pixels_BMCHW: Tensor, band_BM: Tensor) -> Tensor:
        map_BM1HW = self.table(band_BM).unflatten(-1, (1, self.size, self.size))  # (B, M, 1, H, W)
        filled_BM111 = (band_BM != PADDING)[..., None, None, None]
        pixels_BMCHW = pixels_BMCHW * filled_BM111  # zero in empty slots
        return torch.cat((pixels_BMCHW[:, :, :1], map_BM1HW, pixels_BMCHW[:, :, 1:]), dim=2)  # (B, M, C + 1, H, W)


class BandChannels(nn.Module):
    """Give each image channels of its own by band, zero in those of the other bands: nothing to learn.

    A convolution then has weights for each band, so that a block's colours are one linear step away; beside a map of
    the band it can only add one band's answer to another's.
    """

    def forward(self, pixels_BMCHW: Tensor, band_BM: Tensor) -> Tensor:
        of_band_BMS = functional.one_hot(band_BM, len(BANDS) + 1)[..., 1:].to(pixels_BMCHW.dtype)
        split_BMSCHW = of_band_BMS[..., None, None, None] * pixels_BMCHW[:, :, None]  # (B, M, S, C, H, W)
        return split_BMSCHW.flatten(2, 3)  # (B, M, S·C, H, W)


def positional_encoding(n_blocks: int, channels: int) -> Tensor:
    """Sinusoids over place n = 1 … N and channel (Eqs. 4-5): (N, D, 1, 1), constant over the image."""
    place_N1 = torch.arange(1, n_blocks + 1, dtype=torch.float64)[:, None]
    even_D = torch.arange(channels, dtype=torch.float64) // 2 * 2  # 2i of channels 2i and 2i + 1
    angle_ND = place_N1 / 10000 ** (even_D / channels)
    is_even_D = torch.arange(channels) % 2 == 0
    return torch.where(is_even_D, angle_ND.sin(), angle_ND.cos()).float()[..., None, None]


class DateEncoding(nn.Module):
    """When each block was observed: sinusoids of its mean day, and the gap to the block before, mapped to D channels.

    Zero before training, so that the network starts as the paper's; always zero for a block without image.
    """

    period_S: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("period_S", torch.tensor(PERIODS_DAY), persistent=False)
        self.map = nn.Linear(2 * len(PERIODS_DAY) + 1, channels, bias=False)
        nn.init.zeros_(self.map.weight)

    def forward(self, day_BNK: Tensor, filled_BNK: Tensor) -> Tensor:
        """(B, N, D, 1, 1) of days since the sequence's first image; empty slots do not count."""
        filled_BNK = filled_BNK.to(self.map.weight.dtype)
        count_BN = filled_BNK.sum(dim=2)
        day_BN = (day_BNK * filled_BNK).sum(dim=2) / count_BN.clamp(min=1)
        gap_BN = day_BN.diff(dim=1, prepend=day_BN[:, :1]).clamp(min=0)  # below 0 only where no image follows
        angle_BNS = 2 * math.pi * day_BN[..., None] / self.period_S
        features_BNF = torch.cat((angle_BNS.sin(), angle_BNS.cos(), gap_BN.log1p()[..., None]), dim=2)
        date_BND: Tensor = self.map(features_BNF) * (count_BN > 0)[..., None]
        return date_BND[..., None, None]
