"""A packed dataset: its images one after the other in one file that training maps into memory.

A pack is a folder of plain `.npy` files, which numpy reads without this package, and of

    objects.parquet   one row per object, in the manifest's order: which images are its own
    pack.json         what it was made of, and the sha256 of every block of every `.npy` file
    SHA256SUMS        of these two, as `sha256sum -c` takes it

A block is a run of whole objects. `pipeline.packing` makes packs. Free of astropy, so that training machines can
read them.

Shapes: O objects, P images of all of them one after the other, M of one; H × W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.bands import BAND_ID, BANDS
from pipeline.errors import PackError
from pipeline.manifest import Dataset
from pipeline.naming import PACK_FILE, PACK_OBJECTS_FILE, SUMS_FILE, pack_dir
from pipeline.schema import MAX_SIZE
from pipeline.sums import file_sha256
from pipeline.validation import explain

PixelType = Literal["float16", "float32"]
Plane = Literal["variance", "mask"]

OBJECTS_SCHEMA: Final = pa.schema(
    [
        ("object_id", pa.string()),
        ("class_name", pa.string()),
        ("confirmation", pa.string()),
        ("fold", pa.int16()),
        ("group", pa.string()),
        ("first", pa.int64()),
        ("length", pa.int64()),
    ]
)
"""`first` and `length`: the object's images are first … first + length - 1. The rest as in the manifest."""

MOMENTS: Final = 3
"""Count, sum and sum of squares."""
REMEDY: Final = "`s82 dataset pack DATASET` makes it anew"
_MAX_INFO_BYTES: Final = 2**26
_MAX_ROWS: Final = 2**40
_HEADER_BYTES: Final = 128
_HALF_MAX: Final = float(np.finfo(np.float16).max)


@dataclass(frozen=True, slots=True)
class ArrayFile:
    """One `.npy` file of a pack."""

    dtype: str
    shape: tuple[int, ...]
    per: Literal["image", "object"]
    """What it has one row for."""

    @property
    def row_bytes(self) -> int:
        """Of one image or object."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * np.dtype(self.dtype).itemsize

    @property
    def header(self) -> bytes:
        """What comes before the array: format version 1.0 of numpy, always as long."""
        text = f"{{'descr': '{self.dtype}', 'fortran_order': False, 'shape': {self.shape}, }}"
        length = _HEADER_BYTES - 10
        return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + text.encode().ljust(length - 1) + b"\n"

    @property
    def file_bytes(self) -> int:
        """Of the whole file."""
        return _HEADER_BYTES + self.shape[0] * self.row_bytes

    def offset(self, row: int) -> int:
        """Where a row begins in the file."""
        return _HEADER_BYTES + row * self.row_bytes


class Block(BaseModel):
    """A run of whole objects, and the sha256 of its rows in each file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first_object: int = Field(ge=0)
    n_objects: int = Field(ge=1)
    first_image: int = Field(ge=0)
    n_images: int = Field(ge=0)
    sha256: dict[str, str] = {}

    def rows(self, file: ArrayFile) -> tuple[int, int]:
        """The first of its rows in a file, and how many they are."""
        if file.per == "image":
            return self.first_image, self.n_images
        return self.first_object, self.n_objects


class PackRecipe(BaseModel):
    """What decides a pack's content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    dataset_id: str
    content_hash: str
    """Of the dataset, as its dataset.json has it."""
    dtype: PixelType
    planes: tuple[Plane, ...]
    size: int = Field(ge=1, le=MAX_SIZE)
    n_objects: int = Field(ge=1, le=_MAX_ROWS)
    n_images: int = Field(ge=0, le=_MAX_ROWS)

    @property
    def files(self) -> dict[str, ArrayFile]:
        """The `.npy` files by name."""
        pixels = "<f2" if self.dtype == "float16" else "<f4"
        plane_type = {"image": pixels, "variance": pixels, "mask": "|u1"}
        shape_PHW = (self.n_images, self.size, self.size)
        return {
            **{f"{plane}.npy": ArrayFile(plane_type[plane], shape_PHW, "image") for plane in ("image", *self.planes)},
            "band_id.npy": ArrayFile("|u1", (self.n_images,), "image"),
            "mjd_tai.npy": ArrayFile("<f8", (self.n_images,), "image"),
            "moments.npy": ArrayFile("<f8", (self.n_objects, len(BANDS), MOMENTS), "object"),
        }


class PackInfo(PackRecipe):
    """Content of pack.json."""

    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Pack:
    """An opened pack. Arrays are mapped, not read: an image costs its own bytes when it is looked at."""

    path: Path
    info: PackInfo
    objects: pa.Table
    """Of `OBJECTS_SCHEMA`."""
    image_PHW: NDArray[np.float16 | np.float32]
    """Nanomaggies; NaN where the frame did not cover."""
    band_P: NDArray[np.uint8]
    mjd_P: NDArray[np.float64]
    moments_O53: NDArray[np.float64]
    """Per object and band: count, sum and sum of squares of covered pixels, before rounding to the pack's type."""
    variance_PHW: NDArray[np.float16 | np.float32] | None
    mask_PHW: NDArray[np.uint8] | None
    object_ids: tuple[str, ...]
    first_O: NDArray[np.int64]
    length_O: NDArray[np.int64]

    @property
    def n_bytes(self) -> int:
        """Of all arrays on disk."""
        return sum(file.file_bytes for file in self.info.files.values())

    def is_of(self, dataset: Dataset) -> bool:
        """Whether it holds the images of this dataset."""
        return self.info.content_hash == dataset.info.content_hash

    def check_belongs(self, dataset: Dataset) -> None:
        """Be sure that it was made of this very dataset version.

        Raises
        ------
        PackError
            It is of another dataset, or of another version of it.
        """
        found, wanted = self.info, dataset.info
        if (found.dataset_id, found.content_hash) != (wanted.dataset_id, wanted.content_hash):
            raise PackError(
                f"{self.path} is a pack of {found.dataset_id}, content {found.content_hash[:12]}, but {dataset.path} "
                f"is {wanted.dataset_id}, content {wanted.content_hash[:12]}: pack this one with s82 dataset pack"
            )


def stored(pixels: NDArray[np.float32], dtype: PixelType) -> NDArray[Any]:
    """Pixels as a pack keeps them: in half precision clipped to what it can hold, NaN staying NaN.

    Beyond float16 there are only saturated pixels; clipping keeps them finite.
    """
    return pixels.clip(-_HALF_MAX, _HALF_MAX).astype(np.float16) if dtype == "float16" else pixels


def band_moments(image_MHW: NDArray[np.float32], band_M: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Count, sum and sum of squares of covered pixels per band, u to z (5, 3).

    Those of one band are to the last bit the same, whatever images of other bands are there.
    """
    pixels_MX = image_MHW.reshape(len(image_MHW), image_MHW.shape[1] * image_MHW.shape[2])
    covered_MX = ~np.isnan(pixels_MX)
    covered_pixels_MX = np.where(covered_MX, pixels_MX, 0).astype(np.float64)
    sums_M3 = np.stack(
        [covered_MX.sum(axis=1), covered_pixels_MX.sum(axis=1), np.vecdot(covered_pixels_MX, covered_pixels_MX)], axis=1
    )
    return np.stack([sums_M3[band_M == BAND_ID[band]].sum(axis=0) for band in BANDS])


def open_pack(folder: str | Path) -> Pack:
    """Map a pack into memory, after checking that its files are the ones that pack.json describes, by size and header.

    Raises
    ------
    PackError
        It is no pack, is incomplete or damaged, or was written by newer software.
    """
    folder = Path(folder)
    info = _read_info(folder)
    objects = _read_objects(folder, info)
    arrays = {name: _mapped(folder / name, file) for name, file in info.files.items()}
    return Pack(
        path=folder,
        info=info,
        objects=objects,
        image_PHW=arrays["image.npy"],
        band_P=arrays["band_id.npy"],
        mjd_P=arrays["mjd_tai.npy"],
        moments_O53=arrays["moments.npy"],
        variance_PHW=arrays.get("variance.npy"),
        mask_PHW=arrays.get("mask.npy"),
        object_ids=tuple(objects["object_id"].to_pylist()),
        first_O=objects["first"].to_numpy(),
        length_O=objects["length"].to_numpy(),
    )


def find_pack(dataset: Dataset, dtype: PixelType) -> Pack | None:
    """The pack of this type at its place beside the dataset, if it is there and has the dataset's content.

    It is read whole and checked, as objects' files are when they are read.

    Raises
    ------
    PackError
        One is there, but damaged.
    """
    folder = pack_dir(dataset.path, dtype)
    if not (folder / PACK_FILE).exists():
        return None
    pack = open_pack(folder)
    if not pack.is_of(dataset) or pack.info.dtype != dtype:
        return None
    if damaged := next(_damaged_blocks(pack), None):
        raise _damaged(folder, damaged)
    return pack


def verify_pack(folder: str | Path) -> list[str]:
    """What is wrong with the content of a pack, one line each; empty when every block has its sha256.

    Raises
    ------
    PackError
        It cannot even be opened.
    """
    pack = open_pack(folder)
    return [*_damaged_blocks(pack), *_stray_files(pack)]


def block_sha256(folder: Path, name: str, file: ArrayFile, block: Block) -> str:
    """sha256 of a block's rows in one file, in hexadecimal."""
    first, n_rows = block.rows(file)
    with (folder / name).open("rb") as handle:
        handle.seek(file.offset(first))
        return hashlib.sha256(handle.read(n_rows * file.row_bytes)).hexdigest()


def sums(folder: Path) -> str:
    """Content of SHA256SUMS."""
    return "".join(f"{file_sha256(folder / name)}  {name}\n" for name in (PACK_OBJECTS_FILE, PACK_FILE))


def _damaged_blocks(pack: Pack) -> Iterator[str]:
    for block in pack.info.blocks:
        for name, file in pack.info.files.items():
            if block_sha256(pack.path, name, file, block) != block.sha256[name]:
                first, n_rows = block.rows(file)
                yield f"{name}: rows {first} to {first + n_rows - 1} do not have the sha256 of {PACK_FILE}"


def files_of_packs() -> set[str]:
    """Names that a file of any pack can have."""
    arrays = {f"{plane}.npy" for plane in ("image", *get_args(Plane))} | {"band_id.npy", "mjd_tai.npy", "moments.npy"}
    return {*arrays, PACK_OBJECTS_FILE, PACK_FILE, SUMS_FILE}


def _stray_files(pack: Pack) -> Iterator[str]:
    expected = {*pack.info.files, PACK_OBJECTS_FILE, PACK_FILE, SUMS_FILE}
    for file in sorted(pack.path.iterdir()):
        if file.name not in expected:
            yield f"{file.name} is no file of a pack"


def _read_info(folder: Path) -> PackInfo:
    file = folder / PACK_FILE
    try:
        if file.stat().st_size > _MAX_INFO_BYTES:
            raise PackError(f"{file} has more than the {_MAX_INFO_BYTES} bytes allowed")
        content = file.read_bytes()
        if sums(folder) != (folder / SUMS_FILE).read_text(encoding="ascii", errors="replace"):
            raise _damaged(folder, f"{PACK_FILE} or {PACK_OBJECTS_FILE} does not have the sha256 of {SUMS_FILE}")
        info = PackInfo.model_validate_json(content)
    except FileNotFoundError as error:
        name = Path(error.filename).name
        raise PackError(f"{folder} is not a pack: it has no {name}; make one with s82 dataset pack") from error
    except OSError as error:
        raise PackError(f"{folder} is not a pack: cannot read {file}: {error.strerror}") from error
    except ValidationError as error:
        raise PackError(
            f"{file} is not the description of a pack that this software reads: {explain(error)}"
        ) from error
    _check_blocks(info, file)
    return info


def _check_blocks(info: PackInfo, where: Path) -> None:
    """They follow each other without a gap, to the end, and know all files."""
    n_objects = n_images = 0
    for block in info.blocks:
        if (block.first_object, block.first_image) != (n_objects, n_images) or set(block.sha256) != set(info.files):
            raise PackError(f"{where}: the block at object {block.first_object} is out of order: {REMEDY}")
        n_objects, n_images = n_objects + block.n_objects, n_images + block.n_images
    if (n_objects, n_images) != (info.n_objects, info.n_images):
        raise PackError(f"{where}: its blocks end at object {n_objects} of {info.n_objects}: {REMEDY}")


def _read_objects(folder: Path, info: PackInfo) -> pa.Table:
    file = folder / PACK_OBJECTS_FILE
    try:
        table = pq.read_table(file)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise PackError(f"cannot read {file}: {error}") from error
    if table.schema.names != OBJECTS_SCHEMA.names or table.schema.types != OBJECTS_SCHEMA.types:
        raise PackError(f"{file} does not have the columns of this format: {REMEDY}")
    if any(table[name].null_count for name in table.column_names):
        raise PackError(f"{file} has rows without a value: {REMEDY}")
    length_O = table["length"].to_numpy()
    follow = np.array_equal(table["first"].to_numpy(), np.cumsum(length_O) - length_O) and (length_O >= 0).all()
    if not follow or (len(table), int(length_O.sum())) != (info.n_objects, info.n_images):
        raise PackError(f"{file} does not list the {info.n_images} images of {PACK_FILE} one after the other: {REMEDY}")
    return table


def _mapped(path: Path, file: ArrayFile) -> NDArray[Any]:
    """The array of one file, whose size and header must be the expected ones before anything is mapped."""
    try:
        n_bytes = path.stat().st_size
        with path.open("rb") as handle:
            header = handle.read(_HEADER_BYTES)
    except OSError as error:
        raise _damaged(path.parent, f"cannot read {path.name}: {error.strerror}") from error
    if n_bytes != file.file_bytes:
        raise _damaged(path.parent, f"{path.name} has {n_bytes} bytes, expected {file.file_bytes}")
    if header != file.header:
        raise _damaged(path.parent, f"{path.name} does not begin as an array of {file.dtype} {file.shape}")
    if n_bytes == _HEADER_BYTES:  # which cannot be mapped
        return np.empty(file.shape, file.dtype)
    return np.memmap(path, dtype=file.dtype, mode="r", offset=_HEADER_BYTES, shape=file.shape)


def _damaged(folder: Path, what: str) -> PackError:
    return PackError(f"{folder} is damaged: {what}; {REMEDY}")
