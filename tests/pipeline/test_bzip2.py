"""Frames decoded in part: every row that claims to have been read is what the whole file has, or all of it is read."""

from __future__ import annotations

import bz2
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.archive import Fetched
from pipeline.astrometry import AsTrans, Solution
from pipeline.bands import BANDS
from pipeline.bzip2 import InDoubt, find_blocks
from pipeline.catalog import Target
from pipeline.compressed import read_bytes
from pipeline.cutting import FrameJob, cut_frame
from pipeline.errors import FrameError, RowsNotRead
from pipeline.frame_rows import FrameFile, open_frame
from pipeline.frames import read_frame
from pipeline.hdus import split_hdus
from pipeline.naming import FrameId, calibration_path, frame_path, mask_path
from pipeline.survey import ThumbnailConfig
from pipeline.thumbnails import rows_looked_at

HEIGHT, WIDTH = 1000, 128
NAME = "frame-r-000094-1-0012.fits.bz2"
MIDDLE = slice(480, 520)
ZERO, EVEN, DENORMAL = 0, 0x3C120000, 0x00001000
"""EVEN ends with two zeros: a run of four with DENORMAL after it, of six with ZERO."""


def noise(seed: int = 1) -> np.ndarray:
    """Pixels of 10 binary digits, as real frames have them, by their bits."""
    sky = np.random.default_rng(seed).normal(0, 0.02, (HEIGHT, WIDTH)).astype(np.float32)
    return sky.view(np.uint32) & np.uint32(0xFFFFC000)


def fits_bytes(image: np.ndarray, *, n_after: int = 3) -> bytes:
    """A file with a frame's image and so many HDUs after it."""
    file = BytesIO()
    after = [fits.ImageHDU(np.arange(WIDTH, dtype=np.float32)) for _ in range(n_after)]
    fits.HDUList([fits.PrimaryHDU(image.view(np.float32)), *after]).writeto(file)
    return file.getvalue()


def packed(folder: Path, content: bytes, level: int = 1) -> Path:
    path = folder / NAME
    path.write_bytes(bz2.compress(content, level))
    return path


def assert_same(file: FrameFile, content: bytes) -> None:
    """All HDUs but the rows that are not read are those of the whole file, bit for bit."""
    whole = split_hdus(content)
    read = slice(None) if file.read_Y is None else file.read_Y
    assert [hdu.cards for hdu in file.hdus] == [hdu.cards for hdu in whole]
    assert [bytes(hdu.data) for hdu in file.hdus[1:]] == [bytes(hdu.data) for hdu in whole[1:]]
    np.testing.assert_array_equal(file.hdus[0].image[read].view(">u4"), whole[0].image[read].view(">u4"))


def real_path(real_data: Path, band: str) -> Path:
    return real_data / "archive" / frame_path(FrameId("sas-dr8", 94, 301, 1, 12, band))  # type: ignore[arg-type]


# The stream


@settings(max_examples=30, deadline=None)
@example(level=1, seed=0, share=0.0, size=199_963)
@given(level=st.integers(1, 9), seed=st.integers(0, 99), share=st.floats(0, 1), size=st.integers(1, 450_000))
def test_blocks_side_by_side_are_the_whole(level: int, seed: int, share: float, size: int) -> None:
    """Whatever the bytes, from noise to one long run; of which a block may hold so much that it is left in doubt."""
    rng = np.random.default_rng(seed)
    content = (rng.integers(0, 256, size, dtype=np.uint8) * (rng.random(size) < share)).tobytes()
    stream = find_blocks(bz2.compress(content, level))
    try:
        blocks = [stream.block(number) for number in range(stream.n_blocks)]
    except InDoubt:
        assert size > 2 * stream.full_bytes
    else:
        assert b"".join(blocks) == content


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_damaged_stream_is_in_doubt_or_only_damaged_where_nobody_looks(data: st.DataObject) -> None:
    """One bit flipped: the list of blocks is refused, or all blocks but the one with the bit are what they were."""
    content = noise().tobytes()[:250_000]
    good = bz2.compress(content, 1)
    raw = bytearray(good)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        stream = find_blocks(bytes(raw))
        blocks = [stream.block(number) for number in range(stream.n_blocks)]
    except InDoubt:
        return
    assert b"".join(blocks) == content  # the flipped bit means nothing, as the padding of the last byte


def test_every_bit_of_magic_crc_and_end_counts() -> None:
    content = noise().tobytes()[:250_000]
    good = bz2.compress(content, 1)
    bounds = find_blocks(good).bounds
    for bit in (bit for start in bounds for bit in range(start, start + 80)):
        raw = bytearray(good)
        raw[bit // 8] ^= 0x80 >> bit % 8
        with pytest.raises(InDoubt):
            find_blocks(bytes(raw))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: raw + raw,
        lambda raw: raw + b"\0",
        lambda raw: raw + b"something else",
        lambda raw: raw[:-1],
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw[:4],
        lambda raw: b"",
        lambda raw: bz2.compress(b""),
        lambda raw: b"BZh0" + raw[4:],
        lambda raw: b"PK" + raw[2:],
        lambda raw: raw[:4] + bytes.fromhex("314159265359") * 10_000 + raw[4:],
    ],
    ids=["two", "zero", "tail", "cut", "half", "header", "nothing", "empty", "level", "kind", "blocks"],
)
def test_what_is_not_one_whole_stream_is_in_doubt(spoil: Callable[[bytes], bytes]) -> None:
    with pytest.raises(InDoubt):
        find_blocks(spoil(bz2.compress(noise().tobytes()[:250_000], 1)))


def test_a_block_that_opens_to_far_too_much_is_not_opened() -> None:
    """45 MB of zeros fit into one."""
    stream = find_blocks(bz2.compress(bytes(4_000_000), 1))
    with pytest.raises(InDoubt, match="opens to more than"):
        stream.block(0)


# The rows of a frame


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 5),
    painted=st.lists(
        st.tuples(
            st.sampled_from([ZERO, EVEN, DENORMAL, 1 << 31, 0x00800000, 0x3F800001]),
            st.integers(0, HEIGHT * WIDTH - 1),
            st.integers(1, 300),
        ),
        max_size=4,
    ),
    starts=st.lists(st.integers(0, HEIGHT - 1), min_size=1, max_size=3),
    size=st.integers(1, 80),
)
def test_rows_are_those_of_the_whole_file(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    painted: list[tuple[int, int, int]],
    starts: list[int],
    size: int,
) -> None:
    """With runs of zeros, constants, denormals and low bytes anywhere."""
    image = noise(seed)
    for value, start, count in painted:
        image.reshape(-1)[start : start + count] = value
    content = fits_bytes(image)
    rows = [slice(start, min(start + size, HEIGHT)) for start in starts]
    file = open_frame(packed(tmp_path_factory.mktemp("z"), content), in_part=True).with_rows(rows)
    assert file.read_Y is None or all(file.read_Y[wanted].all() for wanted in rows)
    assert_same(file, content)


def test_what_is_not_needed_is_not_decoded(tmp_path: Path) -> None:
    """Noise alone moves nothing; the second block, of rows 170 to 360, is left out."""
    content = fits_bytes(noise())
    file = open_frame(packed(tmp_path, content), in_part=True).with_rows([MIDDLE])
    assert file.read_Y is not None
    assert file.read_Y[MIDDLE].all()
    assert not file.read_Y[200:330].any()
    assert_same(file, content)


def place(image: np.ndarray, row: int, second: int, count: int) -> None:
    """So many runs of zeros from one row on: of six with +0.0 as the second number, of four with a denormal."""
    first = row * WIDTH
    image.reshape(-1)[first : first + 2 * count : 2] = EVEN
    image.reshape(-1)[first + 1 : first + 1 + 2 * count : 2] = second


@pytest.mark.parametrize("count", [1, 2])
def test_blocks_that_hold_a_byte_too_many_are_placed_by_their_pixels(tmp_path: Path, count: int) -> None:
    """Three of five real frames have such. Here, before or after the rows that are looked at."""
    for row in (250, 700):
        image = noise()
        place(image, row, ZERO, count)
        content = fits_bytes(image)
        file = open_frame(packed(tmp_path, content), in_part=True)
        assert file.part
        assert count <= file.part.drift <= 3
        assert file.with_rows([MIDDLE]).read_Y is not None
        assert_same(file.with_rows([MIDDLE]), content)


@pytest.mark.parametrize(
    ("row", "second", "count"),
    [(250, ZERO, 4), (700, ZERO, 4), (250, ZERO, 300), (250, DENORMAL, 1), (480, DENORMAL, 1)],
    ids=["four-before", "four-after", "many", "denormal-elsewhere", "denormal-there"],
)
def test_blocks_of_no_provable_place_make_the_whole_file_be_read(
    tmp_path: Path, row: int, second: int, count: int
) -> None:
    image = noise()
    place(image, row, second, count)
    content = fits_bytes(image)
    file = open_frame(packed(tmp_path, content), in_part=True).with_rows([MIDDLE])
    assert file.read_Y is None
    assert_same(file, content)


def test_four_zeros_left_over_from_the_end_of_the_first_block(tmp_path: Path) -> None:
    """The first block ends with 255 zeros of 259: then the second decodes to less than bzip2 counted, unseen if four
    bytes too many elsewhere make the sum come out as three."""
    image = noise()
    first_end = len(find_blocks(bz2.compress(fits_bytes(image), 1)).block(0))
    last = (first_end - 2880 - 2) // 4  # the pixel of which the second byte is among the last five
    image.reshape(-1)[last] = 0x3C000000
    image.reshape(-1)[last + 1 : last + 65] = ZERO
    image.reshape(-1)[last + 65] = 0x3C124000
    place(image, 700, ZERO, 4)
    content = fits_bytes(image)
    path = packed(tmp_path, content)
    stream = find_blocks(path.read_bytes())
    assert stream.block(0).endswith(bytes(255))
    assert len(stream.block(1)) < stream.full_bytes
    assert_same(open_frame(path, in_part=True).with_rows([MIDDLE]), content)


def stream_of(pieces: list[bytes]) -> bytes:
    """A stream with these pieces as its blocks, whatever their sizes."""
    bits, folded = f"{int.from_bytes(b'BZh1', 'big'):032b}", 0
    for piece in pieces:
        stream = find_blocks(bz2.compress(piece, 9))
        (start, end), alone = stream.bounds, int.from_bytes(stream.raw, "big")
        block = f"{alone:0{8 * len(stream.raw)}b}"[start:end]
        bits += block
        folded = ((folded << 1 | folded >> 31) & 0xFFFFFFFF) ^ int(block[48:80], 2)
    bits += f"{0x177245385090:048b}{folded:032b}"
    return int(bits + "0" * (-len(bits) % 8), 2).to_bytes(-(-len(bits) // 8), "big")


@pytest.mark.parametrize("sizes", [(0, 0, 0, 0), (-4, 4, 0, 0), (4, -4, 0, 0), (0, -4, 4, 0), (19, 19, 19, 19)])
def test_blocks_that_are_not_filled_as_bzip2_fills_them(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    """Where their sum comes out right, the size of the one that is decoded tells: here, the third."""
    content = fits_bytes(noise())
    ends = np.cumsum([102_000, *(99_981 + size for size in sizes)])
    pieces = [content[start:end] for start, end in zip([0, *ends], [*ends, len(content)], strict=True)]
    path = tmp_path / NAME
    path.write_bytes(stream_of(pieces))
    assert bz2.decompress(path.read_bytes()) == content
    file = open_frame(path, in_part=True).with_rows([MIDDLE])
    assert (file.read_Y is None) == any(sizes)
    assert_same(file, content)


@pytest.mark.parametrize(
    ("image", "n_after"),
    [
        (noise(), 2),
        (noise(), 4),
        (noise().astype(np.float64).view(np.uint32), 3),
        (noise()[:100], 3),
        (noise() | np.uint32(1), 3),
        (np.zeros_like(noise()), 3),
    ],
    ids=["an-hdu-less", "an-hdu-more", "double", "small", "low-bits", "blank"],
)
def test_files_of_another_form_are_read_whole(tmp_path: Path, image: np.ndarray, n_after: int) -> None:
    content = fits_bytes(image, n_after=n_after)
    file = open_frame(packed(tmp_path, content), in_part=True)
    assert file.part is None
    assert_same(file, content)


def test_a_truncated_fits_file_or_a_longer_one_is_read_whole(tmp_path: Path) -> None:
    content = fits_bytes(noise())
    with pytest.raises(FrameError, match=f"{NAME}.*cut short"):
        open_frame(packed(tmp_path, content[:-2880]), in_part=True)
    assert open_frame(packed(tmp_path, content + bytes(2880)), in_part=True).part is None


@settings(max_examples=20, deadline=None)
@given(
    noisy=st.lists(
        st.tuples(st.integers(0, 35), st.text("0123456789-.'TFEXABNZ /=", max_size=40)), min_size=1, max_size=4
    )
)
def test_a_mutated_header_is_read_as_that_of_a_whole_file(
    tmp_path_factory: pytest.TempPathFactory, noisy: list[tuple[int, str]]
) -> None:
    """Refused by both readers, or the same in both."""
    content = bytearray(fits_bytes(noise()))
    for card, text in noisy:
        content[80 * card + 8 : 80 * card + 8 + len(text)] = text.encode()
    path = packed(tmp_path_factory.mktemp("z"), content)
    try:
        open_frame(path, in_part=False)
    except FrameError:
        with pytest.raises(FrameError, match=NAME):
            open_frame(path, in_part=True)
    else:
        assert_same(open_frame(path, in_part=True).with_rows([MIDDLE]), bytes(content))


def test_damage_is_found_where_it_is_looked_at(tmp_path: Path) -> None:
    """By the ordinary reader's error; rows elsewhere are as they were."""
    content = fits_bytes(noise())
    path = packed(tmp_path, content)
    good = path.read_bytes()
    raw = bytearray(good)
    raw[len(raw) // 2] ^= 1  # in the block of the middle row
    path.write_bytes(raw)
    file = open_frame(path, in_part=True)
    assert_same(file.with_rows([slice(200, 240)]), content)
    with pytest.raises(FrameError, match=f"{NAME} is corrupt"):
        file.with_rows([MIDDLE])
    path.write_bytes(good[:-100])
    with pytest.raises(FrameError, match=f"{NAME} is cut short"):
        open_frame(path, in_part=True)


# Real frames


@pytest.mark.real
@pytest.mark.parametrize("band", BANDS)
def test_rows_of_a_real_frame_are_those_of_the_whole(real_data: Path, band: str) -> None:
    path = real_path(real_data, band)
    content = read_bytes(path)
    file = open_frame(path, in_part=True).with_rows([slice(0, 60), slice(700, 775)])
    assert file.read_Y is not None
    assert file.read_Y.sum() < 1489 / 2
    assert_same(file, content)


def files_of(real_data: Path) -> tuple[Path, Path, Path]:
    frame = FrameId("sas-dr8", 94, 301, 1, 12, "z")
    image, table, planes = (real_data / "archive" / path(frame) for path in (frame_path, calibration_path, mask_path))
    return image, table, planes


@pytest.mark.real
def test_thumbnails_are_the_same_to_the_bit(real_data: Path) -> None:
    """At the first and the last rows, at a corner, in the middle, and off the frame; together and alone."""
    solution = read_frame(*files_of(real_data), rerun=301).solution
    assert isinstance(solution, AsTrans)
    ra, dec = solution.pixel_to_world(np.array([5, 1000, 2044, 900.3, 700]), np.array([3, 1487, 1485, 700.2, -400]))
    targets = tuple(Target(str(n), ra[n], dec[n], "", "", "") for n in range(len(ra)))
    image, table, planes = (Fetched(file, "", 0, True) for file in files_of(real_data))
    job = FrameJob("sas", "", FrameId("sas-dr8", 94, 301, 1, 12, "z"), image, table, planes, targets, ThumbnailConfig())
    for some in (targets, targets[3:4]):
        whole = cut_frame(replace(job, targets=some, partial_decoding=False))
        part = cut_frame(replace(job, targets=some))
        assert part.row == whole.row
        for object_id, record in part.records.items():
            for key, value in record.items():
                np.testing.assert_array_equal(value, whole.records[object_id][key])


@pytest.mark.real
def test_rows_that_were_not_asked_for_cannot_be_looked_at(real_data: Path) -> None:
    """Nor can all of the frame; what was asked for can."""

    def need(solution: Solution) -> list[slice]:
        assert isinstance(solution, AsTrans)
        ra, dec = solution.pixel_to_world(np.array([900.0]), np.array([700.0]))
        return rows_looked_at(solution, ra, dec, ThumbnailConfig(), (1489, 2048))

    whole = read_frame(*files_of(real_data), rerun=301)
    frame = read_frame(*files_of(real_data), rerun=301, need=need)
    rows, columns = slice(670, 730), slice(0, 2048)
    np.testing.assert_array_equal(
        frame.pixels.window(rows, columns).image_YX, whole.pixels.window(rows, columns).image_YX
    )
    with pytest.raises(RowsNotRead, match="rows 300 to 310"):
        frame.pixels.window(slice(300, 310), columns)
    with pytest.raises(RowsNotRead):
        frame.whole()
