"""What is written to a per-object file comes back, wrong content is refused, and plain h5py reads it."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import SequenceError
from pipeline.sealed import SEAL_BYTES, seal
from pipeline.sequences import COLUMNS, MaskBit, Sequence, open_sequence, write_sequence

DATA = Path(__file__).parents[1] / "data"


def make_sequence(n_images: int = 4, size: int = 8, seed: int = 0) -> Sequence:
    """A valid sequence of random content, its first image half uncovered."""
    rng = np.random.default_rng(seed)
    arrays = {
        name: rng.uniform(1, 5, (n_images,) + (size, size) * (column.ndim == 3)).astype(column.dtype)
        for name, column in COLUMNS.items()
        if column.dtype != "|S64"
    }
    arrays["mjd_tai"].sort()
    arrays["mask"][:] = 0
    if n_images:
        arrays["mask"][0, : size // 2] = MaskBit.UNCOVERED
    arrays["image"][arrays["mask"] > 0] = np.nan
    arrays["frame_sha256"] = np.array([hashlib.sha256(bytes([i])).hexdigest() for i in range(n_images)], dtype="|S64")
    return Sequence(
        object_id="679",
        survey="test",
        ra_deg=327.4,
        dec_deg=0.65,
        class_name="SNIa",
        confirmation="spectroscopic",
        pixel_scale_arcsec=0.396,
        wcs_header="CTYPE1  = 'RA---TAN'",
        pipeline_version=2,
        **arrays,
    )


@settings(max_examples=20, deadline=None)
@given(n_images=st.integers(0, 7), size=st.integers(8, 12), seed=st.integers(0, 2**31))
def test_a_sequence_round_trips(tmp_path_factory: pytest.TempPathFactory, n_images: int, size: int, seed: int) -> None:
    sequence = make_sequence(n_images, size, seed)
    path = tmp_path_factory.mktemp("h5") / "679.h5"
    write_sequence(path, sequence)
    back = open_sequence(path)
    for item in dataclasses.fields(Sequence):
        np.testing.assert_array_equal(getattr(back, item.name), getattr(sequence, item.name))


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    said = [write_sequence(tmp_path / "a.h5", make_sequence())]
    time.sleep(1.1)  # HDF5 keeps times in whole seconds
    said.append(write_sequence(tmp_path / "b.h5", make_sequence()))
    content = [(tmp_path / name).read_bytes() for name in ("a.h5", "b.h5")]
    assert content[0] == content[1]
    assert said == [hashlib.sha256(content[0]).hexdigest()] * 2


@pytest.mark.parametrize("version", [1, 2])
def test_a_file_of_an_earlier_schema_version_is_read_for_ever(version: int) -> None:
    """Samples as the software of their time wrote them; what they lack means what it meant then."""
    old = open_sequence(DATA / f"sequence-v{version}.h5")
    with h5py.File(DATA / f"sequence-v{version}.h5") as file:
        assert file.attrs["schema_version"] == version
        for name in set(COLUMNS) & set(file):
            np.testing.assert_array_equal(getattr(old, name), file[name][()])
    assert (len(old), old.object_id, old.ra_deg, old.class_name, old.pipeline_version) == (
        3,
        "679",
        327.4,
        "SNIa",
        version,
    )
    if version == 1:  # its variance was that of independent pixels, and nothing was held against stars
        np.testing.assert_array_equal(old.independent_variance, old.variance)
        assert np.isnan(old.zp_offset_mag).all()
        assert not old.zp_flags.any()


def test_the_images_are_an_astropy_table_with_units() -> None:
    sequence = make_sequence(3)
    table = sequence.table()
    assert set(table.colnames) == {name for name, column in COLUMNS.items() if column.ndim == 1}
    np.testing.assert_array_equal(table["mjd_tai"], sequence.mjd_tai)
    assert table["sky_nmgy_arcsec2"].unit.to_string() == "nmgy / arcsec2"
    assert (table.meta["object_id"], table.meta["class"]) == ("679", "SNIa")


def test_every_flipped_byte_of_a_file_is_found(tmp_path: Path) -> None:
    """1,000 of them, anywhere: seal, HDF5's own structures, names, pixels; nothing but the file is needed."""
    path = tmp_path / "679.h5"
    write_sequence(path, make_sequence())
    whole = path.read_bytes()
    rng = np.random.default_rng(11)
    places = [*range(SEAL_BYTES), *rng.choice(np.arange(SEAL_BYTES, len(whole)), 1000 - SEAL_BYTES, replace=False)]
    for place, change in zip(places, rng.integers(1, 256, len(places)), strict=True):
        damaged = bytearray(whole)
        damaged[place] ^= int(change)
        path.write_bytes(damaged)
        with pytest.raises(SequenceError, match=r"679\.h5"):
            open_sequence(path)


def test_threads_write_and_read_each_its_own_file(tmp_path: Path) -> None:
    """HDF5 would take files in memory of equal name for one."""

    def there_and_back(number: int) -> tuple[int, float]:
        path = tmp_path / f"{number % 50}.h5"
        write_sequence(path, dataclasses.replace(make_sequence(4, 8, number % 50), ra_deg=float(number % 50)))
        return number % 50, open_sequence(path).ra_deg

    with ThreadPoolExecutor(4) as threads:
        for expected, found in threads.map(there_and_back, range(150)):
            assert found == expected


def test_plain_h5py_reads_it_and_finds_units(tmp_path: Path) -> None:
    write_sequence(tmp_path / "679.h5", make_sequence())
    with h5py.File(tmp_path / "679.h5") as file:
        assert file.attrs["schema_version"] == 3
        assert set(file) == set(COLUMNS)
        assert file["image"].attrs["unit"] == "nanomaggy"
        assert all(dataset.attrs["description"] for dataset in file.values())


@pytest.mark.parametrize(
    ("field", "change", "complaint"),
    [
        ("band_id", lambda a: a * 0, "band_id"),
        ("mjd_tai", lambda a: a[::-1].copy(), "time order"),
        ("image", lambda a: np.nan_to_num(a), "NaN exactly where"),
        ("variance", lambda a: -a, "negative"),
        ("variance", lambda a: np.where(a > 2, np.inf, a).astype(a.dtype), "variance is not finite"),
        ("variance", lambda a: np.where(a > 2, np.nan, a).astype(a.dtype), "variance is not finite"),
        ("image", lambda a: np.where(a > 4, np.inf, a).astype(a.dtype), "finite elsewhere"),
        ("mask", lambda a: a[:2], "shape"),
        ("object_id", lambda _: "../../679", "cannot be a file name"),
    ],
)
def test_a_sequence_that_contradicts_the_schema_is_not_written(tmp_path: Path, field, change, complaint) -> None:  # type: ignore[no-untyped-def]
    good = make_sequence()
    bad = dataclasses.replace(good, **{field: change(getattr(good, field))})
    with pytest.raises(SequenceError, match=complaint):
        write_sequence(tmp_path / "679.h5", bad)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "679.h5"
    write_sequence(path, make_sequence())
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"<html>not here</html>", b""):
        path.write_bytes(damaged)
        with pytest.raises(SequenceError, match=r"679\.h5"):
            open_sequence(path)
    path.write_bytes(whole[SEAL_BYTES:])
    with pytest.raises(SequenceError, match="says schema version 3, but lacks its seal"):
        open_sequence(path)
    path.unlink()
    with pytest.raises(SequenceError, match="no sequence at"):
        open_sequence(path)


def _replace(file: h5py.File, name: str, **options: object) -> None:
    del file[name]
    file.create_dataset(name, **options)


def _link_elsewhere(file: h5py.File) -> None:
    del file["image"]
    file["image"] = h5py.ExternalLink("elsewhere.h5", "image")


HUGE = {"dtype": "<f4", "chunks": (1, 99, 99)}


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda file: file.attrs.__setitem__("ra_deg", "abc"), "attribute ra_deg is 'abc'"),
        (lambda file: file.attrs.__setitem__("ra_deg", [1.0, 2.0]), "attribute ra_deg"),
        (lambda file: file.attrs.__setitem__("dec_deg", np.nan), "attribute dec_deg"),
        (lambda file: file.attrs.__setitem__("object_id", 679), "attribute object_id"),
        (lambda file: file.attrs.__setitem__("object_id", "../679"), "cannot be a file name"),
        (lambda file: file.attrs.__setitem__("schema_version", [1, 1]), r"schema_version is \[1 1\], expected 1 to 3"),
        (lambda file: file.attrs.__delitem__("schema_version"), "is not a sequence of this software"),
        (
            lambda file: file.attrs.__setitem__("schema_version", 4),
            "schema version 4, this software reads 1 to 3: update",
        ),
        (lambda file: file.attrs.__setitem__("schema_version", 2), "says schema version 2, but has a seal"),
        (lambda file: file.attrs.__setitem__("pipeline_version", "x"), "expected a whole number"),
        (lambda file: file.attrs.__delitem__("wcs"), "wcs"),
        (lambda file: file.attrs.__setitem__("unit", "Jy"), "/ has the unit 'Jy', expected 'nanomaggy'"),
        (lambda file: file["image"].attrs.__setitem__("unit", "jansky"), "/image has the unit 'jansky'"),
        (lambda file: file["mjd_tai"].attrs.__delitem__("unit"), "/mjd_tai has the unit None, expected 'd'"),
        (lambda file: _replace(file, "image", shape=(1000, 100_000, 100_000), **HUGE), "impossible shape"),
        (lambda file: _replace(file, "image", shape=(100_000, 512, 512), **HUGE), "bytes, more than"),
        (lambda file: _replace(file, "image", shape=(300, 300, 300), **HUGE), "opens to 108.* bytes, more than"),
        (lambda file: _replace(file, "run", shape=(2**40,), dtype="<i4", chunks=(99,)), "impossible shape"),
        (lambda file: _replace(file, "run", data=3, dtype="<i4"), "impossible shape"),
        (lambda file: _replace(file, "run", data=["a"]), "run is not a dataset of type <i4"),
        (_link_elsewhere, "image is not a dataset"),
    ],
)
def test_a_file_that_lies_is_refused_before_it_is_read(tmp_path: Path, damage, complaint: str) -> None:  # type: ignore[no-untyped-def]
    """Attributes of another type, sizes that would fill the memory, content elsewhere, sealed or not: one error."""
    path = tmp_path / "679.h5"
    write_sequence(path, make_sequence())
    with h5py.File(path, "r+") as file:
        damage(file)
    body = path.read_bytes()[SEAL_BYTES:]
    path.write_bytes(seal(body) + body)
    with pytest.raises(SequenceError, match=complaint) as caught:
        open_sequence(path)
    assert str(path) in str(caught.value)


HANGING = {
    1: (2073, 2105, 2129, 2153, 2177, 2201, 2233, 2273, 2297, 2329, 2417, 2449, 2513, 2529, 2601),
    2: (2329, 2417, 2449, 2521, 2537, 2625, 2641),
}
"""Bytes of the samples whose bit 8, when it flips, kept HDF5 2.0 for ever."""
OPENS = """
import sys
from pathlib import Path
from pipeline.errors import SequenceError
from pipeline.sequences import open_sequence
for file in map(Path, sys.argv[1:]):
    try:
        open_sequence(file)
    except SequenceError as error:
        print(error)
"""


def test_lengths_of_texts_that_lead_nowhere_are_an_error_and_not_an_endless_loop(tmp_path: Path) -> None:
    """In a process of its own: what hangs in HDF5 hears nothing, no signal either."""
    files = []
    for version, places in HANGING.items():
        for place in places:
            content = bytearray((DATA / f"sequence-v{version}.h5").read_bytes())
            content[place] ^= 8
            files.append(tmp_path / f"{version}-{place}.h5")
            files[-1].write_bytes(content)
    done = subprocess.run([sys.executable, "-c", OPENS, *files], capture_output=True, text=True, check=True, timeout=60)
    said = done.stdout.splitlines()
    assert len(said) == len(files)
    assert all(f"{file} is not a readable sequence" in line for file, line in zip(files, said, strict=True))


def test_pixels_that_spell_the_name_of_a_collection_are_pixels(tmp_path: Path) -> None:
    sequence = make_sequence()
    sequence.image[1:].view("S4")[:, ::2] = b"GCOL"
    write_sequence(tmp_path / "679.h5", sequence)
    np.testing.assert_array_equal(open_sequence(tmp_path / "679.h5").image, sequence.image)


def test_what_begins_as_no_sequence_is_not_read(tmp_path: Path) -> None:
    """A file of 1 GB of nothing, which takes no room on the disk."""
    path = tmp_path / "679.h5"
    with path.open("wb") as file:
        file.truncate(10**9)
    tracemalloc.start()
    with pytest.raises(SequenceError, match="begins neither with a seal nor as HDF5"):
        open_sequence(path)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()
