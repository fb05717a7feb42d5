"""A Prefect server of a drill, however it is run: its folder, its processes, and how to speak with it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from tests.drills.compose import PROJECT
from tests.drills.processes import Started, kill_all_with, run

MARK: Final = "S82_DRILL"
"""Environment variable of all processes of a drill, by which those that outlive their parent are found."""


class Server:
    """Everything that one drill runs, below one folder."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.api = f"http://127.0.0.1:{port}/api"
        self.login: str | None = None
        """User and password, where the server asks for them."""
        self.running: dict[str, Started] = {}

    def environment(self, **more: str) -> dict[str, str]:
        """What a process finds in its environment: this one's, without its Prefect, and what the drill is about."""
        here = {
            name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "SECRET_", "S82_"))
        }
        return {
            **here,
            MARK: str(self.folder),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(PROJECT),
            "S82_HOME": str(PROJECT),
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_URL": self.api,
            **more,
        }

    def start_process(self, name: str, command: list[str], environment: dict[str, str], **how: Any) -> Started:
        """Start one, with a log of its own; under its name it can be found, and is ended with the rest."""
        process = Started(name, command, environment, self.folder / f"{name}.log", **{"folder": PROJECT, **how})
        self.running[name] = process
        return process

    def run(self, name: str, command: list[str], *, seconds: float = 120, **more: str) -> str:
        """Run a command to its end, as a person at this machine does; what it printed."""
        return run(name, command, self.environment(**more), PROJECT, seconds)

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """What the API answers: to GET, or to POST where there is a body."""
        headers = {"Content-Type": "application/json"}
        if self.login:
            headers["Authorization"] = f"Basic {base64.b64encode(self.login.encode()).decode()}"
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.api}/{path}", data=content, headers=headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)

    def is_healthy(self) -> bool:
        """Whether the API answers."""
        with suppress(urllib.error.URLError, TimeoutError, ConnectionError):
            return self.ask("health") is True
        return False

    def stop(self) -> None:
        """Ask all to end, the last first; then leave nothing behind."""
        for process in reversed(self.running.values()):
            process.stop(seconds=10)
        kill_all_with(MARK, str(self.folder))


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
