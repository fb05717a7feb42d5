"""3D convolutions of small maps with a twentieth of the multiplications: as products of spectra.

A convolution is bilinear in images and weights: transform both, multiply the coefficients (over channels, one matrix
product for each coefficient), transform the products back. The second layer of the paper's network takes 38,025
multiplications by real taps for each pair of channels, and 1,800 this way. Rounding errors are smaller than those of
the sums of the direct form. The gradients are the same steps with transposed matrices.

The transform is the discrete Fourier transform, real along height and complex along time and width; a period of
size + padding is enough, as what wraps around is cut off. Maps are so small that products with real matrices are the
fastest way to do it. A product of complex coefficients is three of real ones (Gauss), and these are what the last
matrix, along width, makes: (a + ib)(c + id) = (p - r) + i(p + q), p = (a + b) c, q = a (d - c), r = b (c + d).

Shapes: R blocks, C channels in, O out, T time steps, H × W pixels, P coefficients of one frequency of height; 2 is the
real and the imaginary part. Blocks and channels are last, so that all transforms are products from the left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCKS_AT_ONCE: Final = 50
"""More need new memory from the system at every layer, which takes longer than to compute; fewer make thin products."""
Triple = tuple[int, int, int]
"""Of (time, height, width)."""


def conv3d_by_spectra(x_THWRC: Tensor, weight_OCTHW: Tensor, bias_O: Tensor, padding: Triple) -> Tensor:
    """3D convolution of stride 1 with the weights of torch's: (T, H, W, R, C) → (T', H', W', R, O)."""
    T, H, W = x_THWRC.shape[:3]
    t, h, w = weight_OCTHW.shape[2:]
    plan = _plan((T, H, W), (t, h, w), padding, x_THWRC.dtype)
    y_THWRO: Tensor = _SpectralConv.apply(x_THWRC, weight_OCTHW, bias_O, plan)  # type: ignore[no-untyped-call]
    return y_THWRO


def multiplications(size: Triple, kernel: Triple, padding: Triple, channels: tuple[int, int]) -> int:
    """Of one block with so many channels in and out, transforms of its maps included."""
    plan = _plan(size, kernel, padding, torch.float64)
    return (
        plan.image.coefficients_in_all * math.prod(channels)
        + plan.image.multiplications * channels[0]
        + plan.out.multiplications * channels[1]
    )


@dataclass(frozen=True, slots=True)
class _Transform:
    """Maps to coefficients, and the transpose of that, both for one frequency of height after the other."""

    time: Tensor
    """(frequencies · 2, T · 2)."""
    height: Tensor
    """(frequencies · 2, H)."""
    width: Tensor
    """(frequencies · 3, 2 · W)."""

    @property
    def coefficients_in_all(self) -> int:
        """P, times frequencies of height."""
        return len(self.time) // 2 * len(self.height) // 2 * len(self.width)

    @property
    def multiplications(self) -> int:
        """To transform one channel of one block."""
        T, W = self.time.shape[1] // 2, self.width.shape[1] // 2
        of_frequency = self.time.numel() * W + len(self.time) // 2 * self.width.numel()
        return T * self.height.numel() * W + len(self.height) // 2 * of_frequency

    def coefficients(self, x_THWRC: Tensor) -> Iterator[Tensor]:
        """(T, H, W, R, C) → (P, R, C) of each frequency."""
        T, H, W, R, C = x_THWRC.shape
        times, heights = len(self.time) // 2, len(self.height) // 2
        by_height = _from_left(self.height, x_THWRC.reshape(T, H, W * R * C)).view(T, heights, 2, W * R * C)
        for x_T2F in by_height.unbind(1):
            by_time = torch.mm(self.time, x_T2F.reshape(T * 2, W * R * C)).view(times, 2 * W, R * C)
            yield _from_left(self.width, by_time).view(times * len(self.width), R, C)

    def transposed(self, coefficients: Iterable[Tensor], R: int, C: int) -> Tensor:
        """(P, R, C) of each frequency → (T, H, W, R, C)."""
        T, H, W = self.time.shape[1] // 2, self.height.shape[1], self.width.shape[1] // 2
        times, heights = len(self.time) // 2, len(self.height) // 2
        to_2T = self.time.unflatten(1, (T, 2)).permute(2, 1, 0).reshape(2 * T, 2 * times)
        by_time = self.time.new_empty(heights, 2, T, W * R * C)
        for y_PRC, by_time_2TF in zip(coefficients, by_time, strict=True):
            by_width = _from_left(self.width.T, y_PRC.view(times, len(self.width), R * C))
            torch.mm(to_2T, by_width.view(times * 2, W * R * C), out=by_time_2TF.view(2 * T, W * R * C))
        x_THWRC = self.time.new_empty(T, H, W, R, C)
        by_height = by_time.view(heights * 2, T, W * R * C).transpose(0, 1)
        torch.bmm(self.height.T.expand(T, -1, -1), by_height, out=x_THWRC.view(T, H, W * R * C))
        return x_THWRC


class _Plan(NamedTuple):
    """What transforms images and weights, and what is the transpose of transforming their products back."""

    image: _Transform
    weight: _Transform
    out: _Transform


class _SpectralConv(torch.autograd.Function):
    """Keeps images for the gradients, not their coefficients, which would take four times the memory."""

    @staticmethod
    def forward(ctx: Any, x_THWRC: Tensor, weight_OCTHW: Tensor, bias_O: Tensor, plan: _Plan) -> Tensor:
        weights = list(plan.weight.coefficients(weight_OCTHW.permute(2, 3, 4, 1, 0)))  # (P, C, O) of each frequency
        ctx.save_for_backward(x_THWRC, *weights)
        ctx.plan = plan
        maps = []
        for part_THWRC in x_THWRC.split(BLOCKS_AT_ONCE, dim=3):
            images = plan.image.coefficients(part_THWRC)
            products = (torch.bmm(a_PRC, w_PCO) for a_PRC, w_PCO in zip(images, weights, strict=True))
            maps.append(plan.out.transposed(products, part_THWRC.shape[3], len(bias_O)).add_(bias_O))
        return _joined(maps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_THWRO: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        plan, (x_THWRC, *weights) = ctx.plan, ctx.saved_tensors
        of_weights = [torch.zeros_like(w_PCO) for w_PCO in weights]

        def products(x_THWRC: Tensor, grad_THWRO: Tensor) -> Iterator[Tensor]:
            pairs = plan.image.coefficients(x_THWRC), plan.out.coefficients(grad_THWRO)
            for a_PRC, g_PRO, w_PCO, of_w_PCO in zip(*pairs, weights, of_weights, strict=True):
                of_w_PCO.baddbmm_(a_PRC.mT, g_PRO)
                yield torch.bmm(g_PRO, w_PCO.mT)

        parts = zip(*(maps.split(BLOCKS_AT_ONCE, dim=3) for maps in (x_THWRC, grad_THWRO)), strict=True)
        grad_x_THWRC = _joined([plan.image.transposed(products(*part), *part[0].shape[3:]) for part in parts])
        grad_weight_THWCO = plan.weight.transposed(of_weights, *weights[0].shape[1:])
        return grad_x_THWRC, grad_weight_THWCO.permute(4, 3, 0, 1, 2), grad_THWRO.sum(dim=(0, 1, 2, 3)), None


def _joined(maps: list[Tensor]) -> Tensor:
    return maps[0] if len(maps) == 1 else torch.cat(maps, dim=3)


def _from_left(matrix: Tensor, x_BNF: Tensor) -> Tensor:
    return torch.bmm(matrix.expand(len(x_BNF), -1, -1), x_BNF)


@cache
def _plan(size: Triple, kernel: Triple, padding: Triple, dtype: torch.dtype) -> _Plan:
    axes = list(zip(size, kernel, padding, strict=True))
    periods = [max(n + pad, k) for n, k, pad in axes]
    image = [_range(n) for n in size]
    weight = [_range(k) for k in kernel]
    out = [_range(n + 2 * pad - k + 1) - pad for n, k, pad in axes]  # where the first tap lies on the image
    plan = _Plan(
        _transform(image, periods, -1, ((1, 1), (1, 0), (0, 1))),  # a + b, a, b
        _transform(weight, periods, +1, ((1, 0), (-1, 1), (1, 1))),  # c, d - c, c + d; conjugate: layers correlate
        _transform(out, periods, -1, ((1, 1), (0, 1), (-1, 0))),  # of p, q and r: what becomes of them
    )
    # Half of the frequencies of height stand for the other half, too, but for those that are their own mirrors.
    f = _range(periods[1] // 2 + 1)
    counts = torch.where((f == 0) | (2 * f == periods[1]), 1, 2).repeat_interleave(2)[:, None]
    scaled = replace(plan.out, height=plan.out.height * counts / math.prod(periods))
    return _Plan(*(_Transform(*(m.to(dtype) for m in (t.time, t.height, t.width))) for t in plan._replace(out=scaled)))


def _transform(
    places: list[Tensor], periods: list[int], sign: int, products: tuple[tuple[int, int], ...]
) -> _Transform:
    """`products` says what of (real, imaginary) is multiplied."""
    time, height, width = (_turns(*axis, sign) for axis in zip(places, periods, strict=True))
    gauss_G2 = torch.tensor(products, dtype=torch.float64, device="cpu")
    return _Transform(
        time=time.flatten(2).flatten(0, 1),
        height=height[: periods[1] // 2 + 1, :, :, 0].flatten(0, 1),
        width=torch.einsum("ga,fanb->fgbn", gauss_G2, width).flatten(2).flatten(0, 1),
    )


def _range(stop: int) -> Tensor:
    """On the CPU even where a network is made without memory for its weights: plans are kept."""
    return torch.arange(stop, device="cpu")


def _turns(place_N: Tensor, period: int, sign: int) -> Tensor:
    """Factors exp(± 2πi f n / period) as real matrices, (frequencies, 2, N, 2)."""
    turns_FN = torch.outer(_range(period), place_N) % period
    angle_FN = sign * 2 * math.pi / period * turns_FN.double()
    cosine_FN, sine_FN = angle_FN.cos(), angle_FN.sin()
    of_real, of_imaginary = torch.stack((cosine_FN, -sine_FN), dim=2), torch.stack((sine_FN, cosine_FN), dim=2)
    return torch.stack((of_real, of_imaginary), dim=1)
