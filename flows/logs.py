"""Structured logs: one JSON object per line, of what the flows, the pipeline and Prefect say in this process.

S82_LOG says where to: `json` for standard error, as a container's log collector wants it, or a folder, in which each
day has a file, `2026-11-28.jsonl`. Not set: nothing is written, and nothing is spent on it. `flows.steps` calls `start`
when it is imported, so that every process that runs a flow writes alike.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pipeline.errors import ConfigError

S82_LOG: Final = "S82_LOG"
RUN_KEYS: Final = ("flow_run_id", "flow_run_name", "task_run_id", "task_run_name")
LONGEST: Final = 32_000
"""Characters of a message or a traceback that are kept."""

_ABOUT: ContextVar[Mapping[str, str] | None] = ContextVar("s82_about", default=None)


@contextmanager
def about(**what: str) -> Iterator[None]:
    """Inside, and in threads that copy the context, every line carries these keys, such as `cell` and `object`."""
    token = _ABOUT.set({**(_ABOUT.get() or {}), **what})
    try:
        yield
    finally:
        _ABOUT.reset(token)


class JsonLines(logging.Formatter):
    """One record as one line of JSON: time (UTC), level, logger, message, and what is known of the run and the cell."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage()[:LONGEST],
            "pid": record.process,
        }
        line |= _run_of(record)
        line |= _ABOUT.get() or {}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)[-LONGEST:]
        return json.dumps(line, ensure_ascii=False, default=str)


class DailyFile(logging.Handler):
    """Append each line to the file of its day with one write, so that the lines of several processes do not mix."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._complained = False
        self._guard = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; a disk that takes no more is complained of once, and does not stop the run."""
        try:
            line = self.format(record).encode("utf-8", "backslashreplace") + b"\n"
            self._append(log_file(self._folder, datetime.fromtimestamp(record.created, UTC)), line)
        except OSError as error:
            with self._guard:
                complained, self._complained = self._complained, True
            if not complained:
                sys.stderr.write(f"structured logs: cannot write below {self._folder}: {error}\n")
        except Exception:
            self.handleError(record)

    def _append(self, file: Path, line: bytes) -> None:
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)


def log_file(folder: Path, when: datetime) -> Path:
    """The file of a day (UTC)."""
    return folder / f"{when.astimezone(UTC):%Y-%m-%d}.jsonl"


def start(environment: Mapping[str, str] = os.environ) -> logging.Handler | None:
    """Write what S82_LOG asks for from now on; None where it asks for nothing. To be called after Prefect's import,
    which sets up logging anew.

    With `json`, lines of JSON take the place of Prefect's lines for people: one stream must not have both.
    """
    where = environment.get(S82_LOG, "").strip()
    if not where:
        return None
    handler = _handler(where)
    handler.setFormatter(JsonLines())
    handler.name = S82_LOG
    root = logging.getLogger()
    for other in list(root.handlers):
        spoken = isinstance(handler, logging.StreamHandler) and type(other).__name__ == "PrefectConsoleHandler"
        if spoken or other.name == S82_LOG:
            root.removeHandler(other)
    root.addHandler(handler)
    return handler


def _handler(where: str) -> logging.Handler:
    if where == "json":
        return logging.StreamHandler(sys.stderr)
    folder = Path(where)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{S82_LOG}={where}: cannot make the folder of logs: {error.strerror}; name another folder, or `json` for "
            "standard error"
        ) from error
    return DailyFile(folder)


def _run_of(record: logging.LogRecord) -> dict[str, str]:
    """The run that a record belongs to: Prefect's loggers say it; for others it is the run of the context."""
    said = {key: str(value) for key in RUN_KEYS if (value := getattr(record, key, None))}
    if said or record.name.startswith("prefect"):
        return said
    return _run_of_context()


def _run_of_context() -> dict[str, str]:
    context = sys.modules.get("prefect.context")
    if context is None:
        return {}
    said: dict[str, str] = {}
    if (flow := context.FlowRunContext.get()) is not None and flow.flow_run is not None:
        said |= {"flow_run_id": str(flow.flow_run.id), "flow_run_name": flow.flow_run.name}
    if (task := context.TaskRunContext.get()) is not None:
        said |= {"flow_run_id": str(task.task_run.flow_run_id or said.get("flow_run_id", ""))}
        said |= {"task_run_id": str(task.task_run.id), "task_run_name": task.task_run.name}
    return said
