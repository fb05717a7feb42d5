"""A pack holds the very images of its dataset, survives being killed at any moment, and says what is wrong with it."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline.packing as packing
from pipeline.errors import DatasetError, PackError, StorageError
from pipeline.manifest import (
    MANIFEST_SCHEMA,
    DatasetInfo,
    ObjectRow,
    content_hash,
    open_dataset,
    write_info,
    write_table,
)
from pipeline.naming import MANIFEST_FILE, PACK_FILE, PACK_OBJECTS_FILE, SUMS_FILE, pack_dir, sequence_path
from pipeline.pack import band_moments, find_pack, open_pack, stored, verify_pack
from pipeline.packing import pack_dataset
from pipeline.sequences import write_sequence
from pipeline.sums import file_sha256
from pipeline.versions import versions
from tests.pipeline.test_sequences import make_sequence

SIZE = 8
LENGTHS = (5, 1, 12, 3, 30, 2, 9)
PACK_NAMES = ("image.npy", "band_id.npy", "mjd_tai.npy", "moments.npy", PACK_OBJECTS_FILE, SUMS_FILE, PACK_FILE)
BLOCK_BYTES = 12 * SIZE * SIZE * 2
"""Of half-precision images: the objects above are three blocks."""


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "BLOCK_BYTES", BLOCK_BYTES)


def make(path: Path, lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> Path:
    """A dataset of these numbers of images per object."""
    rows = []
    for number, length in enumerate(lengths):
        sequence = replace(make_sequence(length, SIZE, seed + number), object_id=str(100 + number))
        file = sequence_path(sequence.object_id)
        write_sequence(path / file, sequence)
        row = dict.fromkeys(MANIFEST_SCHEMA.names, 0) | {"cell": "c", "group": sequence.object_id, "step": "train"}
        row |= {name: getattr(sequence, name) for name in ("object_id", "class_name", "confirmation")}
        rows.append(row | {"file": file, "sha256": file_sha256(path / file), "n_images": length, "fold": number % 5})
    describe(path, rows)
    return path


def describe(path: Path, rows: list[dict[str, object]]) -> None:
    """Write manifest and description of objects that are there."""
    write_table(path / MANIFEST_FILE, [{n: row[n] for n in MANIFEST_SCHEMA.names} for row in rows], MANIFEST_SCHEMA)
    info = DatasetInfo(
        dataset_id="demo-0",
        survey={},
        software={},
        input_hash="",
        content_hash=content_hash((str(row["object_id"]), str(row["sha256"])) for row in rows),
        counts={},
        size=SIZE,
        pixel_scale_arcsec=0.396,
    )
    write_info(path, info)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return make(tmp_path / "datasets" / "demo" / "0123")


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_pack_holds_the_images_of_all_objects_in_the_manifests_order(dataset: Path, dtype) -> None:
    opened = open_dataset(dataset)
    pack = pack_dataset(dataset, dtype=dtype, planes=("mask", "variance"))
    assert pack.path == pack_dir(dataset, dtype)
    assert pack.object_ids == tuple(row.object_id for row in opened.objects)
    assert pack.length_O.tolist() == list(LENGTHS)
    assert pack.objects["fold"].to_pylist() == [row.fold for row in opened.objects]
    assert pack.variance_PHW is not None
    assert pack.mask_PHW is not None
    for row, first, length in zip(opened.objects, pack.first_O, pack.length_O, strict=True):
        sequence, own = opened.sequence(row), slice(first, first + length)
        np.testing.assert_array_equal(pack.image_PHW[own], sequence.image.astype(dtype))
        np.testing.assert_array_equal(pack.variance_PHW[own], sequence.variance.astype(dtype))
        np.testing.assert_array_equal(pack.mask_PHW[own], sequence.mask)
        np.testing.assert_array_equal(pack.band_P[own], sequence.band_id)
        np.testing.assert_array_equal(pack.mjd_P[own], sequence.mjd_tai)
    assert verify_pack(pack.path) == []


def test_packs_are_not_taken_for_versions(dataset: Path) -> None:
    pack_dataset(dataset)
    assert [version.name for version in versions(dataset.parent)] == [dataset.name]


def test_numpy_alone_reads_every_array_and_sha256sum_the_list(dataset: Path) -> None:
    pack = pack_dataset(dataset, planes=("variance", "mask"))
    for name, file in pack.info.files.items():
        array = np.load(pack.path / name, allow_pickle=False)
        assert (array.dtype, array.shape) == (np.dtype(file.dtype), file.shape)
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", SUMS_FILE], cwd=pack.path, check=True)


def test_half_precision_clips_what_it_cannot_hold_and_keeps_nan() -> None:
    pixels = np.array([1e6, -1e9, np.nan, 65519, 1 / 3], np.float32)
    np.testing.assert_array_equal(stored(pixels, "float16"), np.array([65504, -65504, np.nan, 65504, 1 / 3], "f2"))
    np.testing.assert_array_equal(stored(pixels, "float32"), pixels)


@settings(max_examples=30, deadline=None)
@given(n_images=st.integers(0, 12), seed=st.integers(0, 2**31), kept=st.sets(st.integers(1, 5), min_size=1))
def test_moments_are_those_of_covered_pixels_and_do_not_depend_on_other_bands(n_images, seed, kept) -> None:
    sequence = make_sequence(n_images, SIZE, seed)
    moments = band_moments(sequence.image, sequence.band_id)
    for number in range(1, 6):
        pixels = sequence.image[sequence.band_id == number].astype(float)
        expected = np.isfinite(pixels).sum(), np.nansum(pixels), np.nansum(pixels**2)
        np.testing.assert_allclose(moments[number - 1], expected, rtol=1e-12)
    some = np.isin(sequence.band_id, list(kept))
    of_some = band_moments(sequence.image[some], sequence.band_id[some])
    for number in kept:
        assert of_some[number - 1].tolist() == moments[number - 1].tolist()


def test_packing_again_changes_nothing_and_any_number_of_threads_gives_the_same_bytes(dataset: Path) -> None:
    first = pack_dataset(dataset, workers=1)
    before = {file: file.stat().st_mtime_ns for file in first.path.iterdir()}
    pack_dataset(dataset)
    assert {file: file.stat().st_mtime_ns for file in first.path.iterdir()} == before
    other = pack_dataset(dataset, dataset.parent / "other", workers=3)
    assert bytes_of(other.path) == bytes_of(first.path)
    assert len(first.info.blocks) == 3


@pytest.mark.slow
def test_threads_do_not_get_each_others_images(tmp_path: Path) -> None:
    """HDF5 takes two files in memory for one if they have one name, and all objects here look alike from outside."""
    pack = pack_dataset(make(tmp_path / "dataset", (3,) * 300), tmp_path / "pack", workers=4)
    opened = open_dataset(tmp_path / "dataset")
    for row, first in zip(opened.objects, pack.first_O, strict=True):
        np.testing.assert_array_equal(pack.image_PHW[first : first + 3], opened.sequence(row).image.astype("f2"))


KILLED = """
import sys
from pathlib import Path
import pipeline.packing as packing
packing.BLOCK_BYTES = int(sys.argv[3])
print("go", flush=True)
packing.pack_dataset(Path(sys.argv[1]), Path(sys.argv[2]), planes=("mask",), workers=2)
"""


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "packing did not get on"
        time.sleep(0.001)


def _lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def test_killed_at_random_moments_it_continues_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make(tmp_path / "dataset", tuple(random.Random(1).choices(range(1, 9), k=300)))
    block_bytes = 40 * SIZE * SIZE * 2
    monkeypatch.setattr(packing, "BLOCK_BYTES", block_bytes)
    undisturbed = pack_dataset(dataset, tmp_path / "undisturbed", planes=("mask",))
    moment, out, resumed = random.Random(82), tmp_path / "out", 0
    journal = tmp_path / ".out.journal"
    for number in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(dataset), str(out), str(block_bytes)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        if number % 2:  # so many blocks on, however fast the machine is
            lines = moment.randint(2, len(undisturbed.info.blocks) - 5)
            wait_for(lambda lines=lines, process=process: process.poll() is not None or _lines(journal) >= lines)
        else:
            time.sleep(moment.uniform(0, 0.25))
        process.kill()
        process.communicate()
        resumed += journal.exists() and 1 < len(journal.read_text().splitlines()) <= len(undisturbed.info.blocks)
        if out.exists():
            assert bytes_of(out) == bytes_of(undisturbed.path)
            shutil.rmtree(out)
    assert resumed > 0
    assert bytes_of(pack_dataset(dataset, out, planes=("mask",)).path) == bytes_of(undisturbed.path)
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".out") and file.suffix != ".lock"]


@pytest.fixture
def stopped(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A run that met an unreadable file after two blocks; the object ids read by what comes after."""
    read: list[str] = []
    original = packing._read_columns

    def failing(opened, row: ObjectRow, recipe):
        if row.object_id == "106":
            raise DatasetError("unplugged")
        return original(opened, row, recipe)

    def noting(opened, row: ObjectRow, recipe):
        read.append(row.object_id)
        return original(opened, row, recipe)

    monkeypatch.setattr(packing, "_read_columns", failing)
    with pytest.raises(DatasetError, match="unplugged"):
        pack_dataset(dataset, workers=1)
    monkeypatch.setattr(packing, "_read_columns", noting)
    return read


def test_finished_blocks_are_not_read_again(dataset: Path, stopped: list[str]) -> None:
    pack_dataset(dataset)
    assert sorted(stopped) == ["105", "106"]


def test_a_finished_block_that_lost_its_bytes_in_a_power_cut_is_packed_again(dataset: Path, stopped: list[str]) -> None:
    site = pack_dir(dataset, "float16")
    with site.with_name(f".{site.name}.packing").joinpath("image.npy").open("rb+") as file:
        file.seek(128 + 3 * SIZE * SIZE * 2)
        file.write(bytes(64))
    pack = pack_dataset(dataset)
    assert {"100", "105", "106"} <= set(stopped)
    assert "104" not in stopped
    assert bytes_of(pack.path) == bytes_of(pack_dataset(dataset, dataset.parent / "other").path)


def test_what_a_kill_left_of_a_file_does_not_come_into_the_pack(dataset: Path, stopped: list[str]) -> None:
    site = pack_dir(dataset, "float16")
    site.with_name(f".{site.name}.packing").joinpath(".objects.parquet.x.part").write_bytes(b"PAR1")
    assert verify_pack(pack_dataset(dataset).path) == []
    (site / ".pack.json.x.part").touch()  # as such a kill left it there once
    assert verify_pack(pack_dataset(dataset).path) == []


@pytest.mark.parametrize("tail", [b'{"first_object": 99', b"\xff\xfe\n", b"{}\n"])
def test_a_torn_or_damaged_journal_costs_its_line_at_most(dataset: Path, stopped: list[str], tail: bytes) -> None:
    site = pack_dir(dataset, "float16")
    with site.with_name(f".{site.name}.journal").open("ab") as journal:
        journal.write(tail)
    pack = pack_dataset(dataset)
    assert verify_pack(pack.path) == []
    assert sorted(stopped) == ["105", "106"]


def test_a_half_made_pack_of_something_else_is_begun_anew(dataset: Path, stopped: list[str]) -> None:
    pack = pack_dataset(dataset, pack_dir(dataset, "float16"), planes=("mask",))
    assert len(stopped) == len(LENGTHS)
    assert verify_pack(pack.path) == []


def test_another_pack_at_its_place_is_refused_and_stays(dataset: Path, tmp_path: Path) -> None:
    pack = pack_dataset(dataset)
    before = bytes_of(pack.path)
    with pytest.raises(PackError, match=r"holds a pack of demo-0 .* as float16, not of demo-0 .* as float32: choose"):
        pack_dataset(dataset, pack.path, dtype="float32")
    with pytest.raises(PackError, match=r"not of demo-0 .* as float16 and mask"):
        pack_dataset(dataset, planes=("mask",))
    with pytest.raises(PackError, match="holds a pack of"):
        pack_dataset(make(tmp_path / "another", seed=50), pack.path)
    assert bytes_of(pack.path) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("mine")
    np.save(tmp_path / "array.npy", np.zeros((62, SIZE)))
    (tmp_path / "array").mkdir()
    (tmp_path / "array.npy").rename(tmp_path / "array" / "image.npy")
    for name, complaint in (
        ("mine", r"diary\.txt is no file of a pack"),
        ("array", "nothing in it is surely of a pack"),
    ):
        kept = bytes_of(tmp_path / name)
        with pytest.raises(PackError, match=complaint):
            pack_dataset(dataset, tmp_path / name)
        assert bytes_of(tmp_path / name) == kept


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [_truncate, Path.unlink], ids=["truncated", "gone"])
@pytest.mark.parametrize("names", [*PACK_NAMES, PACK_NAMES[1:], PACK_NAMES[:-1]], ids=str)
def test_whatever_is_wrong_with_a_pack_it_is_made_anew(dataset: Path, names: str | tuple[str, ...], damage) -> None:
    """Flipped bytes are found by `test_verify_finds_every_flipped_byte`; a killed removal leaves any of the files."""
    pack = pack_dataset(dataset)
    before = bytes_of(pack.path)
    for name in [names] if isinstance(names, str) else names:
        damage(pack.path / name)
    assert bytes_of(pack_dataset(dataset).path) == before
    assert [path.name for path in pack.path.parent.iterdir() if path.suffix != ".lock"] == [pack.path.name]


def test_two_processes_do_not_pack_into_the_same_folder(dataset: Path, tmp_path: Path) -> None:
    with FileLock(tmp_path / ".out.lock"), pytest.raises(PackError, match="is being packed by another process"):
        pack_dataset(dataset, tmp_path / "out")


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (_flip, "100.h5 does not have the sha256 of manifest.parquet"),
        (Path.unlink, "cannot read .*100.h5: No such file"),
    ],
)
def test_a_dataset_that_is_not_as_published_is_not_packed(dataset: Path, damage, complaint: str) -> None:
    damage(dataset / "objects" / "00" / "100.h5")
    with pytest.raises(DatasetError, match=complaint):
        pack_dataset(dataset)
    assert not pack_dir(dataset, "float16").exists()


def test_a_manifest_with_another_number_of_images_is_one_error(dataset: Path) -> None:
    rows = open_dataset(dataset).table(MANIFEST_FILE).to_pylist()
    rows[2]["n_images"] = 11
    describe(dataset, rows)
    with pytest.raises(
        DatasetError, match=r"102\.h5: image has shape \(12, 8, 8\), manifest.parquet says \(11, 8, 8\)"
    ):
        pack_dataset(dataset)


def test_files_that_are_not_contiguous_are_packed_alike(dataset: Path, tmp_path: Path) -> None:
    plain = pack_dataset(dataset)
    opened = open_dataset(dataset)
    row = opened.objects[4]
    file = dataset / row.file
    content = file.read_bytes()
    start = content.index(b"\x89HDF")
    (tmp_path / "body.h5").write_bytes(content[start:])
    assert packing._contiguous(content, ["image"]) is not None
    with h5py.File(tmp_path / "body.h5", "r+") as body:
        image = body["image"][()]
        del body["image"]
        body.create_dataset("image", data=image, compression="gzip")
    assert packing._contiguous((tmp_path / "body.h5").read_bytes(), ["image"]) is None
    np.testing.assert_array_equal(plain.image_PHW[21:51], opened.sequence(row).image.astype("f2"))


@pytest.mark.skipif(sys.platform == "darwin", reason="reserves no room")
def test_a_full_disk_is_met_at_once_and_leaves_nothing_but_the_earlier_pack(dataset: Path, monkeypatch) -> None:
    earlier = pack_dataset(dataset)
    before = bytes_of(earlier.path)

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match=r"cannot write .*0123-float32: No space left on device; free some space"):
        pack_dataset(dataset, dtype="float32")
    packs = pack_dir(dataset, "float32").parent
    assert [file.name for file in sorted(packs.iterdir()) if file.suffix != ".lock"] == [earlier.path.name]
    assert bytes_of(earlier.path) == before


def test_verify_finds_every_flipped_byte(tmp_path: Path) -> None:
    pack = pack_dataset(make(tmp_path / "dataset", (2, 1)), tmp_path / "pack", planes=("mask",))
    rng = random.Random(82)
    files = sorted(pack.path.iterdir())
    for _ in range(1000):
        file = rng.choice(files)
        content = file.read_bytes()
        changed = bytearray(content)
        changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(changed)
        try:
            problems = verify_pack(pack.path)
        except PackError as error:
            problems = [str(error)]
        assert problems, file.name
        file.write_bytes(content)
    assert verify_pack(pack.path) == []
    (pack.path / "stray").touch()
    assert verify_pack(pack.path) == ["stray is no file of a pack"]


def _resummed(pack: Path) -> None:
    lines = (f"{hashlib.sha256((pack / n).read_bytes()).hexdigest()}  {n}\n" for n in (PACK_OBJECTS_FILE, PACK_FILE))
    (pack / SUMS_FILE).write_text("".join(lines))


def _reworded(old: str, new: str):
    def damage(pack: Path) -> None:
        text = (pack / PACK_FILE).read_text()
        assert old in text
        (pack / PACK_FILE).write_text(text.replace(old, new))
        _resummed(pack)

    return damage


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda pack: (pack / "image.npy").unlink(), "cannot read image.npy"),
        (lambda pack: os.truncate(pack / "image.npy", 1000), "image.npy has 1000 bytes, expected"),
        (
            lambda pack: (pack / "image.npy").write_bytes(b"\x80" * (pack / "image.npy").stat().st_size),
            "does not begin",
        ),
        (lambda pack: (pack / PACK_FILE).unlink(), "is not a pack: it has no pack.json"),
        (lambda pack: (pack / SUMS_FILE).unlink(), "is not a pack: it has no SHA256SUMS"),
        (lambda pack: (pack / SUMS_FILE).write_bytes(b"\xff"), "does not have the sha256 of SHA256SUMS"),
        (_reworded('"format_version": 1', '"format_version": 2'), "format_version"),
        (_reworded('"size": 8', '"size": 1000000'), "size"),
        (
            _reworded('"n_images": 62,\n "blocks"', '"n_images": 1000000000000,\n "blocks"'),
            "its blocks end at object 7",
        ),
        (_reworded('"first_object": 3', '"first_object": 2'), "the block at object 2 is out of order"),
        (_reworded('"dtype": "float16"', '"dtype": "object"'), "dtype"),
        (lambda pack: shutil.rmtree(pack), "is not a pack"),
    ],
)
def test_a_pack_that_is_damaged_or_lies_is_one_clear_error(dataset: Path, damage, complaint: str) -> None:
    pack = pack_dataset(dataset)
    damage(pack.path)
    with pytest.raises(PackError, match=complaint) as caught:
        open_pack(pack.path)
    assert str(pack.path) in str(caught.value)


def test_a_pack_of_another_version_does_not_belong_and_is_not_found(dataset: Path, tmp_path: Path) -> None:
    pack = pack_dataset(dataset)
    opened = open_dataset(dataset)
    pack.check_belongs(opened)
    assert find_pack(opened, "float32") is None
    found = find_pack(opened, "float16")
    assert found is not None
    assert found.path == pack.path
    newer = open_dataset(make(tmp_path / "newer", seed=9))
    with pytest.raises(PackError, match=r"is a pack of demo-0, content \w{12}, but .*newer is demo-0, content"):
        pack.check_belongs(newer)
    shutil.copytree(pack.path, pack_dir(newer.path, "float16"))
    assert find_pack(newer, "float16") is None


def test_an_object_without_images_takes_no_room(tmp_path: Path) -> None:
    pack = pack_dataset(make(tmp_path / "dataset", (0, 3, 0)), tmp_path / "pack")
    assert pack.length_O.tolist() == [0, 3, 0]
    assert verify_pack(pack.path) == []
