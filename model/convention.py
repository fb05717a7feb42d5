"""ConvEntion, top to bottom (Bairouk et al. 2023, Fig. 3).

Padding. A slot with band id 0 holds no image; a block is valid if at least one of its K slots holds one. What is not
valid never reaches a result: images of empty slots are zeroed, batch statistics of the 3D CNN and the feed-forward
networks are those of valid blocks, layer normalisation and attention run over valid blocks alone, and so does the final
maximum. In evaluation, a sequence's output therefore does not depend on how much padding follows it nor on what shares
its batch. An empty slot inside a valid block is zeros, like the border of a convolution. With `padding="published"`, as
in the authors' code, sequences are always padded to the configured M and all blocks count as valid.

On a CPU, invalid blocks skip the 3D CNN and the feed-forward networks. A GPU, which would have to wait to be told their
number, and a compiled or exported network, whose shapes should not vary, compute all.

Shapes: B sequences, M images of C input channels, K images per block, N = M / K blocks, R blocks of the whole batch
that are computed, D channels, H × W pixels (H' × W' after the CNN, written H W where only they occur).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.attention import AdditiveAttention, PublishedAttention
from model.backbone import BlockCNN
from model.config import ModelConfig
from model.embedding import PADDING, BandChannels, BandEmbed, DateEncoding, positional_encoding
from model.norm import SequenceNorm, batch_norm


class ConvEntion(nn.Module):
    """Class scores of image sequences."""

    place_NDHW: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed: nn.Module = BandChannels()
        if config.bands_as == "map":
            self.embed = BandEmbed(config.band_rows, config.size, config.band_init_std)
        self.backbone = BlockCNN(config)
        self.register_buffer("place_NDHW", positional_encoding(config.n_blocks, config.channels), persistent=False)
        self.layers = nn.ModuleList(ConvBertLayer(config) for _ in range(config.layers))
        self.head = Head(config)
        # Last, so that the same seed gives the other parts the same weights with and without.
        self.clock = DateEncoding(config.channels) if config.clock == "date" else None

    def forward(self, pixels_BMCHW: Tensor, band_BM: Tensor, day_BM: Tensor) -> Tensor:
        """Logits (B, classes) of the configured input channels, their band ids, and days since the first image.

        Any M up to the configured one. Images come first, padding (band id 0) after them; each sequence holds at
        least one image.
        """
        K, published = self.config.block, self.config.padding == "published"
        missing = self.config.images - band_BM.shape[1] if published else -band_BM.shape[1] % K
        pixels_BMCHW, band_BM, day_BM = _pad(pixels_BMCHW, band_BM, day_BM, missing)
        x_BMCHW = self.embed(pixels_BMCHW, band_BM)  # (B, M, C + 1, H, W), or S·C channels
        x_BNKCHW = x_BMCHW.unflatten(1, (-1, K))  # (B, N, K, C + 1, H, W)
        filled_BNK = (band_BM != PADDING).unflatten(1, (-1, K))
        valid_BN = filled_BNK.any(dim=2)  # (B, N)
        if published:
            valid_BN = torch.ones_like(valid_BN)
        blocks = _Blocks.of(valid_BN, all_valid=published)

        s_RDHW = self.backbone(blocks.pack(x_BNKCHW), blocks.valid_R)  # (R, K, C + 1, H, W) → (R, D, H', W'), Eq. 3
        x_BNDHW = blocks.unpack(s_RDHW)  # (B, N, D, H', W')
        place_BND11 = self._place(day_BM.unflatten(1, (-1, K)), filled_BNK).to(x_BNDHW.dtype)
        for index, layer in enumerate(self.layers):
            if index == 0 or self.config.positions == "each-layer":
                x_BNDHW = x_BNDHW + place_BND11  # Eq. 6
            x_BNDHW = layer(x_BNDHW, blocks)  # (B, N, D, H', W')

        masked_BNDHW = x_BNDHW.masked_fill(~valid_BN[:, :, None, None, None], -torch.inf)
        peak_BDHW = masked_BNDHW.amax(dim=1)  # max over time
        logit_BC: Tensor = self.head(peak_BDHW)
        return logit_BC

    def _place(self, day_BNK: Tensor, filled_BNK: Tensor) -> Tensor:
        """Encoding of the rank of each block, and of its date where configured."""
        rank_1ND11 = self.place_NDHW[None, : day_BNK.shape[1]]
        if self.clock is None:
            return rank_1ND11
        date_BND11: Tensor = self.clock(day_BNK, filled_BNK)
        return rank_1ND11 + date_BND11


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Which of the B·N blocks are valid, and which are computed where blocks do not see each other."""

    valid_BN: Tensor
    rows_R: Tensor | None
    """Places of the blocks that are computed; None: all."""
    valid_R: Tensor | None
    """Which of those are valid; None: all."""

    @classmethod
    def of(cls, valid_BN: Tensor, *, all_valid: bool) -> Self:
        """Leave them out where that costs no waiting."""
        if all_valid:
            return cls(valid_BN, None, None)
        if valid_BN.device.type != "cpu" or torch.compiler.is_compiling():
            return cls(valid_BN, None, valid_BN.flatten())
        rows_R = valid_BN.flatten().nonzero().squeeze(1)
        return cls(valid_BN, None if len(rows_R) == valid_BN.numel() else rows_R, None)

    def pack(self, x_BN: Tensor) -> Tensor:
        """(B, N, …) → (R, …)."""
        x_F = x_BN.flatten(0, 1)
        return x_F if self.rows_R is None else x_F.index_select(0, self.rows_R)

    def unpack(self, x_RDHW: Tensor) -> Tensor:
        """Put blocks back to their places: (R, D, H, W) → (B, N, D, H, W), zero where they were left out."""
        if self.rows_R is not None:
            zero_FDHW = x_RDHW.new_zeros(self.valid_BN.numel(), *x_RDHW.shape[1:])
            x_RDHW = zero_FDHW.index_copy(0, self.rows_R, x_RDHW)
        x_BNDHW: Tensor = x_RDHW.unflatten(0, tuple(self.valid_BN.shape))
        return x_BNDHW


class ConvBertLayer(nn.Module):
    """Pre-norm residual attention and feed-forward network (Sect. 3.3)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, F = config.channels, config.ffn_channels
        shape_NDHW = (config.n_blocks, D, config.feature_size, config.feature_size)
        self.norm_attention = SequenceNorm(shape_NDHW)
        kind = {"published": PublishedAttention, "additive": AdditiveAttention}[config.attention]
        self.attention = kind(D, config.heads, config.score_kernel)
        self.norm_ffn = SequenceNorm(shape_NDHW)
        self.ffn = nn.Sequential(
            nn.Conv2d(D, F, kernel_size=3, padding=1), nn.ReLU(), nn.BatchNorm2d(F),
            nn.Conv2d(F, D, kernel_size=3, padding=1), nn.ReLU(), nn.BatchNorm2d(D),
        )  # fmt: skip

    def forward(self, x_BNDHW: Tensor, blocks: _Blocks) -> Tensor:
        valid_BN = blocks.valid_BN
        x_BNDHW = x_BNDHW + self.attention(self.norm_attention(x_BNDHW, valid_BN), valid_BN)
        y_RDHW = blocks.pack(self.norm_ffn(x_BNDHW, valid_BN))
        for part in self.ffn:
            y_RDHW = batch_norm(part, y_RDHW, blocks.valid_R) if isinstance(part, nn.BatchNorm2d) else part(y_RDHW)
        return x_BNDHW + blocks.unpack(y_RDHW)


class Head(nn.Sequential):
    """Classifier: (B, D, H', W') → (B, classes)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Dropout(config.dropout),
            nn.Linear(config.channels * config.feature_size**2, config.head_features),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.head_features, len(config.classes)),
        )


def _pad(pixels_BMCHW: Tensor, band_BM: Tensor, day_BM: Tensor, missing: int) -> tuple[Tensor, Tensor, Tensor]:
    """Append `missing` empty slots."""
    if missing:
        pixels_BMCHW = functional.pad(pixels_BMCHW, (0, 0, 0, 0, 0, 0, 0, missing))
        band_BM = functional.pad(band_BM, (0, missing), value=PADDING)
        day_BM = functional.pad(day_BM, (0, missing))
    return pixels_BMCHW, band_BM, day_BM
