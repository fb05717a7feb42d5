"""Object lists: the real tables read right, bad rows counted, bad tables refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.catalog import Target, read_catalog, read_class_map
from pipeline.errors import CatalogError, ConfigError
from pipeline.survey import CatalogConfig

MASTER = CatalogConfig(source="", max_bad_fraction=1)
LIST = CatalogConfig(source="", format="list", max_bad_fraction=1)


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "objects"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.real
def test_the_real_candidates_give_table_1_of_the_paper(real_data, tmp_path):
    text = (real_data / "catalog" / "derived_candidates_labels.csv").read_text()
    catalog = read_catalog(write(tmp_path, text.replace("class_sako", "label", 1)), LIST)
    assert catalog.counts() == {
        ("AGN", "spectroscopic"): 906,
        ("SNIa", "spectroscopic"): 499,
        ("SNOther", "spectroscopic"): 89,
        ("Variable", "spectroscopic"): 3225,
        ("SNOther", "photometric"): 2041,
        ("SNIa", "photometric"): 1448,
    }
    set_aside = Counter((skip.reason, skip.detail.split(":")[0]) for skip in catalog.skips)
    assert set_aside == {("set-aside", "Unknown"): 2009, ("set-aside", "SNIa?"): 41}
    assert all(0 <= target.ra_deg < 360 for target in catalog.targets), "negative RA is brought into [0, 360)"


@pytest.mark.real
def test_the_real_master_table_is_read_by_column_name(real_data):
    catalog = read_catalog(real_data / "catalog" / "sdsssn_master_subset_92rows.txt", MASTER)
    assert (len(catalog.targets), len(catalog.skips)) == (85, 7)
    assert catalog.targets[0] == Target("739", 14.595315, 0.679056, "SNIa", "SNIa", "spectroscopic")


def test_columns_may_come_in_any_order_and_the_header_may_be_commented_out(tmp_path):
    table = "# Classification DEC CID Peakrmag RA\nzSNII -0.5 12 \\N -0.25\n# AGN 0 13 18.2 1\nAGN 0.5 14 18.2 359.75\n"
    catalog = read_catalog(write(tmp_path, table), MASTER)
    assert catalog.targets == (
        Target("12", 359.75, -0.5, "zSNII", "SNOther", "photometric"),
        Target("14", 359.75, 0.5, "AGN", "AGN", "spectroscopic"),
    )
    assert catalog.skips == ()


def test_a_list_needs_no_labels(tmp_path):
    catalog = read_catalog(write(tmp_path, "\ufeffid,ra,dec\r\nstar-1,10.5,0.25\r\n"), LIST)
    assert catalog.targets == (Target("star-1", 10.5, 0.25, "", "", ""),)


@pytest.mark.parametrize(
    ("row", "reason", "object_id"),
    [
        ("2,nan,0,AGN", "bad-coordinates", "2"),
        ("2,10,90.5,AGN", "bad-coordinates", "2"),
        ("2,361,0,AGN", "bad-coordinates", "2"),
        ("2,\\N,0,AGN", "bad-coordinates", "2"),
        ("2,1_0,0,AGN", "bad-coordinates", "2"),
        ("2,\N{FULLWIDTH DIGIT ONE},0,AGN", "bad-coordinates", "2"),
        ("2,10,1e999,AGN", "bad-coordinates", "2"),
        ("1,10,0,AGN", "duplicate-id", "1"),
        ("2,10,0,Quasar", "unknown-class", "2"),
        ("2,10,0,SNIa?", "set-aside", "2"),
        ("../2,10,0,AGN", "bad-id", ""),
        ("2,10,0", "bad-row", ""),
    ],
)
def test_a_bad_row_is_skipped_with_its_reason(tmp_path, row, reason, object_id):
    catalog = read_catalog(write(tmp_path, f"cid,ra_deg,dec_deg,label\n1,10,0,AGN\n{row}\n"), LIST)
    assert [target.object_id for target in catalog.targets] == ["1"]
    assert [(skip.reason, skip.object_id) for skip in catalog.skips] == [(reason, object_id)]


def test_too_many_bad_rows_refuse_the_table_and_name_the_first(tmp_path):
    path = write(tmp_path, "cid,ra,dec\n1,10,0\n2,999,0\n3,10,0\n")
    with pytest.raises(CatalogError, match=r"1 of 3 rows .* 2: bad-coordinates \(RA 999"):
        read_catalog(path, CatalogConfig(source="", format="list", max_bad_fraction=0.3))
    assert len(read_catalog(path, CatalogConfig(source="", format="list", max_bad_fraction=0.34)).targets) == 2


def test_labels_set_aside_are_not_bad_rows(tmp_path):
    path = write(tmp_path, "cid,ra,dec,label\n1,10,0,Unknown\n2,10,0,SNIa?\n3,10,0,AGN\n")
    assert len(read_catalog(path, CatalogConfig(source="", format="list", max_bad_fraction=0)).targets) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"CID RA DEC Classification\n", "no rows"),
        (b"CID RA Classification\n1 2 AGN\n", r"no column for declination \(dec_deg or dec"),
        (b"CID RA DEC\n1 2 0\n", "no column for label"),
        (b"<!DOCTYPE html><html>502 Bad Gateway", "web page"),
        (b"\x1f\x8b\x08\x00\xff\xfe", "not text"),
        (b"CID RA\0 DEC", "not text"),
    ],
)
def test_what_is_no_object_list_is_refused(tmp_path, content, message):
    with pytest.raises(CatalogError, match=message):
        read_catalog(write(tmp_path, content), MASTER)


def test_an_absurd_size_is_refused_unread(tmp_path):
    with (tmp_path / "big").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(CatalogError, match="over 256 MB"):
        read_catalog(tmp_path / "big", LIST)


def test_a_class_map_of_ones_own(tmp_path):
    (tmp_path / "own.toml").write_text('title = "own"\n[labels]\nUnknown = { class_name = "" }\n')
    config = CatalogConfig(source="", format="list", class_map=str(tmp_path / "own.toml"))
    catalog = read_catalog(write(tmp_path, "cid,ra,dec,label\n1,10,0,Unknown\n"), config)
    assert catalog.targets == (Target("1", 10, 0, "Unknown", "", ""),)
    (tmp_path / "own.toml").write_text('title = "own"\n[labels]\nX = { class_name = "Quasar" }\n')
    with pytest.raises(ConfigError, match=r"labels\.X\.class_name"):
        read_class_map(str(tmp_path / "own.toml"))
    with pytest.raises(ConfigError, match="no class map"):
        read_class_map("nothing")


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | st.lists(cells, max_size=30).map(" ".join).map(str.encode), st.sampled_from("AB"))
def test_no_bytes_break_the_reader(tmp_path, content, which):
    """Whatever follows a good header: targets that are sound, counted skips, or a CatalogError; never a crash."""
    head = b"CID RA DEC Classification\n" if which == "A" else b"cid,ra,dec,label\n"
    path = write(tmp_path, head + content)
    try:
        catalog = read_catalog(path, MASTER if which == "A" else LIST)
    except CatalogError:
        return
    assert all(0 <= target.ra_deg < 360 and -90 <= target.dec_deg <= 90 for target in catalog.targets)
    assert len({target.object_id for target in catalog.targets}) == len(catalog.targets)
    assert catalog.targets or catalog.skips
