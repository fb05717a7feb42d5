"""Whatever an archive, a catalogue or the power does: a counted skip with its reason, or one clear error.

Never a silent loss, never a half-written file, and all that was not touched by the fault is bit for bit the same.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache import PARTS
from pipeline.cells import CellProgress
from pipeline.errors import ArchiveError, CatalogError, DatasetError
from pipeline.manifest import Dataset
from pipeline.naming import SKIPS_FILE, cache_dir
from pipeline.sequences import COLUMNS
from pipeline.simulate.faults import FaultKind
from pipeline.simulate.server import ArchiveServer, Fault
from pipeline.survey import CacheConfig
from pipeline.verify import verify_dataset
from tests.faults.conftest import build

MASTER = "sas/dr10/boss/papers/supernova/sdsssn_master.dat2"
FPC = "/das/imaging/5582/40/corr/4/fpC-005582-{band}4-0153.fit.gz"


def reasons(dataset: Dataset) -> Counter[str]:
    return Counter(dataset.table(SKIPS_FILE).column("reason").to_pylist())


def details(dataset: Dataset, reason: str) -> list[dict[str, str]]:
    return [row for row in dataset.table(SKIPS_FILE).to_pylist() if row["reason"] == reason]


def assert_rest_is_untouched(dataset: Dataset, clean: Dataset, lost: set[tuple[int, int]]) -> None:
    """Every image of `clean` is in `dataset` bit for bit, but those of the lost (run, band id).

    What the standard stars say may differ by a little: they are made of all frames of a cell.
    """
    by_id = {row.object_id: row for row in dataset.objects}
    for row in clean.objects:
        whole, left = clean.sequence(row), dataset.sequence(by_id[row.object_id])
        keep = [m for m in range(len(whole)) if (int(whole.run[m]), int(whole.band_id[m])) not in lost]
        for name in COLUMNS:
            if not name.startswith("zp_"):
                np.testing.assert_array_equal(getattr(whole, name)[keep], getattr(left, name))
        np.testing.assert_allclose(whole.zp_offset_mag[keep], left.zp_offset_mag, atol=0.01)


def assert_nothing_half_written(root: Path) -> None:
    """What a server broke off may lie among the parts, to be gone on with; nowhere else is anything not whole."""
    assert [path for path in root.rglob("*.part") if path.parent != cache_dir(root) / PARTS] == []


def test_a_build_is_reproducible_and_verifies(clean: Dataset, tiny_archive: Path, tmp_path: Path) -> None:
    with ArchiveServer(tiny_archive) as server:
        again = build(server.url, tmp_path)
    assert verify_dataset(again.path) == []
    assert again.info.content_hash == clean.info.content_hash
    assert_nothing_half_written(tmp_path)


def test_each_file_is_asked_for_once_however_many_frames_and_objects_use_it(tiny_archive: Path, tmp_path: Path) -> None:
    """A field's table serves all its bands, a run's table all its fields."""
    with ArchiveServer(tiny_archive) as server:
        build(server.url, tmp_path)
        asked = Counter(request.path for request in server.requests if request.path.startswith(("/das/", "/sas/")))
    tables = [path for path in asked if "tsField" in path or "photoField" in path]
    assert len(tables) >= 5
    assert set(asked.values()) == {1}


@pytest.mark.slow
def test_without_a_cache_a_build_leaves_no_frame_behind_and_the_same_dataset(
    clean: Dataset, tiny_archive: Path, tmp_path: Path
) -> None:
    """`cache.max_gb = 0`: every file goes once its last use is over, tables after the last of their bands."""
    most = 0

    def look(_: CellProgress) -> None:
        nonlocal most
        most = max(most, sum(1 for path in (cache_dir(tmp_path) / "das").rglob("fpC-*")))

    with ArchiveServer(tiny_archive) as server:
        dataset = build(server.url, tmp_path, look, cache=CacheConfig(max_gb=0))
        asked = Counter(request.path for request in server.requests if "/fpC-" in request.path)
    assert set(asked.values()) == {1}
    assert most < len(asked)
    assert [path for path in cache_dir(tmp_path).rglob("*.fit*") if path.is_file()] == []
    assert_rest_is_untouched(dataset, clean, lost=set())


def test_a_bad_day_at_the_archive(clean: Dataset, tiny_archive: Path, tmp_path: Path) -> None:
    """Passing faults leave no trace; lasting ones cost exactly their frame, with a reason that names it."""
    faults = [
        Fault(FPC.format(band="g"), "server_error", times=2),
        Fault(FPC.format(band="r"), "corrupt", times=1),
        Fault("/das/*fpC-005713-g4-0187*", "html", times=99),
        Fault("/das/*fpC-005713-r4-0187*", "not_found", times=99),
        Fault("/sas/*frame-g-000125-*", "truncated", times=99),
        Fault("/das/*fpM-005582-g4-*", "not_found", times=99),
    ]
    with ArchiveServer(tiny_archive, faults=faults) as server:
        dataset = build(server.url, tmp_path)
    assert_rest_is_untouched_but_masks(dataset, clean, lost={(5713, 2), (5713, 3), (125, 2)})
    found = reasons(dataset)
    assert (found["not-in-archive"], found["no-mask"]) == (1, 1)
    assert found["bad-payload"] + found["bad-frame"] == 2
    assert any("fpC-005713-g4-0187" in row["detail"] for row in details(dataset, "bad-payload"))
    assert verify_dataset(dataset.path) == []
    assert_nothing_half_written(tmp_path)


def assert_rest_is_untouched_but_masks(dataset: Dataset, clean: Dataset, lost: set[tuple[int, int]]) -> None:
    """As above; the frame whose mask planes are missing keeps its pixels and loses only its flags."""
    by_id = {row.object_id: row for row in dataset.objects}
    for row in clean.objects:
        whole, left = clean.sequence(row), dataset.sequence(by_id[row.object_id])
        keep = [m for m in range(len(whole)) if (int(whole.run[m]), int(whole.band_id[m])) not in lost]
        for name in set(COLUMNS) - {"mask"}:
            if not name.startswith("zp_"):
                np.testing.assert_array_equal(getattr(whole, name)[keep], getattr(left, name))
        np.testing.assert_allclose(whole.zp_offset_mag[keep], left.zp_offset_mag, atol=0.01)


def test_a_file_that_lasts_corrupt_is_fetched_twice_and_no_more(
    clean: Dataset, tiny_archive: Path, tmp_path: Path
) -> None:
    path = FPC.format(band="r")
    with ArchiveServer(tiny_archive, faults=[Fault(path, "corrupt", times=99)]) as server:
        dataset = build(server.url, tmp_path)
        n_fetched = sum(request.path == path for request in server.requests)
    assert_rest_is_untouched(dataset, clean, lost={(5582, 3)})
    (skip,) = details(dataset, "bad-payload")
    assert "fpC-005582-r4-0153" in skip["detail"]
    assert n_fetched == 2


@pytest.mark.slow
def test_a_frame_whose_header_contradicts_its_name_is_left_out(clean: Dataset, spoilt: Path, tmp_path: Path) -> None:
    right, wrong = (spoilt / FPC.format(band=band).lstrip("/") for band in "rg")
    shutil.copyfile(wrong, right)
    with ArchiveServer(spoilt) as server:
        dataset = build(server.url, tmp_path / "root")
    assert_rest_is_untouched(dataset, clean, lost={(5582, 3)})
    assert "contradicts its name: its header says band g" in details(dataset, "bad-payload")[0]["detail"]


def test_bad_rows_of_the_catalogue_are_counted_and_the_rest_is_built(
    clean: Dataset, spoilt: Path, tmp_path: Path
) -> None:
    """NaN and out-of-range coordinates, an unknown label, a duplicate id, and a place that no frame covers."""
    master = spoilt / MASTER
    header, *rows = master.read_text().splitlines()
    names = header.split()
    column = {name: names.index(name) for name in ("CID", "RA", "DEC", "Classification")}

    def like_first(**changes: str) -> str:
        cells = rows[0].split()
        for name, value in changes.items():
            cells[column[name]] = value
        return " ".join(cells)

    bad = [
        like_first(CID="90001", RA="nan"),
        like_first(CID="90002", DEC="95.0"),
        like_first(CID="90003", Classification="Kilonova"),
        like_first(),
        like_first(CID="90004", RA="10.0", DEC="0.5"),
    ]
    many = [like_first(CID=str(80000 + i), RA="10.0", DEC="0.7") for i in range(100)]  # keeps the bad ones under 5 %
    master.write_text("\n".join([header, *rows, *bad, *many]) + "\n")
    with ArchiveServer(spoilt) as server:
        dataset = build(server.url, tmp_path / "root")
    found = reasons(dataset)
    assert found["bad-coordinates"] == 2
    assert found["unknown-class"] == 1
    assert found["duplicate-id"] == 1
    assert found["no-exposure"] == 101
    assert "Kilonova" in details(dataset, "unknown-class")[0]["detail"]
    assert {row.object_id for row in dataset.objects} == {row.object_id for row in clean.objects}
    assert_rest_is_untouched(dataset, clean, lost=set())


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("CID RA Classification\n1 2.0 AGN\n", "DEC"), ("<html>we are closed</html>", "web page"), ("", "empty")],
    ids=["missing-column", "html", "empty"],
)
def test_a_catalogue_that_is_none_stops_the_build_before_anything_is_written(
    spoilt: Path, tmp_path: Path, content: str, complaint: str
) -> None:
    (spoilt / MASTER).write_text(content)
    with ArchiveServer(spoilt) as server, pytest.raises((CatalogError, ArchiveError), match=f"(?i){complaint}"):
        build(server.url, tmp_path / "root")
    assert not (tmp_path / "root" / "datasets").exists()


@pytest.mark.parametrize(
    "kind", ["reset", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("html", "not_found"))]
)
def test_an_archive_that_is_out_of_order_is_no_reason_to_leave_frames_out(
    clean: Dataset, tiny_archive: Path, tmp_path: Path, kind: FaultKind
) -> None:
    """The cell fails, nothing is published or remembered, and the healthy archive then gives the whole dataset."""
    with (
        ArchiveServer(tiny_archive, faults=[Fault("/das/*/fpC-*", kind, times=10_000)]) as server,
        pytest.raises(ArchiveError, match=r"fpC-|archive das"),
    ):
        build(server.url, tmp_path)
    assert not list(tmp_path.glob("datasets/tiny/[!.]*/manifest.parquet"))
    if kind != "reset":
        with ArchiveServer(tiny_archive) as server:
            assert build(server.url, tmp_path).info.content_hash == clean.info.content_hash


@pytest.mark.slow
def test_a_frame_that_two_cells_miss_counts_once(tiny_archive: Path, tmp_path: Path) -> None:
    """And its reason names neither server nor history, so that equal inputs leave equal bytes."""
    with ArchiveServer(tiny_archive, faults=[Fault(FPC.format(band="g"), "not_found", times=99)]) as server:
        dataset = build(server.url, tmp_path, cell_width_deg=0.06)
    assert len(set(dataset.table("manifest.parquet").column("cell").to_pylist())) > 1
    (skip,) = details(dataset, "not-in-archive")
    assert "127.0.0.1" not in skip["detail"]


def test_a_published_dataset_that_lost_a_file_is_not_called_done(
    tiny_archive: Path, clean: Dataset, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    shutil.copytree(clean.path.parents[2], root)
    next((root / "datasets").rglob("*.h5")).unlink()
    with ArchiveServer(tiny_archive) as server, pytest.raises(DatasetError, match="move it away to build without it"):
        build(server.url, root)


class PowerCutError(RuntimeError):
    """The lights go out."""


def test_a_build_cut_off_in_the_middle_ends_the_same_when_run_again(
    clean: Dataset, tiny_archive: Path, tmp_path: Path
) -> None:
    """Nothing shows before it is whole; finished cells are not built twice; the end is the undisturbed dataset."""
    seen: set[str] = set()

    def cut_off(progress: CellProgress) -> None:
        seen.add(progress.cell_id)
        if len(seen) == 2:
            raise PowerCutError

    with ArchiveServer(tiny_archive) as server:
        with pytest.raises(PowerCutError):
            build(server.url, tmp_path, cut_off, cell_width_deg=0.06)
        assert not list(tmp_path.glob("datasets/tiny/[!.]*/manifest.parquet"))
        redone: set[str] = set()

        def note(progress: CellProgress) -> None:
            if progress.frames_done < progress.frames_total:  # a finished cell tells only that it is
                redone.add(progress.cell_id)

        dataset = build(server.url, tmp_path, note, cell_width_deg=0.06)
    assert len(redone) < len({*seen, *redone})
    assert_rest_is_untouched(dataset, clean, lost=set())
    assert verify_dataset(dataset.path) == []


def test_damage_to_a_published_dataset_is_found(tiny_archive: Path, clean: Dataset, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(clean.path, copy)
    first, second = clean.objects[:2]
    (copy / first.file).unlink()
    content = bytearray((copy / second.file).read_bytes())
    content[-1] ^= 1
    (copy / second.file).write_bytes(content)
    assert len(verify_dataset(copy)) == 2
    (copy / "dataset.json").unlink()
    with pytest.raises(DatasetError, match="is not a dataset"):
        verify_dataset(copy)
