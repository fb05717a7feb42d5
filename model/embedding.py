"""Which band an image is of, and which place in the sequence a block has.

Shapes: B sequences, M images, N blocks, C channels of an image, H × W pixels, D channels of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

PADDING = 0
"""Band id of a slot that holds no image; u, g, r, i, z are 1 to 5."""


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


def positional_encoding(n_blocks: int, channels: int) -> Tensor:
    """Sinusoids over place n = 1 … N and channel (Eqs. 4-5): (N, D, 1, 1), constant over the image."""
    place_N1 = torch.arange(1, n_blocks + 1, dtype=torch.float64)[:, None]
    even_D = torch.arange(channels, dtype=torch.float64) // 2 * 2  # 2i of channels 2i and 2i + 1
    angle_ND = place_N1 / 10000 ** (even_D / channels)
    is_even_D = torch.arange(channels) % 2 == 0
    return torch.where(is_even_D, angle_ND.sin(), angle_ND.cos()).float()[..., None, None]
