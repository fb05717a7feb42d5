"""The network as the paper defines it, with nothing saved: what `ConvEntion` is tested and timed against.

Block by block through torch's own 3D convolutions, zeros that pad time included; sequence by sequence through
torch's layer normalisation and all N × N maps of scores. It computes with the parameters of a `ConvEntion`, whose own
forward pass it does not use. Empty blocks take no part, so that masking is defined by leaving them out; with
`padding="published"` no block is empty.

Shapes: B sequences, M images of C input channels, K images per block, N blocks that are not empty, R those of all
sequences, T time steps of a block (heads, where scores are meant), D channels, H × W pixels.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from model.attention import AdditiveAttention, ConvAttention
from model.convention import ConvEntion
from model.embedding import PADDING, PERIODS_DAY, positional_encoding


def logits_by_definition(network: ConvEntion, pixels_BMCHW: Tensor, band_BM: Tensor, day_BM: Tensor) -> Tensor:
    """As `network(pixels_BMCHW, band_BM, day_BM)`: (B, classes), and in training the same batch statistics."""
    sequences = _cnn(
        network,
        [_blocks(network, pixels_MCHW, band_M) for pixels_MCHW, band_M in zip(pixels_BMCHW, band_BM, strict=True)],
    )  # (N, D, H, W) each
    places = [
        _place(network, day_M, band_M, len(x_NDHW))
        for day_M, band_M, x_NDHW in zip(day_BM, band_BM, sequences, strict=True)
    ]
    for index, layer in enumerate(network.layers):
        if index == 0 or network.config.positions == "each-layer":
            sequences = [x_NDHW + place_ND11 for x_NDHW, place_ND11 in zip(sequences, places, strict=True)]  # Eq. 6
        sequences = _layer(layer, sequences)
    logit_BC: Tensor = network.head(torch.stack([x_NDHW.amax(dim=0) for x_NDHW in sequences]))
    return logit_BC


def _blocks(network: ConvEntion, pixels_MCHW: Tensor, band_M: Tensor) -> list[Tensor]:
    """The images of each block, the map of their band as second channel (Eqs. 1-2), zeros where there is no image."""
    config, n_images = network.config, int((band_M != PADDING).sum())
    slots = config.images if config.padding == "published" else math.ceil(n_images / config.block) * config.block
    flux_M1HW, other_MCHW = pixels_MCHW[:n_images, :1], pixels_MCHW[:n_images, 1:]
    map_M1HW = network.embed.get_parameter("table.weight")[band_M[:n_images]].view_as(flux_M1HW)
    image_MCHW = torch.cat((flux_M1HW, map_M1HW, other_MCHW), dim=1)
    image_MCHW = torch.cat((image_MCHW, image_MCHW.new_zeros(slots - n_images, *image_MCHW.shape[1:])))
    return list(image_MCHW.split(config.block))


def _cnn(network: ConvEntion, sequences: list[list[Tensor]]) -> list[Tensor]:
    """The first blocks of all sequences, then the second …; batch statistics are those of all together (Eq. 3)."""
    longest = max(map(len, sequences))
    maps = [torch.stack([blocks[n] for blocks in sequences if n < len(blocks)]).transpose(1, 2) for n in range(longest)]
    for stage in network.backbone.stages:
        maps = [_conv3d(stage.conv, x_BCTHW) for x_BCTHW in maps]
        y_RCTHW = functional.relu(_batch_norm(stage.norm, torch.cat(maps)))
        maps = list(y_RCTHW.split([len(x_BCTHW) for x_BCTHW in maps]))
    rows = [iter(x_BCTHW.squeeze(2)) for x_BCTHW in maps]
    return [torch.stack([next(row) for row in rows[: len(blocks)]]) for blocks in sequences]


def _conv3d(conv: Any, x_BCTHW: Tensor) -> Tensor:
    return functional.conv3d(x_BCTHW, conv.weight, conv.bias, conv.stride, conv.padding)


def _place(network: ConvEntion, day_M: Tensor, band_M: Tensor, n_blocks: int) -> Tensor:
    """Encoding of rank (Eqs. 4-5) and, where configured, of date: (N, D, 1, 1)."""
    place_ND11 = positional_encoding(n_blocks, network.config.channels).to(day_M)
    if network.clock is None:
        return place_ND11
    mean_days = [day_K.mean() for day_K in day_M[band_M != PADDING].split(network.config.block)]
    features = []
    for n, day in enumerate(mean_days):
        angles = [2 * math.pi * day / period for period in PERIODS_DAY]
        gap = day - mean_days[n - 1] if n else torch.zeros_like(day)
        features.append(torch.stack([*(a.sin() for a in angles), *(a.cos() for a in angles), gap.log1p()]))
    date_ND = torch.stack(features) @ network.clock.map.weight.T
    return place_ND11 + functional.pad(date_ND, (0, 0, 0, n_blocks - len(date_ND)))[..., None, None]


def _layer(layer: Any, sequences: list[Tensor]) -> list[Tensor]:
    """Pre-norm attention and feed-forward network, each around an identity (Sect. 3.3)."""
    sequences = [
        x_NDHW + attention_by_definition(layer.attention, _layer_norm(layer.norm_attention, x_NDHW))
        for x_NDHW in sequences
    ]
    first, _, norm, second, _, last_norm = layer.ffn
    y_RDHW = torch.cat([_layer_norm(layer.norm_ffn, x_NDHW) for x_NDHW in sequences])
    y_RDHW = _batch_norm(norm, functional.relu(first(y_RDHW)))
    y_RDHW = _batch_norm(last_norm, functional.relu(second(y_RDHW)))
    parts = y_RDHW.split([len(x_NDHW) for x_NDHW in sequences])
    return [x_NDHW + y_NDHW for x_NDHW, y_NDHW in zip(sequences, parts, strict=True)]


def attention_by_definition(attention: ConvAttention, x_NDHW: Tensor) -> Tensor:
    """Eqs. 7-9 with all N × N score maps: (N, D, H, W)."""
    n_blocks, heads = len(x_NDHW), attention.heads
    query_NDHW, (key_NDHW, value_NDHW) = attention.query(x_NDHW), attention.key_value(x_NDHW).chunk(2, dim=1)
    pair_nmDHW = query_NDHW[:, None] + key_NDHW[None, :]
    if isinstance(attention, AdditiveAttention):
        pair_nmDHW = pair_nmDHW.tanh()
    score_nmTHW = attention.score(pair_nmDHW.flatten(0, 1)).unflatten(0, (n_blocks, n_blocks))  # Eq. 7
    value_mTCHW = value_NDHW.unflatten(1, (heads, -1))
    context_nTCHW = torch.einsum("nmthw,mtchw->ntchw", score_nmTHW.softmax(dim=1), value_mTCHW)  # Eq. 8
    merged_NDHW: Tensor = attention.merge(context_nTCHW.flatten(1, 2))  # Eq. 9
    return merged_NDHW


def _layer_norm(norm: Any, x_NDHW: Tensor) -> Tensor:
    """Over the whole tensor of a sequence; scale and shift are those of its places."""
    n_blocks = len(x_NDHW)
    return functional.layer_norm(x_NDHW, x_NDHW.shape, norm.weight[:n_blocks], norm.bias[:n_blocks])


def _batch_norm(norm: Any, x: Tensor) -> Tensor:
    """Over all but the channels, of maps or of blocks in time."""
    return functional.batch_norm(
        x, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.training, norm.momentum or 0.0, norm.eps
    )
