"""A dataset directory: opened whole or refused with one error, and `verify` finds whatever was changed in it."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import manifest
from pipeline.croissant import croissant
from pipeline.errors import DatasetError
from pipeline.manifest import (
    FRAMES_SCHEMA,
    MANIFEST_SCHEMA,
    SKIPS_SCHEMA,
    DatasetInfo,
    content_hash,
    open_dataset,
    write_info,
    write_table,
)
from pipeline.naming import (
    CROISSANT_FILE,
    DATASET_FILE,
    FRAMES_FILE,
    LATEST_FILE,
    MANIFEST_FILE,
    SKIPS_FILE,
    SUMS_FILE,
    sequence_path,
)
from pipeline.sequences import write_sequence
from pipeline.sums import file_sha256, read_sums, write_sums
from pipeline.verify import verify, verify_dataset
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
        row |= {"group": object_id, "step": "train", "cell": "c", "file": file}
        row |= {"ra_deg": sequence.ra_deg, "dec_deg": sequence.dec_deg}
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
        counts={},
        size=8,
        pixel_scale_arcsec=0.396,
    )
    write_info(path, info)
    described = {file.name: (file_sha256(file), file.stat().st_size) for file in path.iterdir() if file.is_file()}
    (path / CROISSANT_FILE).write_text(croissant(info, described))
    write_sums(path, {})
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
    if dataset.is_dir():
        write_sums(dataset, {})
    with pytest.raises(DatasetError, match=complaint) as caught:
        open_dataset(dataset)
    assert str(dataset) in str(caught.value)


@pytest.mark.parametrize("file", [MANIFEST_FILE, DATASET_FILE, FRAMES_FILE])
def test_tables_and_description_that_are_not_the_published_ones_are_refused(dataset: Path, file: str) -> None:
    content = bytearray((dataset / file).read_bytes())
    content = content.replace(b"0.396", b"0.397") if file == DATASET_FILE else content
    (dataset / file).write_bytes(bytes(content) + (b"" if file == DATASET_FILE else b"\0"))
    with pytest.raises(DatasetError, match=f"{file} does not have the sha256 of SHA256SUMS: copy it from"):
        open_dataset(dataset).table(file)
    (dataset / file).unlink()
    with pytest.raises(DatasetError, match=f"{file}"):
        open_dataset(dataset).table(file)


def test_labels_that_were_swapped_by_hand_are_found_where_no_list_speaks_of_the_manifest(dataset: Path) -> None:
    (dataset / SUMS_FILE).unlink()
    change_column("class_name", pa.array(["SNIa", "AGN", "SNIa"]))(dataset)
    opened = open_dataset(dataset)
    with pytest.raises(DatasetError, match=r"679\.h5 says class_name 'SNIa', manifest.parquet 'AGN': copy both"):
        opened.sequence(opened.objects[1])
    change_column("sha256", pa.array(["0" * 64] * 3))(dataset)
    with pytest.raises(DatasetError, match=r"does not have the content hash of dataset\.json"):
        open_dataset(dataset)


def test_an_objects_file_of_another_version_is_refused(dataset: Path) -> None:
    """The same object with as many images, whole and sealed, but of other pixels."""
    opened = open_dataset(dataset)
    row = opened.objects[0]
    write_sequence(dataset / row.file, dataclasses.replace(make_sequence(2, seed=82), object_id="7"))
    with pytest.raises(DatasetError, match=r"7\.h5 is not the file of this version: .* copy it from where"):
        opened.sequence(row)


def test_more_rows_than_an_object_list_has_are_not_read(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "MAX_OBJECTS", 2)
    with pytest.raises(DatasetError, match="has 3 rows, more than the 2 allowed"):
        open_dataset(dataset)


def test_another_objects_file_is_refused(dataset: Path) -> None:
    opened = open_dataset(dataset)
    first, second = opened.objects[:2]
    shutil.copyfile(dataset / second.file, dataset / first.file)
    with pytest.raises(DatasetError, match="is another object's file: object 679 with 3 images, expected 7 with 2"):
        opened.sequence(first)
    with pytest.raises(DatasetError, match="679 with 3 images, expected 679 with 9"):
        opened.sequence(dataclasses.replace(second, n_images=9))


def test_the_tables_carry_units_and_descriptions_and_are_read_without_them(dataset: Path) -> None:
    """As arrow itself reads them; a table as earlier software wrote it, without, is as good."""
    for name in (MANIFEST_FILE, SKIPS_FILE, FRAMES_FILE):
        assert all(field.metadata[b"description"] for field in pq.read_schema(dataset / name))
    assert pq.read_schema(dataset / MANIFEST_FILE).field("mjd_first").metadata[b"unit"] == b"d"
    table = pq.read_table(dataset / MANIFEST_FILE)
    plain = table.cast(pa.schema([(field.name, field.type) for field in table.schema]))
    pq.write_table(plain, dataset / MANIFEST_FILE)
    write_sums(dataset, {})
    assert open_dataset(dataset).table(MANIFEST_FILE).schema == MANIFEST_SCHEMA
    assert verify_dataset(dataset) == []


def test_an_unchanged_dataset_verifies(dataset: Path) -> None:
    assert verify_dataset(dataset) == []


def in_list(name: str, sha256: str, new_name: str = "") -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        lines = (path / SUMS_FILE).read_text().splitlines(keepends=True)
        other = [f"{sha256}  {new_name or name}\n" if line.endswith(f"  {name}\n") else line for line in lines]
        (path / SUMS_FILE).write_text("".join(other))

    return damage


@pytest.mark.parametrize(
    ("damage", "problems"),
    [
        (lambda path: (path / SKIPS_FILE).unlink(), ["skips.parquet is missing"]),
        (write(FRAMES_FILE, b"x"), ["frames.parquet does not have the sha256 of SHA256SUMS"]),
        (write("objects/07/stray.h5", b"x"), ["objects/07/stray.h5 is not in SHA256SUMS"]),
        (write("objects/07/7.h5", b"x"), ["objects/07/7.h5 does not have the sha256 of manifest.parquet"]),
        (lambda path: (path / "objects/07/7.h5").unlink(), ["objects/07/7.h5 is missing"]),
        (
            lambda path: (path / "objects/07/7.h5").unlink() or (path / "objects/07/7.h5").symlink_to("../79/679.h5"),
            ["objects/07/7.h5 is missing"],
        ),
        (
            change_column("class_name", pa.array(["SNIa", "AGN", "SNIa"])),
            ["manifest.parquet does not have the sha256 of SHA256SUMS"],
        ),
        (
            in_list("objects/07/7.h5", "0" * 64),
            ["SHA256SUMS is wrong about objects/07/7.h5: the rest of the version agrees"],
        ),
        (
            in_list("objects/07/7.h5", "0" * 64, "objects/07/6.h5"),
            ["SHA256SUMS is wrong about objects/07/6.h5 and 1 more: the rest of the version agrees"],
        ),
        (
            lambda path: (path / "objects/07/7.h5").rename(path / "objects/07/8.h5") and None,
            ["objects/07/7.h5 is missing", "objects/07/8.h5 is not in SHA256SUMS"],
        ),
        (
            in_list(FRAMES_FILE, "0" * 64),
            ["SHA256SUMS is wrong about frames.parquet: the rest of the version agrees"],
        ),
        (
            in_list(MANIFEST_FILE, "0" * 64),
            ["SHA256SUMS is wrong about manifest.parquet: the rest of the version agrees"],
        ),
    ],
    ids=[
        *("no-table", "table", "stray", "object", "no-object", "link", "label"),
        *("list-object", "list-name", "renamed", "list-table", "list-manifest"),
    ],
)
def test_verify_finds_what_was_changed(dataset: Path, damage: Callable[[Path], None], problems: list[str]) -> None:
    damage(dataset)
    assert [str(problem) for problem in verify_dataset(dataset)] == problems


def test_verify_opens_every_file(dataset: Path) -> None:
    """A file that is no sequence is found even where manifest and sums were made to agree with it."""
    (dataset / "objects/07/7.h5").write_bytes(b"x")
    sha256 = [file_sha256(dataset / row.file) for row in open_dataset(dataset).objects]
    change_column("sha256", pa.array(sha256))(dataset)
    write_sums(dataset, {})
    assert any("7.h5 is not a" in str(problem) for problem in verify_dataset(dataset))


def test_a_manifest_that_disagrees_with_the_sums_is_found(dataset: Path) -> None:
    change_column("sha256", pa.array(["0" * 64] * 3))(dataset)
    write_sums(dataset, {})
    found = [str(problem) for problem in verify_dataset(dataset)]
    said = "manifest.parquet has another sha256 of objects/07/7.h5 and 2 more than the file itself and SHA256SUMS"
    assert found == [said]


def test_the_sums_are_those_of_sha256sum(dataset: Path) -> None:
    done = subprocess.run(["sha256sum", "--check", "--strict", SUMS_FILE], cwd=dataset, capture_output=True, text=True)
    assert done.returncode == 0
    assert "objects/07/7.h5: OK" in done.stdout


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "cut off"),
        (f"{'0' * 64}  a", "cut off"),
        (f"{'0' * 63}  a\n", "line 1"),
        (f"{'0' * 64}  ../a\n", "line 1"),
        (f"{'0' * 64}  a\n{'0' * 64}  a\n", "line 2"),
        (f"{'0' * 64}  a\x0b{'0' * 64}  b\n", "line 1"),
        ("\xff\n", "cannot be read"),
    ],
)
def test_sums_that_are_none_are_refused(dataset: Path, content: str, complaint: str) -> None:
    (dataset / SUMS_FILE).write_bytes(content.encode("latin-1"))
    with pytest.raises(DatasetError, match=complaint) as caught:
        verify_dataset(dataset)
    assert str(dataset / SUMS_FILE) in str(caught.value)


def test_any_file_of_a_dataset_can_be_verified_alone(dataset: Path, tmp_path: Path) -> None:
    """Every flipped byte of every kind of file is found, in the dataset and, for sequences, out of it."""
    rng = np.random.default_rng(3)
    for name in [*read_sums(dataset), SUMS_FILE]:
        whole = (dataset / name).read_bytes()
        for place in rng.integers(0, len(whole), 30):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(rng.integers(8))
            (dataset / name).write_bytes(damaged)
            assert found_in(dataset / name), (name, place)
        (dataset / name).write_bytes(whole)
        assert not verify(dataset / name).problems
    alone = tmp_path / "7.h5"
    shutil.copyfile(dataset / "objects/07/7.h5", alone)
    assert verify(alone).problems == ()
    with alone.open("r+b") as file:
        file.write(b"X")
    assert len(verify(alone).problems) == 1
    with pytest.raises(DatasetError, match="nothing says what"):
        verify(write("stray.txt", b"")(tmp_path) or tmp_path / "stray.txt")


def found_in(path: Path) -> bool:
    """A list of sums is checked with its dataset, any other file by itself."""
    try:
        return bool(verify(path).problems)
    except DatasetError:
        return True


def test_a_dataset_of_schema_2_opens_and_is_checked_by_its_manifest(dataset: Path) -> None:
    """As the software of its time wrote it: other keys in dataset.json, fewer columns, no list of sums."""
    table = pq.read_table(dataset / MANIFEST_FILE)
    pq.write_table(
        table.drop_columns(["group", "step", "masked_fraction", "coverage", "psf_fwhm_arcsec"]), dataset / MANIFEST_FILE
    )
    tables = {name: file_sha256(dataset / name) for name in (MANIFEST_FILE, SKIPS_FILE, FRAMES_FILE)}
    content = json.loads((dataset / DATASET_FILE).read_text())
    for key in ("packages_sha256", "sources_sha256", "band_statistics"):
        del content[key]
    content |= {
        "schema_version": 2,
        "tables": tables,
        "seconds": {"plan": 1.0},
        "band_mean_nmgy": {},
        "band_std_nmgy": {},
    }
    (dataset / DATASET_FILE).write_text(json.dumps(content))
    (dataset / SUMS_FILE).unlink()
    opened = open_dataset(dataset)
    assert [(row.object_id, row.group) for row in opened.objects] == [("7", ""), ("679", ""), ("SN2005cg", "")]
    assert verify_dataset(dataset) == []
    (dataset / "objects/07/7.h5").write_bytes(b"x")
    (dataset / SKIPS_FILE).write_bytes(b"x")
    assert [str(problem) for problem in verify_dataset(dataset)] == [
        "objects/07/7.h5 does not have the sha256 of manifest.parquet",
        "skips.parquet does not have the sha256 of dataset.json",
    ]
    change_column("fold", pa.array([1, 1, 1], pa.int16()))(dataset)
    assert "manifest.parquet does not have the sha256 of dataset.json" in map(str, verify_dataset(dataset))
    with pytest.raises(DatasetError, match=r"manifest\.parquet does not have the sha256 of dataset\.json"):
        open_dataset(dataset)


def test_a_version_number_that_rotted_does_not_switch_the_sums_off(dataset: Path) -> None:
    content = (dataset / DATASET_FILE).read_text()
    (dataset / DATASET_FILE).write_text(content.replace('"schema_version": 3', '"schema_version": 2'))
    assert [str(problem) for problem in verify_dataset(dataset)] == [
        "dataset.json does not have the sha256 of SHA256SUMS"
    ]


def test_a_dataset_of_newer_software_says_so(dataset: Path) -> None:
    content = json.loads((dataset / DATASET_FILE).read_text())
    (dataset / DATASET_FILE).write_text(json.dumps(content | {"schema_version": 4}))
    with pytest.raises(DatasetError, match="has schema version 4, this software reads 1 to 3: update it"):
        open_dataset(dataset)
