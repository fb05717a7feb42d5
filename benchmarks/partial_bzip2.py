"""Frames decoded in part: whether what comes out is what the whole file has, and how much faster it is.

Real frames (S82_REAL_DATA, else ../shared/sdss) and random rows of them: bit for bit against Python's bz2, and
timed beside it, in one process. Synthetic files, smaller and in smaller blocks, are made to mislead: what bzip2's
first step shortens or lengthens moves the blocks. Each case (one file, some random rows) is exact, or in doubt, when
the reader decodes all of it; a row that claims to have been read and is not what it should be is wrong.

`plain` images are what the proof in pipeline/frame_rows.py asks of a frame: they must never be wrong. The others break
it: numbers beside zero, and low bytes that are not zero. `contrived` ones break it so that the sum comes out right.
"""

from __future__ import annotations

import argparse
import bz2
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from pipeline.bzip2 import InDoubt, Stream
from pipeline.frame_rows import FrameFile, open_frame
from pipeline.hdus import split_hdus

HEIGHT, WIDTH = 1400, 128
LEVELS = (1, 1, 1, 1, 2)
"""Of compression: eight blocks, sometimes four."""
THUMBNAIL_ROWS = 75
"""32 px, with what the kernel reaches on both sides."""
OBJECTS = (1, 2, 5, 10)

Image = NDArray[np.uint32]
"""Pixels by their bits."""
EVEN, LOSING, GAINING = 0x3C120000, 0x00001000, 0
"""A number that ends with two zeros; a denormal, with which it makes a run of four; +0.0, with which of six."""
Paint = Callable[[Image, np.random.Generator], None]


def noise(rng: np.random.Generator, digits: int = 10) -> Image:
    """A sky of normal noise, rounded to so many binary digits."""
    bits = rng.normal(0, 0.02, (HEIGHT, WIDTH)).astype(np.float32).view(np.uint32)
    return bits & np.uint32(0xFFFFFFFF << (24 - digits) & 0xFFFFFFFF)


def sprinkled(values: list[int], share: float) -> Paint:
    """Some of these bit patterns, on a random share of the pixels of up to `share`."""

    def paint(image: Image, rng: np.random.Generator) -> None:
        places = rng.random(image.shape) < rng.uniform(0, share)
        image[places] = rng.choice(np.array(values, np.uint32), places.sum())

    return paint


def patched(values: list[int], most: int = 400) -> Paint:
    """Some of these bit patterns, in a row of pixels somewhere and every other of the next."""

    def paint(image: Image, rng: np.random.Generator) -> None:
        flat, start, count = image.reshape(-1), rng.integers(image.size), rng.integers(1, most)
        flat[start : start + count : rng.integers(1, 4)] = rng.choice(np.array(values, np.uint32))

    return paint


def zero_runs(image: Image, rng: np.random.Generator) -> None:
    """Runs of zeros as long as bzip2 cuts them, a little more or less, so also 4 beyond, around block boundaries."""
    flat = image.reshape(-1)
    for boundary in range(99_981, 4 * image.size, 99_981):
        if rng.random() < 0.3:
            start = (boundary - 8640) // 4 + rng.integers(-200, 20)
            flat[start : start + rng.integers(1, 5) * 64 + rng.integers(-2, 3)] = 0


def zero_rows(image: Image, rng: np.random.Generator) -> None:
    """Up to 40 rows of zeros somewhere."""
    start = rng.integers(HEIGHT)
    image[start : start + rng.integers(1, 40)] = 0


def constant(image: Image, rng: np.random.Generator) -> None:
    """Rectangles of one value."""
    for _ in range(10):
        y, x = rng.integers(HEIGHT), rng.integers(WIDTH)
        image[y : y + 60, x : x + 60] = noise(rng)[0, 0]


def double_zeros(image: Image, rng: np.random.Generator) -> None:
    """Pairs of +0.0."""
    flat = image.reshape(-1)
    starts = rng.integers(0, image.size - 1, rng.integers(0, 30))
    flat[starts] = flat[starts + 1] = 0


def low_bytes(image: Image, rng: np.random.Generator) -> None:
    """Numbers of all 24 digits in some rows."""
    start, stop = np.sort(rng.integers(0, HEIGHT, 2))
    image[start:stop] |= rng.integers(0, 2**13, (stop - start, WIDTH), dtype=np.uint32)


def low_half(image: Image, rng: np.random.Generator) -> None:
    """One low bit too many, of one pixel in a thousand."""
    image[rng.random(image.shape) < 0.001] |= 0x100


def few_of_both(image: Image, rng: np.random.Generator) -> None:
    """Some runs of four zeros and some of six, which take a byte away and add one, anywhere."""
    flat = image.reshape(-1)
    for second in (LOSING, GAINING):
        starts = rng.integers(0, image.size - 2, rng.integers(0, 12))
        flat[starts], flat[starts + 1] = EVEN, second


def balanced(image: Image, rng: np.random.Generator) -> None:
    """As many runs of four in one place as of six in another: the sum tells nothing, what lies between is shifted."""
    flat, count = image.reshape(-1), int(rng.integers(1, 33))
    for second, start in zip((LOSING, GAINING), rng.permutation(image.size // 4000)[:2] * 4000, strict=True):
        flat[start : start + 2 * count : 2], flat[start + 1 : start + 1 + 2 * count : 2] = EVEN, second


def nothing(image: Image, rng: np.random.Generator) -> None:
    """Noise alone."""


@dataclass(frozen=True)
class Kind:
    """A kind of image."""

    paint: Paint
    group: str = "plain"
    digits: int = 10


KINDS = {
    "noise of 10 digits": Kind(nothing),
    "noise of 12 digits": Kind(nothing, digits=12),
    "noise of 4 digits": Kind(nothing, digits=4),
    "powers of two": Kind(nothing, digits=1),
    "single +0.0": Kind(sprinkled([0], 1e-4)),
    "many +0.0": Kind(sprinkled([0], 0.3)),
    "+0.0 and -0.0": Kind(sprinkled([0, 1 << 31], 1e-3)),
    "pairs of +0.0": Kind(double_zeros),
    "rows of zeros": Kind(zero_rows),
    "runs of zeros near 256 bytes": Kind(zero_runs),
    "patches of zeros": Kind(patched([0])),
    "constant regions": Kind(constant),
    "some denormals": Kind(sprinkled([0x00001000, 0x00010000, 0x80001000], 1e-4), "not plain"),
    "many denormals": Kind(sprinkled([0x00001000, 0x00010000, 0x80001000], 0.2), "not plain"),
    "a patch of denormals": Kind(patched([0x00001000, 0x00400000]), "not plain"),
    "a patch of tiny normals": Kind(patched([0x00800000, 0x00FFF000], 40), "not plain"),
    "rows of 24 digits": Kind(low_bytes, "not plain"),
    "a bit too many": Kind(low_half, "not plain"),
    "24 digits": Kind(nothing, "not plain", digits=24),
    "runs of four and of six": Kind(few_of_both, "not plain"),
    "as many of four as of six": Kind(balanced, "contrived"),
}


@dataclass(frozen=True)
class Remembering(Stream):
    """A stream that decodes each block once, so that a case costs no more than placing it."""

    @cached_property
    def _known(self) -> dict[int, bytes]:
        return {}

    def block(self, number: int) -> bytes:
        """As `Stream.block`."""
        if number not in self._known:
            self._known[number] = super().block(number)
        return self._known[number]


def fits_bytes(image: Image) -> bytes:
    """A file of a frame's four HDUs."""
    row = np.array([(b"r", np.arange(300.0))], [("filter", "S1"), ("allsky", ">f8", 300)])
    hdus = [
        fits.PrimaryHDU(image.view(np.float32)),
        fits.ImageHDU(np.ones(WIDTH, np.float32)),
        fits.BinTableHDU(row),
        fits.BinTableHDU(row),
    ]
    file = BytesIO()
    fits.HDUList(hdus).writeto(file)
    return file.getvalue()


def draw_rows(rng: np.random.Generator, height: int, count: int, size: int) -> list[slice]:
    """The rows of so many thumbnails."""
    return [slice(start, start + size) for start in map(int, rng.integers(0, height - size, count))]


def synthetic(path: Path, kind: Kind, rng: np.random.Generator, row_sets: int) -> Iterator[str]:
    """What becomes of random rows of one random file."""
    image = noise(rng, kind.digits)
    kind.paint(image, rng)
    content = fits_bytes(image)
    path.write_bytes(bz2.compress(content, int(rng.choice(LEVELS))))
    file = open_frame(path, in_part=True)
    if file.part is None:
        yield from ["in doubt"] * row_sets
        return
    ends = bytes(file.part.content)
    stream = Remembering(file.part.stream.raw, file.part.stream.level, file.part.stream.bounds)
    for _ in range(row_sets):
        part = replace(file.part, stream=stream, content=bytearray(ends))
        try:
            read_Y = part.read(draw_rows(rng, HEIGHT, int(rng.integers(1, 5)), int(rng.integers(1, 60))))
        except InDoubt:
            yield "in doubt"
            continue
        yield "exact" if same(replace(file, hdus=split_hdus(part.content), read_Y=read_Y), content) else "wrong"


def same(file: FrameFile, content: bytes) -> bool:
    """Whether all HDUs, and of the image the rows that are read, are those of the whole file."""
    whole = split_hdus(content)
    read = slice(None) if file.read_Y is None else file.read_Y
    return (
        [hdu.cards for hdu in file.hdus] == [hdu.cards for hdu in whole]
        and [bytes(hdu.data) for hdu in file.hdus[1:]] == [bytes(hdu.data) for hdu in whole[1:]]
        and np.array_equal(file.hdus[0].image.view(">u4")[read], whole[0].image.view(">u4")[read])
    )


def count_synthetic(files: int, row_sets: int) -> dict[str, Counter[str]]:
    """Per kind, how many cases came out how."""
    counts = {}
    with TemporaryDirectory() as folder:
        for number, (name, kind) in enumerate(KINDS.items()):
            rng = np.random.default_rng([82, number])
            path = Path(folder) / "frame-r-000094-1-0012.fits.bz2"
            counts[name] = Counter(one for _ in range(files) for one in synthetic(path, kind, rng, row_sets))
    return counts


def real_frames() -> list[Path]:
    """All that are at hand."""
    default = Path(__file__).resolve().parents[2] / "shared" / "sdss"
    return sorted((Path(os.environ.get("S82_REAL_DATA", default)) / "archive").rglob("frame-*.fits.bz2"))


def time_real(paths: list[Path], repeats: int) -> tuple[Counter[str], dict[int, list[float]]]:
    """How cases on real frames came out, and per number of objects how many times faster each was."""
    rng, counts, ratios = np.random.default_rng(82), Counter[str](), {objects: list[float]() for objects in OBJECTS}
    for path in paths:
        content = bz2.decompress(path.read_bytes())
        for _ in range(repeats):
            started = time.perf_counter()
            open_frame(path, in_part=False)
            whole_s = time.perf_counter() - started
            for objects in OBJECTS:
                outcome, seconds = read_some(path, content, objects, rng)
                ratios[objects].append(whole_s / seconds)
                counts[outcome] += 1
    return counts, ratios


def count_rolled(paths: list[Path], rolls: int) -> Counter[str]:
    """Real frames with their rows moved round, so that other pixels lie where blocks end: a case each."""
    rng, counts = np.random.default_rng(83), Counter[str]()
    with TemporaryDirectory() as folder:
        for path in paths:
            content = bytearray(bz2.decompress(path.read_bytes()))
            image = split_hdus(content)[0].image
            for _ in range(rolls):
                image[:] = np.roll(image, rng.integers(1, image.size))
                rolled = Path(folder) / path.name
                rolled.write_bytes(bz2.compress(content))
                outcome, _ = read_some(rolled, bytes(content), 2, rng)
                counts[outcome] += 1
    return counts


def read_some(path: Path, content: bytes, objects: int, rng: np.random.Generator) -> tuple[str, float]:
    """What became of the rows of so many random thumbnails, and seconds."""
    rows = draw_rows(rng, split_hdus(content)[0].shape[0], objects, THUMBNAIL_ROWS)
    started = time.perf_counter()
    file = open_frame(path, in_part=True).with_rows(rows)
    seconds = time.perf_counter() - started
    return ("wrong" if not same(file, content) else "exact" if file.part else "in doubt"), seconds


def measure(files: int, row_sets: int, repeats: int, rolls: int) -> dict[str, float]:
    """Everything the tables show, flat."""
    result: dict[str, float] = {}
    if paths := real_frames():
        counts, ratios = time_real(paths, repeats)
        result |= {"real_frames": len(paths)} | keyed("real", counts)
        result |= keyed("real rolled", count_rolled(paths, rolls))
        result |= {f"real_{objects}_objects_speed_ratio": median(ratios[objects]) for objects in OBJECTS}
    counts_of = count_synthetic(files, row_sets)
    for name, counts in counts_of.items():
        result |= keyed(name, counts)
    for group in GROUPS:
        result |= keyed(group, sum((counts_of[name] for name in KINDS if KINDS[name].group == group), Counter()))
    return result


OUTCOMES = ("exact", "in doubt", "wrong")
GROUPS = ("plain", "not plain", "contrived")


def key(name: str, outcome: str) -> str:
    """Of the flat result."""
    return "_".join(re.findall(r"[a-z0-9]+", f"{name} {outcome} cases"))


def keyed(name: str, counts: Counter[str]) -> dict[str, float]:
    """Counts of outcomes as entries of the result."""
    return {key(name, outcome): counts[outcome] for outcome in OUTCOMES}


def show(result: dict[str, float]) -> None:
    """The tables."""
    print(f"{'cases':42s}{'exact':>10s}{'in doubt':>10s}{'wrong':>10s}")
    real = ["real", "real rolled"] if "real_frames" in result else []
    for name in [*real, *KINDS, *GROUPS]:
        label = f"  {name}, {KINDS[name].group}" if name in KINDS else name
        print(f"{label:42s}" + "".join(f"{result[key(name, outcome)]:10.0f}" for outcome in OUTCOMES))
    if real:
        print(f"\n{result['real_frames']:.0f} real frames, times faster than decoding all of it (median, one process)")
        for objects in OBJECTS:
            print(f"  {objects:2d} objects {result[f'real_{objects}_objects_speed_ratio']:6.2f}")


def main() -> None:
    """Run; fails if a case was wrong that must not be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer cases, under 50 s in all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    result = measure(*((5, 100, 1, 2) if options.quick else (60, 100, 20, 20)))
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if any(result.get(key(name, "wrong")) for name in ("real", "real rolled", "plain", "not plain")):
        sys.exit("rows came out wrong")


if __name__ == "__main__":
    main()
