"""Which band an image is of, and which place in the sequence a block has.

Shapes: B sequences, M images, N blocks, H × W pixels, D channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

PADDING = 0
"""Band id of a slot that holds no image; u, g, r, i, z are 1 to 5."""


class BandEmbed(nn.Module):
    """Give each image a second channel that says its band: one learned H × W map per band (Eqs. 1-2).

    The padding row stays zero, so that a slot without image is zero in both channels, as the
    zero-padding of the convolutions is.
    """

    def __init__(self, rows: int, size: int, init_std: float = 1.0) -> None:
        super().__init__()
        self.size = size
        self.table = nn.Embedding(rows, size * size, padding_idx=PADDING)
        with torch.no_grad():
            self.table.weight.mul_(init_std)

    def forward(self, image_BMHW: Tensor, band_BM: Tensor) -> Tensor:
        map_BMHW = self.table(band_BM).unflatten(-1, (self.size, self.size))  # (B, M, H, W)
        image_BMHW = image_BMHW * (band_BM != PADDING)[..., None, None]  # (B, M, H, W), zero in empty slots
        return torch.stack((image_BMHW, map_BMHW), dim=2)  # (B, M, 2, H, W)


def positional_encoding(n_blocks: int, channels: int) -> Tensor:
    """Sinusoids over place n = 1 … N and channel (Eqs. 4-5): (N, D, 1, 1), constant over the image."""
    place_N1 = torch.arange(1, n_blocks + 1, dtype=torch.float64)[:, None]
    even_D = torch.arange(channels, dtype=torch.float64) // 2 * 2  # 2i of channels 2i and 2i + 1
    angle_ND = place_N1 / 10000 ** (even_D / channels)
    is_even_D = torch.arange(channels) % 2 == 0
    return torch.where(is_even_D, angle_ND.sin(), angle_ND.cos()).float()[..., None, None]
