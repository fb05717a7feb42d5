"""The topology of docker/compose.yaml as processes of this machine, on 127.0.0.1 alone.

PostgreSQL, Redis, the server without services, the services, and workers, with the commands, the settings and the
secrets of that file; only addresses, folders and ports differ.
"""

from __future__ import annotations

import base64
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

from tests.drills.compose import PROJECT, command_of, environment_of
from tests.drills.processes import Started, answers, kill_all_with, run, wait_for

FIRST_PORT: Final = 4350
POSTGRES_PORT: Final = FIRST_PORT
REDIS_PORT: Final = FIRST_PORT + 1
API_PORT: Final = FIRST_PORT + 2
WORKER_PORTS: Final = {"worker": FIRST_PORT + 3, "worker-no-gpu": FIRST_PORT + 4}
MARK: Final = "S82_DRILL"


class Topology:
    """All processes of one server, below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secrets = folder / "secrets"
        self.running: dict[str, Started] = {}
        self._count = 0
        self._make_secrets()

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{API_PORT}/api"

    def environment(self, service: str, **more: str) -> dict[str, str]:
        """What a process of `service` finds in its environment."""
        here = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "SECRET_"))}
        fixed = {
            MARK: str(self.folder),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(PROJECT),
            "SECRETS_DIR": str(self.secrets),
            "S82_HOME": str(PROJECT),
            "PREFECT_HOME": str(self.folder / f"prefect-{service}"),
        }
        addresses = {
            "PREFECT_HOME": fixed["PREFECT_HOME"],
            "PREFECT_API_URL": self.api,
            "PREFECT_UI_API_URL": self.api,
            "PREFECT_UI_STATIC_DIRECTORY": str(self.folder / "ui"),
            "PREFECT_SERVER_DATABASE_HOST": "127.0.0.1",
            "PREFECT_SERVER_DATABASE_PORT": str(POSTGRES_PORT),
        }
        return here | fixed | environment_of(service, addresses) | more

    def start(self, name: str, service: str | None = None, **more: str) -> Started:
        """Start the process of a service of the file; `name` is its own where there are several."""
        service = service or name
        command = self._with_secrets(command_of(service, {"0.0.0.0": "127.0.0.1", "4200": str(API_PORT)}))
        process = Started(name, command, self.environment(service, **more), self._log(name), folder=PROJECT)
        self.running[name] = process
        return process

    def run(self, name: str, command: list[str], service: str = "worker", **more: str) -> str:
        """Run a command to its end, as in a container of `service`; what it printed."""
        return run(name, self._with_secrets(command), self.environment(service, **more), PROJECT)

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """What the API answers: to GET, or to POST where there is a body."""
        login = base64.b64encode((self.secrets / "api_auth").read_bytes()).decode()
        request = urllib.request.Request(  # noqa: S310
            f"{self.api}/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Basic {login}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)

    def start_server(self) -> None:
        """Start the server and wait until it answers; again after it was killed."""
        wait_for("its port to be free", lambda: not answers(API_PORT), 10)
        server = self.start("server")
        wait_for("the server's answer", self._is_healthy, 90, server)

    def start_worker(self, service: str) -> Started:
        """Start a worker and wait until it says that it is healthy; one that asks for work more often."""
        port = WORKER_PORTS[service]
        worker = self.start(
            service,
            PREFECT_WORKER_WEBSERVER_HOST="127.0.0.1",
            PREFECT_WORKER_WEBSERVER_PORT=str(port),
            PREFECT_WORKER_QUERY_SECONDS="2",
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY="30",
        )
        wait_for(f"{service} to answer", lambda: answers(port), 60, worker)
        return worker

    def _is_healthy(self) -> bool:
        with suppress(urllib.error.URLError, TimeoutError, ConnectionError):
            return self.ask("health") is True
        return False

    def start_postgres(self) -> None:
        """Make a database cluster and start it; as an unprivileged user, since PostgreSQL refuses to run as root."""
        programs, user = postgres_programs(), unprivileged_user()
        data, passwords = self.folder / "postgres", self.folder / "pwfile"
        data.mkdir()
        shutil.copy(self.secrets / "postgres_password", passwords)
        if user:
            shutil.chown(data, user, user)
            shutil.chown(passwords, user, user)
        made = subprocess.run(
            [
                programs / "initdb", "--pgdata", data, "--username=prefect", f"--pwfile={passwords}", "--no-sync",
                "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale",
            ],
            cwd="/", user=user, group=user, extra_groups=[] if user else None, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        options = {
            "listen_addresses": "127.0.0.1",
            "port": POSTGRES_PORT,
            "unix_socket_directories": data,
            "fsync": "off",
        }
        command = [str(programs / "postgres"), "-D", str(data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        environment = {"PATH": os.environ["PATH"], MARK: str(self.folder)}
        process = Started(
            "postgres", command, environment, self._log("postgres"), folder=Path("/"), user=user,
            stop_signal=signal.SIGINT,  # to end without waiting for its clients
        )  # fmt: skip
        self.running["postgres"] = process
        ready = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(POSTGRES_PORT)]
        wait_for("PostgreSQL", lambda: subprocess.run(ready, check=False).returncode == 0, 30, process)
        self._create_database(programs)

    def _create_database(self, programs: Path) -> None:
        password = (self.secrets / "postgres_password").read_text()
        command = ["createdb", "-h", "127.0.0.1", "-p", str(POSTGRES_PORT), "-U", "prefect", "prefect"]
        run("createdb", [str(programs / command[0]), *command[1:]], {"PGPASSWORD": password}, Path("/"))

    def start_redis(self) -> None:
        """Start Redis with the very command of the file."""
        listen = f"redis-server - --port {REDIS_PORT} --bind 127.0.0.1 --dir {self.folder}"
        command = command_of("redis", {"/run/secrets": str(self.secrets), "redis-server -": listen})
        environment = {"PATH": os.environ["PATH"], MARK: str(self.folder)}
        process = Started("redis", command, environment, self._log("redis"), folder=self.folder)
        self.running["redis"] = process
        wait_for("Redis", lambda: answers(REDIS_PORT), 20, process)

    def _make_secrets(self) -> None:
        run("make-secrets", ["sh", str(PROJECT / "docker/make-secrets.sh"), str(self.secrets)], os.environ, PROJECT)
        url = self.secrets / "redis_url"
        url.write_text(url.read_text().replace("redis:6379", f"127.0.0.1:{REDIS_PORT}"))

    def _with_secrets(self, command: list[str]) -> list[str]:
        return ["sh", str(PROJECT / "docker/with-secrets.sh"), *command]

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def __enter__(self) -> Self:
        for port in (POSTGRES_PORT, REDIS_PORT, API_PORT):
            assert not answers(port), f"port {port} of 127.0.0.1 is taken; the drills need it"
        try:
            self.start_postgres()
            self.start_redis()
            self.run("migrate", command_of("migrate", {}), "migrate")
            self.start("services")
            self.start_server()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Ask them to end, the last first; then leave nothing behind."""
        for process in reversed(self.running.values()):
            process.stop(seconds=10)
        kill_all_with(MARK, str(self.folder))


def what_is_missing() -> str | None:
    """What must be installed before a topology can be started."""
    if postgres_programs(required=False) is None:
        return "no PostgreSQL server here: apt-get install postgresql"
    if shutil.which("redis-server") is None:
        return "no Redis here: apt-get install redis-server"
    return None


def postgres_programs(required: bool = True) -> Path | None:
    """Where initdb and the server are: on the path, or where Debian puts them."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: int(file.parts[-3]))
    if named := shutil.which("initdb"):
        found.append(Path(named).resolve())
    assert found or not required
    return found[-1].parent if found else None


def unprivileged_user() -> str | None:
    """Whom PostgreSQL is to run as where the tests run as root; None: as whoever runs them."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@contextmanager
def drill_folder() -> Iterator[Path]:
    """A folder that other users may pass through, which pytest's own are not. Kept where S82_KEEP_DRILLS is set."""
    folder = Path(tempfile.mkdtemp(prefix="s82-drill-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        if not os.environ.get("S82_KEEP_DRILLS"):
            shutil.rmtree(folder, ignore_errors=True)
