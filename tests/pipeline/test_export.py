"""An export, read back with plain pyarrow, holds every value of the dataset, in files of bounded size."""

from __future__ import annotations

import dataclasses
import errno
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import export
from pipeline.errors import ConfigError, DatasetError, SequenceError, StorageError
from pipeline.export import ExportOptions, export_dataset
from pipeline.lightcurvefile import write_light_curves
from pipeline.manifest import Dataset
from pipeline.sequences import COLUMNS
from tests.pipeline.small import small_dataset

PLANES = ("image", "variance", "mask")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return small_dataset(tmp_path / "dataset")


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("group_bytes", [1, 32_000_000])
@pytest.mark.parametrize(
    "options", [ExportOptions(), ExportOptions("float16", variance=True), ExportOptions(mask=False)], ids=str
)
def test_every_value_comes_back(
    dataset: Dataset, tmp_path: Path, options: ExportOptions, group_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "GROUP_BYTES", group_bytes)
    export_dataset(dataset, tmp_path / "out", options)
    seen = []
    for split in ("fold_0", "fold_1", "unlabelled"):
        table = pq.read_table(tmp_path / "out" / "data" / f"{split}-00000-of-00001.parquet")
        assert set(COLUMNS) - set(table.column_names) == {
            name for name, wanted in (("variance", options.variance), ("mask", options.mask)) if not wanted
        }
        for found in table.to_pylist():
            row = next(row for row in dataset.objects if row.object_id == found["object_id"])
            sequence = dataset.sequence(row)
            seen.append(row.object_id)
            assert split == (f"fold_{row.fold}" if row.fold >= 0 else "unlabelled")
            for name in ("class_name", "confirmation", "ra_deg", "dec_deg", "fold", "group", "step", "n_images"):
                assert found[name] == getattr(row, name)
            for name in set(COLUMNS) & set(found):
                expected = getattr(sequence, name)
                if name == "image":
                    expected = expected.astype(options.dtype)
                values = np.array(found[name], expected.dtype)
                np.testing.assert_array_equal(values, expected, err_msg=name)
                assert (values.shape == (row.n_images, 8, 8)) == (name in PLANES)
    assert sorted(seen) == sorted(row.object_id for row in dataset.objects)


def test_columns_say_unit_and_meaning_and_images_have_a_fixed_shape(dataset: Dataset, tmp_path: Path) -> None:
    export_dataset(dataset, tmp_path / "out")
    schema = pq.read_schema(tmp_path / "out" / "data" / "fold_0-00000-of-00001.parquet")
    assert schema.field("image").metadata[b"unit"] == b"nanomaggy"
    assert all(field.metadata[b"description"] for field in schema)
    pixels = schema.field("image").type.value_type
    assert (pixels.list_size, pixels.value_type.list_size) == (8, 8)


def test_files_are_bounded_and_numbered(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "SHARD_BYTES", 4 * export.image_bytes(8, ExportOptions()))
    shards = export_dataset(dataset, tmp_path / "out")
    assert [(shard.file, [row.object_id for row in shard.rows]) for shard in shards] == [
        ("data/fold_0-00000-of-00002.parquet", ["7"]),
        ("data/fold_0-00001-of-00002.parquet", ["80"]),
        ("data/fold_1-00000-of-00002.parquet", ["679"]),
        ("data/fold_1-00001-of-00002.parquet", ["81"]),
        ("data/unlabelled-00000-of-00001.parquet", ["SN2005cg"]),
    ]
    assert {*files(tmp_path / "out")} == {"README.md", *(shard.file for shard in shards)}


def test_the_same_export_has_the_same_bytes(dataset: Dataset, tmp_path: Path) -> None:
    for name in ("a", "b"):
        export_dataset(dataset, tmp_path / name)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_the_front_matter_names_the_splits(dataset: Dataset, tmp_path: Path) -> None:
    export_dataset(dataset, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    front = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    assert front
    named = re.findall(r"  - split: (\w+)\n    path: (data/\w+-\*\.parquet)", front[1])
    assert named == [(split, f"data/{split}-*.parquet") for split in ("fold_0", "fold_1", "unlabelled")]
    assert "size_categories:\n- n<1K" in front[1]
    assert "$" not in card
    assert dataset.info.content_hash in card


def test_nothing_is_left_where_an_export_fails(dataset: Dataset, tmp_path: Path) -> None:
    (dataset.path / dataset.objects[-1].file).write_bytes(b"x")
    with pytest.raises(SequenceError, match="is not a sequence as it was written"):
        export_dataset(dataset, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["dataset"]


def test_a_full_disk_is_one_error_and_leaves_nothing(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export, "_table", full)
    with pytest.raises(StorageError, match=r"cannot write .*out: No space left on device"):
        export_dataset(dataset, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["dataset"]


def test_what_exists_is_not_written_over(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("folder", "file", "link"):
        with pytest.raises(ConfigError, match=f"{name} exists"):
            export_dataset(dataset, tmp_path / name)
    with pytest.raises(ConfigError, match="cannot make"):
        export_dataset(dataset, tmp_path / "file" / "out")
    with pytest.raises(ConfigError, match="cannot make"):
        write_light_curves(dataset, tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == "mine"


def test_what_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    def brighter(sequence):  # type: ignore[no-untyped-def]
        return dataclasses.replace(sequence, image=sequence.image * np.float32(20_000))

    bright = small_dataset(tmp_path / "bright", brighter)
    with pytest.raises(DatasetError, match=r"pixel beyond 65504 nMgy.*export as float32"):
        export_dataset(bright, tmp_path / "out", ExportOptions("float16"))
    assert export_dataset(bright, tmp_path / "out")


def test_images_of_another_size_than_the_dataset_says_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    lying = dataclasses.replace(dataset, info=dataset.info.model_copy(update={"size": 16}))
    with pytest.raises(DatasetError, match=r"\.h5 has images of 8 × 8 px, its dataset 16"):
        export_dataset(lying, tmp_path / "out")


def test_a_dataset_without_objects_is_not_exported(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no object"):
        export_dataset(dataclasses.replace(dataset, objects=()), tmp_path / "out")


def test_nothing_is_written_into_a_dataset(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(dataset.path)
    for out in (dataset.path / "export", tmp_path / "link" / "export", dataset.path / "objects" / "07"):
        with pytest.raises(ConfigError, match="inside the dataset"):
            export_dataset(dataset, out)
        with pytest.raises(ConfigError, match="inside the dataset"):
            write_light_curves(dataset, out)
    assert not (dataset.path / "export").exists()
