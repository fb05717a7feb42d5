"""Whatever is wrong with a frame or its table is one FrameError that names the file, within bounded memory."""

from __future__ import annotations

import bz2
import gzip
import time
import tracemalloc
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import frames
from pipeline.compressed import read_bytes, read_start
from pipeline.errors import FrameError
from pipeline.frames import read_frame, read_header
from pipeline.naming import FrameId, calibration_path, frame_path, mask_path

DAS = FrameId("das-dr7", 5582, 40, 4, 153, "g")
SAS = FrameId("sas-dr8", 125, 301, 4, 128, "g")
PACK = {".gz": lambda content: gzip.compress(content, 1), ".bz2": lambda content: bz2.compress(content, 1)}


def files_of(archive: Path, frame: FrameId) -> tuple[Path, Path, Path]:
    base = archive / ("das" if frame.layout == "das-dr7" else "")
    return base / frame_path(frame), base / calibration_path(frame), base / mask_path(frame)


@pytest.fixture(autouse=True)
def flat_sky(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sky costs is not what is tested here."""
    monkeypatch.setattr("pipeline.fpc.sky_counts", lambda counts: np.full_like(counts, 120))


def read_changed(archive: Path, folder: Path, frame: FrameId, change: Callable[[fits.HDUList], None]) -> object:
    """Change one file of a frame with astropy and read it."""
    image, table, _ = files_of(archive, frame)
    copy = folder / image.name
    with fits.open(BytesIO(read_bytes(image))) as hdus:
        change(hdus)
        content = BytesIO()
        hdus.writeto(content, output_verify="ignore")
    copy.write_bytes(PACK[copy.suffix](content.getvalue()))
    return read_frame(copy, table, None, rerun=frame.rerun)


def as_floats(hdus: fits.HDUList) -> None:
    hdus[0] = fits.PrimaryHDU(hdus[0].data.astype(np.float64), hdus[0].header)


@pytest.mark.parametrize("frame", [DAS, SAS], ids=["fpC", "frame"])
def test_wrong_bitpix_is_refused(tiny_archive: Path, tmp_path: Path, frame: FrameId) -> None:
    with pytest.raises(FrameError, match=r"BITPIX"):
        read_changed(tiny_archive, tmp_path, frame, as_floats)


CARDS = ["RUN", "CAMCOL", "FILTER", "FRAME", "TAI", "C_OBS", "EXPTIME", "CTYPE1", "CRVAL2", "CRPIX1", "CD1_2"]


@pytest.mark.parametrize("card", [*CARDS, "SOFTBIAS"])
def test_a_missing_card_is_named(tiny_archive: Path, tmp_path: Path, card: str) -> None:
    with pytest.raises(FrameError, match=card) as caught:
        read_changed(tiny_archive, tmp_path, DAS, lambda hdus: hdus[0].header.remove(card))
    assert "fpC-005582-g4-0153.fit.gz" in str(caught.value)


@pytest.mark.parametrize(
    ("card", "value", "complaint"),
    [
        ("CD1_2", 0.0, "no solution|disagree"),
        ("CTYPE1", "GLON-CAR", "axes"),
        ("EXPTIME", 0.0, "EXPTIME"),
        ("EXPTIME", "long", "long"),
        ("C_OBS", -3, "C_OBS"),
        ("SOFTBIAS", 10**7, "SOFTBIAS"),
        ("TAI", 0.0, "TAI"),
        ("CRVAL1", 5.0, "disagree"),
    ],
)
def test_an_impossible_card_is_named(
    tiny_archive: Path, tmp_path: Path, card: str, value: object, complaint: str
) -> None:
    def change(hdus: fits.HDUList) -> None:
        hdus[0].header[card] = value
        if card == "CD1_2":
            hdus[0].header["CD1_1"] = 0.0

    with pytest.raises(FrameError, match=complaint):
        read_changed(tiny_archive, tmp_path, DAS, change)


@pytest.mark.parametrize("hdu", [1, 2, 3])
def test_a_frame_that_lacks_one_of_its_tables_is_refused(tiny_archive: Path, tmp_path: Path, hdu: int) -> None:
    with pytest.raises(FrameError, match="frame-g-000125"):
        read_changed(tiny_archive, tmp_path, SAS, lambda hdus: hdus.pop(hdu))


def test_counts_below_the_bias_have_no_negative_variance(tiny_archive: Path, tmp_path: Path) -> None:
    def dark(hdus: fits.HDUList) -> None:
        hdus[0].data[:100] = 0

    window = read_changed(tiny_archive, tmp_path, DAS, dark).whole()  # type: ignore[attr-defined]
    assert window.image_YX[:100].max() < 0
    assert window.variance_YX.min() > 0


def test_a_pixel_that_is_no_number_does_not_condemn_a_frame(tiny_archive: Path, tmp_path: Path) -> None:
    """Thumbnails leave it uncovered; tests/pipeline/test_thumbnails.py has that."""

    def spoil(hdus: fits.HDUList) -> None:
        hdus[0].data[5, 7] = np.nan

    window = read_changed(tiny_archive, tmp_path, SAS, spoil).whole()  # type: ignore[attr-defined]
    assert np.isnan(window.image_YX[5, 7])
    assert np.isfinite(np.delete(window.image_YX.ravel(), 5 * 2048 + 7)).all()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), layout=st.sampled_from([DAS, SAS]), which=st.integers(0, 2))
def test_any_damage_is_a_frame_error_or_does_not_matter(
    tiny_archive: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject, layout: FrameId, which: int
) -> None:
    """Bytes changed, inserted or lost anywhere in image, table or mask: read, or refused with the file's name."""
    files = files_of(tiny_archive, layout)
    content = {file: _content(file) for file in files}
    damaged = bytearray(content[files[which]])
    for _ in range(data.draw(st.integers(1, 3))):
        near = data.draw(st.sampled_from([0, 2880, 5760, 8640, len(damaged)]))
        start = data.draw(st.integers(0, max(min(near, len(damaged)) - 1, 0)))
        noise = data.draw(st.binary(min_size=1, max_size=80) | st.sampled_from([b" " * 80, b"9" * 20, b"-1", b"END"]))
        stop = start + data.draw(st.sampled_from([len(noise), 0, 2880]))
        damaged[start:stop] = noise
    content[files[which]] = bytes(damaged)
    monkeypatch.setattr("pipeline.fitsfile.read_bytes", lambda path, **_: content[path])
    try:
        read_frame(*files, rerun=layout.rerun)
    except FrameError as error:
        named = files[which].name in str(error)
    else:
        named = True
    assert named


_CONTENT: dict[Path, bytes] = {}


def _content(file: Path) -> bytes:
    if file not in _CONTENT:
        _CONTENT[file] = read_bytes(file)
    return _CONTENT[file]


def test_a_mask_of_endless_spans_is_bounded(tiny_archive: Path, tmp_path: Path) -> None:
    """A hundred thousand spans over whole rows: refused within a second and 100 MB."""
    _, _, planes = files_of(tiny_archive, DAS)
    spans = np.tile(np.array([[5, 0, 2047]], dtype=">u2"), (100_000, 1)).view("u1").ravel()
    with fits.open(planes) as hdus:
        names = [str(name).removeprefix("S_MASK_") for name in hdus[-1].data["attributeName"]]
        plane = int(hdus[-1].data["Value"][names.index("INTERP")]) + 1
        row0 = [fits.Column(name, "J", array=[0]) for name in ("row0", "col0")]
        hdus[plane] = fits.BinTableHDU.from_columns([*row0, fits.Column("s", "PB()", array=np.array([spans], object))])
        hdus.writeto(tmp_path / planes.name)
    image, table, _ = files_of(tiny_archive, DAS)
    tracemalloc.start()
    started = time.monotonic()
    with pytest.raises(FrameError, match=planes.name):
        read_frame(image, table, tmp_path / planes.name, rerun=DAS.rerun)
    assert time.monotonic() - started < 5
    assert tracemalloc.get_traced_memory()[1] < 150e6
    tracemalloc.stop()


@pytest.mark.parametrize("frame", [DAS, SAS], ids=["fpC", "frame"])
def test_a_header_is_read_without_the_image(
    tiny_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frame: FrameId
) -> None:
    """It says what the whole frame says, also where the image behind it is cut off."""
    image, table, _ = files_of(tiny_archive, frame)
    whole = read_frame(image, table, None, rerun=frame.rerun, astrometry="header")
    monkeypatch.setattr(frames, "open_frame", None)
    cut = tmp_path / image.name
    # A bzip2 stream gives nothing before its first block of 900 kB is complete: a twelfth of a frame.
    cut.write_bytes(image.read_bytes()[: 900_000 if image.suffix == ".bz2" else 70_000])
    header = read_header(cut, rerun=frame.rerun)
    assert header.id == whole.id == frame
    assert header.tai_row0_s == whole.tai_row0_s
    assert header.mjd_tai == pytest.approx(float(whole.mjd_tai(header.shape[0] / 2)), abs=1e-9)
    place = np.array([351.0]), np.array([0.1])
    np.testing.assert_array_equal(header.solution.world_to_pixel(*place), whole.world_to_pixel(*place))
    with pytest.raises(FrameError, match="contradicts"):
        read_header(cut.rename(tmp_path / image.name.replace(f"{frame.run:06d}", "000777")), rerun=frame.rerun)


@given(content=st.binary(max_size=3000), n=st.integers(0, 4000))
@settings(max_examples=40, deadline=None)
def test_the_start_of_a_file_is_its_start(tmp_path_factory: pytest.TempPathFactory, content: bytes, n: int) -> None:
    folder = tmp_path_factory.mktemp("start")
    for suffix, pack in {**PACK, ".fit": bytes}.items():
        path = folder / f"x{suffix}"
        path.write_bytes(pack(content))
        assert read_start(path, n) == content[:n]
