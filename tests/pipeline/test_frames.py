"""Reading frames and their sidecars: what real files say, and one clear error for each kind of damage."""

from __future__ import annotations

import bz2
import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from pipeline.bands import BANDS
from pipeline.calibrate import read_calibration
from pipeline.compressed import read_bytes
from pipeline.errors import FrameError
from pipeline.frame import Frame
from pipeline.frame_dr8 import Dr8Pixels
from pipeline.frames import read_frame
from pipeline.identity import check_file
from pipeline.masks import PLANES, read_mask
from pipeline.naming import FrameId, calibration_path, frame_path, mask_path
from pipeline.sky import sky_counts

LEGACY = FrameId("sas-dr8", 94, 301, 1, 12, "r")
SEASON = FrameId("das-dr7", 6377, 40, 4, 399, "r")


def files_of(real_data: Path, frame: FrameId) -> tuple[Path, Path, Path]:
    base = real_data / "archive" / ("das" if frame.layout == "das-dr7" else "")
    return base / frame_path(frame), base / calibration_path(frame), base / mask_path(frame)


def read(real_data: Path, frame: FrameId) -> Frame:
    image, table, planes = files_of(real_data, frame)
    return read_frame(image, table, planes, rerun=frame.rerun)


@pytest.mark.real
@pytest.mark.parametrize("frame", [LEGACY, SEASON], ids=["frame", "fpC"])
def test_noise_of_the_sky_is_the_variance_that_the_frame_claims(real_data: Path, frame: FrameId) -> None:
    """Differences of neighbouring pixels, free of sources and gradients, scatter by the variance model to 12 %."""
    opened = read(real_data, frame)
    window = opened.whole()
    difference = (window.image_YX[:, 1::2] - window.image_YX[:, ::2]) / np.sqrt(2)
    measured = 1.4826 * np.median(np.abs(difference))
    assert measured == pytest.approx(np.sqrt(np.median(window.variance_YX)), rel=0.12)


@pytest.mark.real
def test_frame_counts_come_back_as_whole_numbers(real_data: Path) -> None:
    """Inverting calibration and sky of a DR8+ frame gives integer counts, so both were read right."""
    opened = read(real_data, LEGACY)
    image, table, _ = files_of(real_data, LEGACY)
    gain, dark = (calibration := read_calibration(table, LEGACY)).gain_e_per_count, calibration.dark_variance_counts2
    with fits.open(image) as hdus:
        nmgy_per_count = hdus[1].data
    counts = (opened.whole().variance_YX / nmgy_per_count**2 - dark) * gain
    assert np.median(np.abs(counts - np.rint(counts))) < 0.01


@pytest.mark.real
def test_frame_sky_is_the_interpolation_that_the_data_model_prescribes(real_data: Path) -> None:
    """Against scipy's bilinear interpolation with clamped edges, at every pixel."""
    image, table, _ = files_of(real_data, LEGACY)
    pixels = read_frame(image, table, None, rerun=301).pixels
    assert isinstance(pixels, Dr8Pixels)
    with fits.open(image) as hdus:
        row = hdus[2].data[0]
        y, x = np.meshgrid(row["YINTERP"], row["XINTERP"], indexing="ij")
        expected = ndimage.map_coordinates(row["ALLSKY"].astype(float), [y, x], order=1, mode="nearest")
    found = pixels.sky.counts(slice(0, 1489), slice(0, 2048))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.real
@pytest.mark.parametrize("band", BANDS)
def test_fpc_sky_agrees_with_the_survey(real_data: Path, band: str) -> None:
    """Mean sky within a tenth of the pixel noise of what the survey's own pipeline found on the same frame."""
    for run, field in ((4192, 300), (6377, 399)):
        frame = FrameId("das-dr7", run, 40, 4, field, band)  # type: ignore[arg-type]
        image, table, _ = files_of(real_data, frame)
        calibration = read_calibration(table, frame)
        with fits.open(image) as hdus, fits.open(table) as tables:
            counts = hdus[0].data.astype(np.float32) - 1000
            survey_nmgy = float(tables[1].data["sky_frames"][0][BANDS.index(frame.band)]) * 1e9 * 0.396**2
        survey_counts = survey_nmgy / calibration.nmgy_per_count
        noise = np.sqrt(survey_counts / calibration.gain_e_per_count + calibration.dark_variance_counts2)
        assert abs(float(sky_counts(counts).mean()) - survey_counts) < 0.1 * noise


def test_sky_is_unbiased_under_integer_counts_and_sources() -> None:
    """A tilted sky with Poisson-like noise, rounded to whole counts, and bright blobs: found to 0.05 of the noise."""
    rng = np.random.default_rng(3)
    y, x = np.indices((768, 768), dtype=np.float32)
    sky = 119.3 + 0.004 * x - 0.002 * y
    image = sky + rng.normal(0, 5.3, sky.shape)
    for cy, cx in rng.uniform(20, 740, (40, 2)):
        image += 800 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 2.0**2))
    found = sky_counts(np.rint(image).astype(np.float32))
    assert abs(float((found - sky).mean())) < 0.05 * 5.3
    assert float((found - sky).std()) < 0.15 * 5.3


@pytest.mark.real
def test_masks_are_the_spans_of_the_file(real_data: Path) -> None:
    """Painted area per plane equals the union of spans, painted here pixel by pixel from the raw table."""
    _, _, planes = files_of(real_data, SEASON)
    mask = read_mask(planes, SEASON, (1489, 2048))
    with fits.open(planes) as hdus:
        names = [name.removeprefix("S_MASK_") for name in hdus[11].data["attributeName"]]
        for name, bit in PLANES.items():
            table = hdus[names.index(name) + 1].data
            area = set()
            for row in table if table is not None else ():
                raw = np.asarray(row["s"], dtype=np.uint8)
                for span in raw.reshape(-1, 6).astype(int):
                    y, x1, x2 = span[::2] * 256 + span[1::2]
                    area.update((y, x) for x in range(x1, x2 + 1))
            assert {tuple(place) for place in np.argwhere(mask & bit)} == area
            assert sum(row["npix"] for row in (table if table is not None else ())) >= len(area)


def with_card(key: str, value: object) -> Callable[[Path], None]:
    """Rewrite one card of a compressed FITS file."""

    def damage(path: Path) -> None:
        with fits.open(path) as hdus:
            hdus[0].header[key] = value
            hdus.writeto(path.with_suffix(""), overwrite=True)
        path.write_bytes(gzip.compress(path.with_suffix("").read_bytes(), 1))

    return damage


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100_000])


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0x40
    path.write_bytes(raw)


def html(path: Path) -> None:
    path.write_bytes(gzip.compress(b"<html>Service temporarily unavailable</html>"))


def cropped(path: Path) -> None:
    with fits.open(path) as hdus:
        hdu = fits.PrimaryHDU(hdus[0].data[:100, :100], hdus[0].header)
    path.write_bytes(gzip.compress(bytes_of(hdu), 1))


def bytes_of(hdu: fits.PrimaryHDU) -> bytes:
    from io import BytesIO

    buffer = BytesIO()
    hdu.writeto(buffer)
    return buffer.getvalue()


@pytest.mark.real
@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (with_card("RUN", 6378), "contradicts its name.*run 6378"),
        (with_card("CAMCOL", 3), "contradicts its name.*camcol 3"),
        (with_card("FILTER", "i"), "contradicts its name.*band i"),
        (with_card("FRAME", 401), "contradicts its name.*field 401"),
        (with_card("TAI", 4665448596.13 + 7200), "header TAI"),
        (truncate, "cut short"),
        (flip, "corrupt|contradicts|not a readable"),
        (html, "not a readable SDSS frame"),
        (cropped, "not a whole SDSS frame"),
    ],
    ids=["run", "camcol", "band", "field", "time", "truncated", "bit-flip", "html", "cropped"],
)
def test_a_bad_fpc_is_one_error_that_names_the_file(
    real_data: Path, tmp_path: Path, damage: Callable[[Path], None], complaint: str
) -> None:
    image, table, _ = files_of(real_data, SEASON)
    copy = tmp_path / image.name
    shutil.copyfile(image, copy)
    damage(copy)
    with pytest.raises(FrameError, match=complaint) as caught:
        read_frame(copy, table, None, rerun=40)
    assert copy.name in str(caught.value)


@pytest.mark.real
def test_a_real_trimmed_frame_is_refused(real_data: Path) -> None:
    """A file in the wild: image cut to 100 × 100 while its other HDUs kept their size."""
    odd = real_data / "odd" / "frame-r-001000-1-0100.fits.bz2"
    _, table, _ = files_of(real_data, LEGACY)
    with pytest.raises(FrameError, match="0 rows of field"):
        read_frame(odd, table, None, rerun=301)
    with pytest.raises(FrameError, match="not a whole SDSS frame"):
        check_file(odd, odd.name)


@pytest.mark.real
def test_a_sidecar_of_another_field_is_refused(real_data: Path) -> None:
    image, table, planes = files_of(real_data, SEASON)
    other = FrameId("das-dr7", 4192, 40, 4, 300, "r")
    _, other_table, other_planes = files_of(real_data, other)
    with pytest.raises(FrameError, match=other_table.name):
        read_frame(image, other_table, planes, rerun=40)
    with pytest.raises(FrameError, match=other_planes.name):
        read_frame(image, table, other_planes, rerun=40)


@settings(max_examples=40, deadline=None)
@given(content=st.binary(max_size=4000), cut=st.integers(0, 40))
def test_compressed_files_open_whole_or_not_at_all(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("z")
    for suffix, squeeze in ((".bz2", bz2.compress), (".gz", gzip.compress)):
        squeezed = squeeze(content)
        path = folder / f"x{suffix}"
        path.write_bytes(squeezed)
        assert read_bytes(path) == content
        if 0 < cut < len(squeezed):
            path.write_bytes(squeezed[:-cut])
            with pytest.raises(FrameError, match=r"cut short|corrupt"):
                read_bytes(path)


@pytest.mark.parametrize(("suffix", "squeeze"), [(".bz2", bz2.compress), (".gz", gzip.compress)])
def test_a_decompression_bomb_is_refused(tmp_path: Path, suffix: str, squeeze: Callable[[bytes], bytes]) -> None:
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes(squeeze(bytes(2**20)))
    with pytest.raises(FrameError, match="more than"):
        read_bytes(path, max_bytes=2**19)
