"""3D convolutions of small maps with a tenth of the multiplications: Fourier in space, Karatsuba in time.

A convolution is bilinear in images and weights. Along each axis it is

    y = out · ((image · x) ⊙ (weight · w))

with three small matrices: both are transformed, the coefficients multiplied (over channels, one matrix product for each
coefficient), and the products transformed back. The second layer of the paper's network takes 38,025 multiplications of
real taps for each pair of channels, and 2,160 this way. Rounding errors are smaller than those of the sums of the
direct form. The gradients are the same three steps, with transposed matrices.

Height: the real discrete Fourier transform; a period of n + padding is enough, as what wraps around is cut off. Width:
the complex one; a complex product is three real ones (Gauss). Time: where all n steps meet all n taps (or, transposed,
each of n outputs has all n), the n (n + 1) / 2 products of pairs' sums do (Karatsuba), else those of steps and taps
that meet. Maps are so small that a product with the matrix is the fastest transform.

Shapes: R blocks, C channels in, O out, T time steps, H × W pixels, P coefficients of one frequency of height. Blocks
and channels are last, so that all transforms are products from the left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations
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
    """(products, T)."""
    height: Tensor
    """(frequencies · (re, im), H)."""
    width: Tensor
    """(products, (re, im) · W)."""

    @property
    def coefficients_in_all(self) -> int:
        """P, times frequencies."""
        return len(self.time) * len(self.height) // 2 * len(self.width)

    @property
    def multiplications(self) -> int:
        """To transform one channel of one block."""
        T, pixels, frequencies = self.time.shape[1], self.width.shape[1] // 2, len(self.height) // 2
        along_time = frequencies * self.time.numel() * len(self.width)
        return T * self.height.numel() * pixels + frequencies * T * self.width.numel() + along_time

    def coefficients(self, x_THWRC: Tensor) -> Iterator[Tensor]:
        """(T, H, W, R, C) → (P, R, C) of each frequency."""
        T, H, W, R, C = x_THWRC.shape
        products, frequencies = len(self.width), len(self.height) // 2
        by_height = _from_left(self.height, x_THWRC.reshape(T, H, W * R * C)).view(T, frequencies, 2 * W, R * C)
        for x_TWF in by_height.unbind(1):
            by_width = _from_left(self.width, x_TWF).view(T, products * R * C)
            yield torch.mm(self.time, by_width).view(len(self.time) * products, R, C)

    def transposed(self, coefficients: Iterable[Tensor]) -> Tensor:
        """(P, R, C) of each frequency → (T, H, W, R, C)."""
        T, H, W = self.time.shape[1], self.height.shape[1], self.width.shape[1] // 2
        products, columns = len(self.width), []
        for y_PRC in coefficients:
            R, C = y_PRC.shape[1:]
            by_time = torch.mm(self.time.T, y_PRC.view(len(self.time), products * R * C)).view(T, products, R * C)
            columns.append(_from_left(self.width.T, by_time))
        y_TfWF = torch.stack(columns, dim=1).view(T, len(self.height), W * R * C)
        x_THWRC = y_TfWF.new_empty(T, H, W, R, C)
        torch.bmm(self.height.T.expand(T, -1, -1), y_TfWF, out=x_THWRC.view(T, H, W * R * C))
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
            maps.append(plan.out.transposed(products).add_(bias_O))
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
        grad_x_THWRC = _joined([plan.image.transposed(products(*part)) for part in parts])
        grad_weight_THWCO = plan.weight.transposed(of_weights)
        return grad_x_THWRC, grad_weight_THWCO.permute(4, 3, 0, 1, 2), grad_THWRO.sum(dim=(0, 1, 2, 3)), None


def _joined(maps: list[Tensor]) -> Tensor:
    return maps[0] if len(maps) == 1 else torch.cat(maps, dim=3)


def _from_left(matrix: Tensor, x_BNF: Tensor) -> Tensor:
    return torch.bmm(matrix.expand(len(x_BNF), -1, -1), x_BNF)


class _Bilinear(NamedTuple):
    """y = out · ((image · x) ⊙ (weight · w))."""

    image: Tensor
    weight: Tensor
    out: Tensor


@cache
def _plan(size: Triple, kernel: Triple, padding: Triple, dtype: torch.dtype) -> _Plan:
    makers = (_time, _height, _width)
    axes = [make(*of) for make, of in zip(makers, zip(size, kernel, padding, strict=True), strict=True)]

    def transform(*matrices: Tensor) -> _Transform:
        return _Transform(*(matrix.to(dtype).contiguous() for matrix in matrices))

    return _Plan(
        transform(*(axis.image for axis in axes)),
        transform(*(axis.weight for axis in axes)),
        transform(*(axis.out.T for axis in axes)),
    )


def _height(n: int, k: int, padding: int) -> _Bilinear:
    """Real DFT: (frequency, re | im). What is not its own mirror stands for two."""
    period = max(n + padding, k)
    f = torch.arange(period // 2 + 1)
    counts_f1 = torch.where((f == 0) | (2 * f == period), 1, 2)[:, None] / torch.tensor(period, dtype=torch.float64)
    image, weight, out = _angles(f, period, n, k, padding)
    return _Bilinear(
        image=torch.stack((image.cos(), -image.sin()), dim=1).flatten(0, 1),
        weight=torch.stack((weight.cos(), weight.sin()), dim=1).flatten(0, 1),  # conjugate: layers correlate
        out=torch.stack((counts_f1 * out.cos(), -counts_f1 * out.sin()), dim=1).flatten(0, 1).T,
    )


def _width(n: int, k: int, padding: int) -> _Bilinear:
    """Complex DFT, with (a + ib)(c + id) = (p - r) + i(p + q), p = (a + b) c, q = a (d - c), r = b (c + d)."""
    period = max(n + padding, k)
    image, weight, out = _angles(torch.arange(period), period, n, k, padding)
    a, b = torch.cat((image.cos(), image.sin()), dim=1), torch.cat((-image.sin(), image.cos()), dim=1)
    c, d = torch.cat((weight.cos(), -weight.sin()), dim=1), torch.cat((weight.sin(), weight.cos()), dim=1)
    of_re, of_im = torch.cat((out.cos(), out.sin()), dim=1), torch.cat((-out.sin(), out.cos()), dim=1)
    return _Bilinear(
        image=torch.stack((a + b, a, b), dim=1).flatten(0, 1),
        weight=torch.stack((c, d - c, c + d), dim=1).flatten(0, 1),
        out=torch.stack((of_re + of_im, of_im, -of_re), dim=1).flatten(0, 1).T / period,
    )


def _angles(f: Tensor, period: int, n: int, k: int, padding: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each frequency at each input pixel, tap, and output pixel as it lies on the input."""
    places = torch.arange(n), torch.arange(k), torch.arange(n + 2 * padding - k + 1) - padding
    image, weight, out = (2 * math.pi / period * (torch.outer(f, place) % period).double() for place in places)
    return image, weight, out


def _time(n: int, k: int, padding: int) -> _Bilinear:
    if n == k and padding == k - 1:
        full = _karatsuba(n)
        return full._replace(weight=full.weight.flip(1))  # a correlation is a convolution with reversed taps
    if n == 2 * k - 1 and padding == 0:
        full = _karatsuba(k)
        return _Bilinear(full.out.T, full.weight, full.image.T)
    outputs = n + 2 * padding - k + 1
    meetings = [(t, t + tap - padding, tap) for t in range(outputs) for tap in range(k) if 0 <= t + tap - padding < n]
    t, step, tap = torch.tensor(meetings).T
    eye = torch.eye(max(outputs, n, k), dtype=torch.float64)
    return _Bilinear(eye[step, :n], eye[tap, :k], eye[t, :outputs].T)


def _karatsuba(n: int) -> _Bilinear:
    """y_s = Σ_{i + j = s} x_i w_j, all 2n - 1, from x_i w_i and (x_i + x_j)(w_i + w_j)."""
    x, y = torch.eye(n, dtype=torch.float64), torch.eye(2 * n - 1, dtype=torch.float64)
    pairs = list(combinations(range(n), 2))
    sums = torch.stack([*x, *(x[i] + x[j] for i, j in pairs)])
    out = torch.stack([*y[::2], *(y[i + j] for i, j in pairs)], dim=1)
    for i, j in pairs:
        out[i + j, [i, j]] -= 1
    return _Bilinear(sums, sums, out)
