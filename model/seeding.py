"""Randomness from explicit seeds alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(*parts: int) -> int:
    """One 63-bit seed from whole numbers (run seed, fold, member, step, epoch): different parts, unrelated streams."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def seeded(seed: int, device: torch.device, rank: int = 0) -> Iterator[torch.Generator]:
    """Seed what torch draws inside, and give a generator on the device; the caller's random state is untouched.

    The generator is the same in all processes that share a batch, so that they choose alike; what they draw inside
    (dropout) differs from rank to rank.

    Weight initialisation and dropout only know torch's global generator, hence the fork. It is the
    process's: two models must not be trained in threads of one process.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed(seed, rank) if rank else seed)
        yield torch.Generator(device).manual_seed(seed)
