"""How a plain function becomes a task."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import State, Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun

from flows import logs
from pipeline.errors import ArchiveError, ChangedUpstream, PipelineError, WorkerDied

P = ParamSpec("P")
R = TypeVar("R")


def step(name: str, *, retries: int = 0) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A task that is never answered from Prefect's cache: what is done already is read off the files themselves."""
    return task(
        name=name, retries=retries, retry_condition_fn=worth_retrying, cache_policy=NO_CACHE, persist_result=False
    )


def worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """An archive may come back, a killed worker is replaced; a wrong setting or another file stays what it is."""
    try:
        state.result()
    except ChangedUpstream:
        return False
    except (ArchiveError, WorkerDied):
        return True
    except PipelineError:
        return False
    except Exception:  # anything unforeseen may have been the machine's bad moment
        return True
    return False


class _WithoutTraceback(logging.Filter):
    """An error raised on purpose says it all in its message; its traceback would bury it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], PipelineError):
            record.exc_info = record.exc_text = None
        return True


for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_WithoutTraceback())
logs.start()
