"""Tables `Field` behind SQL pages: every row once, however the server cuts its answers; only what changed anew."""

from __future__ import annotations

import csv
from dataclasses import fields
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import ArchiveError, ExposureIndexError
from pipeline.exposures import ExposureIndex
from pipeline.footprint import covering
from pipeline.indexing import cas, skyserver, sql
from pipeline.indexing.pace import Pace
from pipeline.indexing.parts import Part, Reading
from pipeline.simulate.server import ArchiveServer
from pipeline.simulate.skyserver import SQL_PATH, SqlError, SqlLimits, select_as_csv
from pipeline.survey import ArchiveConfig, CasIndex, PhotoFieldIndex, SkyServerIndex, TsFieldIndex
from pipeline.transfer import SERVER_LIMIT

HEADER = ",".join(sql.COLUMNS)
RUNS = (94, 4192, 6377, 7202)
KEYS = [(run, 40, camcol, field) for run in RUNS for camcol in (1, 2, 5) for field in range(11, 18)]
CAS_PATH = "/dr17/en/tools/search/x_results.aspx"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """No test waits for the next minute."""
    monkeypatch.setattr(Pace, "wait", lambda self: None)


def dr7(url: str, first_run: int = 0, last_run: int = 9999) -> SkyServerIndex:
    return SkyServerIndex(kind="skyserver", archive="das", url=url + SQL_PATH, first_run=first_run, last_run=last_run)


def dr17(url: str, runs: tuple[int, ...] = RUNS) -> CasIndex:
    return CasIndex(kind="cas", archive="sas", runs=runs, rerun=40, url=url)


def keys(index: ExposureIndex) -> list[tuple[int, int, int, int]]:
    columns = (index.run, index.rerun, index.camcol, index.field)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def assert_equal(one: ExposureIndex, other: ExposureIndex) -> None:
    for column in fields(ExposureIndex):
        np.testing.assert_array_equal(getattr(one, column.name), getattr(other, column.name), column.name)


@pytest.fixture
def tree(tmp_path, row, write_fields):
    """The same fields in DR7's table and, as rerun 40, in DR8's."""
    for dr8 in (False, True):
        write_fields(tmp_path / "tree", [row(key, dr8=dr8) for key in KEYS], dr8=dr8)
    return tmp_path / "tree"


@pytest.mark.parametrize("source", [dr7, dr17])
def test_every_column_arrives_in_its_unit(tree, build, source):
    with ArchiveServer(tree) as server:
        index = build(server.url + "/", source(server.url))
    assert keys(index) == KEYS
    np.testing.assert_allclose(index.mjd_tai_N5[0], 51094.5 + 1e-3 * np.arange(5), rtol=0, atol=1e-9)
    np.testing.assert_allclose(index.psf_fwhm_N5[0], [1.1, 1.2, 1.3, 1.4, 1.5])
    np.testing.assert_allclose(index.sky_N5[0], [2.5, 3.5, 4.5, 5.5, 6.5], err_msg="DR7 has maggies, DR8 nanomaggies")
    status = [1, 2, 4, 8, 16] if source is dr17 else [0] * 5
    assert index.image_status_N5[0].tolist() == status
    assert index.calib_status_N5[0].tolist() == [2 * bit for bit in status]
    np.testing.assert_array_equal(index.mu_N3[0], [350 + 11 * 0.1497, 1.1e-4, 1e-8])
    np.testing.assert_array_equal(index.nu_N3[0], [-1.3 + 0.2, 2e-8, 1.1e-4])
    assert (set(index.node_deg), set(index.incl_deg)) == ({95.0}, {0.0})


@pytest.mark.parametrize("limit_rows", [1, 3, 7, 20])
@pytest.mark.parametrize("source", [dr7, dr17])
def test_answers_over_a_byte_limit_are_split_down_to_single_fields(tree, build, tmp_path, source, limit_rows):
    """Runs first, then camcols, then fields; a run alone may be over the limit."""
    with ArchiveServer(tree) as server:
        whole = build(server.url + "/", source(server.url))
    with ArchiveServer(tree, sql_limits=SqlLimits(max_bytes=len(HEADER) + limit_rows * 600)) as server:
        split = build(server.url + "/", source(server.url), root=tmp_path / "split")
        queries = [request.sql for request in server.requests]
    assert_equal(split, whole)
    assert len(queries) > len(KEYS) / limit_rows / 2
    assert len(queries) == len(set(queries)), "nothing is asked twice"


@pytest.mark.parametrize("source", [dr7, dr17])
def test_an_answer_at_the_row_limit_is_taken_as_cut_off(tree, build, monkeypatch, source):
    """Servers stop there without a word."""
    monkeypatch.setattr(skyserver, "MAX_ROWS", 5)
    monkeypatch.setattr(cas, "MAX_ROWS", 5)
    with ArchiveServer(tree, sql_limits=SqlLimits(max_rows=5)) as server:
        assert keys(build(server.url + "/", source(server.url))) == KEYS


def test_an_answer_cut_off_at_an_unknown_limit_is_noticed(tree, build):
    """The server's own count of the fields says so."""
    with (
        ArchiveServer(tree, sql_limits=SqlLimits(max_rows=70)) as server,
        pytest.raises(
            ExposureIndexError, match="counts 21 fields of run 7202 rerun 40, and then gives 7: an answer is"
        ),
    ):
        build(server.url + "/", dr7(server.url))


def test_a_server_that_gives_not_even_one_field_is_an_error(tree, build):
    limit = SqlLimits(max_bytes=200)  # enough to count
    with (
        ArchiveServer(tree, sql_limits=limit) as server,
        pytest.raises(ExposureIndexError, match="even for run 94 camcol 1 field 11 alone"),
    ):
        build(server.url + "/", dr7(server.url))


@pytest.mark.parametrize("source", [dr7, dr17])
def test_a_refresh_reads_only_runs_that_changed_and_gives_what_a_new_build_gives(
    tree, build, tmp_path, row, write_fields, source
):
    """A run more, a run less, a field more, a field judged anew; the rest is not asked for."""
    is_dr8 = source is dr17
    runs = (94, 4192, 6377, 7202) if source is dr7 else (94, 4192, 6377)
    with ArchiveServer(tree) as server:
        build(server.url + "/", *([dr7(server.url)] if source is dr7 else [dr17(server.url, runs)]))
    changed = [row(key, dr8=is_dr8) for key in KEYS if key[0] != 7202]
    changed += [row((4192, 40, 6, 30), dr8=is_dr8), row((6400, 40, 3, 50), dr8=is_dr8)]
    changed[changed.index(row((6377, 40, 2, 12), dr8=is_dr8))]["quality"] = 1
    changed.reverse()
    write_fields(tree, changed, dr8=is_dr8)
    with ArchiveServer(tree) as server:
        chosen = dr7(server.url) if source is dr7 else dr17(server.url, runs)
        unasked = build(server.url + "/", chosen)
        asked = [request.sql for request in server.requests]
        anew = build(server.url + "/", chosen, root=tmp_path / "anew")
    assert_equal(unasked, anew)
    expected = {4192, 6377, 6400} if source is dr7 else {4192, 6377}
    assert len(asked) == 2, "counts, and what has changed"
    assert {int(run) for run in asked[1].partition("run IN (")[2].partition(")")[0].split(",")} == expected


SOME_KEYS = st.tuples(st.sampled_from([94, 125]), st.sampled_from([40, 41]), st.integers(1, 3), st.integers(11, 14))
SOME_FIELDS = st.dictionaries(SOME_KEYS, st.sampled_from([1, 2, 3]), max_size=14)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=SOME_FIELDS, after=SOME_FIELDS, rows_of_a_page=st.integers(2, 9), max_rows=st.integers(3, 9))
def test_however_a_table_changes_a_refresh_gives_what_a_new_build_gives(
    row, tmp_path_factory, before, after, rows_of_a_page, max_rows
):
    """With servers that cut off at any number of bytes and rows, down to the two reruns of one field."""
    table = tmp_path_factory.mktemp("changing") / "Field.csv"
    limits = SqlLimits(max_rows=max_rows, max_bytes=len(HEADER) + 600 * rows_of_a_page)

    def ask(query: str) -> bytes | None:
        try:
            return select_as_csv(table, query, limits).encode()
        except SqlError as error:
            return None if SERVER_LIMIT in str(error) else str(error).encode()

    def read(fields_now: dict[tuple[int, int, int, int], int], known: list[Part]) -> list[Part]:
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, sql.COLUMNS)
            writer.writeheader()
            writer.writerows(row(key, dr8=False, quality=quality) for key, quality in fields_now.items())
        database = sql.Database("http://x/", "", ask, max_rows=max_rows, usual_rows=8)
        config = ArchiveConfig(name="das", layout="das-dr7", base_urls=("http://x/",))
        reading = Reading(0, "skyserver", config, None, {part.provenance.key: part for part in known})
        return sql.read_database(database, ["run < 100", "run >= 100"], reading)

    refreshed, anew = read(after, read(before, [])), read(after, [])
    found = {(*key, quality) for part in anew for *key, quality in zip(*columns_of(part), strict=True)}
    assert found == {(*key, quality) for key, quality in after.items()}
    assert [part.provenance.key for part in refreshed] == [part.provenance.key for part in anew]
    for one, other in zip(refreshed, anew, strict=True):
        assert_equal(one.rows, other.rows)


def columns_of(part: Part) -> list[list[int]]:
    return [getattr(part.rows, name).tolist() for name in sql.KEYS]


def test_the_same_server_is_asked_only_for_a_refresh(tree, build, row, write_fields):
    with ArchiveServer(tree) as server:
        first = build(server.url + "/", dr7(server.url))
        n_queries = len(server.requests)
        write_fields(tree, [row(key, dr8=False) for key in KEYS[:-1]])
        assert_equal(build(server.url + "/", dr7(server.url)), first)
        assert len(server.requests) == n_queries
        assert keys(build(server.url + "/", dr7(server.url), refresh=True)) == KEYS[:-1]
        n_queries = len(server.requests)
        assert keys(build(server.url + "/", dr7(server.url))) == KEYS[:-1], "the refreshed one is kept"
        assert len(server.requests) == n_queries


def test_what_came_before_a_failure_is_not_asked_for_again(tree, build, monkeypatch):
    """A server that goes down half way through hundreds of queries; the index is not taken for whole meanwhile."""
    monkeypatch.setattr(skyserver, "USUAL_ROWS", 21)  # a run at a time
    is_down = []
    original = skyserver._ask

    def ask(source, archive, query):
        if is_down and "6377" in query:
            raise ArchiveError("the server is down")
        return original(source, archive, query)

    monkeypatch.setattr(skyserver, "_ask", ask)
    with ArchiveServer(tree) as server:
        is_down.append(True)
        for _ in range(2):
            with pytest.raises(ExposureIndexError, match="the server is down"):
                build(server.url + "/", dr7(server.url))
        is_down.clear()
        n_queries = len(server.requests)
        assert keys(build(server.url + "/", dr7(server.url))) == KEYS
        asked = [request.sql for request in server.requests[n_queries:]]
        assert ["94" in one for one in asked] == [False] * 3, "counts, and runs 6377 and 7202"
        is_down.append(True)
        build(server.url + "/", dr7(server.url))


def test_a_refresh_that_fails_leaves_the_index_as_it_was(tree, build, row, write_fields):
    with ArchiveServer(tree) as server:
        first = build(server.url + "/", dr7(server.url))
        write_fields(tree, [row(KEYS[0], dr8=False) | {"run": "?"}])
        with pytest.raises(ExposureIndexError):
            build(server.url + "/", dr7(server.url), refresh=True)
        assert_equal(build(server.url + "/", dr7(server.url)), first)


def test_only_the_runs_that_are_wanted_are_asked_for(tree, build):
    with ArchiveServer(tree) as server:
        assert {key[0] for key in keys(build(server.url + "/", dr7(server.url, 4000, 6999)))} == {4192, 6377}
        assert {key[0] for key in keys(build(server.url + "/", dr17(server.url, (94, 7202))))} == {94, 7202}
        assert all("7202" not in request.sql for request in server.requests if request.path == SQL_PATH)


def test_co_added_images_are_no_exposures(tmp_path, build, row, write_fields):
    """The DR7 database lists them as runs 106 and 206."""
    write_fields(tmp_path / "tree", [row((run, 40, 1, 11), dr8=False) for run in (94, 106, 206)])
    with ArchiveServer(tmp_path / "tree") as server:
        assert build(server.url + "/", dr7(server.url)).run.tolist() == [94]


@pytest.mark.parametrize(
    ("runs", "database", "rerun"), [((125, 2662), dr17, 301), ((5582, 5637, 5713), dr7, 40)], ids=["dr8", "dr7"]
)
def test_the_database_of_the_simulated_archive_says_what_its_field_tables_say(
    tiny_archive, build, tmp_path, runs, database, rerun
):
    """Both read back through different code: units, bands, great circles and all."""
    with ArchiveServer(tiny_archive) as server:
        url = server.url
        if database is dr17:
            chosen = dr17(url, runs).model_copy(update={"rerun": rerun})
            tables = PhotoFieldIndex(kind="photofield", archive="sas", runs=runs, camcols=(4,))
        else:
            chosen = dr7(url)
            names = [path.name[:-4].split("-")[1:] for path in (tiny_archive / "das").rglob("tsField-*.fit")]
            fields_of = sorted((int(run), int(rerun), int(camcol), int(field)) for run, camcol, rerun, field in names)
            tables = TsFieldIndex(kind="tsfield", archive="das", fields=tuple(fields_of))
        one, other = build(url + "/", chosen), build(url + "/", tables, root=tmp_path / "tables")
    assert keys(one) == keys(other)
    for name in ("quality", "image_status_N5", "calib_status_N5"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)
    for name in ("mjd_tai_N5", "psf_fwhm_N5", "sky_N5"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-6, err_msg=name)
    ra, dec = 347.53 + np.array([-0.04, 0, 0.04]), 0.104 + np.array([0.05, 0, -0.05])
    at, there = covering(one, ra, dec), covering(other, ra, dec)
    assert len(at) >= 3 * len(runs)
    np.testing.assert_array_equal(at.exposure_index, there.exposure_index)
    np.testing.assert_allclose(at.x_pix, there.x_pix, rtol=0, atol=2)
    np.testing.assert_allclose(at.y_pix, there.y_pix, rtol=0, atol=2)


def test_urls_stay_short_however_many_runs_are_wanted(tmp_path, build, row, write_fields):
    runs = tuple(range(1000, 1200))
    write_fields(tmp_path / "tree", [row((run, 40, 1, 11), dr8=True) for run in runs], dr8=True)
    with ArchiveServer(tmp_path / "tree") as server:
        assert len(build(server.url + "/", dr17(server.url, runs))) == 200
        assert max(len(request.sql) for request in server.requests) < 1500
        assert len(server.requests) == 8, "four lists of 50 runs, counted and read"


def test_runs_that_the_database_lacks_are_named(tree, build):
    with ArchiveServer(tree) as server, pytest.raises(ExposureIndexError, match=r"no field of runs \[5566\] in rerun"):
        build(server.url + "/", dr17(server.url, (94, 5566)))


def test_a_run_off_the_equator_is_laid_through_its_own_centre(tmp_path, build, row, write_fields):
    """`Field` has no node: run 94's circle is 0.0095° off, 86 px, which its RA and Dec of the centre tell."""
    off, on = row((94, 40, 1, 11), dr8=False), row((95, 40, 1, 11), dr8=False)
    off["dec"] = float(str(off["dec"])) + 0.0095
    write_fields(tmp_path / "tree", [off, on])
    with ArchiveServer(tmp_path / "tree") as server:
        index = build(server.url + "/", dr7(server.url))
    assert index.nu_N3[0, 0] - index.nu_N3[1, 0] == pytest.approx(0.0095, abs=1e-5)
    assert index.nu_N3[1, 0] == -1.3 + 0.2, "what is right stays as it is"


def counted(reply, body: bytes, run: int = 94):
    """A server that counts one field of one run and then gives `body`."""

    def answer(path: str, headers: dict[str, str]):
        query = parse_qs(urlsplit(path).query)["cmd"][0]
        counts = f"#Table1\nrun,rerun,{','.join(sql._COUNTS)}\n{run},40,1,11,11,11,33\n".encode()
        return reply(counts if "count" in query else body)

    return answer


ROW = "94,40,1,11,3,350.1,0.1" + ",1" * 15 + ",350,1.1e-4,0,0,0,1.1e-4"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"ERROR: Invalid column name 'mjd_u'", "is not the table that was asked for"),
        (f"{HEADER}\n{ROW},9\n".encode(), "is not the table that was asked for"),
        (f"{HEADER}\n,{ROW.partition(',')[2]}\n".encode(), "no run, camcol"),
        (b"No objects have been found", "counts 1 fields of run 94 rerun 40, and then gives 0"),
        (b"<html><body>SkyServer is down for maintenance", "down for maintenance"),
    ],
)
@pytest.mark.parametrize("page", ["dr7", "dr17"])
def test_an_answer_that_is_no_table_is_refused(server, reply, build, body, message, page):
    """Nothing of it reaches the index, and the next build asks again."""
    server.script[SQL_PATH] = counted(reply, body)
    server.script[CAS_PATH] = counted(reply, body.replace(HEADER.encode(), HEADER.encode() + b",x"))
    source = dr7(server.url.rstrip("/")) if page == "dr7" else dr17(server.url, (94,))
    if page == "dr17" and body.startswith(HEADER.encode()):
        message = "is not the table that was asked for"
    for _ in range(2):
        with pytest.raises(ExposureIndexError, match=message):
            build(server.url, source)


@pytest.mark.parametrize("page", ["dr7", "dr17"])
@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (200, b"<html><title>Maintenance</title>", "a web page"),
        (200, b"No objects have been found", r"index is empty|no field of runs"),
        (503, b"busy", "status 503"),
        (404, b"gone", r"does not exist|status 404"),
        (200, b"", "empty"),
        (200, f"#Table1\nrun,rerun,{','.join(sql._COUNTS)}\n94,40,,,,,\n".encode(), "no counts"),
    ],
)
def test_a_server_that_cannot_count_its_fields_is_an_error(server, reply, build, page, status, body, message):
    server.script[SQL_PATH] = server.script[CAS_PATH] = [reply(body, status)]
    source = dr7(server.url.rstrip("/")) if page == "dr7" else dr17(server.url, (94,))
    with pytest.raises(ExposureIndexError, match=message):
        build(server.url, source)


def test_an_answer_without_end_is_cut_off(server, reply, build, monkeypatch):
    monkeypatch.setattr(cas, "MAX_BYTES", 10_000)
    server.script[CAS_PATH] = [reply(b"1" * 20_000)]
    with pytest.raises(ExposureIndexError, match="sends more than the 10000 bytes allowed"):
        build(server.url, dr17(server.url, (94,)))


def test_an_answer_that_ends_too_early_may_be_whole_next_time(server, reply, build):
    server.script[CAS_PATH] = [reply(b"1" * 20_000, send=500)]
    with pytest.raises(ExposureIndexError, match=r"IncompleteRead|ChunkedEncodingError"):
        build(server.url, dr17(server.url, (94,)))


def test_a_server_that_is_not_there_is_an_error(build):
    nowhere = "http://127.0.0.1:9/"
    with pytest.raises(ExposureIndexError, match="Connection"):
        build(nowhere, dr17(nowhere, (94,)))


def test_an_outage_that_passes_is_waited_for(server, reply, tree, build, survey, monkeypatch):
    """Through astroquery as through the downloader: a web page instead of a table is asked for again."""
    monkeypatch.setattr(cas, "WAIT_INITIAL_S", 0.01)
    table = counted(reply, b"")(f"{CAS_PATH}?cmd=count", {})
    outage = reply(b"<html>down</html>")
    client = cas._Client(dr17(server.url, (94,)), _reading(survey(server.url, dr17(server.url)), attempts=3))
    server.script[CAS_PATH] = [outage, reply(b"busy", 503), table]
    assert client.ask("SELECT count(*) FROM Field") == table.body
    assert server.count(CAS_PATH) == 3


def _reading(survey, attempts: int):
    config = survey.archive("sas").model_copy(update={"attempts": attempts})
    return Reading(0, "cas", config, archive=None, known={})


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.booleans())
def test_no_page_breaks_the_reader(body, with_header):
    page = f"#Table1\n{HEADER}\n".encode() + body if with_header else body
    try:
        table = sql.read_page(page, sql.COLUMNS, integers=sql.KEYS, where="page")
    except ExposureIndexError:
        return
    assert table.column_names == list(sql.COLUMNS)


@settings(max_examples=100, deadline=None)
@given(
    runs=st.lists(st.integers(1, 9999), min_size=1, max_size=9, unique=True),
    camcols=st.tuples(st.integers(1, 6), st.integers(1, 6)).map(sorted),
    field_range=st.tuples(st.integers(0, 40), st.integers(0, 40)).map(sorted),
)
def test_halving_a_box_loses_no_field_and_doubles_none(runs, camcols, field_range):
    def leaves(box):
        halves = box.halves()
        return [box] if halves is None else leaves(halves[0]) + leaves(halves[1])

    found = leaves(sql.Box(tuple(runs), tuple(camcols), tuple(field_range)))
    single = [(box.runs[0], box.camcols[0], box.fields[0]) for box in found]
    assert all(box.camcols[0] == box.camcols[1] and box.fields[0] == box.fields[1] for box in found)
    expected = [
        (run, camcol, field)
        for run in runs
        for camcol in range(camcols[0], camcols[1] + 1)
        for field in range(field_range[0], field_range[1] + 1)
    ]
    assert single == expected
