"""How a plain function becomes a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE

P = ParamSpec("P")
R = TypeVar("R")


def step(name: str, *, retries: int = 0) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A task that is never answered from Prefect's cache: what is done already is read off the files themselves."""
    return task(name=name, retries=retries, cache_policy=NO_CACHE, persist_result=False)
