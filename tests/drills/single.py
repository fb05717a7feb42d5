"""What `make server` starts, for a drill: one server on SQLite, with a worker that does all but train."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from tests.drills.processes import free_port, wait_for
from tests.drills.server import Server


class SingleServer(Server):
    """`s82 server start`."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        super().__init__(folder, self.port)

    def __enter__(self) -> Self:
        command = ["s82", "server", "start", "--root", str(self.folder / "work"), "--workers", "cpu"]
        ports = ["--port", str(self.port), "--reports-port", "0"]
        settings = {"PREFECT_WORKER_QUERY_SECONDS": "2"}
        try:
            server = self.start_process("s82-server", [*command, *ports], self.environment(**settings))
            wait_for("the server and its worker", lambda: self.is_healthy() and self.has_worker(), 150, server)
        except BaseException:
            self.stop()
            raise
        return self

    def has_worker(self) -> bool:
        """Whether a worker of the pool `cpu` has said that it is there."""
        pools = self.ask("work_pools/filter", {})
        return any(pool["name"] == "cpu" and pool["status"] == "READY" for pool in pools)

    def __exit__(self, *_: object) -> None:
        self.stop()
