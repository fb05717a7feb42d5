"""Lines of JSON that say which run and which cell they are about."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

from flows import logs
from pipeline.errors import ConfigError

LOG = logging.getLogger("pipeline.of_a_test")


@pytest.fixture
def starting() -> Iterator[Callable[[str], logging.Handler | None]]:
    """Start structured logs; the root logger is afterwards as it was."""
    root = logging.getLogger()
    before = list(root.handlers)
    yield lambda where: logs.start({"S82_LOG": where})
    root.handlers[:] = before


def lines(folder: Path) -> list[dict[str, Any]]:
    (file,) = folder.glob("*.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_line_says_what_it_is_about_in_threads_too(starting, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    starting(str(tmp_path / "logs"))
    with logs.about(cell="all-c4"), ThreadPoolExecutor(1) as threads:
        with logs.about(object="17"):
            LOG.warning("two\nlines, “quoted”")
        threads.submit(copy_context().run, LOG.warning, "in a thread").result()
    LOG.warning("outside")
    try:
        raise ValueError("why")
    except ValueError:
        LOG.exception("failed")
    first, threaded, outside, failed = lines(tmp_path / "logs")
    assert (first["cell"], first["object"], first["level"], first["logger"]) == ("all-c4", "17", "WARNING", LOG.name)
    assert first["message"] == "two\nlines, “quoted”"
    assert first["time"].endswith("+00:00")
    assert (threaded["cell"], threaded.get("object")) == ("all-c4", None)
    assert "cell" not in outside
    assert failed["traceback"].endswith("ValueError: why")


def test_a_name_that_is_no_text_is_written_all_the_same(starting, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Other bytes than UTF-8 in a file name come as half a surrogate. Not through `LOG`: pytest cannot keep that."""
    handler = starting(str(tmp_path))
    handler.handle(logging.LogRecord(LOG.name, logging.WARNING, __file__, 1, "of \ud800", None, None))
    (line,) = lines(tmp_path)
    assert line["message"].startswith("of ")


def test_a_line_says_which_run_it_belongs_to(starting, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Prefect's loggers carry it in the record."""
    starting(str(tmp_path))
    of_run = logging.LoggerAdapter(LOG, {"flow_run_id": "abc", "flow_run_name": "demo", "task_run_id": "def"})
    of_run.warning("hello")
    (line,) = lines(tmp_path)
    assert (line["flow_run_id"], line["flow_run_name"], line["task_run_id"]) == ("abc", "demo", "def")


def test_what_the_pipeline_says_inside_a_flow_names_its_run(prefect_server: None, starting, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from prefect import flow, task

    @task(task_run_name="cell-7")
    def cell() -> None:
        LOG.warning("paused")

    @flow(flow_run_name="nightly")
    def nightly() -> None:
        cell()

    starting(str(tmp_path))
    nightly()
    (line,) = [line for line in lines(tmp_path) if line["message"] == "paused"]
    assert (line["flow_run_name"], line["task_run_name"]) == ("nightly", "cell-7")
    assert line["flow_run_id"] != line["task_run_id"]


def test_standard_error_carries_json_alone(starting, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """Started twice, it still says everything once."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    starting("json")
    starting("json")
    LOG.warning("once")
    assert json.loads(stream.getvalue())["message"] == "once"


def test_off_it_adds_nothing_and_nonsense_is_refused(starting, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    before = list(logging.getLogger().handlers)
    assert starting("") is None
    assert logging.getLogger().handlers == before
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"S82_LOG=.*cannot make the folder"):
        starting(str(tmp_path / "file"))


def test_a_disk_that_takes_nothing_more_is_complained_of_once(  # type: ignore[no-untyped-def]
    starting, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = starting(str(tmp_path / "logs"))
    assert isinstance(handler, logs.DailyFile)
    (tmp_path / "logs").rmdir()
    for _ in range(3):
        LOG.warning("lost")
    assert capsys.readouterr().err.count("structured logs: cannot write below") == 1
