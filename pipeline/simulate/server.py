"""A small HTTP server for an archive tree, real or simulated, on this machine only.

Static files with what a careful downloader relies on (ETag, Last-Modified and the conditions on them,
Range, HEAD, keep-alive), the SQL pages of SkyServer, a log of requests, and faults on request.
"""

from __future__ import annotations

import mimetypes
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate, parsedate_to_datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import parse_qs, unquote, urlsplit

from pipeline.errors import ConfigError
from pipeline.simulate.faults import Fault, FaultPlan
from pipeline.simulate.skyserver import SqlError, SqlLimits, field_table_of, select_as_csv

CHUNK: Final = 1 << 18
CHUNKS_PER_S: Final = 50
"""Of a connection whose rate is bounded."""
HUGE: Final = 50_000_000_000
_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")  # no file has 10^18 bytes: more digits are nonsense
_TYPES: Final = {
    ".gz": "application/gzip",
    ".bz2": "application/x-bzip2",
    ".fits": "application/fits",
    ".fit": "application/fits",
    ".dat2": "text/plain",
    ".csv": "text/csv",
    ".parquet": "application/vnd.apache.parquet",
}
OUTAGE_PAGE: Final = (
    b"<html><head><title>Maintenance</title></head><body>The archive is down for maintenance.</body></html>\n"
)


@dataclass(frozen=True, slots=True)
class Request:
    """One line of the log."""

    method: str
    path: str
    """Percent-decoded, without the query."""
    status: int
    """0 where the connection was reset."""
    n_bytes: int
    """Of the body that were sent."""
    range: str | None
    """The Range header, as it came."""
    sql: str = ""
    """The query, where an SQL page was asked."""


class ArchiveServer:
    """Serve the tree under `root` at `url` while the context is open. Port 0: any that is free.

    `bytes_per_s` is what each connection gives (None: as fast as it can), `sql_limits` what the SQL pages give at most.

    Raises
    ------
    ConfigError
        `root` is not a folder, or the port cannot be had.
    """

    def __init__(
        self,
        root: Path,
        *,
        faults: Iterable[Fault] = (),
        port: int = 0,
        bytes_per_s: float | None = None,
        sql_limits: SqlLimits | None = None,
    ) -> None:
        self._http = _open(root, FaultPlan(faults), port, sql_limits or SqlLimits())
        self._http.bytes_per_s = bytes_per_s
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.05,), name="archive-server", daemon=True
        )

    @property
    def url(self) -> str:
        """Base URL without a trailing slash."""
        return self._http.url

    @property
    def requests(self) -> list[Request]:
        """All requests answered so far, in the order in which they ended."""
        with self._http.lock:
            return list(self._http.log)

    def commit(self, fault: Fault) -> None:
        """Plan one more fault, from now on."""
        self._http.faults.add(fault)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def serve_forever(root: Path, port: int, ready: Callable[[str], None] | None = None) -> None:
    """Serve the tree until Ctrl-C; `ready` gets the base URL, without a trailing slash, once connections are accepted.

    Raises
    ------
    ConfigError
        `root` is not a folder, or the port cannot be had.
    """
    with _open(root, FaultPlan(), port, SqlLimits()) as http, suppress(KeyboardInterrupt):
        if ready is not None:
            ready(http.url)
        http.serve_forever()


def _open(root: Path, faults: FaultPlan, port: int, sql_limits: SqlLimits) -> _Http:
    if not root.is_dir():
        raise ConfigError(f"{root} is not a folder: there is no archive to serve")
    try:
        return _Http(root.resolve(), faults, port, sql_limits)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot serve on port {port} of 127.0.0.1 ({error}): give another, or 0 for any") from error


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # idle keep-alive connections would hold it open
    request_queue_size = 64

    def __init__(self, root: Path, faults: FaultPlan, port: int, sql_limits: SqlLimits) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.root = root
        self.faults = faults
        self.sql_limits = sql_limits
        self.lock = threading.Lock()
        self.log: list[Request] = []
        self.bytes_per_s: float | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no error of the server's: the log has the request."""


@dataclass(frozen=True, slots=True)
class _Body:
    """What is to be sent: bytes, or a part of a file."""

    size: int
    content: bytes | None = None
    path: Path | None = None
    start: int = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "archive"
    timeout = 60
    server: _Http

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet: `_Http.log` has it."""

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        fault = self.server.faults.next_for(path)
        if fault is not None and self._commit(fault, path):
            return
        if (table := field_table_of(path)) is not None:
            self._sql(path, self.server.root / table, parse_qs(parts.query), fault)
        else:
            self._file(path, fault)

    def _commit(self, fault: Fault, path: str) -> bool:
        """Do what takes the place of the answer; False where the answer itself is to be spoilt or only delayed."""
        if fault.kind == "not_found":
            self._refuse(path, HTTPStatus.NOT_FOUND)
        elif fault.kind == "server_error":
            wait = {} if fault.retry_after_s is None else {"Retry-After": f"{fault.retry_after_s:g}"}
            self._refuse(path, HTTPStatus(fault.status), wait)
        elif fault.kind == "html":
            self._send(path, HTTPStatus.OK, {"Content-Type": "text/html"}, _Body(len(OUTAGE_PAGE), OUTAGE_PAGE))
        elif fault.kind == "redirect":
            self._refuse(path, HTTPStatus.FOUND, {"Location": fault.location or self.path})
        elif fault.kind == "reset":
            self._reset()
            self._log(path, 0, 0)
        elif fault.kind == "slow":
            time.sleep(fault.delay_s)
            return False
        else:
            return False
        return True

    def _reset(self) -> None:
        """Linger 0: closing sends RST."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _refuse(self, path: str, status: HTTPStatus, headers: dict[str, str] | None = None, text: str = "") -> None:
        page = f"{status.value} {status.phrase}\n{text}\n".encode()
        self._send(path, status, {"Content-Type": "text/plain", **(headers or {})}, _Body(len(page), page))

    def _sql(self, path: str, table: Path, query: dict[str, list[str]], fault: Fault | None) -> None:
        if not table.is_file():
            return self._refuse(path, HTTPStatus.NOT_FOUND)
        if query.get("format", ["csv"]) != ["csv"] or len(query.get("cmd", [])) != 1:
            return self._refuse(path, HTTPStatus.BAD_REQUEST, text="give one cmd, and format=csv")
        try:
            content = select_as_csv(table, query["cmd"][0], self.server.sql_limits).encode()
        except SqlError as error:
            return self._refuse(path, HTTPStatus.BAD_REQUEST, text=str(error))
        return self._send(path, HTTPStatus.OK, {"Content-Type": "text/csv"}, _Body(len(content), content), fault)

    def _file(self, path: str, fault: Fault | None) -> None:
        target = _find(self.server.root, path)
        if target is None:
            return self._refuse(path, HTTPStatus.NOT_FOUND)
        state = target.stat()
        headers = {
            "Content-Type": _content_type(target),
            "ETag": f'"{state.st_mtime_ns:x}-{state.st_size:x}"',
            "Last-Modified": formatdate(state.st_mtime, usegmt=True),
            "Accept-Ranges": "bytes",
        }
        if self._is_known(headers):
            return self._send(path, HTTPStatus.NOT_MODIFIED, headers, _Body(0, b""))
        ignore = fault is not None and fault.kind == "no_range"
        span = None if ignore else self._wanted_range(state.st_size, headers)
        if span is None:
            return self._send(path, HTTPStatus.OK, headers, _Body(state.st_size, path=target), fault)
        start, stop = span
        if start >= stop:
            headers = {"Content-Range": f"bytes */{state.st_size}"}
            return self._refuse(path, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{state.st_size}"
        return self._send(
            path, HTTPStatus.PARTIAL_CONTENT, headers, _Body(stop - start, path=target, start=start), fault
        )

    def _is_known(self, headers: dict[str, str]) -> bool:
        """Whether the client's copy is still the file (RFC 9110, 13.1.2 and 13.1.3: a tag counts more than a date)."""
        tags = self.headers.get("If-None-Match")
        if tags is not None:
            return bool({"*", headers["ETag"]} & {tag.strip().removeprefix("W/") for tag in tags.split(",")})
        since, changed = _date(self.headers.get("If-Modified-Since")), _date(headers["Last-Modified"])
        return since is not None and changed is not None and changed <= since

    def _wanted_range(self, size: int, headers: dict[str, str]) -> tuple[int, int] | None:
        """(start, stop) of a byte range (RFC 9110, 14.2); None for the whole file; start ≥ stop: cannot be met."""
        match = _RANGE.fullmatch(self.headers.get("Range", "").strip())
        if not match or match.groups() == ("", "") or not self._unchanged(headers):
            return None
        first, last = match.groups()
        if not first:
            return max(size - int(last), 0), size
        if last and int(last) < int(first):
            return None
        return int(first), min(int(last) + 1, size) if last else size

    def _unchanged(self, headers: dict[str, str]) -> bool:
        """Whether If-Range (RFC 9110, 13.1.5), if there, still describes the file."""
        condition = self.headers.get("If-Range")
        if condition is None:
            return True
        if condition.startswith('"'):
            return condition == headers["ETag"]
        date = _date(condition)
        return date is not None and date == _date(headers["Last-Modified"])

    def _send(
        self, path: str, status: HTTPStatus, headers: dict[str, str], body: _Body, fault: Fault | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != HTTPStatus.NOT_MODIFIED:  # there it would be the size of the file that is not sent
            self.send_header("Content-Length", str(_announced(body.size, fault)))
        self.end_headers()
        sent = 0
        try:
            if self.command != "HEAD":
                for chunk in self._spoilt(body, fault):
                    self.wfile.write(chunk)
                    sent += len(chunk)
        finally:
            self._log(path, status.value, sent)
            if fault is not None and fault.kind == "reset_midway":
                self._reset()

    def _spoilt(self, body: _Body, fault: Fault | None) -> Iterator[bytearray]:
        """What is really sent of the body, and how fast."""
        kind = fault.kind if fault is not None else None
        length = body.size // 2 if kind in ("truncated", "short_length", "reset_midway") else body.size
        if length < _announced(body.size, fault):
            self.close_connection = True
        rate = fault.bytes_per_s if fault is not None and kind == "drip" else self.server.bytes_per_s
        sent, started = 0, time.monotonic()
        for chunk in _chunks(body, length, CHUNK if rate is None else max(int(rate / CHUNKS_PER_S), 1)):
            if kind == "corrupt" and sent <= body.size // 2 < sent + len(chunk):
                chunk[body.size // 2 - sent] ^= 0xFF
            sent += len(chunk)
            if rate is not None:
                time.sleep(max(0.0, started + sent / rate - time.monotonic()))
            yield chunk

    def _log(self, path: str, status: int, n_bytes: int) -> None:
        sql = "".join(parse_qs(urlsplit(self.path).query).get("cmd", [])) if field_table_of(path) else ""
        request = Request(self.command, path, status, n_bytes, self.headers.get("Range"), sql)
        with self.server.lock:
            self.server.log.append(request)


def _find(root: Path, path: str) -> Path | None:
    """The file that `path` of a URL means; None where there is none inside the tree."""
    try:
        target = (root / path.lstrip("/")).resolve()
        # After `resolve` neither '..' nor a symbolic link can lead out of the tree unseen.
        return target if target.is_relative_to(root) and target.is_file() else None
    except (OSError, ValueError):  # a name too long, or with a null byte: no file has it
        return None


def _content_type(file: Path) -> str:
    return _TYPES.get(file.suffix) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"


def _date(text: str | None) -> datetime | None:
    """An HTTP date; None for what is none."""
    try:
        date = parsedate_to_datetime(text or "")
        return date.replace(tzinfo=UTC) if date.tzinfo is None else date
    except (ValueError, OverflowError):
        return None


def _announced(size: int, fault: Fault | None) -> int:
    """Content-Length of a body of `size` bytes."""
    if fault is not None and fault.kind == "huge_length":
        return HUGE
    return size // 2 if fault is not None and fault.kind == "short_length" else size


def _chunks(body: _Body, length: int, size: int) -> Iterator[bytearray]:
    if body.path is None:
        yield bytearray((body.content or b"")[:length])
        return
    with body.path.open("rb") as handle:
        handle.seek(body.start)
        while length > 0 and (chunk := handle.read(min(size, length))):
            length -= len(chunk)
            yield bytearray(chunk)
