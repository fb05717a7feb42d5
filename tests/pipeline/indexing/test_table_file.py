"""An index file of one's own: Parquet, CSV and ECSV give the same; what cannot be used is one clear error."""

from __future__ import annotations

import os
from dataclasses import fields

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import ExposureIndexError
from pipeline.exposures import ExposureIndex
from pipeline.indexing.columns import COLUMNS, flat, index_of
from pipeline.indexing.table_file import read_table
from pipeline.simulate.server import ArchiveServer
from pipeline.survey import FileIndex

NOWHERE = "http://127.0.0.1:9/"


def index(archive: str = "das", count: int = 4) -> ExposureIndex:
    rng = np.random.default_rng(3)
    columns = {
        name: rng.integers(1, 900, count) if str(column.type) == "int32" else rng.normal(100, 1, count)
        for name, column in COLUMNS.items()
    }
    columns["sky_g"][:2] = np.nan
    return index_of(np.full(count, archive), columns)


def source(path: object, archive: str = "das") -> FileIndex:
    return FileIndex(kind="file", archive=archive, source=str(path))


def assert_equal(one: ExposureIndex, other: ExposureIndex) -> None:
    for column in fields(ExposureIndex):
        np.testing.assert_array_equal(getattr(one, column.name), getattr(other, column.name), column.name)


@pytest.mark.parametrize("form", ["parquet", "csv", "ecsv", "ecsv-comma"])
def test_all_forms_give_the_same_index(tmp_path, build, form):
    table = flat(index())
    path = tmp_path / f"mine.{form}"
    if form == "parquet":
        pq.write_table(table, path)
    elif form == "csv":
        pyarrow.csv.write_csv(table, path)
    else:
        plain = Table({name: table[name].to_pylist() for name in table.schema.names})
        plain.write(path, format="ascii.ecsv", delimiter="," if form == "ecsv-comma" else " ")
    assert_equal(build(NOWHERE, source(path)), index())


def test_columns_with_a_default_may_be_absent(tmp_path, build):
    """The least that places a field: names, times, seeing, solution."""
    least = flat(index()).select([name for name, column in COLUMNS.items() if column.default is None])
    pyarrow.csv.write_csv(least, tmp_path / "mine.csv")
    found = build(NOWHERE, source(tmp_path / "mine.csv", "sas"))
    assert set(found.archive) == {"sas"}
    assert (set(found.node_deg), set(found.incl_deg), set(found.quality)) == ({95.0}, {0.0}, {0})
    assert np.isnan(found.sky_N5).all()
    assert not found.image_status_N5.any()


def test_of_a_file_with_several_archives_only_ones_own_rows_are_used(tmp_path, build):
    both = pyarrow.concat_tables([flat(index("das", 4)), flat(index("sas", 3))])
    pq.write_table(both, tmp_path / "both.parquet")
    assert len(build(NOWHERE, source(tmp_path / "both.parquet", "das"))) == 4
    assert len(build(NOWHERE, source(tmp_path / "both.parquet", "sas"))) == 3
    pq.write_table(flat(index("mirror")), tmp_path / "other.parquet")
    with pytest.raises(ExposureIndexError, match=r"no row of archive 'das', only of \['mirror'\]"):
        build(NOWHERE, source(tmp_path / "other.parquet"))


def test_a_file_that_has_changed_is_read_again_without_being_told(tmp_path, build):
    """It is on this machine: looking is cheap, and an edited list that is not used would be a trap."""
    path = tmp_path / "mine.parquet"
    pq.write_table(flat(index(count=4)), path)
    assert len(build(NOWHERE, source(path))) == 4
    before = path.stat()
    pq.write_table(flat(index(count=5)), path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert len(build(NOWHERE, source(path))) == 5


def test_a_file_behind_a_url_is_asked_for_once(tmp_path, build):
    (tmp_path / "tree").mkdir()
    pq.write_table(flat(index()), tmp_path / "tree" / "mine.parquet")
    with ArchiveServer(tmp_path / "tree") as server:
        for refresh in (False, False, True):
            assert_equal(build(NOWHERE, source(server.url + "/mine.parquet"), refresh=refresh), index())
        assert [request.status for request in server.requests] == [200, 304]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither Parquet, CSV nor ECSV"),
        (b"PAR1 and then nothing", "neither Parquet, CSV nor ECSV"),
        (b"run,camcol\n1,2\n", "has no column rerun, field, mjd_u"),
        (b"<html>down</html>\n1\n", "has no column run"),
        (b"\x80\n1\n", "neither Parquet, CSV nor ECSV"),
        (b"run,run\n1,2\n", "two columns of the same name"),
        (b"\x00\x01\x02", "neither Parquet|has no column"),
        (b"run\nsix\n", "neither Parquet, CSV nor ECSV"),
    ],
)
def test_what_is_no_index_file_is_refused(tmp_path, build, content, message):
    (tmp_path / "mine.csv").write_bytes(content)
    with pytest.raises(ExposureIndexError, match=f"(?s)mine.csv.*({message})"):
        build(NOWHERE, source(tmp_path / "mine.csv"))


def test_an_empty_cell_is_refused_but_in_the_sky(tmp_path, build):
    pyarrow.csv.write_csv(flat(index()), tmp_path / "mine.csv")
    lines = (tmp_path / "mine.csv").read_text().splitlines()
    header = lines[0].replace('"', "").split(",")
    cells = lines[1].split(",")
    for name in ("sky_r", "field"):
        cells[header.index(name)] = ""
        (tmp_path / "mine.csv").write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n")
        if name == "sky_r":
            assert np.isnan(build(NOWHERE, source(tmp_path / "mine.csv")).sky_N5[0, 2])
    with pytest.raises(ExposureIndexError, match="column field has 1 empty cells"):
        build(NOWHERE, source(tmp_path / "mine.csv"))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.booleans())
def test_no_file_breaks_the_reader(tmp_path, body, with_header):
    header = ",".join(COLUMNS).encode() + b"\n"
    (tmp_path / "any").write_bytes(header + body if with_header else body)
    try:
        found = read_table(tmp_path / "any", "das")
    except ExposureIndexError:
        return
    assert len({len(getattr(found, column.name)) for column in fields(ExposureIndex)}) == 1
