"""Object lists: the real tables read right, bad rows counted, bad tables refused."""

from __future__ import annotations

import gzip
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.archive import Archive
from pipeline.build import prepare
from pipeline.catalog import Target, read_catalog
from pipeline.errors import CatalogError, ConfigError
from pipeline.simulate.server import ArchiveServer
from pipeline.survey import CatalogConfig, CatalogSelection, Season, load_survey

MASTER = CatalogConfig(source="", max_bad_fraction=1)
LIST = CatalogConfig(source="", format="list", max_bad_fraction=1)


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "objects"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.real
@pytest.mark.parametrize("name", ["JLA2014_SDSS_DS17_HEAD.FITS.gz", "derived_candidates_labels.csv"])
def test_the_real_candidates_give_table_1_of_the_paper(real_data, name):
    """10,258 rows, from the type codes of the survey's own HEAD table and from labels."""
    catalog = read_catalog(real_data / "catalog" / name, CatalogConfig(source="", max_bad_fraction=0))
    assert catalog.table_1() == {
        "AGN": 906,
        "SNIa": 499,
        "SNOther": 89,
        "Unknown": 2009,
        "Variable": 3225,
        "SNOther_PT": 2041,
        "SNIa_PT": 1448,
    }
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
    assert len(catalog.targets) + len(catalog.skips) == 10_258
    assert all(0 <= target.ra_deg < 360 for target in catalog.targets), "negative RA is brought into [0, 360)"


@pytest.mark.real
def test_the_head_table_and_the_list_derived_from_it_say_the_same(real_data):
    """But for the digits of positions, and that the code 115 of one object is that of both SNIb and SNIc."""
    config = CatalogConfig(source="", include=("SNIa?", "Unknown"))
    head = read_catalog(real_data / "catalog" / "JLA2014_SDSS_DS17_HEAD.FITS.gz", config)
    derived = read_catalog(real_data / "catalog" / "derived_candidates_labels.csv", config)
    assert len(head.targets) == 10_258
    assert head.skips == ()
    for one, other in zip(head.targets, derived.targets, strict=True):
        assert replace(one, ra_deg=0, dec_deg=0) == replace(other, ra_deg=0, dec_deg=0)
        assert (one.ra_deg, one.dec_deg) == pytest.approx((other.ra_deg, other.dec_deg), abs=1e-6)


@pytest.mark.real
@pytest.mark.parametrize(("include", "snia"), [((), 499), (("SNIa?",), 540)])
def test_a_label_set_aside_comes_in_by_name(real_data, include, snia):
    config = CatalogConfig(source="", include=include)
    catalog = read_catalog(real_data / "catalog" / "JLA2014_SDSS_DS17_HEAD.FITS.gz", config)
    assert catalog.counts()["SNIa", "spectroscopic"] == snia
    assert len(catalog.targets) == 8208 + snia - 499


@pytest.mark.real
def test_the_real_master_table_is_read_by_column_name(real_data):
    catalog = read_catalog(real_data / "catalog" / "sdsssn_master_subset_92rows.txt", MASTER)
    assert (len(catalog.targets), len(catalog.skips)) == (85, 7)
    assert catalog.targets[0].peak_r_mag == 19.403
    assert Counter(target.label for target in catalog.set_aside) == {"SNIa?": 4, "Unknown": 3}
    assert {target.class_name for target in catalog.set_aside} == {"SNIa", ""}
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
        (f"{'2' * 65},10,0,AGN", "bad-id", ""),
        ("2,21:49:44.4,0,AGN", "bad-coordinates", "2"),
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
        (b"\x1f\x8b\x08\x00\xff\xfe", "cut short"),
        (b"\xff\xfeC\0I\0D\0", "not text"),
        (b'CID,RA,DEC,label\n"1,10,0,AGN\n2,10,0,AGN\n', "not CSV: unexpected end"),
        (b"CID RA RA DEC Classification\n1 2 3 0 AGN\n", "several columns ra"),
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
    with pytest.raises(CatalogError, match="opens to more than"):
        read_catalog(write(tmp_path, gzip.compress(bytes(257 * 2**20), 1)), LIST)


@pytest.mark.parametrize(
    ("text", "magnitude"), [("19.4", 19.4), ("0", 0.0), ("\\N", None), ("NA", None), ("-9", None), ("999", None)]
)
def test_a_magnitude_may_be_unknown(tmp_path, text, magnitude):
    (target,) = read_catalog(write(tmp_path, f"cid,ra,dec,mag\n1,10,0,{text}\n"), LIST).targets
    assert target.peak_r_mag == magnitude if magnitude is not None else math.isnan(target.peak_r_mag)


def test_a_list_that_says_classes_itself_is_believed(tmp_path):
    """Whatever the class map would make of its labels; but the names must be known."""
    rows = "1,10,0,SNIa?,SNIa,photometric\n2,10,0,blazar,AGN,\n3,10,0,,Quasar,\n4,10,0,,AGN,sure\n"
    path = write(tmp_path, "cid,ra,dec,label,class_name,confirmation\n" + rows)
    catalog = read_catalog(path, LIST)
    assert catalog.targets == (
        Target("1", 10, 0, "SNIa?", "SNIa", "photometric"),
        Target("2", 10, 0, "blazar", "AGN", ""),
    )
    assert [(skip.reason, skip.object_id) for skip in catalog.skips] == [("unknown-class", "3"), ("unknown-class", "4")]


def test_unknown_objects_that_are_set_aside_cannot_be_selected_without_including_them(tmp_path):
    path = write(tmp_path, "cid,ra,dec,label\n1,10,0,Unknown\n2,10,0,AGN\n")
    unknown = CatalogSelection(classes=("Unknown",))
    with pytest.raises(ConfigError, match=r'"Unknown".* add include = \["Unknown"\]'):
        read_catalog(path, CatalogConfig(source="", select=unknown))
    catalog = read_catalog(path, CatalogConfig(source="", select=unknown, include=("Unknown",)))
    assert [target.object_id for target in catalog.targets] == ["1"]


def test_what_a_selection_leaves_out_is_no_bad_row(tmp_path):
    path = write(tmp_path, "cid,ra,dec,label\n1,10,0,AGN\n2,10,0,SNIa\n3,10,0,SNII\n")
    config = CatalogConfig(source="", max_bad_fraction=0, select=CatalogSelection(classes=("AGN",)))
    catalog = read_catalog(path, config)
    assert [(skip.reason, skip.detail) for skip in catalog.skips] == [
        ("not-selected", "classes: SNIa"),
        ("not-selected", "classes: SNOther"),
    ]
    assert catalog.bad_rows() == ()


def test_a_build_selects_by_the_seasons_of_its_survey(tiny_archive, tmp_path):
    """And by class; what is left out is in the build's skips."""
    season = Season(name="2005", mjd_start=53600, mjd_end=53710, first_cid=679, last_cid=12727)
    with ArchiveServer(tiny_archive) as server:
        survey = load_survey("tiny").with_root(server.url)
        select = CatalogSelection(seasons=("2005",), classes=("AGN",), max_per_class=3)
        survey = survey.model_copy(
            update={
                "catalog": survey.catalog.model_copy(update={"select": select}),
                "selection": survey.selection.model_copy(update={"seasons": (season,)}),
            }
        )
        with Archive(survey.archives, tmp_path) as archive:
            build = prepare(survey, tmp_path, archive)
    assert [target.class_name for cell in build.plan.cells for target in cell.targets] == ["AGN"] * 3
    assert Counter(skip.reason for skip in build.catalog.skips) == {"not-selected": 11, "set-aside": 1}


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


@pytest.mark.real
@pytest.mark.parametrize("name", ["sdss-sn", "sdss-legacy"])
def test_the_shipped_surveys_take_the_whole_of_the_papers_table_1(real_data: Path, name: str) -> None:
    """README and docs say how many objects they are."""
    survey = load_survey(name)
    config = survey.catalog.model_copy(update={"format": "auto"})
    catalog = read_catalog(real_data / "catalog" / "JLA2014_SDSS_DS17_HEAD.FITS.gz", config, survey.selection.seasons)
    assert len(catalog.targets) == 10_217
    assert catalog.counts()["SNIa", "spectroscopic"] == 499
    everything = config.model_copy(update={"include": ("Unknown", "SNIa?")})
    whole = read_catalog(real_data / "catalog" / "JLA2014_SDSS_DS17_HEAD.FITS.gz", everything, ())
    assert len(whole.targets) == 10_258
