"""Field tables and mask planes: values that mean "not measured" are refused, and no damage gives any other error."""

from __future__ import annotations

import random
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from pipeline import fitsfile
from pipeline.bands import BANDS
from pipeline.calibrate import read_calibration
from pipeline.errors import FrameError
from pipeline.frames import read_frame
from pipeline.hdus import split_hdus
from pipeline.identity import SHAPE
from pipeline.masks import _paint, read_mask
from pipeline.naming import FrameId, calibration_path, frame_path, mask_path
from pipeline.sequences import MaskBit

DAS = FrameId("das-dr7", 5582, 40, 4, 153, "g")
SAS = FrameId("sas-dr8", 125, 301, 4, 128, "g")


def place(archive: Path, frame: FrameId, path: Callable[[FrameId], str]) -> Path:
    return archive / ("das" if frame.layout == "das-dr7" else "") / path(frame)


@pytest.mark.real
@pytest.mark.parametrize("band", BANDS)
def test_no_real_field_is_refused(real_data: Path, band: str) -> None:
    for layout, run, rerun, camcol, field in (
        ("sas-dr8", 94, 301, 1, 12),
        ("das-dr7", 4192, 40, 4, 300),
        ("das-dr7", 6377, 40, 4, 399),
    ):
        frame = FrameId(layout, run, rerun, camcol, field, band)  # type: ignore[arg-type]
        found = read_calibration(place(real_data / "archive", frame, calibration_path), frame)
        assert 1 < found.gain_e_per_count < 6
        assert 0.5 < found.psf_fwhm_arcsec < 3


@pytest.mark.parametrize("value", [-9999.0, np.nan, np.inf, 0.0])
@pytest.mark.parametrize(
    "column", ["gain", "dark_variance", "psf_width", "mjd", "airmass", "sky", "aa", "nmgypercount"]
)
@pytest.mark.parametrize("frame", [DAS, SAS], ids=["tsField", "photoField"])
def test_a_value_that_was_not_measured_is_refused(
    tiny_archive: Path, tmp_path: Path, frame: FrameId, column: str, value: float
) -> None:
    original = place(tiny_archive, frame, calibration_path)
    with fits.open(original) as hdus:
        if column.upper() not in [name.upper() for name in hdus[1].columns.names]:
            pytest.skip(f"{original.name} has no {column}")
        hdus[1].data[column][...] = value
        hdus.writeto(tmp_path / original.name)
    usable = {"dark_variance": (0.0,), "sky": (0.0,), "mjd": (0.0, -9999.0), "airmass": (0.0,), "aa": (0.0,)}
    if value in usable.get(column, ()):  # zero noise or airmass harms nobody; the frame's own TAI settles mjd
        read_calibration(tmp_path / original.name, frame)
        return
    with pytest.raises(FrameError) as caught:
        read_calibration(tmp_path / original.name, frame)
    assert original.name in str(caught.value)


def test_the_refusal_names_file_column_and_value(tiny_archive: Path, tmp_path: Path) -> None:
    original = place(tiny_archive, DAS, calibration_path)
    with fits.open(original) as hdus:
        hdus[1].data["gain"][...] = -9999
        hdus.writeto(tmp_path / original.name)
    with pytest.raises(FrameError, match=r"tsField-005582-4-40-0153\.fit: gain of frame 5582/40/4/153/g is -9999\.0"):
        read_calibration(tmp_path / original.name, DAS)


def test_a_span_outside_the_image_flags_nothing() -> None:
    """Spans are relative to the row and column in the plane: left of the image, across its edge, inside it."""
    spans = np.array([(100, 10, 20), (101, 25, 35), (102, 40, 50)], dtype=">u2").view("u1").ravel()
    columns = [
        fits.Column("row0", "J", array=[0]),
        fits.Column("col0", "J", array=[30]),
        fits.Column("s", "PB()", array=np.array([spans], dtype=object)),
    ]
    names = [
        fits.Column("attributeName", "31A", array=["S_MASK_SATUR"]),
        fits.Column("Value", "J", array=[0]),
    ]
    file = BytesIO()
    tables = [fits.BinTableHDU.from_columns(table) for table in (columns, names)]
    fits.HDUList([fits.PrimaryHDU(), *tables]).writeto(file)
    mask = _paint(split_hdus(file.getvalue()), SHAPE)
    expected = np.zeros(SHAPE, dtype=np.uint8)
    expected[101, :6] = expected[102, 10:21] = MaskBit.SATUR
    np.testing.assert_array_equal(mask, expected)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Other characters in a header, other bytes anywhere, a card blanked, or the end missing."""
    damaged = bytearray(content)
    headers = [i for i in range(0, len(content), 2880) if content[i : i + 8] in (b"SIMPLE  ", b"XTENSION")]
    kind = rng.random()
    if kind < 0.5:
        start = rng.choice(headers)
        for _ in range(rng.randint(1, 3)):
            damaged[min(start + rng.randrange(2880), len(damaged) - 1)] = rng.choice(b"0123456789 -.'TFEXABNZ")
    elif kind < 0.75:
        for _ in range(rng.randint(1, 20)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    elif kind < 0.9:
        start = rng.choice(headers) + 80 * rng.randrange(36)
        damaged[start : start + 80] = b" " * 80
    else:
        del damaged[rng.randrange(len(damaged)) :]
    return bytes(damaged)


@pytest.mark.parametrize(
    ("path", "read", "n_cases"),
    [
        (calibration_path, lambda file, frame, table: read_calibration(file, frame), 150),
        (mask_path, lambda file, frame, table: read_mask(file, frame, SHAPE), 60),
        (frame_path, lambda file, frame, table: read_frame(file, table, None, rerun=frame.rerun), 12),
    ],
    ids=["calibration", "mask", "frame"],
)
@pytest.mark.parametrize("frame", [DAS, SAS], ids=["DR7", "DR8"])
def test_damage_is_a_frame_error_or_does_not_matter(
    tiny_archive: Path,
    monkeypatch: pytest.MonkeyPatch,
    frame: FrameId,
    path: Callable[[FrameId], str],
    read: Callable[[Path, FrameId, Path], object],
    n_cases: int,
) -> None:
    """Seeded fuzz: whatever bytes change, the reader succeeds or raises FrameError with the file's name."""
    file, table = place(tiny_archive, frame, path), place(tiny_archive, frame, calibration_path)
    content = {file: fitsfile.read_bytes(file), table: fitsfile.read_bytes(table)}
    whole, rng = content[file], random.Random(5)
    monkeypatch.setattr(fitsfile, "read_bytes", lambda path, **_: content[path])
    refused = accepted = 0
    for _ in range(n_cases):
        content[file] = mutated(whole, rng)
        try:
            read(file, frame, table)
        except FrameError as error:
            refused += file.name in str(error)
        else:
            accepted += 1
    assert refused + accepted == n_cases
    assert refused > n_cases // 20
