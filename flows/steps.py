"""How a plain function becomes a task."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from prefect import State, Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun

from flows import logs
from pipeline.errors import ArchiveError, ChangedUpstream, PipelineError, WorkerDied

P = ParamSpec("P")
R = TypeVar("R")


def step(name: str, *, retries: int = 0, delays_s: Sequence[float] = (0,)) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A task that is never answered from Prefect's cache: what is done already is read off the files themselves."""
    return task(
        name=name,
        retries=retries,
        retry_delay_seconds=[*delays_s],
        retry_condition_fn=worth_retrying,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


class SeveralFailed(PipelineError):
    """Of several things that a task did one after the other, some failed and the others are done."""

    def __init__(self, errors: dict[str, Exception]) -> None:
        super().__init__("; ".join(f"{name}: {error}" for name, error in errors.items()))
        self.errors = tuple(errors.values())


def worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether the error that a task ended with may be none the next time."""
    try:
        state.result()
    except Exception as error:
        return may_pass(error)
    return False


def may_pass(error: Exception) -> bool:
    """An archive may come back, a killed worker is replaced; a wrong setting or another file stays what it is."""
    if isinstance(error, SeveralFailed):
        return any(map(may_pass, error.errors))
    if isinstance(error, PipelineError):
        return isinstance(error, ArchiveError | WorkerDied) and not isinstance(error, ChangedUpstream)
    return True  # anything unforeseen may have been the machine's bad moment


class _WithoutTraceback(logging.Filter):
    """An error raised on purpose says it all in its message; its traceback would bury it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], PipelineError):
            record.exc_info = record.exc_text = None
        return True


for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_WithoutTraceback())
logs.start()
