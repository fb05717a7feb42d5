"""The archive server keeps to HTTP, stays inside its tree, and commits the faults it is asked for."""

from __future__ import annotations

import csv
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.simulate.faults import Fault
from pipeline.simulate.server import ArchiveServer, Request, serve_forever
from pipeline.simulate.skyserver import SqlLimits

BODY = bytes(range(256)) * 3000
SQL_PAGE = "/stripe82/en/tools/search/x_sql.asp"
CAS_PAGE = "dr17/en/tools/search/x_results.aspx"
FILE = "/das/imaging/5582/40/corr/4/fpC-005582-r4-0100.fit.gz"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with one big file, a field table, and a secret beside it."""
    base = tmp_path_factory.mktemp("served")
    root = base / "root"
    (root / FILE.lstrip("/")).parent.mkdir(parents=True)
    (root / FILE.lstrip("/")).write_bytes(BODY)
    (root / "stripe82").mkdir()
    rows = "".join(f"{5582 + n},40,4,{100 + n},3,347.{n:03d}\n" for n in range(20))
    (root / "stripe82" / "Field.csv").write_text("run,rerun,camcol,field,quality,raMin\n" + rows)
    (base / "secret.txt").write_text("secret")
    (root / "way-out").symlink_to(base / "secret.txt")
    return root


@pytest.fixture(scope="module")
def server(tree: Path) -> Iterator[ArchiveServer]:
    with ArchiveServer(tree) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: ArchiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url) as http:
        yield http


def test_a_file_comes_whole_with_what_a_downloader_needs(client: httpx.Client) -> None:
    answer = client.get(FILE)
    assert answer.status_code == 200
    assert answer.content == BODY
    assert answer.http_version == "HTTP/1.1"
    assert answer.headers["content-length"] == str(len(BODY))
    assert answer.headers["content-type"] == "application/gzip"
    assert "content-encoding" not in answer.headers, "the client must not unpack what is to be stored packed"
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["last-modified"].endswith("GMT")
    head = client.head(FILE)
    assert head.content == b""
    for name in ("content-length", "etag", "last-modified"):
        assert head.headers[name] == answer.headers[name]


def test_connections_are_kept_alive(server: ArchiveServer) -> None:
    with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as link:
        for _ in range(2):
            link.sendall(b"HEAD " + FILE.encode() + b" HTTP/1.1\r\nHost: here\r\n\r\n")
            assert link.recv(4096).startswith(b"HTTP/1.1 200")


@given(start=st.integers(0, len(BODY) + 10), length=st.integers(1, len(BODY)))
def test_any_range_is_that_part_of_the_file(client: httpx.Client, start: int, length: int) -> None:
    answer = client.get(FILE, headers={"Range": f"bytes={start}-{start + length - 1}"})
    part = BODY[start : start + length]
    if not part:
        assert answer.status_code == 416
        assert answer.headers["content-range"] == f"bytes */{len(BODY)}"
        return
    assert answer.status_code == 206
    assert answer.content == part
    assert answer.headers["content-range"] == f"bytes {start}-{start + len(part) - 1}/{len(BODY)}"


def test_open_and_suffix_ranges_and_nonsense(client: httpx.Client) -> None:
    assert client.get(FILE, headers={"Range": "bytes=767000-"}).content == BODY[767000:]
    assert client.get(FILE, headers={"Range": "bytes=-5"}).content == BODY[-5:]
    absurd = "9" * 5000
    for ignored in ("bytes=", "bytes=9-3", "lines=1-2", "bytes=0-1,5-6", f"bytes={absurd}-", f"bytes=-{absurd}"):
        assert client.get(FILE, headers={"Range": ignored}).status_code == 200


def test_a_resumed_download_notices_that_the_file_has_changed(client: httpx.Client) -> None:
    etag = client.head(FILE).headers["etag"]
    date = client.head(FILE).headers["last-modified"]
    resume = {"Range": "bytes=100-"}
    assert client.get(FILE, headers={**resume, "If-Range": etag}).status_code == 206
    assert client.get(FILE, headers={**resume, "If-Range": date}).status_code == 206
    for stale in ('"other"', "Mon, 01 Jan 2001 00:00:00 GMT", "not a date", f"Mon, 01 Jan {'9' * 30} 00:00:00 GMT"):
        assert client.get(FILE, headers={**resume, "If-Range": stale}).status_code == 200


def test_a_file_that_the_client_has_is_not_sent_again(client: httpx.Client) -> None:
    """RFC 9110, 13.1: If-None-Match, and If-Modified-Since where there is no tag."""
    whole = client.get(FILE)
    etag, date = whole.headers["etag"], whole.headers["last-modified"]
    later = "Fri, 31 Dec 9999 23:59:59 GMT"
    for known in ({"If-None-Match": etag}, {"If-None-Match": f'"x", W/{etag}'}, {"If-None-Match": "*"}):
        answer = client.get(FILE, headers={**known, "Range": "bytes=0-9"})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
        assert "content-length" not in answer.headers
    assert client.get(FILE, headers={"If-Modified-Since": date}).status_code == 304
    assert client.get(FILE, headers={"If-Modified-Since": later}).status_code == 304
    for stale in (
        {"If-None-Match": '"other"', "If-Modified-Since": later},
        {"If-Modified-Since": "Mon, 01 Jan 2001 00:00:00 GMT"},
        {"If-Modified-Since": "not a date"},
    ):
        assert client.get(FILE, headers=stale).content == BODY


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/das/../../secret.txt",
        "/das/%2e%2e%2f%2e%2e%2fsecret.txt",
        "//etc/passwd",
        "/%2fetc/passwd",
        "/way-out",
        "/das",
        "/",
        "/%00",
        "/" + "a" * 300,
        "/nothing/here",
    ],
)
def test_nothing_outside_the_tree_and_no_folder_is_served(server: ArchiveServer, path: str) -> None:
    # By hand: a client would tidy the path first.
    with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as link:
        link.sendall(f"GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: link.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 404"), answer[:200]
    assert b"root:" not in answer
    assert b"secret\n" not in answer


def test_skyserver_page_executes_the_select(client: httpx.Client) -> None:
    sql = "SELECT run, field FROM Field WHERE run BETWEEN 5590 AND 5592 AND quality >= 2 ORDER BY run DESC"
    answer = client.get(SQL_PAGE, params={"cmd": sql, "format": "csv"})
    assert answer.headers["content-type"] == "text/csv"
    assert list(csv.reader(io.StringIO(answer.text))) == [
        ["run", "field"],
        ["5592", "110"],
        ["5591", "109"],
        ["5590", "108"],
    ]
    top = client.get(SQL_PAGE, params={"cmd": "select top 2 run from Field order by run", "format": "csv"})
    assert top.text == "run\n5582\n5583\n"


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE Field",
        "SELECT run FROM Field; SELECT 1",
        "INSERT INTO Field SELECT * FROM Field",
        "ATTACH DATABASE '/tmp/x.db' AS x",
        "PRAGMA table_info(Field)",
        "SELECT load_extension('x')",
        "SELECT nothing FROM Field",
        "SELECT 1 FROM Field" + " " * 9000,
        "WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n) SELECT max(k) FROM n",
        "",
    ],
)
def test_skyserver_page_refuses_all_but_one_bounded_select(client: httpx.Client, sql: str) -> None:
    started = time.monotonic()
    assert client.get(SQL_PAGE, params={"cmd": sql, "format": "csv"}, timeout=20).status_code == 400
    assert time.monotonic() - started < 15


@pytest.mark.parametrize("page", ["dr8/en/tools/search/x_sql.asp", "dr10/en/tools/search/x_sql.aspx", CAS_PAGE])
def test_the_pages_of_later_releases_answer_from_their_own_table(tmp_path: Path, page: str) -> None:
    """At the addresses that astroquery asks."""
    (tmp_path / "cas").mkdir()
    (tmp_path / "cas" / "Field.csv").write_text("run,rerun\n94,301\n")
    query = {"cmd": "SELECT run FROM Field WHERE rerun = 301", "format": "csv", "searchtool": "SQL"}
    with ArchiveServer(tmp_path) as server:
        assert httpx.get(f"{server.url}/{page}", params=query).text == "run\n94\n"
        assert [request.sql for request in _log_of(server, 1)] == [query["cmd"]]
        assert httpx.get(server.url + SQL_PAGE, params=query).status_code == 404


def test_pages_are_cut_off_as_servers_do_it(tree: Path) -> None:
    """At a number of rows without a word, at a number of bytes with the words of an IIS server."""
    query = {"cmd": "SELECT run, field FROM Field", "format": "csv"}
    with ArchiveServer(tree, sql_limits=SqlLimits(max_rows=3)) as server:
        answer = httpx.get(server.url + SQL_PAGE, params=query)
        assert (answer.status_code, len(answer.text.splitlines())) == (200, 4)
    with ArchiveServer(tree, sql_limits=SqlLimits(max_bytes=100)) as server:
        assert "Response Buffer Limit Exceeded" in httpx.get(server.url + SQL_PAGE, params=query).text
        assert httpx.get(server.url + SQL_PAGE, params={**query, "cmd": "SELECT count(*) FROM Field"}).is_success


def test_skyserver_page_needs_its_table(tmp_path: Path) -> None:
    with ArchiveServer(tmp_path) as server:
        assert httpx.get(server.url + SQL_PAGE, params={"cmd": "SELECT 1"}).status_code == 404


def test_faults_happen_as_often_as_asked_and_where_asked(tree: Path) -> None:
    faults = [
        Fault("*/fpC-*", "server_error", times=2, retry_after_s=0.5),
        Fault("*/fpC-*", "not_found"),
        Fault("*/fpC-*", "html"),
        Fault("*/fpC-*", "corrupt"),
    ]
    with ArchiveServer(tree, faults=faults) as server, httpx.Client(base_url=server.url) as http:
        assert http.get("/stripe82/Field.csv").status_code == 200
        first = http.get(FILE)
        assert (first.status_code, first.headers["retry-after"]) == (503, "0.5")
        assert [http.get(FILE).status_code for _ in range(2)] == [503, 404]
        page = http.get(FILE)
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html")
        spoilt = http.get(FILE).content
        assert len(spoilt) == len(BODY)
        assert sum(a != b for a, b in zip(spoilt, BODY, strict=True)) == 1
        assert http.get(FILE).content == BODY
        log = _log_of(server, 7)
        assert [request.status for request in log] == [200, 503, 503, 404, 200, 200, 200]
        assert log[-1] == Request("GET", FILE, 200, len(BODY), None)


def test_truncated_reset_and_slow_answers(tree: Path) -> None:
    faults = [Fault(FILE, "truncated"), Fault(FILE, "reset"), Fault(FILE, "slow", delay_s=0.3)]
    with ArchiveServer(tree, faults=faults) as server, httpx.Client(base_url=server.url) as http:
        with pytest.raises(httpx.RemoteProtocolError, match=r"incomplete|peer closed"):
            http.get(FILE)
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            http.get(FILE)
        started = time.monotonic()
        assert http.get(FILE).content == BODY
        assert time.monotonic() - started >= 0.3
        assert [(request.status, request.n_bytes) for request in _log_of(server, 3)] == [
            (200, len(BODY) // 2),
            (0, 0),
            (200, len(BODY)),
        ]


def test_what_cannot_be_served_is_said(server: ArchiveServer, tree: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a folder"):
        ArchiveServer(tmp_path / "nowhere")
    taken = int(server.url.rsplit(":", 1)[1])
    with pytest.raises(ConfigError, match=str(taken)):
        serve_forever(tree, taken)


def test_serve_forever_says_where_it_is_and_ends_quietly_on_ctrl_c(tree: Path) -> None:
    code = "import sys; from pathlib import Path; from pipeline.simulate.server import serve_forever\n"
    code += "serve_forever(Path(sys.argv[1]), 0, lambda url: print(url, flush=True))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tree)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert httpx.get(url + FILE).status_code == 200
        os.kill(process.pid, signal.SIGINT)
        _, complaints = process.communicate(timeout=10)
        assert (process.returncode, complaints) == (0, "")
    finally:
        process.kill()
        process.wait()


def _log_of(server: ArchiveServer, n_requests: int) -> list[Request]:
    """The log, once it has that many lines: a request gets its line just after the client has its answer."""
    deadline = time.monotonic() + 5
    while len(server.requests) < n_requests and time.monotonic() < deadline:
        time.sleep(0.01)
    return server.requests
