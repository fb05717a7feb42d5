"""Multi-head convolutional self-attention (Sect. 3.3.2, Eqs. 7-9): as published, in O(N), and additive.

The score of the paper is M_θ(Q_n, K_m) = conv(Q_n + K_m). A convolution is linear, so this is
conv(Q_n) + conv(K_m) + bias, and the softmax over m cancels all that does not depend on m: every
step n receives the same context Σ_m softmax_m(conv(K_m)) V_m. Computing it once gives the same
output and the same gradients as the N × N definition (`model.definition`), to which the tests hold it. It follows that
the attention has one temporal weight per head and pixel, not an n × m matrix, and that the query's weights and the
score's bias have no gradient.

A non-linearity between the sum and the convolution, conv(tanh(Q_n + K_m)), makes what a step attends to depend on the
step (additive attention, Bahdanau et al. 2015), at the price of N × N maps.

Shapes: B sequences, N (and n, m) blocks, D channels, T heads, C = D / T channels per head, H × W pixels.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

PAIR_VALUES: Final = 1 << 27
"""Most values of Q_n + K_m at a time: those of 190 sequences of the paper's size, half a gigabyte."""


class ConvAttention(nn.Module):
    """What both kinds are made of; they attend over the valid blocks of each sequence, (B, N, D, H, W)."""

    def __init__(self, channels: int, heads: int, score_kernel: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Conv2d(channels, channels, kernel_size=1)
        self.key_value = nn.Conv2d(channels, 2 * channels, kernel_size=1)
        self.score = nn.Conv2d(channels, heads, score_kernel, padding=score_kernel // 2)
        self.merge = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def keys_and_values(self, x_BNDHW: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, D, H, W) and, by head, (B, N, T, C, H, W)."""
        shape_BN = x_BNDHW.shape[:2]
        key_FDHW, value_FDHW = self.key_value(x_BNDHW.flatten(0, 1)).chunk(2, dim=1)  # (B·N, D, H, W) each
        return key_FDHW.unflatten(0, shape_BN), value_FDHW.unflatten(0, shape_BN).unflatten(2, (self.heads, -1))


class PublishedAttention(ConvAttention):
    """The paper's: (B, N, D, H, W) → (B, 1, D, H, W), one context for all n."""

    def forward(self, x_BNDHW: Tensor, valid_BN: Tensor) -> Tensor:
        weight_BNTHW, value_BNTCHW = self.temporal_weights(x_BNDHW, valid_BN)
        context_BTCHW = (weight_BNTHW.unsqueeze(3) * value_BNTCHW).sum(dim=1)  # Eq. 8, over m
        merged_BDHW: Tensor = self.merge(context_BTCHW.flatten(1, 2))  # Eq. 9
        return merged_BDHW.unsqueeze(1)

    def temporal_weights(self, x_BNDHW: Tensor, valid_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Weight of each block per head and pixel, (B, N, T, H, W), 0 where not valid; and the values."""
        key_BNDHW, value_BNTCHW = self.keys_and_values(x_BNDHW)
        score_FTHW = functional.conv2d(key_BNDHW.flatten(0, 1), self.score.weight, padding=self.score.padding)
        score_BNTHW = score_FTHW.unflatten(0, x_BNDHW.shape[:2])
        return _softmax_over_valid(score_BNTHW, valid_BN[:, :, None, None, None], dim=1), value_BNTCHW


class AdditiveAttention(ConvAttention):
    """The score knows the query: (B, N, D, H, W) → (B, N, D, H, W), a context for each n."""

    def forward(self, x_BNDHW: Tensor, valid_BN: Tensor) -> Tensor:
        key_BmDHW, value_BmTCHW = self.keys_and_values(x_BNDHW)
        contexts = []
        for query_BnDHW in self._queries(x_BNDHW):
            inputs = query_BnDHW, key_BmDHW, value_BmTCHW, valid_BN
            whole = query_BnDHW.shape[1] == x_BNDHW.shape[1]  # else the maps of all parts would be kept for backward
            contexts.append(
                self._context(*inputs) if whole else checkpoint(self._context, *inputs, use_reentrant=False)
            )
        context_BnDHW = torch.cat(contexts, dim=1)
        merged_BnDHW: Tensor = self.merge(context_BnDHW.flatten(0, 1)).unflatten(0, x_BNDHW.shape[:2])  # Eq. 9
        return merged_BnDHW

    def temporal_weights(self, x_BNDHW: Tensor, valid_BN: Tensor) -> tuple[Tensor, Tensor]:
        """As of `PublishedAttention`, the mean over what the valid steps n give to each block."""
        key_BmDHW, value_BmTCHW = self.keys_and_values(x_BNDHW)
        parts = [self._weights(query_BnDHW, key_BmDHW, valid_BN) for query_BnDHW in self._queries(x_BNDHW)]
        share_BN = valid_BN / valid_BN.sum(dim=1, keepdim=True)
        return torch.einsum("bn,bnmthw->bmthw", share_BN.to(x_BNDHW.dtype), torch.cat(parts, dim=1)), value_BmTCHW

    def _queries(self, x_BNDHW: Tensor) -> tuple[Tensor, ...]:
        """All, or in parts that keep the maps of pairs to `PAIR_VALUES`."""
        query_BNDHW = self.query(x_BNDHW.flatten(0, 1)).unflatten(0, x_BNDHW.shape[:2])
        if torch.compiler.is_exporting():
            return (query_BNDHW,)  # how many parts there are must not depend on the batch
        parts: tuple[Tensor, ...] = query_BNDHW.split(max(1, PAIR_VALUES // x_BNDHW.numel()), dim=1)
        return parts

    def _weights(self, query_BnDHW: Tensor, key_BmDHW: Tensor, valid_BN: Tensor) -> Tensor:
        pair_BnmDHW = (query_BnDHW[:, :, None] + key_BmDHW[:, None]).tanh()
        # The bias of the score is the same for all m: the softmax cancels it.
        score_FTHW = functional.conv2d(pair_BnmDHW.flatten(0, 2), self.score.weight, padding=self.score.padding)
        score_BnmTHW = score_FTHW.unflatten(0, pair_BnmDHW.shape[:3])
        return _softmax_over_valid(score_BnmTHW, valid_BN[:, None, :, None, None, None], dim=2)

    def _context(self, query_BnDHW: Tensor, key_BmDHW: Tensor, value_BmTCHW: Tensor, valid_BN: Tensor) -> Tensor:
        weight_BnmTHW = self._weights(query_BnDHW, key_BmDHW, valid_BN)
        return torch.einsum("bnmthw,bmtchw->bntchw", weight_BnmTHW, value_BmTCHW).flatten(2, 3)  # Eq. 8


def _softmax_over_valid(score: Tensor, valid: Tensor, dim: int) -> Tensor:
    return score.masked_fill(~valid, -torch.inf).softmax(dim)
