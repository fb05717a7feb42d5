"""A dataset directory: opened whole or refused with one error, and `verify` finds whatever was changed in it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import DatasetError
from pipeline.manifest import (
    FRAMES_SCHEMA,
    MANIFEST_SCHEMA,
    SKIPS_SCHEMA,
    TABLES,
    DatasetInfo,
    content_hash,
    file_sha256,
    open_dataset,
    verify_dataset,
    write_info,
    write_table,
)
from pipeline.naming import DATASET_FILE, FRAMES_FILE, LATEST_FILE, MANIFEST_FILE, SKIPS_FILE, sequence_path
from pipeline.sequences import write_sequence
from tests.pipeline.test_sequences import make_sequence


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three objects of 2, 3 and 4 images, as `publish` leaves them."""
    path = tmp_path / "datasets" / "demo" / "0123456789ab"
    rows = []
    for n_images, object_id in enumerate(("7", "679", "SN2005cg"), start=2):
        sequence = dataclasses.replace(make_sequence(n_images), object_id=object_id)
        file = sequence_path(object_id)
        write_sequence(path / file, sequence)
        row = dict.fromkeys(MANIFEST_SCHEMA.names, 0)
        row |= {name: getattr(sequence, name) for name in ("object_id", "class_name", "confirmation")}
        row |= {"ra_deg": sequence.ra_deg, "dec_deg": sequence.dec_deg, "cell": "c", "file": file}
        rows.append(row | {"sha256": file_sha256(path / file), "n_images": n_images})
    write_table(path / MANIFEST_FILE, rows, MANIFEST_SCHEMA)
    write_table(path / SKIPS_FILE, [], SKIPS_SCHEMA)
    write_table(path / FRAMES_FILE, [], FRAMES_SCHEMA)
    info = DatasetInfo(
        dataset_id="demo-0",
        survey={},
        software={},
        input_hash="",
        content_hash=content_hash((row["object_id"], row["sha256"]) for row in rows),
        tables={name: file_sha256(path / name) for name in TABLES},
        counts={},
        seconds={},
        size=8,
        pixel_scale_arcsec=0.396,
        band_mean_nmgy={},
        band_std_nmgy={},
    )
    write_info(path, info)
    (path.parent / LATEST_FILE).write_text(path.name + "\n")
    return path


def test_the_latest_pointer_opens_the_version_it_names(dataset: Path) -> None:
    for path in (dataset, dataset.parent, dataset.parent / LATEST_FILE, str(dataset.parent)):
        opened = open_dataset(path)
        assert opened.path == dataset
        assert [len(opened.sequence(row)) for row in opened.objects] == [2, 3, 4]


@pytest.mark.parametrize("content", [b"../../elsewhere", b"/etc", b"", b"\xff\xfe", b".building-1", b"a b", b"x" * 300])
def test_a_latest_pointer_that_leaves_its_folder_is_refused(dataset: Path, content: bytes) -> None:
    (dataset.parent / LATEST_FILE).write_bytes(content)
    with pytest.raises(DatasetError, match="does not name a dataset version"):
        open_dataset(dataset.parent)


def test_a_pointer_to_nothing_is_no_dataset(dataset: Path) -> None:
    shutil.rmtree(dataset)
    with pytest.raises(DatasetError, match="0123456789ab is not a dataset"):
        open_dataset(dataset.parent)


def change_column(name: str, values: pa.Array) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        table = pq.read_table(path / MANIFEST_FILE)
        pq.write_table(table.set_column(table.column_names.index(name), name, values), path / MANIFEST_FILE)

    return damage


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda path: (path / name).write_bytes(content) and None


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (change_column("object_id", pa.array(["../x", "a", "b"])), r"object id '\.\./x'"),
        (change_column("object_id", pa.array([1, 2, 3])), "column object_id is of type int64"),
        (change_column("object_id", pa.array([None] * 3, pa.string())), "column object_id has rows without"),
        (change_column("fold", pa.array([0, None, 1], pa.int16())), "column fold has rows without"),
        (change_column("fold", pa.array(["0", "1", "2"])), "column fold is of type string"),
        (change_column("file", pa.array(["../../x"] * 3)), "points outside its place"),
        (write(MANIFEST_FILE, b"PAR1 no table PAR1"), "cannot read"),
        (write(DATASET_FILE, b"\xff\xfe"), "not a dataset description"),
        (write(DATASET_FILE, b"[1]"), "not a dataset description"),
        (lambda path: shutil.rmtree(path) or path.write_text("a file"), "is not a dataset"),
    ],
)
def test_a_damaged_dataset_is_one_error(dataset: Path, damage: Callable[[Path], None], complaint: str) -> None:
    damage(dataset)
    with pytest.raises(DatasetError, match=complaint) as caught:
        open_dataset(dataset)
    assert str(dataset) in str(caught.value)


def test_another_objects_file_is_refused(dataset: Path) -> None:
    opened = open_dataset(dataset)
    first, second = opened.objects[:2]
    shutil.copyfile(dataset / second.file, dataset / first.file)
    with pytest.raises(DatasetError, match="is another object's file: object 679 with 3 images, expected 7 with 2"):
        opened.sequence(first)
    with pytest.raises(DatasetError, match="679 with 3 images, expected 679 with 9"):
        opened.sequence(dataclasses.replace(second, n_images=9))


def test_an_unchanged_dataset_verifies(dataset: Path) -> None:
    assert verify_dataset(dataset) == []


@pytest.mark.parametrize(
    ("damage", "problems"),
    [
        (lambda path: (path / SKIPS_FILE).unlink(), ["skips.parquet is missing"]),
        (write(FRAMES_FILE, b"x"), ["frames.parquet does not have the sha256 of dataset.json"]),
        (write("objects/07/stray.h5", b"x"), ["objects/07/stray.h5 is not in manifest.parquet"]),
        (write("objects/07/7.h5", b"x"), ["objects/07/7.h5 does not have the sha256 of the manifest"]),
        (lambda path: (path / "objects/07/7.h5").unlink(), ["objects/07/7.h5 is missing"]),
        (
            change_column("class_name", pa.array(["SNIa", "AGN", "SNIa"])),
            [
                "manifest.parquet does not have the sha256 of dataset.json",
                "objects/79/679.h5 says class_name 'SNIa', manifest.parquet 'AGN'",
            ],
        ),
    ],
    ids=["no-table", "table", "stray", "object", "no-object", "label"],
)
def test_verify_finds_what_was_changed(dataset: Path, damage: Callable[[Path], None], problems: list[str]) -> None:
    damage(dataset)
    assert verify_dataset(dataset) == problems


def test_verify_opens_every_file(dataset: Path) -> None:
    """A file that is no sequence is found even where the manifest was made to agree with it."""
    (dataset / "objects/07/7.h5").write_bytes(b"x")
    sha256 = [file_sha256(dataset / row.file) for row in open_dataset(dataset).objects]
    change_column("sha256", pa.array(sha256))(dataset)
    assert any("7.h5 is not a readable sequence" in line for line in verify_dataset(dataset))
