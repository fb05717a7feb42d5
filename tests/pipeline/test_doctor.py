"""The preflight: what is well is ok, what is ill fails with advice, and it ends in time whatever servers do."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter, namedtuple
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.archive import USER_AGENT
from pipeline.build import open_archive, prepare
from pipeline.doctor import Check, asking, examine, machine, servers
from pipeline.doctor.asking import NoAnswer, ask, in_parallel
from pipeline.doctor.machine import usable_cores, usable_memory_gb
from pipeline.doctor.releases import CHANGED, Releases, release_checks
from pipeline.doctor.sqlpage import NotATable, read_page
from pipeline.planfile import write_plan
from pipeline.simulate.server import ArchiveServer, Fault
from pipeline.survey import ArchiveConfig, CasIndex, FileIndex, SurveyConfig, WindowFlistIndex, load_survey

FOR_EVER = 10_000


@pytest.fixture(autouse=True)
def no_prefect_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "WAIT_S", 0.3)
    monkeypatch.setattr(asking, "LIMIT_S", 0.6)
    monkeypatch.setattr(servers, "ROUND_S", 1.0)


def tiny(url: str) -> SurveyConfig:
    return load_survey("tiny").with_root(url)


def of_servers(checks: tuple[Check, ...]) -> list[Check]:
    local = {"python", "prefect", "cores", "memory", "disk", "gpu", "open files"}
    return [check for check in checks if check.name not in local]


# ── servers ──────────────────────────────────────────────────────────────────────────────────────


def test_healthy_servers_are_asked_once_each_and_their_rate_is_told(tiny_archive: Path, tmp_path: Path) -> None:
    with ArchiveServer(tiny_archive) as server:
        checks = of_servers(examine(tiny(server.url), tmp_path))
        asked = Counter(request.path for request in server.requests)
    assert {check.status for check in checks} == {"ok"}, checks
    assert [check.name for check in checks] == [
        "object list",
        "index das (skyserver)",
        "index sas (photofield)",
        "archive das",
        "archive sas",
    ]
    assert "MB/s" in checks[3].found
    assert set(asked.values()) == {1}
    assert sum("fpC-" in path for path in asked) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "words"), [("server_error", "status 503"), ("html", "a web page: '<html>"), ("reset", "Error")]
)
def test_a_server_that_is_ill_fails_with_what_to_do(tiny_archive: Path, tmp_path: Path, kind, words: str) -> None:  # type: ignore[no-untyped-def]
    with ArchiveServer(tiny_archive, faults=[Fault("/*", kind, times=FOR_EVER)]) as server:
        checks = of_servers(examine(tiny(server.url), tmp_path))
    failed = {check.name for check in checks if check.status == "fail"}
    assert failed == {"object list", "index das (skyserver)", "archive das", "archive sas"}
    for check in checks:
        assert check.status == "ok" or (words in check.found and "ask again later" in check.advice)


def test_a_file_that_is_an_outage_page_or_missing_fails_though_the_server_answers(
    tiny_archive: Path, tmp_path: Path
) -> None:
    faults = [Fault("*/fpC-*", "html", times=FOR_EVER), Fault("*/photoField-*", "not_found", times=FOR_EVER)]
    with ArchiveServer(tiny_archive, faults=faults) as server:
        checks = {check.name: check for check in examine(tiny(server.url), tmp_path)}
    assert checks["archive das"].status == checks["archive sas"].status == "fail"
    assert "gives a web page" in checks["archive das"].found
    assert "but has no sas/dr17/eboss/photoObj/301/125/photoField-000125-4.fits" in checks["archive sas"].found
    assert "sas_root" in checks["archive sas"].advice
    assert checks["index das (skyserver)"].status == "ok"


def test_a_dead_port_and_a_slow_server_fail_in_time(impatient: None, tiny_archive: Path, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}"
    slow = [Fault("/*", "slow", times=FOR_EVER, delay_s=1.5)]
    started = time.monotonic()
    with ArchiveServer(tiny_archive, faults=slow) as server:
        for url, words in ((dead, "refused"), (server.url, "no answer within 0.3 s")):
            checks = of_servers(examine(tiny(url), tmp_path))
            failed = [check for check in checks if check.status == "fail"]
            assert len(failed) == 4
            assert all(words in check.found for check in failed)
    assert time.monotonic() - started < 4


@pytest.fixture
def dripping() -> Iterator[str]:
    """A server that accepts everyone and sends a byte of a header now and then, for ever."""
    stop, listener = threading.Event(), socket.create_server(("127.0.0.1", 0))

    def drip(client: socket.socket) -> None:
        with client:
            while not stop.wait(0.1):
                try:
                    client.sendall(b"H")
                except OSError:
                    return

    def serve() -> None:
        while not stop.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=drip, args=(client,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    stop.set()
    listener.close()


def test_nothing_takes_longer_than_the_rounds_allow(impatient: None, dripping: str, tmp_path: Path) -> None:
    started = time.monotonic()
    checks = of_servers(examine(tiny(dripping), tmp_path))
    assert time.monotonic() - started < 4
    assert len([check for check in checks if check.status == "fail"]) == 4


def test_a_release_that_answers_too_late_does_not_fail_the_preflight(
    impatient: None, dripping: str, tmp_path: Path, monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(servers, "_is_at_sdss", lambda survey: True)
    url = dripping + "/"
    checks = examine(tiny(dripping), tmp_path, releases=Releases(url, url, url))
    late = [check.status for check in checks if "supernova" in check.name]
    assert late == ["warn"] * 3


def test_the_whole_stays_under_half_a_minute() -> None:
    assert asking.WAIT_S <= asking.LIMIT_S < servers.ROUND_S
    assert 2 * servers.ROUND_S + 5 < 30, "two rounds, and nvidia-smi"


def test_a_body_that_drips_is_cut_off_and_judged_by_what_came(impatient: None, server, reply) -> None:  # type: ignore[no-untyped-def]
    server.script["/half"] = [reply(b"x" * 100_000, send=50_000)]
    with pytest.raises(NoAnswer, match="RemoteProtocolError"):
        ask(server.url + "half")
    server.script["/long"] = [reply(b"x" * 1_000_000)]
    assert len(ask(server.url + "long", max_bytes=10_000).body) == 10_000


def test_every_question_says_who_asks(server, reply) -> None:  # type: ignore[no-untyped-def]
    server.script["/page"] = [reply(b"a,b\n")]
    assert ask(server.url + "page", {"cmd": "SELECT 1"}).complaint == ""
    ((path, headers),) = server.requests
    assert headers["user-agent"] == USER_AGENT
    assert path.startswith("/page?cmd=SELECT")


def test_one_mirror_of_two_that_fails_is_a_warning(tiny_archive: Path, tmp_path: Path) -> None:
    with ArchiveServer(tiny_archive) as good, ArchiveServer(tmp_path) as empty:
        survey = tiny(good.url)
        archives = tuple(
            one.model_copy(update={"base_urls": (one.base_urls[0].replace(good.url, empty.url), *one.base_urls)})
            for one in survey.archives
        )
        checks = of_servers(examine(survey.model_copy(update={"archives": archives}), tmp_path))
    assert [check.status for check in checks if check.name == "archive das"] == ["warn", "ok"]
    assert "but has no" in next(check for check in checks if check.status == "warn").found


def with_index(url: str, *index) -> SurveyConfig:  # type: ignore[no-untyped-def]
    sas = ArchiveConfig(name="sas", layout="sas-dr8", base_urls=(url,))
    return tiny(url.rstrip("/")).model_copy(update={"archives": (sas,), "index": index})


def test_the_sql_of_later_releases_is_asked_as_astroquery_asks_it(server, reply, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """One field of the first run; the frame that it tells of is then fetched."""
    frame = "/sas/dr17/eboss/photoObj/frames/301/94/1/frame-r-000094-1-0012.fits.bz2"
    server.script["/dr17/en/tools/search/x_results.aspx"] = [reply(b"#Table1\nrun,rerun,camcol,field\n94,301,1,12\n")]
    server.script[frame] = [reply(b"BZh91AY" + b"x" * 200_000)]
    index = CasIndex(kind="cas", archive="sas", runs=(94, 125), url=server.url.rstrip("/"))
    checks = {check.name: check for check in examine(with_index(server.url, index), tmp_path)}
    assert checks["index sas (cas)"].status == checks["archive sas"].status == "ok"
    assert "MB/s" in checks["archive sas"].found
    assert server.count(frame) == 1
    server.script["/dr17/en/tools/search/x_results.aspx"] = [reply(b"#Table1\nrun,rerun,camcol,field\n")]
    checks = {check.name: check for check in examine(with_index(server.url, index), tmp_path)}
    assert "has no field with run = 94 AND rerun = 301" in checks["index sas (cas)"].found


def test_index_files_must_be_there(server, reply, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """A path or a URL; an archive of which the index tells no file is asked for one that the real ones have."""
    (tmp_path / "fields.csv").write_text("run\n")
    server.script["/flist.fits"] = [reply(b"SIMPLE  =")]
    for index, status in (
        (FileIndex(kind="file", archive="sas", source=str(tmp_path / "fields.csv")), "ok"),
        (FileIndex(kind="file", archive="sas", source=str(tmp_path / "gone.csv")), "fail"),
        (WindowFlistIndex(kind="window-flist", archive="sas", source=server.url + "flist.fits", runs=(94,)), "ok"),
        (WindowFlistIndex(kind="window-flist", archive="sas", source=server.url + "gone.fits", runs=(94,)), "fail"),
    ):
        checks = {check.name: check for check in examine(with_index(server.url, index), tmp_path)}
        assert checks[f"index sas ({index.kind})"].status == status
    assert server.count("/sas/dr17/eboss/photoObj/frames/301/94/1/frame-r-000094-1-0012.fits.bz2") == 2
    assert server.count("/sas/dr17/eboss/photoObj/301/94/photoField-000094-1.fits") == 2


@pytest.mark.parametrize(
    ("body", "status", "found"), [(b"true", "ok", "answers"), (b"<html>", "fail", "web page"), (b"", "fail", "empty")]
)
def test_a_prefect_server_that_is_named_must_be_healthy(
    server, reply, tmp_path: Path, monkeypatch, body: bytes, status: str, found: str
) -> None:  # type: ignore[no-untyped-def]
    server.script["/api/health"] = [reply(body)]
    monkeypatch.setenv("PREFECT_API_URL", server.url + "api")
    checks = {check.name: check for check in examine(tiny(server.url.rstrip("/")), tmp_path)}
    assert checks["prefect server"].status == status
    assert found in checks["prefect server"].found


@pytest.mark.parametrize(
    "address", ["http://[::bad", "gopher://host/", "http://a b/", "http://\x01/", "http:///x", "://"]
)
def test_addresses_that_are_none_fail_like_any_other(address: str, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("PREFECT_API_URL", address)
    survey = with_index(address, FileIndex(kind="file", archive="sas", source=address))
    survey = survey.model_copy(update={"catalog": survey.catalog.model_copy(update={"source": address})})
    checks = of_servers(examine(survey, tmp_path))
    assert [check.status for check in checks] == ["fail"] * 4, checks


def test_only_surveys_of_sdss_org_ask_which_release_has_which_runs(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    for url, asks in {
        "https://data.sdss.org/": True,
        "http://das.sdss.org:80/": True,
        "http://127.0.0.1:8082/sdss.org/": False,
        "http://notsdss.org/": False,
        "http://sdss.org.example/": False,
    }.items():
        assert servers._is_at_sdss(with_index(url)) == asks, url


def test_results_that_come_too_late_are_none() -> None:
    assert in_parallel([lambda: 1, lambda: time.sleep(5), lambda: 3], 0.2) == [1, None, 3]


# ── releases ─────────────────────────────────────────────────────────────────────────────────────


def runs_page(runs: range) -> bytes:
    return b"#Table1\nrun,fields\n" + b"".join(b"%d,800\n" % run for run in runs)


@pytest.mark.parametrize(
    ("dr7", "dr17", "status"),
    [
        (range(5566, 5806), range(7183, 7184), "ok"),
        (range(5566, 5600), range(5566, 5806), "warn"),
    ],
)
def test_runs_that_are_not_where_the_facts_say_are_told(server, reply, dr7: range, dr17: range, status: str) -> None:  # type: ignore[no-untyped-def]
    server.script["/dr7"], server.script["/dr17"] = [reply(runs_page(dr7))], [reply(runs_page(dr17))]
    releases = Releases(server.url + "dr7", server.url + "dr17", server.url)
    checks = [check() for name, check in release_checks(releases) if "runs" in name]
    assert [check.status for check in checks] == [status, status]
    assert all((check.advice == CHANGED) == (status == "warn") for check in checks)


def test_a_supernova_frame_in_a_late_release_would_be_told(tmp_path: Path) -> None:
    frame = tmp_path / "sas/dr17/eboss/photoObj/frames/301/6377/4/frame-r-006377-4-0399.fits.bz2"
    frame.parent.mkdir(parents=True)
    frame.write_bytes(b"BZh")
    with ArchiveServer(tmp_path) as server:
        checks = dict(release_checks(Releases(dr17_archive=server.url + "/")))
        assert checks["supernova frames in DR17"]().advice == CHANGED
        deadline = time.monotonic() + 5
        while not server.requests and time.monotonic() < deadline:
            time.sleep(0.01)  # the server notes a request once it is over, which the client may know first
        assert [(request.method, request.n_bytes) for request in server.requests] == [("HEAD", 0)]


def test_a_release_that_cannot_be_asked_does_not_fail_the_preflight(tiny_archive: Path) -> None:
    """The tree has the SQL page of DR7 with five runs, no DR17 page, and no supernova frame of DR8 and later."""
    with ArchiveServer(tiny_archive) as server:
        sql = f"{server.url}/stripe82/en/tools/search/x_sql.asp"
        checks = [check() for _, check in release_checks(Releases(sql, server.url + "/dr17", server.url + "/"))]
    assert [check.status for check in checks] == ["warn", "warn", "ok"]
    assert checks[0].found == "3 of 240 in the Stripe 82 database"
    assert "status 404" in checks[1].found


@pytest.mark.parametrize(
    ("page", "rows"),
    [
        (b"run,n\n1,2\n3,4\n", [(1, 2), (3, 4)]),
        (b"#Table1\r\nrun,n,x\r\n1,2,\r\n", [(1, 2)]),
        (b"No objects have been found", []),
        (b"run,n\n", []),
    ],
)
def test_sql_pages_are_read(page: bytes, rows: list[tuple[int, ...]]) -> None:
    assert read_page(page, ("run", "n")) == rows


@pytest.mark.parametrize(
    "page", [b"", b"#Table1\n", b"run\n1\n", b"run,n\n1\n", b"run,n\n1,x\n", b'run,n\n"1,2', b"\0"]
)
def test_what_is_no_table_is_said_to_be_none(page: bytes) -> None:
    with pytest.raises(NotATable, match="no table of run, n but"):
        read_page(page, ("run", "n"))


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(page: bytes) -> None:
    try:
        rows = read_page(b"run,n\n" + page, ("run", "n"))
    except NotATable:
        return
    assert all(isinstance(value, int) for row in rows for value in row)


# ── machine ──────────────────────────────────────────────────────────────────────────────────────


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        file = folder / name.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def test_limits_of_containers_count(tmp_path: Path) -> None:
    """Control groups of both versions, of the process and of those around it; 'max' is no limit."""
    memory = {"proc__meminfo": "MemTotal: 64000000 kB\nMemAvailable:   32000000 kB\n"}
    write(tmp_path / "none", **memory)
    assert usable_memory_gb(tmp_path / "none") == pytest.approx(32.768)
    assert usable_cores(tmp_path / "none") == len(os.sched_getaffinity(0))

    two = tmp_path / "two"
    write(two, proc__self__cgroup="0::/outer/inner\n", **memory)
    write(two / "sys/fs/cgroup/outer", cpu_dot_max="50000 100000\n", memory_dot_max="4000000000\n")
    write(two / "sys/fs/cgroup/outer/inner", cpu_dot_max="max 100000\n", memory_dot_max="max\n")
    assert (usable_cores(two), usable_memory_gb(two)) == (0.5, 4.0)

    one = tmp_path / "one"
    write(one, proc__self__cgroup="4:memory:/job\n3:cpu,cpuacct:/job\n1:pids:/job\n", **memory)
    write(one / "sys/fs/cgroup/cpu", **{"cpu.cfs_quota_us": "25000\n", "cpu.cfs_period_us": "100000\n"})
    write(one / "sys/fs/cgroup/memory/job", **{"memory.limit_in_bytes": "2000000000\n"})
    write(one / "sys/fs/cgroup/memory", **{"memory.limit_in_bytes": "9223372036854771712\n"})
    assert (usable_cores(one), usable_memory_gb(one)) == (0.25, 2.0)


@pytest.mark.parametrize(("free_gb", "status"), [(1.7, "fail"), (2.0, "warn"), (16.0, "ok")])
def test_memory_is_judged_by_the_workers_that_fit(free_gb: float, status: str, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(machine, "usable_memory_gb", lambda: free_gb)
    monkeypatch.setattr(machine, "usable_cores", lambda: 4.0)
    check = machine._memory()
    assert check.status == status
    assert ("--workers 1" in check.advice) == (status == "warn")


def test_wrong_versions_beside_prefect_fail_and_missing_ones_warn(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    versions = {"prefect": "3.8.8", "fastapi": "0.165.0", "sqlalchemy": "2.1.9"}
    monkeypatch.setattr(machine, "version", versions.__getitem__)
    check = machine._prefect()
    assert check.status == "fail"
    assert "'fastapi<0.151,>=0.139' 'sqlalchemy<2.1,>=2.0'" in check.advice
    assert "prefect<" not in check.advice

    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(machine, "version", absent)
    assert (machine._prefect().status, "[flows]" in machine._prefect().advice) == ("warn", True)
    monkeypatch.undo()
    assert machine._prefect().status == "ok"


def test_disk_is_judged_by_the_latest_plan(tiny_archive: Path, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    usage = namedtuple("usage", "total used free")
    with ArchiveServer(tiny_archive) as server:
        survey = tiny(server.url)
        assert "s82 plan" in machine._disk(survey, tmp_path / "not" / "yet").found
        with open_archive(survey, tmp_path) as archive:
            folder = write_plan(prepare(survey, tmp_path, archive))
    (folder.parent / "tiny-damaged").mkdir()
    (folder.parent / "tiny-damaged" / "plan.json").write_text("{")
    for free, status in ((1e9, "ok"), (1e6, "fail")):
        monkeypatch.setattr(machine.shutil, "disk_usage", lambda _, free=free: usage(2e9, 2e9 - free, free))
        check = machine._disk(survey, tmp_path)
        assert check.status == status
        assert f"needed by plan {folder.name}" in check.found
    bounded = survey.model_copy(update={"name": "other", "cache": survey.cache.model_copy(update={"max_gb": 100.0})})
    assert machine._disk(bounded, tmp_path).status == "warn"


def test_a_root_that_is_a_file_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check = machine._disk(tiny("http://x"), tmp_path / "file" / "below")
    assert (check.status, "--root" in check.advice) == ("fail", True)


@pytest.mark.parametrize(
    ("script", "status", "found"),
    [
        ("echo 'NVIDIA H100, 81559 MiB, 550.54'", "ok", "NVIDIA H100, 81559 MiB, 550.54"),
        ("echo broken >&2; exit 9", "warn", "exit status 9"),
        (None, "warn", "no nvidia-smi"),
    ],
)
def test_the_gpu_is_what_nvidia_smi_says(script: str | None, status: str, found: str, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    if script is not None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    check = machine._gpu()
    assert (check.status, found in check.found) == (status, True)


def test_few_open_files_are_a_warning(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(machine.resource, "getrlimit", lambda _: (256, 4096))
    assert machine._open_files() == Check("open files", "warn", "256", "raise the limit before a build: ulimit -n 1024")


def test_offline_nobody_is_asked(tiny_archive: Path, tmp_path: Path) -> None:
    with ArchiveServer(tiny_archive) as server:
        checks = examine(tiny(server.url), tmp_path, offline=True)
        assert server.requests == []
    assert of_servers(checks) == [Check("servers", "warn", "not asked", "leave out --offline to ask them")]
