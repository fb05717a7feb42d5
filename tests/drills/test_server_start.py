"""`s82 server start` as one person runs it: killed runs go on, somebody is told, and one Ctrl-C ends everything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import httpx
import pytest

from tests.drills.compose import PROJECT
from tests.drills.processes import Started, answers, descendants, free_port, kill_all_with, wait_for

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

pytestmark = pytest.mark.drill
SILENT_S: Final = 40
"""Heartbeats come every 30 s; no setting makes them come more often."""
MARK: Final = "S82_DRILL"
CRASHED: Final = "crashed; it goes on by itself, unless this was the third time"
FLOW: Final = '''
import time
from pathlib import Path

from prefect import flow


@flow(name="waits", flow_run_name="{name}")
def waits(folder: Path, name: str) -> None:
    """Say that an attempt has begun; go on when told to."""
    with (folder / name).open("a") as file:
        file.write("begun\\n")
    if name == "fails":
        raise ValueError('no "room"\\n<left> & right')
    deadline = time.monotonic() + 300
    while not (folder / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
'''


class Receiver(ThreadingHTTPServer):
    """Somebody's chat: takes what is posted, on this machine alone."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Post)
        self.alerts: list[dict[str, Any]] = []

    def told(self, run: str) -> list[str]:
        """What was said of a run."""
        return [alert["text"] for alert in self.alerts if alert.get("run") == run]


class _Post(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Receiver)
        assert self.headers["Content-Type"] == "application/json"
        self.server.alerts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class House:
    """What `s82 server start` has started."""

    def __init__(self, folder: Path, alerts: str) -> None:
        self.folder, self.port, self.pages = folder, free_port(), free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"
        secret = folder / "alert-url"
        secret.write_text(f"{alerts}\n")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "S82"))}
        own = {"PREFECT_HOME": str(folder / "prefect"), "PYTHONPATH": str(PROJECT), MARK: str(folder)}
        self.environment = {**kept, **own, "S82_ALERT_URL_FILE": str(secret)}
        command = [sys.executable, "-m", "s82", "server", "start", "--root", str(folder / "work"), "--workers", "cpu"]
        ports = ["--port", str(self.port), "--reports-port", str(self.pages)]
        self.started = Started("house", command + ports, self.environment, folder / "log", folder=PROJECT)

    def runs(self) -> dict[str, FlowRun]:
        """All runs by their names."""
        with self.client() as client:
            return {run.name: run for run in client.read_flow_runs()}

    def states(self) -> dict[str, tuple[str | None, int]]:
        """State and number of attempts of each run."""
        return {name: (run.state_name, run.run_count) for name, run in self.runs().items()}

    def run(self, deployment: UUID, name: str) -> None:
        """Start a run."""
        with self.client() as client:
            client.create_flow_run_from_deployment(
                deployment, parameters={"folder": str(self.folder), "name": name}, name=name
            )

    @contextmanager
    def client(self) -> Iterator[SyncPrefectClient]:
        """Prefect's own client, which asks again when the database was busy."""
        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: self.api}), get_client(sync_client=True) as client:
            yield client

    def begun(self, name: str, times: int) -> bool:
        """Whether a run has been begun so often."""
        file = self.folder / name
        return file.exists() and len(file.read_text().splitlines()) >= times

    def pids(self, *words: str) -> list[int]:
        """Processes of the house whose command or environment has all these words."""
        return [pid for pid in descendants(self.started.pid) if all(word in _about(pid) for word in words)]


def _about(pid: int) -> str:
    try:
        return "".join(Path(f"/proc/{pid}/{file}").read_text(errors="replace") for file in ("cmdline", "environ"))
    except OSError:
        return ""


@pytest.fixture
def house(tmp_path: Path, receiver: Receiver) -> Iterator[House]:
    house = House(tmp_path, f"http://127.0.0.1:{receiver.server_port}/secret")
    yield house
    house.started.kill()
    kill_all_with(MARK, str(tmp_path))


def deploy(house: House) -> list[UUID]:
    """The flow above, for the pool `cpu`, and for `gpu`, which has no worker; with less patience than is usual."""
    from flows.operation.setup import set_up

    (house.folder / "waits.py").write_text(FLOW)
    with house.client() as client:
        set_up(silent_s=SILENT_S, late_s=10, refresh_within_h=20 / 3600)
        flow_id = client.create_flow_from_name("waits")
        step = {"prefect.deployments.steps.set_working_directory": {"directory": str(house.folder)}}
        return [
            client.create_deployment(flow_id, name, entrypoint="waits.py:waits", work_pool_name=pool, pull_steps=[step])
            for name, pool in (("waits", "cpu"), ("trains", "gpu"))
        ]


def kill(pids: list[int]) -> None:
    assert pids
    for pid in pids:
        os.kill(pid, 9)


def test_killed_runs_go_on_somebody_is_told_and_ctrl_c_ends_everything(house: House, receiver: Receiver) -> None:
    alive = house.started
    wait_for("set-up", lambda: "API        export" in alive.tail(), 120, alive)
    deployment, for_gpu = deploy(house)
    house.run(for_gpu, "nobody-comes")
    for name in ("process-dies", "machine-dies", "fails"):
        house.run(deployment, name)
        wait_for(f"{name} to begin", lambda name=name: house.begun(name, 1), 60, alive)
    assert httpx.get(f"http://127.0.0.1:{house.pages}/").status_code == 200

    # One run's process, as the kernel kills it for want of memory: its worker tells the server.
    kill(house.pids("prefect.engine", str(house.runs()["process-dies"].id)))
    wait_for("the alert", lambda: receiver.told("process-dies"), 30, alive)
    # The worker and the other run, as when a machine dies: nobody tells; the first run is not begun again yet.
    kill([*house.pids("worker", "start", "--pool"), *house.pids("prefect.engine")])
    both = ("process-dies", "machine-dies")
    wait_for("the second attempts", lambda: all(house.begun(name, 2) for name in both), 120, alive)
    (house.folder / "go").touch()
    wait_for("both to complete", lambda: list(house.states().values()).count(("Completed", 2)) == 2, 60, alive)

    assert house.states()["fails"] == ("Failed", 1)
    assert receiver.told("process-dies") == [f"Stripe 82: waits (process-dies) {CRASHED}"]
    assert receiver.told("machine-dies") == [f"Stripe 82: waits (machine-dies) {CRASHED}"]
    (failed,) = [alert for alert in receiver.alerts if alert.get("run") == "fails"]
    assert failed["text"] == "Stripe 82: waits (fails) failed"
    assert 'no "room"\n<left> & right' in failed["state_message"]
    assert receiver.told("nobody-comes") == [
        "Stripe 82: trains (nobody-comes) is late: is a worker of its pool running?"
    ]
    assert any(alert["text"].startswith("Stripe 82: no refresh-dataset has completed") for alert in receiver.alerts)
    assert "/secret" not in alive.log.read_text()

    status = subprocess.run(
        [sys.executable, "-m", "s82", "status", "--json", "--root", str(house.folder / "work")],
        env=house.environment | {"PREFECT_API_URL": house.api}, cwd=PROJECT, capture_output=True, check=False,
    )  # fmt: skip
    assert status.returncode == 1
    told = json.loads(status.stdout)
    assert [pool["workers"] != [] for pool in told["pools"] if pool["name"] == "cpu"] == [True]
    assert [trouble["what"].split(",")[0].split(" failed")[0] for trouble in told["troubles"]] == [
        "nobody works for the work pool gpu", "the run fails of waits",
    ]  # fmt: skip

    family = descendants(alive.pid)
    assert alive.stop(60) == 0
    assert "server: ending it" in alive.tail()
    assert not [pid for pid in family if Path(f"/proc/{pid}/cwd").exists() and MARK in _about(pid)]
    assert not answers(house.port)
