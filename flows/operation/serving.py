"""Everything one machine needs to run deployments: server, work pools, workers, and the reports' pages."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import httpx
from prefect import __version__
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

from flows.artifacts import REPORTS_URL
from flows.operation.children import WAIT_S, Children, Say
from flows.operation.pages import REPORTS_PORT, serving_reports
from flows.operation.recovery import EVERY_S, Watcher
from flows.operation.setup import ALERT_URL, ALERT_URL_FILE, POOLS, SetUp, set_up
from pipeline.errors import ConfigError
from pipeline.naming import reports_dir

HOST: Final = "127.0.0.1"
PORT: Final = 4200
START_S: Final = 180.0
"""A first start makes the database."""
ANSWER_S: Final = 5.0
"""How long a server may take to say its version."""
Workers = Literal["both", "cpu", "gpu", "none"]


@dataclass(frozen=True, slots=True)
class Site:
    """What is to run on this machine."""

    root: Path = Path("work")
    port: int = PORT
    reports_port: int = REPORTS_PORT
    workers: Workers = "both"

    @property
    def api_url(self) -> str:
        """Address of the server's API."""
        return f"http://{HOST}:{self.port}/api"

    @property
    def pools(self) -> tuple[str, ...]:
        """Work pools that get a worker here."""
        return tuple(pool for pool in POOLS if self.workers in ("both", pool))


def serve(site: Site, say: Say, stop: threading.Event, *, at_once: threading.Event | None = None) -> None:
    """Run until `stop` is set: the server unless one answers already, a worker per pool, and the reports' pages.

    Parameters
    ----------
    say
        Told, line by line, what happens and what the processes print.
    stop
        Ends everything in order: workers first, then the server.
    at_once
        Set beside `stop`: do not wait for runs to end.

    Raises
    ------
    ConfigError
        A port is taken by something else.
    WorkerDied
        A process died again and again; the others have been ended.
    """
    if site.port == site.reports_port:
        raise ConfigError(f"server and reports cannot both have port {site.port}: choose another with --reports-port")
    hurried = at_once or threading.Event()
    children = Children(say)
    with serving_reports(site.root, site.reports_port) as reports:
        environment = _environment(site, reports)
        try:
            if not _already_there(site, say):
                command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(site.port)]
                children.start("server", command, environment)
                _wait_until_healthy(site, children, stop)
            if not stop.is_set():
                with temporary_settings({PREFECT_API_URL: site.api_url}):
                    _say_what_was_set_up(set_up(), say)
                for pool in site.pools:
                    children.start(pool, _worker(pool), environment)
                _say_where(site, reports, say)
            _keep_going(site, children, Watcher(say), stop)
        finally:
            children.stop(at_once=hurried.is_set)


def _keep_going(site: Site, children: Children, watcher: Watcher, stop: threading.Event) -> None:
    """Until `stop`: start anew what dies of our processes, and take up runs that were lost."""
    looked = time.monotonic()
    while not stop.wait(WAIT_S):
        children.check()
        if time.monotonic() - looked > EVERY_S:
            with temporary_settings({PREFECT_API_URL: site.api_url}):
                watcher.look()
            looked = time.monotonic()


def _environment(site: Site, reports: str) -> dict[str, str]:
    """What the processes find in theirs: ours, without the address for alerts, which only the server needs to know."""
    kept = {name: value for name, value in os.environ.items() if name not in (ALERT_URL, ALERT_URL_FILE)}
    own = {"PREFECT_API_URL": site.api_url, "PYTHONUNBUFFERED": "1"}
    defaults = {
        REPORTS_URL: reports,
        # Else any page that a browser on this machine shows could start runs.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{HOST}:{site.port},http://localhost:{site.port}",
    }
    return defaults | kept | own


def _worker(pool: str) -> list[str]:
    """One worker; a GPU is not shared by two runs. Named after the machine: it is the same one when it comes back."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
    limit = ["--limit", "1"] if pool == "gpu" else []
    return [*command, "--name", f"{pool}@{socket.gethostname()}", *limit]


def _already_there(site: Site, say: Say) -> bool:
    """Whether a Prefect server answers at the port.

    Raises
    ------
    ConfigError
        Something else does, or a Prefect of another version.
    """
    if not _port_is_taken(site.port):
        return False
    version = server_version(site.api_url)
    if version is None:
        raise ConfigError(
            f"port {site.port} is taken by something that is not a Prefect server: stop that, or choose another port "
            "with --port"
        )
    if version != __version__:
        raise ConfigError(
            f"the Prefect server at {site.api_url} is version {version}, here is {__version__}: stop it and start this "
            "one, or choose another port with --port"
        )
    say(f"a Prefect server answers at {site.api_url}: it is used, and not ended with this command")
    return True


def _port_is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((HOST, port)) == 0


def server_version(api_url: str) -> str | None:
    """Version of the Prefect server at an address, None if none answers there."""
    secret = get_current_settings().api.auth_string
    user, _, password = secret.get_secret_value().partition(":") if secret else ("", "", "")
    auth = httpx.BasicAuth(user, password) if secret else None
    try:
        with httpx.Client(timeout=ANSWER_S, trust_env=False, auth=auth) as client:
            answer: Any = client.get(f"{api_url}/admin/version").raise_for_status().json()
    except (httpx.HTTPError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return answer if isinstance(answer, str) and len(answer) < 50 else None


def _wait_until_healthy(site: Site, children: Children, stop: threading.Event) -> None:
    deadline = time.monotonic() + START_S
    while not stop.wait(WAIT_S):
        children.check()
        if server_version(site.api_url) is not None:
            return
        if time.monotonic() > deadline:
            raise ConfigError(
                f"the server did not answer at {site.api_url} within {START_S:.0f} s: its lines above say why"
            )


def _say_what_was_set_up(done: SetUp, say: Say) -> None:
    changed = [f"{what} {how}" for what, how in done.done.items() if how != "as it was"]
    say(f"set up: {', '.join(changed)}" if changed else "everything was set up already")
    for note in done.notes:
        say(f"note: {note}")


def _say_where(site: Site, reports: str, say: Say) -> None:
    say(f"UI         http://{HOST}:{site.port}")
    say(f"reports    {reports}, from {reports_dir(site.root)}")
    say(f"API        export PREFECT_API_URL={site.api_url}")
    say("next       prefect deploy --all; prefect deployment run build-dataset")
    say("Ctrl-C ends it; a run that is ended so is taken up again after the next start")
