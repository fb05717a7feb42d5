"""The topology of docker/compose.yaml as processes of this machine, on 127.0.0.1 alone.

PostgreSQL, Redis, the server without services, the services, and workers, with the commands, the settings and the
secrets of that file; only addresses, folders and ports differ.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any, Self

from tests.drills.compose import PROJECT, command_of, environment_of, health_check_of
from tests.drills.processes import Started, answers, free_port, run, wait_for
from tests.drills.server import MARK, Server


class Topology(Server):
    """The services of the file; the workers are started by whoever drills."""

    def __init__(self, folder: Path) -> None:
        self.ports = {name: free_port() for name in ("postgres", "redis", "server", "worker", "worker-no-gpu")}
        """Those of the workers are of their health checks."""
        super().__init__(folder, self.ports["server"])
        self.secrets = folder / "secrets"
        make_secrets = ["sh", str(PROJECT / "docker/make-secrets.sh"), str(self.secrets)]
        run("make-secrets", make_secrets, os.environ, PROJECT)
        url = self.secrets / "redis_url"
        url.write_text(url.read_text().replace("redis:6379", f"127.0.0.1:{self.ports['redis']}"))
        self.login = (self.secrets / "api_auth").read_text()

    def environment_of(self, service: str, **more: str) -> dict[str, str]:
        """What a process of `service` finds in its environment."""
        own = self.environment(SECRETS_DIR=str(self.secrets), PREFECT_HOME=str(self.folder / f"prefect-{service}"))
        different = {
            "HOME": own["PREFECT_HOME"],
            "PREFECT_HOME": own["PREFECT_HOME"],
            "PREFECT_API_URL": self.api,
            "PREFECT_UI_API_URL": self.api,
            "PREFECT_UI_STATIC_DIRECTORY": str(self.folder / "ui"),
            "PREFECT_SERVER_DATABASE_HOST": "127.0.0.1",
            "PREFECT_SERVER_DATABASE_PORT": str(self.ports["postgres"]),
        }
        return own | environment_of(service, different) | more

    def start(self, service: str, **more: str) -> Started:
        """Start the process of a service of the file."""
        command = command_of(service, {"0.0.0.0": "127.0.0.1", "4200": str(self.ports["server"])})  # noqa: S104
        return self.start_process(service, with_secrets(command), self.environment_of(service, **more))

    def run(self, name: str, command: list[str], *, seconds: float = 120, **more: str) -> str:
        """Run a command to its end, as in a container of the service `worker`; what it printed."""
        return run(name, with_secrets(command), self.environment_of("worker", **more), PROJECT, seconds)

    def says_it_is_healthy(self, service: str) -> bool:
        """Whether the health check of a service says so."""
        port = str(self.ports.get(service, 0))
        different = {
            "/run/secrets": str(self.secrets),
            "redis-cli": f"redis-cli -p {self.ports['redis']}",
            "8080": port,
            "4200": port,
        }
        command = health_check_of(service, different)
        return subprocess.run(command, env=self.environment(), capture_output=True, check=False).returncode == 0

    def start_server(self) -> None:
        """Start the server and wait until it answers; again after it was killed."""
        wait_for("its port to be free", lambda: not answers(self.ports["server"]), 10)
        wait_for("the server's answer", self.is_healthy, 90, self.start("server"))

    def start_worker(self, service: str) -> Started:
        """Start a worker, one that asks for work more often, and wait until it says that it is healthy."""
        worker = self.start(
            service,
            PREFECT_WORKER_WEBSERVER_HOST="127.0.0.1",
            PREFECT_WORKER_WEBSERVER_PORT=str(self.ports[service]),
            PREFECT_WORKER_QUERY_SECONDS="2",
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY="30",
        )
        wait_for(f"{service} to be healthy", lambda: self.says_it_is_healthy(service), 60, worker)
        return worker

    def start_postgres(self) -> None:
        """Make a database cluster and start it; as an unprivileged user, since PostgreSQL refuses to run as root."""
        programs, data, passwords = postgres_programs(), self.folder / "postgres", self.folder / "pwfile"
        user = unprivileged_user()
        data.mkdir()
        shutil.copy(self.secrets / "postgres_password", passwords)
        if user:
            shutil.chown(data, user, user)
            shutil.chown(passwords, user, user)
        how: dict[str, Any] = {"user": user, "group": user, "extra_groups": []} if user else {}
        initdb = [
            programs / "initdb", "--pgdata", data, "--username=prefect", f"--pwfile={passwords}", "--no-sync",
            "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale",
        ]  # fmt: skip
        made = subprocess.run(initdb, cwd="/", capture_output=True, text=True, check=False, **how)
        assert made.returncode == 0, made.stderr
        settings = f"listen_addresses=127.0.0.1 port={self.ports['postgres']} unix_socket_directories={data} fsync=off"
        command = [str(programs / "postgres"), "-D", str(data)]
        for setting in settings.split():
            command += ["-c", setting]
        environment = {"PATH": os.environ["PATH"], MARK: str(self.folder)}
        # SIGINT: to end without waiting for its clients.
        process = self.start_process(
            "postgres", command, environment, folder=Path("/"), user=user, stop_signal=signal.SIGINT
        )
        ready = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.ports["postgres"])]
        wait_for("PostgreSQL", lambda: subprocess.run(ready, check=False).returncode == 0, 30, process)
        password = (self.secrets / "postgres_password").read_text()
        createdb = [
            str(programs / "createdb"),
            "-h",
            "127.0.0.1",
            "-p",
            str(self.ports["postgres"]),
            "-U",
            "prefect",
            "prefect",
        ]
        run("createdb", createdb, {"PGPASSWORD": password}, Path("/"))

    def start_redis(self) -> None:
        """Start Redis with the very command of the file."""
        listen = f"redis-server - --port {self.ports['redis']} --bind 127.0.0.1 --dir {self.folder}"
        command = command_of("redis", {"/run/secrets": str(self.secrets), "redis-server -": listen})
        environment = {"PATH": os.environ["PATH"], MARK: str(self.folder)}
        process = self.start_process("redis", command, environment, folder=self.folder)
        wait_for("Redis", lambda: self.says_it_is_healthy("redis"), 20, process)

    def __enter__(self) -> Self:
        try:
            self.start_postgres()
            self.start_redis()
            migrate = with_secrets(command_of("migrate", {}))
            run("migrate", migrate, self.environment_of("migrate"), PROJECT)
            services = self.start("services")
            self.start_server()
            wait_for("the services", lambda: self.says_it_is_healthy("services"), 60, services)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def with_secrets(command: list[str]) -> list[str]:
    """A command as the images start it."""
    return ["sh", str(PROJECT / "docker/with-secrets.sh"), *command]


def what_is_missing() -> str | None:
    """What must be installed before the topology can be started."""
    if not list(initdbs()):
        return "no PostgreSQL server here: apt-get install postgresql"
    if shutil.which("redis-server") is None:
        return "no Redis here: apt-get install redis-server"
    return None


def postgres_programs() -> Path:
    """Folder of the newest PostgreSQL here."""
    return max(initdbs(), key=lambda file: int(file.parts[-3]) if file.parts[-3].isdecimal() else 0).parent


def initdbs() -> list[Path]:
    """Where PostgreSQL's programs are: where Debian puts them, or on the path."""
    found = list(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    named = shutil.which("initdb")
    return found or ([Path(named).resolve()] if named else [])


def unprivileged_user() -> str | None:
    """Whom PostgreSQL is to run as where the tests run as root; None: as whoever runs them."""
    if os.geteuid() != 0:
        return None
    return "postgres" if "postgres" in {entry.pw_name for entry in pwd.getpwall()} else "nobody"
