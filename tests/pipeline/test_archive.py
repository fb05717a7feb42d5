"""What `Archive` promises: whole, typed, once, politely, and never a half-written file."""

from __future__ import annotations

import gzip
import hashlib
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from email.utils import formatdate
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.archive import USER_AGENT, Archive, Patience
from pipeline.cache import Cache
from pipeline.errors import ArchiveError, BadPayload, NotInArchive
from pipeline.ledger import Key
from pipeline.partial import Part
from pipeline.simulate.server import OUTAGE_PAGE, ArchiveServer, Fault
from pipeline.survey import ArchiveConfig
from pipeline.transfer import SERVER_LIMIT, Terms, Transient, anything, download, file_url

FRAME = gzip.compress(bytes(range(256)) * 4000, mtime=0)
PATH = "imaging/94/40/corr/1/counts-000094-r1-0012.gz"
DATE = "Mon, 20 Nov 2006 05:56:36 GMT"
QUICK = Patience(wait_initial_s=0.01, wait_max_s=2)


def open_archive(cache: Path, *urls: str, **limits: float) -> Archive:
    config = ArchiveConfig(name="das", layout="das-dr7", base_urls=urls, timeout_s=2, **limits)
    return Archive((config,), cache, QUICK)


def cached_files(cache: Path) -> list[str]:
    return sorted(
        name
        for path in cache.rglob("*")
        if path.is_file() and not (name := str(path.relative_to(cache))).startswith((".locks", "ledger.sqlite"))
    )


def test_a_file_is_fetched_once_and_checked_on_every_hit(server, reply, tmp_path):
    server.script["/" + PATH] = [reply(FRAME)]
    with open_archive(tmp_path, server.url) as archive:
        first, second = archive.fetch("das", PATH), archive.fetch("das", PATH)
        assert (first.from_cache, second.from_cache) == (False, True)
        assert first.path == tmp_path / "das" / PATH
        assert first.path.read_bytes() == FRAME
        assert first.sha256 == second.sha256 == hashlib.sha256(FRAME).hexdigest()
        assert server.count("/" + PATH) == 1

        damaged = bytearray(FRAME)
        damaged[1000] ^= 1
        first.path.write_bytes(damaged)
        assert archive.fetch("das", PATH).path.read_bytes() == FRAME, "a damaged cached file is fetched anew"
        archive.discard("das", PATH)
        assert cached_files(tmp_path) == []
        archive.fetch("das", PATH)
    assert server.count("/" + PATH) == 3
    assert cached_files(tmp_path) == [f"das/{PATH}"]


def test_the_client_says_who_it_is_and_takes_the_bytes_as_they_lie(server, reply, tmp_path):
    """Apache labels .gz files as Content-Encoding: gzip; the archive's own compression must survive that."""
    server.script["/" + PATH] = [reply(FRAME, headers={"Content-Encoding": "gzip"})]
    with open_archive(tmp_path, server.url) as archive:
        assert archive.fetch("das", PATH).path.read_bytes() == FRAME
    headers = server.requests[0][1]
    assert headers["user-agent"] == USER_AGENT
    assert USER_AGENT.startswith("stripe82-convention/")
    assert headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_in_trouble_is_asked_again(server, reply, tmp_path, status):
    server.script["/" + PATH] = [reply(b"busy", status), reply(FRAME[:100], send=50), reply(FRAME)]
    with open_archive(tmp_path, server.url) as archive:
        assert archive.fetch("das", PATH).n_bytes == len(FRAME)
    assert server.count("/" + PATH) == 3


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_waited_for(server, reply, tmp_path, as_date):
    value = formatdate(time.time() + 2, usegmt=True) if as_date else "1"  # a date has whole seconds: 1 to 2 from now
    server.script["/" + PATH] = [reply(b"", 429, {"Retry-After": value}), reply(FRAME)]
    begin = time.monotonic()
    with open_archive(tmp_path, server.url) as archive:
        archive.fetch("das", PATH)
    assert 0.9 <= time.monotonic() - begin < 3


def test_a_server_that_asks_for_an_hour_is_not_pressed(server, reply, tmp_path):
    server.script["/" + PATH] = [reply(b"", 503, {"Retry-After": "3600"})]
    with open_archive(tmp_path, server.url) as archive, pytest.raises(ArchiveError, match="come back in 3600 s"):
        archive.fetch("das", PATH)
    assert server.count("/" + PATH) == 1


@pytest.mark.parametrize(
    ("fault", "message", "n_requests"),
    [
        ({"body": b"<html><h1>Sorry</h1> SDSS is down for maintenance"}, "SDSS is down", 4),
        ({"body": FRAME, "send": 500}, "truncated", 4),
        ({"body": b""}, "empty", 4),
        ({"body": FRAME, "headers": {"Content-Length": "50000000000"}}, "announces 50000000000 bytes", 1),
        ({"body": FRAME * 1000}, "announces", 1),
    ],
    ids=["outage page", "truncated", "empty", "a lie of 50 GB", "too large"],
)
def test_what_is_not_the_file_is_refused_and_nothing_is_kept(server, reply, tmp_path, fault, message, n_requests):
    server.script["/" + PATH] = [reply(**fault)]
    with open_archive(tmp_path, server.url, max_file_mb=0.05) as archive, pytest.raises(ArchiveError, match=message):
        archive.fetch("das", PATH)
    assert server.count("/" + PATH) == n_requests
    assert cached_files(tmp_path) == []


def test_a_body_without_announced_length_is_bounded_too(server, reply, tmp_path):
    chunk = b"%x\r\n%s\r\n" % (len(FRAME), FRAME)
    headers = {"Transfer-Encoding": "chunked", "Content-Length": None}
    server.script["/" + PATH] = [reply(chunk * 100, headers=headers)]
    with open_archive(tmp_path, server.url, max_file_mb=0.1) as archive, pytest.raises(BadPayload, match="sends more"):
        archive.fetch("das", PATH)
    assert cached_files(tmp_path) == []


@pytest.mark.parametrize("lie", ["another tag", "another date", "another place", "another size", "less than it says"])
def test_a_part_that_does_not_fit_is_thrown_away(lie, server, reply, tmp_path):
    """Servers behind a balancer answer 206 from another copy, whatever If-Range said."""
    half, size = len(FRAME) // 2, len(FRAME)

    def answer(_path, headers):
        if "range" not in headers:
            whole = len(answers) > 0
            answers.append("whole")
            return reply(FRAME, headers={"ETag": '"a"', "Last-Modified": DATE}, send=None if whole else half)
        answers.append("part")
        start, total = half + (lie == "another place"), size + (lie == "another size")
        place = f"bytes {start}-{size - 1}/{total}"
        tag = '"b"' if lie == "another tag" else '"a"'
        date = "Tue, 21 Nov 2006 05:56:36 GMT" if lie == "another date" else DATE
        if lie == "less than it says":  # a server may send less of a range; the file is still not whole
            rest = FRAME[start : start + 10] if answers.count("part") == 1 else b""
            place = f"bytes {start}-{start + 9}/{size}" if rest else "bytes 0-0/1"
            return reply(rest or b"?", 206, {"ETag": tag, "Last-Modified": date, "Content-Range": place})
        return reply(b"?" * (size - start), 206, {"ETag": tag, "Last-Modified": date, "Content-Range": place})

    answers: list[str] = []
    server.script["/" + PATH] = answer
    with open_archive(tmp_path, server.url) as archive:
        assert archive.fetch("das", PATH).path.read_bytes() == FRAME
    assert answers == ["whole", *["part"] * (1 + (lie == "less than it says")), "whole"]


def test_a_missing_file_is_asked_for_once(server, tmp_path):
    with open_archive(tmp_path, server.url) as archive:
        for _ in range(2):
            with pytest.raises(NotInArchive):
                archive.fetch("das", PATH)
    assert server.count("/" + PATH) == 1


def test_mirrors_are_tried_in_order(new_server, reply, tmp_path):
    broken, empty, good = new_server(), new_server(), new_server()
    broken.script["/" + PATH] = [reply(b"<html>down")]
    good.script["/" + PATH] = [reply(FRAME)]
    with open_archive(tmp_path, broken.url, empty.url, good.url) as archive:
        assert archive.fetch("das", PATH).n_bytes == len(FRAME)
    assert [each.count("/" + PATH) for each in (broken, empty, good)] == [1, 1, 1]


def test_a_file_that_one_mirror_lacks_and_another_cannot_give_is_not_called_missing(new_server, reply, tmp_path):
    empty, broken = new_server(), new_server()
    broken.script["/" + PATH] = [reply(b"", 503)]
    with open_archive(tmp_path, empty.url, broken.url, attempts=2) as archive:
        with pytest.raises(ArchiveError, match="status 503") as caught:
            archive.fetch("das", PATH)
        assert not isinstance(caught.value, NotInArchive)
        broken.script["/" + PATH] = [reply(FRAME)]
        assert archive.fetch("das", PATH).n_bytes == len(FRAME), "and it is asked for again"


def test_nobody_there(tmp_path):
    with (
        open_archive(tmp_path, "http://127.0.0.1:9/", attempts=2) as archive,
        pytest.raises(ArchiveError, match="ConnectError"),
    ):
        archive.fetch("das", PATH)


def test_redirects_are_followed_a_few_times_and_only_over_http(new_server, reply, tmp_path):
    front, store = new_server(), new_server()
    store.script["/" + PATH] = [reply(FRAME)]
    front.script["/" + PATH] = [reply(b"", 302, {"Location": store.url + PATH})]
    front.script["/loop.gz"] = [reply(b"", 302, {"Location": "/loop.gz"})]
    front.script["/out.gz"] = [reply(b"", 302, {"Location": "file:///etc/passwd"})]
    with open_archive(tmp_path, front.url) as archive:
        assert archive.fetch("das", PATH).path.read_bytes() == FRAME
        for path in ("loop.gz", "out.gz"):
            with pytest.raises(ArchiveError, match="leads nowhere"):
                archive.fetch("das", path)
    assert front.count("/loop.gz") <= 5


def test_the_body_of_a_redirect_is_not_read(server, reply, tmp_path):
    """It may be of any size, and compressed on the way."""
    server.script["/" + PATH] = [reply(FRAME)]
    endless = {"Location": "/" + PATH, "Content-Length": "50000000000"}
    server.script["/moved.gz"] = [reply(b"x", 302, endless, send=1)]
    with open_archive(tmp_path, server.url) as archive:
        assert archive.fetch("das", "moved.gz").path.read_bytes() == FRAME


@pytest.mark.parametrize("host", ["a..b", "x" * 70])
def test_a_redirect_to_a_host_that_cannot_be_is_one_clear_error(server, reply, tmp_path, host):
    server.script["/" + PATH] = [reply(b"", 302, {"Location": f"http://{host}/"})]
    with open_archive(tmp_path, server.url) as archive, pytest.raises(ArchiveError, match="leads nowhere"):
        archive.fetch("das", PATH)


@pytest.mark.parametrize(
    "date",
    [
        f"Mon, 01 Jan {'9' * 20} 00:00:00 GMT",
        "Mon, 01 Jan 0001 00:00:00 -0000",
        f"Mon, 01 Jan 2020 00:00:00 +{'9' * 14}",
    ],
)
def test_a_date_that_no_clock_can_show_is_no_date(server, reply, tmp_path, date):
    server.script["/" + PATH] = [reply(b"", status=503, headers={"Retry-After": date}), reply(FRAME)]
    with open_archive(tmp_path, server.url) as archive:
        assert archive.fetch("das", PATH).n_bytes == len(FRAME)


@contextmanager
def dripping_server(head: bytes) -> Iterator[str]:
    """The URL of a server that answers `head`, then a byte every 50 ms, without end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            link, _ = listener.accept()
            with link:
                link.recv(4096)
                try:
                    link.sendall(head)
                    while True:
                        link.sendall(b"x")
                        time.sleep(0.05)
                except OSError:  # the client has had enough
                    return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/file"
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize("status", ["200 OK", "503 Service Unavailable"])
def test_a_server_that_drips_is_given_up_on(tmp_path, status):
    """Each byte comes within `timeout_s`; without a limit on the whole, a build would hang for days."""
    terms = Terms(10**6, timeout_s=5, check=anything, min_bytes_per_s=1e7, patience_s=0.3)
    started = time.monotonic()
    with (
        dripping_server(f"HTTP/1.1 {status}\r\nContent-Length: 1000000\r\n\r\n".encode()) as url,
        httpx.Client(trust_env=False) as client,
        pytest.raises(Transient, match="too slow"),
    ):
        download(client, url, Part(tmp_path / "file.part"), terms)
    assert time.monotonic() - started < 5


def test_the_time_for_a_download_grows_with_its_size():
    terms = Terms(10**6, timeout_s=30, check=anything, min_bytes_per_s=5e3)
    assert terms.time_limit_s(1000) == 60
    assert terms.time_limit_s(64_000_000) == 12_800


def test_threads_share_one_download_and_keep_to_the_connection_limit(server, reply, tmp_path):
    paths = [f"imaging/{n}.gz" for n in range(6)]
    for path in paths:
        server.script["/" + path] = [reply(FRAME, delay_s=0.05)]
    with (
        open_archive(tmp_path, server.url, max_connections=2) as archive,
        ThreadPoolExecutor(12) as threads,
    ):
        results = list(threads.map(lambda path: archive.fetch("das", path), paths * 3))
    assert {result.n_bytes for result in results} == {len(FRAME)}
    assert [server.count("/" + path) for path in paths] == [1] * len(paths)
    assert server.most_in_flight == 2


FETCH = """
import sys
from pathlib import Path
from pipeline.archive import Archive
from pipeline.simulate.server import OUTAGE_PAGE, ArchiveServer, Fault
from pipeline.survey import ArchiveConfig

config = ArchiveConfig(name="das", layout="das-dr7", base_urls=(sys.argv[1],))
with Archive((config,), Path(sys.argv[2])) as archive:
    print(archive.fetch("das", sys.argv[3]).from_cache)
"""


def test_processes_share_one_download(server, reply, tmp_path):
    server.script["/" + PATH] = [reply(FRAME, delay_s=1)]
    command = [sys.executable, "-c", FETCH, server.url, str(tmp_path), PATH]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(process.communicate(timeout=30)[0].strip() for process in processes) == ["False", "True"]
    assert server.count("/" + PATH) == 1


def test_a_cache_of_another_server_is_asked_about_not_trusted(new_server, reply, tmp_path):
    """A demo archive moves from port to port; another archive under the same name must not be mixed up with it."""

    def serve(body: bytes, etag: str):
        def answer(path, headers):
            if headers.get("if-none-match") == etag:
                return reply(b"", 304)
            return reply(body, headers={"ETag": etag, "Last-Modified": "Mon, 20 Nov 2006 05:56:36 GMT"})

        return answer

    same, moved, other = new_server(), new_server(), new_server()
    same.script["/" + PATH] = moved.script["/" + PATH] = serve(FRAME, '"one"')
    other.script["/" + PATH] = serve(FRAME[::-1], '"two"')
    for source, from_cache in ((same, False), (moved, True), (moved, True)):
        with open_archive(tmp_path, source.url) as archive:
            assert archive.fetch("das", PATH).from_cache is from_cache
    assert moved.count("/" + PATH) == 1, "once told that the file is the same, the new server counts as its origin"
    with open_archive(tmp_path, other.url) as archive, pytest.raises(ArchiveError, match=r"no \.gz file"):
        archive.fetch("das", PATH)  # reversed bytes have no gzip magic: the other server's answer was looked at
    assert "if-modified-since" not in other.requests[0][1], "dates of two servers cannot be compared"


def test_a_second_server_on_the_same_tree_sends_nothing_again(tmp_path):
    """As when a demo is run twice: another port, the same files."""
    (tmp_path / "tree" / PATH).parent.mkdir(parents=True)
    (tmp_path / "tree" / PATH).write_bytes(FRAME)
    sent = []
    for _ in range(2):
        with ArchiveServer(tmp_path / "tree") as server, open_archive(tmp_path / "cache", server.url + "/") as archive:
            assert archive.fetch("das", PATH).path.read_bytes() == FRAME
            while not server.requests:  # a request is logged just after it is answered
                time.sleep(0.01)
            sent.append([(request.status, request.n_bytes) for request in server.requests])
    assert sent == [[(200, len(FRAME))], [(304, 0)]]


def test_pages_are_cached_by_query_and_refreshed_cheaply(server, reply, tmp_path):
    def table(path, headers):
        if headers.get("if-none-match") == '"v1"':
            return reply(b"", 304)
        return reply(path.encode(), headers={"ETag": '"v1"'})

    server.script["/sql"] = table
    with Archive((), tmp_path, QUICK) as archive:
        first = archive.fetch_url(server.url + "sql", "page.csv", {"cmd": "SELECT 1"})
        assert b"SELECT" in first.path.read_bytes()
        assert archive.fetch_url(server.url + "sql", "page.csv", {"cmd": "SELECT 1"}).from_cache
        assert server.count("/sql") == 1
        assert archive.fetch_url(server.url + "sql", "page.csv", {"cmd": "SELECT 1"}, refresh=True).from_cache
        assert server.count("/sql") == 2
        server.script["/sql"] = [reply(b"new")]
        assert archive.fetch_url(server.url + "sql", "page.csv", {"cmd": "SELECT 2"}).path.read_bytes() == b"new"


def test_a_server_that_has_to_think_is_given_the_time(server, reply, tmp_path):
    server.script["/sql"] = [reply(b"run\n94\n", delay_s=0.4)]
    impatient = Patience(attempts=1, timeout_s=0.1)
    with Archive((), tmp_path, impatient) as archive:
        with pytest.raises(ArchiveError, match="Timeout"):
            archive.fetch_url(server.url + "sql", "page.csv")
        assert archive.fetch_url(server.url + "sql", "page.csv", think_s=5).n_bytes == 7


def test_a_query_that_is_too_large_is_not_asked_again(server, reply, tmp_path):
    server.script["/sql"] = [reply(b"<html>" + b" " * 300 + SERVER_LIMIT.encode(), 500)]
    with Archive((), tmp_path, QUICK) as archive, pytest.raises(ArchiveError, match=SERVER_LIMIT):
        archive.fetch_url(server.url + "sql", "page.csv")
    assert server.count("/sql") == 1


def test_local_files_are_opened_where_they_are(tmp_path):
    table = tmp_path / "my list.csv"
    table.write_bytes(b"cid,ra,dec\n")
    with Archive((), tmp_path / "cache", QUICK) as archive:
        for name in (str(table), table.as_uri()):
            fetched = archive.fetch_url(name, "list")
            assert (fetched.path, fetched.n_bytes) == (table, 11)
        with pytest.raises(ArchiveError, match=r"nowhere\.csv"):
            archive.fetch_url(str(tmp_path / "nowhere.csv"), "list")
        with pytest.raises(ArchiveError, match="MB allowed"):
            archive.fetch_url(str(table), "list", max_mb=1e-6)
        with pytest.raises(ArchiveError, match="http"):
            archive.fetch_url("ftp://server/list", "list")


@pytest.mark.parametrize("path", ["../escape.gz", "/etc/passwd", "a/../../b", "nul\0.gz"])
def test_no_path_leaves_the_cache(server, tmp_path, path):
    with open_archive(tmp_path / "cache", server.url) as archive, pytest.raises(ArchiveError, match="inside the cache"):
        archive.fetch("das", path)
    assert server.requests == []


@given(path=st.text(max_size=60))
def test_a_path_stays_a_path_in_every_url_and_inside_the_cache(tmp_path_factory, path):
    """Whatever a table from the network makes of a file name: no query, no fragment, no other host, no other folder."""
    folder = tmp_path_factory.getbasetemp() / "property"
    with closing(Cache(folder)) as cache:
        try:
            place = cache.place(Key("das", path))
            url = urlsplit(file_url("http://das/imaging/", path))
        except (ArchiveError, httpx.InvalidURL, UnicodeEncodeError):
            return  # `test_no_path_leaves_the_cache` says what must be refused; or a lone surrogate, or too long
    assert place.resolve().is_relative_to((folder / "das").resolve())
    assert (url.scheme, url.netloc, url.query, url.fragment) == ("http", "das", "", "")
    assert PurePosixPath(unquote(url.path)) == PurePosixPath("/imaging", path)


def test_a_cache_that_cannot_be_written_is_said_so(server, reply, tmp_path):
    server.script["/" + PATH] = [reply(FRAME)]
    (tmp_path / "das").write_text("a file where the folder should be")
    with open_archive(tmp_path, server.url) as archive, pytest.raises(ArchiveError, match="choose another cache"):
        archive.fetch("das", PATH)


@pytest.mark.slow
def test_after_a_bad_day_of_the_server_the_cache_holds_whole_files_and_each_was_sent_once(tmp_path):
    """Every fault of the simulated archive, several at once, over parallel downloads."""
    names = [f"counts-{n:06d}-r1-0012.gz" for n in range(12)]
    (tmp_path / "tree").mkdir()
    for name in names:
        (tmp_path / "tree" / name).write_bytes(gzip.compress(name.encode() * 50_000, compresslevel=0))
    faults = [
        Fault("*000-r1*", "server_error", times=3, retry_after_s=0.05),
        Fault("*001-r1*", "truncated", times=2),
        Fault("*002-r1*", "html", times=3),
        Fault("*003-r1*", "reset", times=2),
        Fault("*004-r1*", "slow", delay_s=0.3),
        Fault("*005-r1*", "not_found", times=99),
        Fault("*006-r1*", "html", times=99),
    ]
    with (
        ArchiveServer(tmp_path / "tree", faults=faults) as simulated,
        open_archive(tmp_path / "cache", simulated.url + "/") as archive,
        ThreadPoolExecutor(8) as threads,
    ):
        downloads = {name: threads.submit(archive.fetch, "das", name) for name in names * 2}
        outcomes = {name: download.exception() or download.result() for name, download in downloads.items()}
        sent = Counter[str]()
        for request in simulated.requests:  # but pages, and questions whether the server is alive
            if request.status in (200, 206) and request.n_bytes not in (len(OUTAGE_PAGE), 1024):
                sent[request.path] += request.n_bytes
    sizes = {f"/{name}": (tmp_path / "tree" / name).stat().st_size for name in names}
    assert isinstance(outcomes.pop(names[5]), NotInArchive)
    assert isinstance(outcomes.pop(names[6]), BadPayload)
    for name, fetched in outcomes.items():
        assert fetched.path.read_bytes() == (tmp_path / "tree" / name).read_bytes()
    assert cached_files(tmp_path / "cache") == sorted(f"das/{name}" for name in outcomes)
    assert sent == {f"/{name}": sizes[f"/{name}"] for name in outcomes}, "a byte was sent twice"
