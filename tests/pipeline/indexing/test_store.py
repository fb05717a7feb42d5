"""The file of the index: what is written comes back with its provenance; what is damaged or foreign is not believed."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import ExposureIndexError
from pipeline.exposures import ExposureIndex
from pipeline.indexing import build as building
from pipeline.indexing.columns import COLUMNS, SCHEMA, index_of
from pipeline.indexing.parts import Part, Provenance
from pipeline.indexing.store import METADATA_KEY, read_parts, write_parts
from pipeline.naming import index_path
from pipeline.simulate.server import ArchiveServer
from pipeline.simulate.skyserver import SQL_PATH
from pipeline.survey import SkyServerIndex

PROJECT = Path(__file__).resolve().parents[3]


def exposures(seed: int, count: int, archive: str = "das") -> ExposureIndex:
    """Any values in every column, NaN among them."""
    rng = np.random.default_rng(seed)
    columns = {}
    for name, column in COLUMNS.items():
        is_integer = column.type == pa.int32()
        columns[name] = rng.integers(0, 2**31 - 1, count) if is_integer else rng.normal(0, 1e3, count)
    columns["psf_fwhm_r"][: count // 2] = np.nan
    return index_of(np.full(count, archive), columns)


def part(seed: int, count: int, archive: str = "das") -> Part:
    provenance = Provenance(
        section=seed % 3,
        kind="skyserver",
        key=f"{seed}/40",
        servers=("http://one/", "http://two/"),
        path="page",
        queries=("SELECT 'ü'",) * (seed % 2),
        sha256=("0" * 64,),
        state="11 fields",
        n_rows=count,
        asked_utc="2026-01-02T03:04:05+00:00",
        confirmed_utc="2026-01-02T03:04:06+00:00",
        software="test 1",
    )
    return Part(provenance, exposures(seed, count, archive))


def assert_equal(one: Part, other: Part) -> None:
    assert one.provenance == other.provenance
    for column in fields(ExposureIndex):
        np.testing.assert_array_equal(getattr(one.rows, column.name), getattr(other.rows, column.name), column.name)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 9), st.sampled_from(["das", "s"])), min_size=1, max_size=4)
)
def test_parts_come_back_as_they_were_written(tmp_path, shapes):
    parts = [part(*shape) for shape in shapes]
    write_parts(tmp_path / "index.parquet", parts, "mine")
    again, is_complete = read_parts(tmp_path / "index.parquet", "mine")
    assert is_complete
    assert len(again) == len(parts)
    for one, other in zip(again, parts, strict=True):
        assert_equal(one, other)


def test_any_parquet_reader_sees_plain_columns_and_where_they_came_from(tmp_path):
    write_parts(tmp_path / "index.parquet", [part(1, 5), part(2, 3, "sas")], "mine")
    table = pq.read_table(tmp_path / "index.parquet")
    assert table.schema.names == SCHEMA.names
    record = json.loads(table.schema.metadata[METADATA_KEY])
    assert [one["n_rows"] for one in record["parts"]] == [5, 3]
    assert record["parts"][0]["queries"] == ["SELECT 'ü'"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[bytes, list[Part]]:
    """A stored index, and what is in it."""
    path = tmp_path_factory.mktemp("store") / "index.parquet"
    parts = [part(1, 40), part(2, 30, "sas")]
    write_parts(path, parts, "mine")
    return path.read_bytes(), parts


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_refused_or_makes_no_difference(tmp_path, whole, data):
    """One bit anywhere: never other values, never another kind of error."""
    content, parts = whole
    place = data.draw(st.integers(0, len(content) - 1))
    bit = data.draw(st.integers(0, 7))
    spoilt = bytearray(content)
    spoilt[place] ^= 1 << bit
    (tmp_path / "index.parquet").write_bytes(spoilt)
    try:
        again, _ = read_parts(tmp_path / "index.parquet", "mine")
    except ExposureIndexError:
        return
    for one, other in zip(again, parts, strict=True):
        assert_equal(one, other)


@pytest.mark.parametrize("length", [0, 4, 100, 5000])
def test_a_file_that_is_cut_short_or_of_other_sources_is_refused(tmp_path, whole, length):
    path = tmp_path / "index.parquet"
    path.write_bytes(whole[0][:length])
    with pytest.raises(ExposureIndexError, match=r"index\.parquet is not an exposure index that can be read"):
        read_parts(path, "mine")
    path.write_bytes(whole[0])
    with pytest.raises(ExposureIndexError, match="of other sources"):
        read_parts(path, "another")
    pq.write_table(pa.table({"run": [1]}), path)
    with pytest.raises(ExposureIndexError, match="not an exposure index"):
        read_parts(path, "mine")


@pytest.mark.parametrize("how", ["damaged", "foreign", "empty"])
def test_a_stored_index_that_cannot_be_believed_is_built_anew(tmp_path, survey, build, row, write_fields, how):
    write_fields(tmp_path / "tree", [row((94, 40, 1, field), dr8=False) for field in range(11, 20)])
    with ArchiveServer(tmp_path / "tree") as server:
        source = SkyServerIndex(kind="skyserver", archive="das", url=server.url + SQL_PATH)
        config = survey(server.url + "/", source)
        first = build(server.url + "/", source)
        path = index_path(tmp_path / "root", "test", building.index_fingerprint(config))
        if how == "foreign":
            write_parts(path, [part(1, 5)], "another")
        else:
            content = path.read_bytes()
            path.write_bytes(content.replace(b"PAR1", b"PAR2") if how == "damaged" else b"")
        n_queries = len(server.requests)
        again = build(server.url + "/", source)
        assert len(server.requests) == 2 * n_queries
    np.testing.assert_array_equal(again.mu_N3, first.mu_N3)
    assert [one.provenance.key for one in read_parts(path, building.index_fingerprint(config))[0]] == ["94/40"]


def test_another_index_section_is_another_file_and_another_address_is_not(survey):
    def fingerprint(url: str, **changes: object) -> str:
        source = SkyServerIndex(kind="skyserver", archive="das", url=url + "sql")
        return building.index_fingerprint(survey(url, source.model_copy(update=changes)))

    assert fingerprint("http://one/") == fingerprint("http://two/")
    assert len({fingerprint("http://one/"), fingerprint("http://one/", first_run=1)}) == 2
    config = survey("http://one/", SkyServerIndex(kind="skyserver", archive="das", url="http://one/"))
    moved = [archive.model_copy(update={"sas_root": "sas/dr9/boss"}) for archive in config.archives]
    other = config.model_copy(update={"archives": tuple(moved)})
    assert building.index_fingerprint(other) != building.index_fingerprint(config)


def test_a_place_that_cannot_be_written_is_said(tmp_path, build, row, write_fields):
    write_fields(tmp_path / "tree", [row((94, 40, 1, 11), dr8=False)])
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "index").write_text("a file in the way")
    with ArchiveServer(tmp_path / "tree") as server:
        source = SkyServerIndex(kind="skyserver", archive="das", url=server.url + SQL_PATH)
        with pytest.raises(ExposureIndexError, match=r"cannot keep .*another root"):
            build(server.url + "/", source)


def test_the_provenance_says_what_was_asked_of_whom(tmp_path, survey, build, row, write_fields):
    write_fields(tmp_path / "tree", [row((run, 40, 1, 11), dr8=False) for run in (94, 125)])
    with ArchiveServer(tmp_path / "tree") as server:
        source = SkyServerIndex(kind="skyserver", archive="das", url=server.url + SQL_PATH)
        build(server.url + "/", source)
    path = index_path(tmp_path / "root", "test", building.index_fingerprint(survey("http://x/", source)))
    first, second = (one.provenance for one in read_parts(path, path_fingerprint(path))[0])
    assert (first.key, second.key, first.n_rows) == ("94/40", "125/40", 1)
    assert first.servers == (server.url + SQL_PATH,)
    assert first.queries[0].startswith("SELECT run,rerun,camcol,field,quality,ra,dec,mjd_u")
    assert "run IN (94,125) AND camcol BETWEEN 1 AND 6 AND field BETWEEN 11 AND 11" in first.queries[0]
    assert len(first.sha256[0]) == 64
    assert first.software.startswith("stripe82-convention ")
    assert replace(second, key=first.key) == first, "both came in one answer"


def path_fingerprint(path: Path) -> str:
    return str(json.loads(pq.read_schema(path).metadata[METADATA_KEY])["fingerprint"])


def test_the_guide_names_every_column_and_unit():
    text = (PROJECT / "docs" / "index.md").read_text(encoding="utf-8")
    families = {name.removesuffix(f"_{band}") for name in COLUMNS for band in "ugriz" if name.endswith(f"_{band}")}
    alone = {name for name in COLUMNS if name.rpartition("_")[0] not in families}
    shown = {f"`{name}_u`" for name in families} | {f"`{name}`" for name in alone | {"archive"}}
    assert sorted(name for name in shown if name not in text) == []
    assert sorted(unit for unit in {column.unit for column in COLUMNS.values()} - {""} if unit not in text) == []
