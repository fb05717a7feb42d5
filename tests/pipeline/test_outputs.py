"""Nothing that is asked for is written among published versions and packs, by any word of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from model.classification import table_file
from pipeline.errors import ConfigError
from pipeline.outputs import check_output
from pipeline.packing import pack_dataset
from pipeline.sums import write_sums
from pipeline.versions import point_latest, write_record
from tests.pipeline.small import small_dataset
from tests.s82.test_words import run


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    """Two versions, with their pointer, their history and a pack."""
    folder = tmp_path / "datasets" / "tiny"
    for name in ("first", "second"):
        small_dataset(folder / name)
        write_sums(folder / name, {})
        write_record(folder, name, None, {})
        point_latest(folder, name)
    pack_dataset(folder)
    return folder


def content(folder: Path) -> Iterator[tuple[Path, bytes]]:
    return ((path, path.read_bytes()) for path in sorted(folder.rglob("*")) if path.is_file())


WORDS = (
    ("dataset", "lightcurves", "first", "--out", "second/manifest.parquet"),
    ("dataset", "lightcurves", "first", "--out", "latest"),
    ("dataset", "lightcurves", "first", "--out", "link/x.parquet"),
    ("dataset", "standards", "first", "--out", "second/standards.csv"),
    ("dataset", "standards", "first", "--out", "history/first.json"),
    ("dataset", "export", "first", "second/export"),
    ("dataset", "export", "first", ".building-1/export"),
    ("dataset", "pack", "first", "--out", "first/pack"),
    ("dataset", "pack", "first", "--out", "second"),
    ("dataset", "pack", "first", "--out", "packs/second-float16/pack"),
    ("report", "first", "--out", "first/manifest.parquet"),
    ("report", "first", "--out", "packs/second-float16/pack.json"),
    ("report", "first", "--pages", "first/pages"),
    ("report", "first", "--pages", "link"),
    ("train", "first", "second/run"),
    ("catalog", "select", "list.csv", "--out", "second/manifest.parquet"),
    ("plan", "--out", "second"),
    ("simulate", "history"),
)


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_no_word_writes_into_a_version(
    survey: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (survey / "link").symlink_to("second")
    before = dict(content(survey))
    monkeypatch.chdir(survey)
    code, _, err = run(*words, capsys=capsys)
    assert (code, "name another place" in err) == (1, True), err
    assert dict(content(survey)) == before


@pytest.mark.parametrize("options", [(), ("--object", "7")])
def test_a_report_is_not_written_into_the_version_that_one_stands_in(
    survey: Path, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = dict(content(survey))
    monkeypatch.chdir(survey / "first")
    code, _, err = run("report", ".", *options, capsys=capsys)
    assert (code, "is inside the dataset" in err) == (1, True)
    assert dict(content(survey)) == before


def test_predictions_are_not_written_into_a_version(survey: Path) -> None:
    with pytest.raises(ConfigError, match="is inside the dataset"), table_file(survey / "first" / "x.csv", ("AGN",)):
        pass


def test_places_beside_versions_and_hidden_ones_elsewhere_are_free(survey: Path, tmp_path: Path) -> None:
    small_dataset(tmp_path / "mine" / "copied")
    for path in ("datasets/tiny/curves.parquet", "mine/latest", "mine/.cache/x.csv", "reports/x.html", "latest"):
        check_output(tmp_path / path)
