"""`s82 server start` meets what is there already."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import ConfigError


@pytest.fixture
def stranger() -> Iterator[int]:
    """A port on which something listens that is no Prefect server, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_a_port_that_something_else_has_is_one_clear_error(
    stranger: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.operation import serving

    monkeypatch.setattr(serving, "ANSWER_S", 0.2)
    site = serving.Site(tmp_path, port=stranger, reports_port=0)
    with pytest.raises(ConfigError, match=rf"port {stranger} is taken by something that is not a Prefect server"):
        serving.serve(site, print, threading.Event())


def test_a_server_that_is_there_is_used_and_left_alone(prefect_server: None, tmp_path: Path) -> None:
    from prefect.settings import PREFECT_API_URL

    from flows.operation.serving import Site, serve

    port = int(str(PREFECT_API_URL.value()).split(":")[2].split("/")[0])
    said: list[str] = []
    stop = threading.Event()
    stop.set()
    serve(Site(tmp_path, port=port, reports_port=0, workers="none"), said.append, stop)
    assert "it is used, and not ended" in said[0]


def test_which_pools_get_a_worker() -> None:
    from flows.operation.serving import Site

    assert Site(workers="both").pools == ("cpu", "gpu")
    assert Site(workers="gpu").pools == ("gpu",)
    assert Site(workers="none").pools == ()
