"""`s82 catalog`: the paper's Table 1 from the real tables, and selections written as lists that read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from s82.main import main

TABLE_1 = {
    "AGN": 906,
    "SNIa": 499,
    "SNOther": 89,
    "Unknown": 2009,
    "Variable": 3225,
    "SNOther_PT": 2041,
    "SNIa_PT": 1448,
}
LIST = (
    "cid,ra,dec,label,mag\n700,350,0,AGN,18\n800,10,0,AGN,20\n13000,20,0,SNIa,19\n900,30,0,SNIa?,\n901,x,0,AGN,\n"
    + "".join(f"{cid},100,0,Variable,\n" for cid in range(2000, 2030))
)
SURVEY = """
name = "own"
title = "own"
[catalog]
source = "objects.csv"
[[archives]]
name = "sas"
layout = "sas-dr8"
base_urls = ["http://127.0.0.1/"]
[[index]]
kind = "photofield"
archive = "sas"
runs = [94]
[[selection.seasons]]
name = "2005"
mjd_start = 53600
mjd_end = 53710
first_cid = 679
last_cid = 12727
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "objects.csv").write_text(LIST)
    (tmp_path / "own.toml").write_text(SURVEY)
    (tmp_path / "ids").write_text("# mine\n700\n\n13000\n")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one call."""
    try:
        main([*map(str, arguments)])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.real
@pytest.mark.parametrize("name", ["JLA2014_SDSS_DS17_HEAD.FITS.gz", "derived_candidates_labels.csv"])
def test_summary_gives_table_1_of_the_paper(real_data: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = real_data / "catalog" / name
    code, out, _ = run(capsys, "catalog", "summary", path, "--json")
    assert code == 0
    assert json.loads(out) == {
        "table1": TABLE_1,
        "set_aside": {"SNIa?": 41},
        "rows": 10_258,
        "used": 8208,
        "skips": {},
    }
    _, text, _ = run(capsys, "catalog", "summary", path)
    assert [line.split()[0] for line in text.splitlines()] == [*TABLE_1, "SNIa?", "rows"]
    _, out, _ = run(capsys, "catalog", "summary", path, "--include", "SNIa?", "--json")
    assert json.loads(out)["table1"] == TABLE_1 | {"SNIa": 540}


@pytest.mark.real
def test_a_selection_of_the_real_table_is_a_list_that_counts_the_same(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = real_data / "catalog" / "JLA2014_SDSS_DS17_HEAD.FITS.gz"
    for name in ("all.csv", "all.ecsv", "all.parquet"):
        everything = ("--include", "SNIa?", "--include", "Unknown", "--out", tmp_path / name)
        assert run(capsys, "catalog", "select", head, *everything)[0] == 0
        _, out, _ = run(capsys, "catalog", "summary", tmp_path / name, "--json")
        assert json.loads(out)["table1"] == TABLE_1 | {"SNIa": 540}
        assert json.loads(out)["set_aside"] == {}


def test_summary_counts_bad_rows_with_their_reason(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "catalog", "summary", folder / "objects.csv", "--json")
    summary = json.loads(out)
    assert (summary["rows"], summary["used"]) == (35, 33)
    assert (summary["skips"], summary["set_aside"]) == ({"bad-coordinates": 1}, {"SNIa?": 1})
    assert sum(summary["table1"].values()) == 33
    _, text, _ = run(capsys, "catalog", "summary", folder / "objects.csv")
    assert "bad-coordinates" in text
    assert "as 901: RA 'x'" in text


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (("--class", "AGN", "--class", "SNIa"), ["700", "800", "13000"]),
        (("--class", "SNIa", "--include", "SNIa?"), ["13000", "900"]),
        (("--ra", "-10", "20"), ["700", "800", "13000"]),
        (("--ra", "340", "15", "--dec", "-1", "1"), ["700", "800"]),
        (("--mag", "18.5", "20"), ["800", "13000"]),
        (("--class", "AGN", "--season", "2005", "--survey", "own.toml"), ["700", "800"]),
        (("--ids", "ids"), ["700", "13000"]),
        (("--class", "AGN", "--class", "SNIa", "--max-per-class", "1", "--seed", "3"), ["800", "13000"]),
        (("--class", "AGN", "--class", "SNIa", "--max-per-class", "1", "--seed", "2"), ["700", "13000"]),
    ],
)
def test_select_writes_what_was_asked_for(
    folder: Path, options: tuple[str, ...], ids: list[str], capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(folder)
    code, out, _ = run(capsys, "catalog", "select", "objects.csv", "--out", "out.csv", *options, "--json")
    assert code == 0
    assert json.loads(out)["objects"] == len(ids)
    assert [line.split(",")[0] for line in (folder / "out.csv").read_text().splitlines()[1:]] == ids


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--out", "out.xlsx"), "written as .csv, .ecsv, .parquet"),
        (("--out", "out.csv", "--class", "Quasar"), "classes.0: Input should be 'AGN'"),
        (("--out", "out.csv", "--class", "Unknown"), "leaves no object"),
        (("--out", "out.csv", "--season", "2005"), "--season needs --survey"),
        (("--out", "out.csv", "--season", "2009", "--survey", "own.toml"), "no season '2009'; known are 2005"),
        (("--out", "out.csv", "--include", "Foo"), "'Foo' is not set aside"),
        (("--out", "out.csv", "--ids", "own.toml"), "cannot be had"),
        (("--out", "out.csv", "--ids", "nowhere"), "cannot read ids nowhere"),
        (("--out", "out.csv", "--mag", "20", "18"), "the smaller number comes first"),
    ],
)
def test_a_selection_that_cannot_be_had_writes_nothing(
    folder: Path, options: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(folder)
    code, out, err = run(capsys, "catalog", "select", "objects.csv", *options)
    assert code == 1
    assert out == ""
    assert complaint in err
    assert "Traceback" not in err
    assert sorted(path.name for path in folder.iterdir()) == ["ids", "objects.csv", "own.toml"]
