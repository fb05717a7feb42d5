"""A written plan: every frame once, in order, the same bytes for the same plan, and never half of it."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline import planfile
from pipeline.build import Build
from pipeline.catalog import Catalog
from pipeline.costs import FRAME_MB, summarise
from pipeline.errors import DatasetError, StorageError
from pipeline.manifest import Skip
from pipeline.naming import frame_path, parse_frame_file
from pipeline.plan import Plan
from pipeline.planfile import PLAN_SCHEMA, read_plan, write_plan
from pipeline.sums import file_sha256
from tests.pipeline.plans import PLAN, cell, das, sas, survey


def build(root: Path, plan: Plan = PLAN) -> Build:
    catalog = Catalog((), (Skip("set-aside", "SNIa?", "9"), Skip("set-aside", "SNIa?", "8")), "0" * 64)
    plan = replace(plan, skips=(Skip("no-exposure", "none", "7"),), left_out={"psf": 3})
    return Build(survey(), root, catalog, plan, summarise(survey(), plan), "ab" * 32, "")


def test_the_list_has_every_frame_once_with_all_who_need_it(tmp_path: Path) -> None:
    held = {"sas": {frame_path(sas(94, 12).frame("r"))}}
    folder = write_plan(build(tmp_path), held=held)
    assert folder == tmp_path / "plans" / "test-abababababab"
    table = pq.read_table(folder / "frames.parquet")
    assert table.schema.equals(PLAN_SCHEMA)
    rows = table.to_pylist()
    assert [row["path"] for row in rows] == [
        frame_path(exposure.frame(band))
        for exposure in (das(1, 11), das(2, 11), sas(94, 11), sas(94, 12), sas(125, 11))
        for band in ("g", "r")
    ]
    for row in rows:
        frame = parse_frame_file(row["path"].rpartition("/")[2], rerun=row["rerun"])
        assert (frame.run, frame.camcol, frame.field, frame.band) == (
            row["run"],
            row["camcol"],
            row["field"],
            row["band"],
        )
        assert row["estimated_bytes"] == round(FRAME_MB[frame.layout] * 1e6)
    shared = next(row for row in rows if row["run"] == 2)
    assert (shared["cells"], shared["n_objects"]) == (["a", "b"], 3)
    assert [row["path"] for row in rows if row["held"]] == [*held["sas"]]


def test_the_description_tells_everything_and_reads_back(tmp_path: Path) -> None:
    planned = build(tmp_path)
    info = read_plan(write_plan(planned))
    assert (info.build_id, info.input_hash, info.summary) == ("test-abababababab", "ab" * 32, planned.summary)
    assert info.objects_left_out == {"no-exposure": 1, "set-aside": 2}
    assert info.exposures_left_out == {"psf": 3}
    assert info.survey == planned.survey.model_dump(mode="json")
    assert info.frames_sha256 == file_sha256(tmp_path / "plans" / info.build_id / "frames.parquet")


def test_the_same_plan_gives_the_same_bytes_in_however_many_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, again = (write_plan(build(tmp_path), tmp_path / name) for name in ("first", "again"))
    assert [file.read_bytes() for file in sorted(first.iterdir())] == [
        file.read_bytes() for file in sorted(again.iterdir())
    ]
    monkeypatch.setattr(planfile, "EXPOSURES_PER_PIECE", 2)
    pieces = write_plan(build(tmp_path), tmp_path / "pieces") / "frames.parquet"
    assert pq.ParquetFile(pieces).num_row_groups == 3
    assert pq.read_table(pieces).equals(pq.read_table(first / "frames.parquet"))


def test_a_long_list_is_written_in_little_memory(tmp_path: Path) -> None:
    """Rows of 20,000 exposures are dictionaries of 30 MB; only a piece of them is there at once."""
    exposures = [das(run, field) for run in range(200) for field in range(11, 111)]
    planned = build(tmp_path, Plan((cell("a", ("1",), *exposures),), (), {}))
    planfile.EXPOSURES_PER_PIECE, usual = 1000, planfile.EXPOSURES_PER_PIECE
    tracemalloc.start()
    try:
        folder = write_plan(planned)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        planfile.EXPOSURES_PER_PIECE = usual
    assert pq.ParquetFile(folder / "frames.parquet").metadata.num_rows == 40_000
    assert peak < 20e6


def test_a_failure_leaves_the_list_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_plan(build(tmp_path))
    before = (folder / "frames.parquet").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(StorageError, match=r"cannot write .*frames.parquet: No space left"):
        write_plan(build(tmp_path))
    assert (folder / "frames.parquet").read_bytes() == before
    assert sorted(file.name for file in folder.iterdir()) == ["frames.parquet", "plan.json"]


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"build_id": "x"}', "\0"])
def test_what_is_no_plan_is_one_clear_error(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "plan.json").write_text(content)
    with pytest.raises(DatasetError, match="no plan that can be read: run `s82 plan` again"):
        read_plan(tmp_path)
