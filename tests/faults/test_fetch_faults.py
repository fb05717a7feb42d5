"""Whatever a server, a network, a disk or the power does to downloads: the cache holds only whole, checked files.

Against a real HTTP server on 127.0.0.1 that serves real formats and commits every fault on request.
"""

from __future__ import annotations

import gzip
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from pipeline.archive import Archive, Patience
from pipeline.cache import PARTS
from pipeline.errors import ArchiveError, BadPayload, ChangedUpstream, FrameError, NotInArchive
from pipeline.hosts import PausePolicy
from pipeline.identity import check_file
from pipeline.ledger import Key
from pipeline.simulate.server import OUTAGE_PAGE, ArchiveServer, Fault
from pipeline.sums import file_sha256
from pipeline.survey import ArchiveConfig, CacheConfig

PATH = "imaging/5582/40/corr/4/fpC-005582-r4-0153.fit.gz"
OTHER = "imaging/5582/40/corr/4/fpC-005582-g4-0153.fit.gz"
QUICK = Patience(wait_initial_s=0.01, wait_max_s=2, pause=PausePolicy(failures=4, first_s=0.05, longest_s=0.3))


def open_archive(cache: Path, *urls: str, limits: CacheConfig | None = None, again: bool = False, **keys) -> Archive:
    keys = {"timeout_s": 2, "max_outage_h": 0} | keys
    config = ArchiveConfig(name="das", layout="das-dr7", base_urls=tuple(f"{url}/das/" for url in urls), **keys)
    return Archive((config,), cache, QUICK, limits=limits, retry_missing=again)


def assert_only_verified(cache: Path, archive: Archive) -> None:
    """Each file of the cache is whole by its own checksum and structure and what the ledger says; no other is there."""
    listed = {cache / key.archive / key.path: origin for key, origin in archive.ledger.files()}
    there = {path for path in (cache / "das").rglob("*") if path.is_file()}
    assert there == set(listed)
    for path, origin in listed.items():
        check_file(path, path.name)
        assert (file_sha256(path), path.stat().st_size) == (origin.sha256, origin.n_bytes)


def parts(cache: Path) -> list[Path]:
    return sorted((cache / PARTS).glob("*.part"))


def sent(server: ArchiveServer, path: str = PATH) -> int:
    """Bytes of the body of `path` that went out, pages of an outage left out."""
    requests = [request for request in server.requests if request.path.endswith(path)]
    return sum(r.n_bytes for r in requests if r.status in (200, 206) and r.n_bytes != len(OUTAGE_PAGE))


def n_answered(server: ArchiveServer, at_least: int) -> int:
    """Requests in the log, once it has that many: each gets its line just after the client has its answer."""
    deadline = time.monotonic() + 5
    while len(server.requests) < at_least and time.monotonic() < deadline:
        time.sleep(0.01)
    return len(server.requests)


PASSING = {
    "503 three times": Fault("*", "server_error", times=3),
    "500 three times": Fault("*", "server_error", times=3, status=500),
    "429": Fault("*", "server_error", status=429, retry_after_s=0.3),
    "outage page": Fault("*", "html", times=2),
    "reset": Fault("*", "reset", times=2),
    "reset midway": Fault("*", "reset_midway", times=2),
    "truncated": Fault("*", "truncated", times=2),
    "truncated, and said to be whole": Fault("*", "short_length"),
    "corrupt": Fault("*", "corrupt"),
    "no answer in time": Fault("*", "slow", delay_s=2.5),
}


@pytest.mark.parametrize("name", PASSING)
def test_a_fault_that_passes_leaves_no_trace(name, tiny_archive, tmp_path):
    with (
        ArchiveServer(tiny_archive, faults=[PASSING[name]]) as server,
        open_archive(tmp_path, server.url) as archive,
    ):
        fetched = archive.fetch("das", PATH)
        assert fetched.path.read_bytes() == (tiny_archive / "das" / PATH).read_bytes()
        before = len(server.requests)
        assert archive.fetch("das", PATH).from_cache
        assert len(server.requests) == before, "a whole file is not asked for again"
        assert_only_verified(tmp_path, archive)
    assert parts(tmp_path) == []


LASTING = {
    "not found": (Fault("*", "not_found", times=99), NotInArchive, "does not exist", 1),
    "503": (Fault("*", "server_error", times=99), ArchiveError, "status 503", 4),
    "outage page": (Fault("*", "html", times=99), ArchiveError, "down for maintenance", 4),
    "reset": (Fault("*", "reset", times=99), ArchiveError, "Read|Protocol", 4),
    "said to be whole": (Fault("*", "short_length", times=99), BadPayload, "cut short", 2),
    "corrupt": (Fault("*", "corrupt", times=99), BadPayload, "corrupt", 2),
    "redirect loop": (Fault("*", "redirect", times=99), ArchiveError, "leads nowhere", 5),
    "50 GB": (Fault("*", "huge_length", times=99), BadPayload, "announces 50000000000", 1),
    "too long a wait": (Fault("*", "server_error", times=99, retry_after_s=3600), ArchiveError, "come back in 3600", 1),
}


@pytest.mark.parametrize("name", LASTING)
def test_a_fault_that_lasts_is_one_clear_error_and_nothing_is_kept(name, tiny_archive, tmp_path):
    fault, kind, words, n_requests = LASTING[name]
    with ArchiveServer(tiny_archive, faults=[fault]) as server, open_archive(tmp_path, server.url) as archive:
        with pytest.raises(kind, match=words) as caught:
            archive.fetch("das", PATH)
        assert PATH.rpartition("/")[2] in str(caught.value)
        assert n_answered(server, n_requests) == n_requests
        assert_only_verified(tmp_path, archive)
    assert parts(tmp_path) == []


def test_a_slow_server_is_given_up_on_and_what_it_sent_is_gone_on_with(tiny_archive, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.transfer.Terms.time_limit_s", lambda terms, n_bytes: 0.3)
    size = (tiny_archive / "das" / PATH).stat().st_size
    drip = Fault("*", "drip", times=2, bytes_per_s=size)
    with ArchiveServer(tiny_archive, faults=[drip]) as server, open_archive(tmp_path, server.url) as archive:
        assert archive.fetch("das", PATH).n_bytes == size
        ranges = [request.range for request in server.requests]
        assert ranges[0] is None
        assert all(ranges[1:])
        assert_only_verified(tmp_path, archive)


def test_a_broken_download_goes_on_where_it_broke_off_even_in_another_process(tiny_archive, tmp_path):
    size = (tiny_archive / "das" / PATH).stat().st_size
    with ArchiveServer(tiny_archive, faults=[Fault("*", "truncated")]) as server:
        with open_archive(tmp_path, server.url, attempts=1) as archive, pytest.raises(ArchiveError, match="truncated"):
            archive.fetch("das", PATH)
        (part,) = parts(tmp_path)
        assert part.stat().st_size == size // 2
        with open_archive(tmp_path, server.url) as archive:
            archive.fetch("das", PATH)
            assert_only_verified(tmp_path, archive)
        assert sent(server) == size, "not one byte came twice"
    assert parts(tmp_path) == []


def test_a_server_that_ignores_ranges_sends_the_whole_file(tiny_archive, tmp_path):
    faults = [Fault("*", "truncated"), Fault("*", "no_range", times=9)]
    with ArchiveServer(tiny_archive, faults=faults) as server, open_archive(tmp_path, server.url) as archive:
        archive.fetch("das", PATH)
        assert [request.status for request in server.requests] == [200, 200]
        assert_only_verified(tmp_path, archive)


def test_a_file_that_changes_between_two_parts_is_not_patched_together(spoilt, tmp_path):
    file = spoilt / "das" / PATH
    with (
        ArchiveServer(spoilt, faults=[Fault("*", "truncated")]) as server,
        open_archive(tmp_path / "cache", server.url, attempts=1) as archive,
    ):
        with pytest.raises(ArchiveError, match="truncated"):
            archive.fetch("das", PATH)
        file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()), 1))
        assert archive.fetch("das", PATH).path.read_bytes() == file.read_bytes()
        assert [request.status for request in server.requests] == [200, 200]
        assert_only_verified(tmp_path / "cache", archive)


def test_a_redirect_to_another_host_gives_the_file_or_nothing(tiny_archive, tmp_path):
    with ArchiveServer(tiny_archive) as store:
        faults = [Fault(f"*{PATH}", "redirect", location=f"{store.url}/das/{PATH}")]
        portal = Fault(f"*{OTHER}", "redirect", times=99, location=f"{store.url}/das/imaging/login.html")
        (tiny_archive / "das" / "imaging" / "login.html").write_bytes(OUTAGE_PAGE)
        try:
            with (
                ArchiveServer(tiny_archive, faults=[*faults, portal]) as front,
                open_archive(tmp_path, front.url) as archive,
            ):
                archive.fetch("das", PATH)
                with pytest.raises(BadPayload, match="maintenance"):
                    archive.fetch("das", OTHER)
                assert_only_verified(tmp_path, archive)
        finally:
            (tiny_archive / "das" / "imaging" / "login.html").unlink()


def test_a_decompression_bomb_is_refused_within_bounds(spoilt, tmp_path):
    (spoilt / "das" / PATH).write_bytes(gzip.compress(bytes(200 * 2**20)))
    with ArchiveServer(spoilt) as server, open_archive(tmp_path / "cache", server.url) as archive:
        with pytest.raises(BadPayload, match="opens to more than"):
            archive.fetch("das", PATH)
        assert_only_verified(tmp_path / "cache", archive)


def test_a_tile_compressed_image_is_not_opened(spoilt, tmp_path):
    """A few hundred kilobytes that would open to hundreds of megabytes."""
    image = fits.CompImageHDU(np.zeros((4000, 4000), np.int16), compression_type="RICE_1")
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(tmp_path / "bomb.fit")
    tracemalloc.start()
    check_file(tmp_path / "bomb.fit", "bomb.fit")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6


def test_a_row_of_empty_streams_is_refused(tmp_path):
    (tmp_path / "many.gz").write_bytes(gzip.compress(b"") * 5000)
    with pytest.raises(FrameError, match="compressed streams in a row"):
        check_file(tmp_path / "many.gz", "many.gz")


def test_another_frame_under_this_name_is_refused(spoilt, tmp_path):
    shutil.copyfile(spoilt / "das" / OTHER, spoilt / "das" / PATH)
    with ArchiveServer(spoilt) as server, open_archive(tmp_path / "cache", server.url) as archive:
        with pytest.raises(BadPayload, match="contradicts its name: its header says band g"):
            archive.fetch("das", PATH)
        assert len(server.requests) == 2, "the same twice: it lies so in the archive"
        assert_only_verified(tmp_path / "cache", archive)


def test_what_a_server_does_not_have_is_remembered_with_a_date_until_asked_for_again(spoilt, tmp_path):
    file = spoilt / "das" / PATH
    content = file.read_bytes()
    file.unlink()
    with ArchiveServer(spoilt) as server:
        for again, n_requests in ((False, 1), (False, 1), (True, 2)):
            with open_archive(tmp_path / "cache", server.url, again=again) as archive:
                for _ in range(2):
                    with pytest.raises(NotInArchive, match="does not exist"):
                        archive.fetch("das", PATH)
                (missing,) = archive.ledger.all_missing()
                assert missing.asked_at.startswith(time.strftime("%Y-%m-", time.gmtime()))
            assert len(server.requests) == n_requests
        file.write_bytes(content)
        with open_archive(tmp_path / "cache", server.url, again=True) as archive:
            archive.fetch("das", PATH)
            assert archive.ledger.all_missing() == []
    with ArchiveServer(spoilt) as other, open_archive(tmp_path / "second", other.url) as archive:
        archive.fetch("das", PATH)


def test_a_changed_file_is_reported_and_taken_only_when_that_is_wanted(spoilt, tmp_path, caplog):
    cache, file = tmp_path / "cache", spoilt / "das" / PATH
    nothing = CacheConfig(max_gb=0)
    with ArchiveServer(spoilt) as server:
        with open_archive(cache, server.url, limits=nothing) as archive:
            old = archive.fetch("das", PATH).sha256
        assert not (cache / "das" / PATH).exists()
        file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()), 1))
        with open_archive(cache, server.url) as archive:
            with pytest.raises(ChangedUpstream, match="changed_files"):
                archive.fetch("das", PATH)
            (change,) = archive.ledger.changes()
            assert (change.path, change.old_sha256, change.accepted) == (PATH, old, False)
            assert_only_verified(cache, archive)
        assert "is not the file it was" in caplog.text
        with open_archive(cache, server.url, changed_files="accept") as archive:
            new = archive.fetch("das", PATH).sha256
            assert archive.ledger.origin(Key("das", PATH)).sha256 == new == file_sha256(file) != old
            assert [(change.new_sha256, change.accepted) for change in archive.ledger.changes()] == [(new, True)]


def frames_of(tree: Path) -> list[str]:
    return sorted(str(path.relative_to(tree / "das")) for path in (tree / "das").rglob("fpC-*"))


def test_an_outage_pauses_all_downloads_and_fails_none(tiny_archive, tmp_path, caplog):
    """Twenty requests in a row are refused, many more than the four attempts that each file has.

    Four are an outage here, so that even a file that is tried while all others sleep is in one.
    """
    paths = frames_of(tiny_archive)
    with (
        ArchiveServer(tiny_archive) as server,
        open_archive(tmp_path, server.url, max_outage_h=1, attempts=4) as archive,
    ):
        archive.fetch("das", paths[0])
        server.commit(Fault("*", "reset", times=20))
        started = time.monotonic()
        with ThreadPoolExecutor(6) as threads:
            fetched = list(threads.map(lambda path: archive.fetch("das", path), paths))
        assert len({file.path for file in fetched}) == len(paths)
        assert time.monotonic() - started > 1, "after each pause there was one request, and each was twice as long"
        assert_only_verified(tmp_path, archive)
    assert "all its downloads pause" in caplog.text
    assert "is back after" in caplog.text


def test_an_outage_without_end_is_given_up_on(tiny_archive, tmp_path):
    with (
        ArchiveServer(tiny_archive) as server,
        open_archive(tmp_path, server.url, max_outage_h=0.5 / 3600, attempts=2) as archive,
    ):
        archive.fetch("das", OTHER)
        server.commit(Fault("*", "server_error", times=999))
        errors = []
        for _ in range(3):
            with pytest.raises(ArchiveError) as caught:
                archive.fetch("das", PATH)
            errors.append(str(caught.value))
        assert "status 503" in errors[0], "two failures are no outage"
        assert "out of order for over" in errors[-1]


def test_a_part_of_the_archive_that_is_broken_fails_its_files_and_no_others(tiny_archive, tmp_path):
    """What worked last still works, so the server is not out of order for ever: the download ends."""
    with (
        ArchiveServer(tiny_archive, faults=[Fault(f"*{PATH}", "server_error", times=999)]) as server,
        open_archive(tmp_path, server.url, max_outage_h=1) as archive,
    ):
        archive.fetch("das", OTHER)
        with pytest.raises(ArchiveError, match="status 503"):
            archive.fetch("das", PATH)


@pytest.mark.parametrize("retry_after_s", [None, 0.1])
def test_a_blip_costs_no_file_even_if_it_outlasts_the_attempts(retry_after_s, tiny_archive, tmp_path):
    """Fewer failures in a row than an outage has; then the server is asked whether it is well, and once more."""
    page = Fault(f"*{PATH}", "html" if retry_after_s is None else "server_error", times=2, retry_after_s=retry_after_s)
    with (
        ArchiveServer(tiny_archive, faults=[page]) as server,
        open_archive(tmp_path, server.url, attempts=2, max_outage_h=1) as archive,
    ):
        archive.fetch("das", OTHER)
        archive.fetch("das", PATH)
        assert_only_verified(tmp_path, archive)


def test_an_outage_that_names_its_end_fails_no_file(tiny_archive, tmp_path):
    """503 with Retry-After, more often than all attempts together."""
    paths = frames_of(tiny_archive)
    with (
        ArchiveServer(tiny_archive) as server,
        open_archive(tmp_path, server.url, attempts=2, max_outage_h=1) as archive,
        ThreadPoolExecutor(6) as threads,
    ):
        archive.fetch("das", paths[0])
        server.commit(Fault("*", "server_error", times=30, retry_after_s=0.1))
        assert len(list(threads.map(lambda path: archive.fetch("das", path), paths))) == len(paths)


def test_a_page_that_stays_for_one_file_is_that_files_and_no_other_is_asked_twice(tiny_archive, tmp_path):
    with (
        ArchiveServer(tiny_archive, faults=[Fault(f"*{PATH}", "html", times=99)]) as server,
        open_archive(tmp_path, server.url, attempts=2) as archive,
    ):
        archive.fetch("das", OTHER)
        with pytest.raises(BadPayload, match="maintenance"):
            archive.fetch("das", PATH)
        asked = Counter(request.path for request in server.requests if request.range is None)
        assert sorted(asked.values()) == [1, 3]


def test_a_mirror_that_comes_back_first_is_taken_first(tiny_archive, tmp_path):
    """The preferred server is in a long outage; the other only wanted to be left alone for a moment."""
    with (
        ArchiveServer(tiny_archive) as front,
        ArchiveServer(tiny_archive) as mirror,
        open_archive(tmp_path, front.url, mirror.url, attempts=2, max_outage_h=1) as archive,
    ):
        archive.fetch("das", OTHER)
        front.commit(Fault("*", "server_error", times=9999))
        for path in frames_of(tiny_archive)[:6]:
            archive.fetch("das", path)
        mirror.commit(Fault("*", "server_error", times=1, status=429, retry_after_s=0.3))
        started = time.monotonic()
        archive.fetch("das", frames_of(tiny_archive)[-1])
        assert time.monotonic() - started < 3


def test_a_file_that_only_a_server_in_an_outage_may_have_is_waited_for(spoilt, tiny_archive, tmp_path):
    """And not called missing because the mirror lacks it."""
    (spoilt / "das" / PATH).unlink()
    with (
        ArchiveServer(tiny_archive) as front,
        ArchiveServer(spoilt) as mirror,
        open_archive(tmp_path / "cache", front.url, mirror.url, attempts=2, max_outage_h=1) as archive,
    ):
        others = [path for path in frames_of(tiny_archive) if path != PATH]
        archive.fetch("das", others[0])
        front.commit(Fault("*", "server_error", times=10))
        for path in others:
            archive.fetch("das", path)
        archive.fetch("das", PATH)
        assert archive.ledger.all_missing() == []


def test_retry_after_holds_for_all_files_of_the_server(tiny_archive, tmp_path):
    busy = Fault(f"*{PATH}", "server_error", status=429, retry_after_s=1)
    with (
        ArchiveServer(tiny_archive, faults=[busy]) as server,
        open_archive(tmp_path, server.url, max_outage_h=1) as archive,
        ThreadPoolExecutor(2) as threads,
    ):
        first = threads.submit(archive.fetch, "das", PATH)
        while not server.requests:
            time.sleep(0.01)
        time.sleep(0.1)
        asked = time.monotonic()
        archive.fetch("das", OTHER)
        assert 0.5 < time.monotonic() - asked < 3
        first.result()


def test_a_mirror_stands_in_at_once_for_a_server_that_is_out_of_order(tiny_archive, tmp_path):
    paths = frames_of(tiny_archive)
    dead = "http://127.0.0.1:9"
    with ArchiveServer(tiny_archive) as mirror, open_archive(tmp_path, dead, mirror.url, max_outage_h=1) as archive:
        for path in paths:
            archive.fetch("das", path)
        assert_only_verified(tmp_path, archive)


FETCH_ALL = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pipeline.archive import Archive
from pipeline.errors import ArchiveError
from pipeline.survey import ArchiveConfig

url, cache, limit, *paths = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
config = ArchiveConfig(name="das", layout="das-dr7", base_urls=(f"{url}/das/",))
with Archive((config,), Path(cache)) as archive, ThreadPoolExecutor(4) as threads:
    print("go", flush=True)
    try:
        list(threads.map(lambda path: archive.fetch("das", path), paths))
    except ArchiveError as error:
        print(error)
"""


def fetch_all(url: str, cache: Path, paths: list[str], *, file_limit: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FETCH_ALL, url, str(cache), str(file_limit), *paths]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    return process


def test_a_full_disk_is_said_so_and_leaves_nothing_half_written(tiny_archive, tmp_path):
    """RLIMIT_FSIZE: the file grows to a megabyte and no further."""
    with ArchiveServer(tiny_archive) as server:
        process = fetch_all(server.url, tmp_path, [PATH], file_limit=1_000_000)
        said, _ = process.communicate(timeout=60)
        assert "File too large; free space there, or choose another cache" in said
        assert parts(tmp_path) == []
        with open_archive(tmp_path, server.url) as archive:
            assert_only_verified(tmp_path, archive)
            archive.fetch("das", PATH)
            assert_only_verified(tmp_path, archive)


@pytest.mark.slow
def test_killed_at_twenty_random_moments_nothing_that_was_whole_is_fetched_twice(tiny_archive, tmp_path):
    paths = frames_of(tiny_archive)
    random_moment = random.Random(82)
    with ArchiveServer(tiny_archive, bytes_per_s=1.2e6) as server:
        for _ in range(20):
            whole = {path for path in paths if (tmp_path / "das" / path).exists()}
            n_before = len(server.requests)
            process = fetch_all(server.url, tmp_path, paths)
            time.sleep(random_moment.uniform(0, 0.5))
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            asked = {request.path.removeprefix("/das/") for request in server.requests[n_before:]}
            assert not asked & whole
            with open_archive(tmp_path, server.url) as archive:
                assert_only_verified(tmp_path, archive)
        process = fetch_all(server.url, tmp_path, paths)
        process.communicate(timeout=120)
        with open_archive(tmp_path, server.url) as archive:
            assert archive.held() == {"das": set(paths)}
            assert_only_verified(tmp_path, archive)
        got = Counter[str]()
        for request in server.requests:
            got[request.path.removeprefix("/das/")] += request.n_bytes
        sizes = {path: (tiny_archive / "das" / path).stat().st_size for path in paths}
        assert sum(got.values()) < 1.5 * sum(sizes.values()), "broken downloads go on where they broke off"
    assert parts(tmp_path) == []
