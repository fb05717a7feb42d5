"""Which images of a sequence are used, and how they are turned: on the device, a batch at a time.

Training draws anew each time (Sect. 3.1: random drop of steps, sequence shifting, rotation, flips);
evaluation follows a fixed rule. Randomness comes from the generator that is passed in.

Shapes: B sequences, M slots of the network, L images of the longest sequence, H × W pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

_GOLDEN = (math.sqrt(5) - 1) / 2
EMPTY = -1
"""A slot that holds no image."""


def random_images(length_B: Tensor, slots: int, longest: int, generator: torch.Generator) -> Tensor:
    """Choose at most `slots` images of each sequence for training: places (B, M) in time order, then EMPTY.

    A sequence that fits is taken whole. Of a longer one, images are dropped at random until k are left,
    with k uniform between M and its length; then a random window of M of those is taken.
    """
    shape_BL, device = (len(length_B), longest), length_B.device
    spare_B = (length_B - slots).clamp(min=0)
    kept_B = length_B - _uniform_integer(spare_B, generator)
    start_B = _uniform_integer((kept_B - slots).clamp(min=0), generator)
    return _choose(torch.rand(shape_BL, generator=generator, device=device), length_B, kept_B, start_B, slots)


def spread_images(length_B: Tensor, slots: int, longest: int) -> Tensor:
    """Choose at most `slots` images of each sequence by a fixed rule: as `random_images`, for evaluation.

    Image l is kept if frac(l φ) is among the M smallest, with φ the golden ratio: spread over the whole
    time range with nearly even gaps. Even spacing would not do: bands are interleaved, and every fifth
    image of a five-band sequence is of one band.
    """
    # Fractions in double precision, so that every device ranks them alike.
    key_L = torch.arange(longest, dtype=torch.float64, device=length_B.device).mul(_GOLDEN).frac()
    kept_B = length_B.clamp(max=slots)
    return _choose(key_L.expand(len(length_B), -1), length_B, kept_B, torch.zeros_like(kept_B), slots)


def _choose(key_BL: Tensor, length_B: Tensor, kept_B: Tensor, start_B: Tensor, slots: int) -> Tensor:
    """Keep the `kept` images with the smallest keys, then the window of `slots` from `start`, in time order."""
    place_L = torch.arange(key_BL.shape[1], device=length_B.device)
    key_BL = key_BL.masked_fill(place_L >= length_B[:, None], torch.inf)
    rank_BL = key_BL.argsort(dim=1).argsort(dim=1)
    kept_BL = rank_BL < kept_B[:, None]
    slot_BL = kept_BL.cumsum(dim=1) - 1 - start_B[:, None]
    slot_BL = torch.where(kept_BL & (slot_BL >= 0) & (slot_BL < slots), slot_BL, slots)  # the rest to a slot cut off
    chosen_BM = torch.full((len(length_B), slots + 1), EMPTY, device=length_B.device)
    return chosen_BM.scatter(1, slot_BL, place_L.expand_as(slot_BL))[:, :slots]


def _uniform_integer(highest_B: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform over 0 … highest, both included."""
    unit_B = torch.rand(len(highest_B), generator=generator, device=highest_B.device, dtype=torch.float64)
    return (unit_B * (highest_B + 1)).long()


def random_orientations(n: int, max_rotation_deg: float, generator: torch.Generator, device: torch.device) -> Tensor:
    """One orientation per sequence, (B, 2, 2): with equal odds a rotation, or one of the four flips (none included)."""
    angle_B, kind_B = torch.rand(2, n, generator=generator, device=device)
    angle_B = (2 * angle_B - 1) * math.radians(max_rotation_deg)
    sine_B, cosine_B = angle_B.sin(), angle_B.cos()
    rotation_B22 = torch.stack((cosine_B, -sine_B, sine_B, cosine_B), dim=1).view(-1, 2, 2)
    sign_B2 = 1 - 2 * torch.randint(2, (n, 2), generator=generator, device=device).float()
    return torch.where(kind_B[:, None, None] < 0.5, rotation_B22, torch.diag_embed(sign_B2))


def orient(image_BMHW: Tensor, orientation_B22: Tensor) -> Tensor:
    """Turn all images of a sequence alike about their centre (bilinear; zero, the mean, comes in at corners)."""
    affine_B23 = functional.pad(orientation_B22, (0, 1))
    grid_BHW2 = functional.affine_grid(affine_B23, list(image_BMHW.shape), align_corners=False)
    return functional.grid_sample(image_BMHW, grid_BHW2, align_corners=False)
