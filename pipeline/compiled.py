"""Inner loops as machine code: compiled by numba when first called, and kept beside the source for the next process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """`function` in machine code, on one thread: processes are what is run side by side.

    Floating-point operations stay in the order in which they are written, so that results do not depend on the machine.
    """
    try:
        return cast(F, numba.njit(function, cache=True, error_model="numpy"))
    except RuntimeError:  # no folder can be written, here or in the home directory: each process compiles its own
        return cast(F, numba.njit(function, error_model="numpy"))
