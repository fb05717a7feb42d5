"""A scripted HTTP server: says what a test tells it to, on a real socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass(frozen=True)
class Reply:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str | None] = field(default_factory=dict)
    """None leaves out one that is sent otherwise."""
    send: int | None = None
    """Bytes of the body really sent before the connection is closed."""
    delay_s: float = 0


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up on a broken answer does right."""


class ScriptedServer:
    """Replies per path, in order; the last one is repeated. A function gets (path with query, headers)."""

    def __init__(self) -> None:
        self.script: dict[str, list[Reply] | Callable[[str, dict[str, str]], Reply]] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.in_flight = self.most_in_flight = 0
        self._guard = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._answer(self)

            def log_message(self, *args: object) -> None:
                """Tests are quiet."""

        self._server = _QuietServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def count(self, path: str) -> int:
        return sum(asked.split("?")[0] == path for asked, _ in self.requests)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _reply(self, path: str, headers: dict[str, str]) -> Reply:
        entry = self.script.get(path.split("?")[0], [Reply(b"no such file", 404)])
        if callable(entry):
            return entry(path, headers)
        return entry.pop(0) if len(entry) > 1 else entry[0]

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        headers = {name.lower(): value for name, value in handler.headers.items()}
        with self._guard:
            self.requests.append((handler.path, headers))
            reply = self._reply(handler.path, headers)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        time.sleep(reply.delay_s)
        with self._guard:
            self.in_flight -= 1
        handler.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            if value is not None:
                handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(reply.body[: reply.send])
        if reply.send is not None:
            handler.close_connection = True


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()
    yield scripted
    scripted.close()


@pytest.fixture
def reply() -> type[Reply]:
    return Reply


@pytest.fixture
def new_server() -> Iterator[Callable[[], ScriptedServer]]:
    """For tests that need several."""
    started: list[ScriptedServer] = []

    def start() -> ScriptedServer:
        started.append(ScriptedServer())
        return started[-1]

    yield start
    for scripted in started:
        scripted.close()
