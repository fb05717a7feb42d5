"""The per-object image sequence: written whole and sealed, read with checks, every earlier version too.

`docs/format.md` describes the file for readers without this package. Free of astropy, so that
training machines can read it.

Shapes: M images in time order, H × W pixels.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import h5py
import numpy as np
from h5py import h5a, h5d, h5f, h5p, h5s, h5t
from numpy.typing import NDArray

from pipeline.atomic import write_bytes
from pipeline.errors import ConfigError, PipelineError, SequenceError
from pipeline.hdf5memory import open_bytes
from pipeline.migrations import attributes_of, columns_of, complete
from pipeline.naming import check_object_id
from pipeline.schema import (
    ATTRIBUTES,
    COLUMNS,
    MAX_BYTES,
    MAX_EXPANSION,
    MAX_IMAGES,
    MAX_SIZE,
    SCHEMA_VERSION,
    SMALL_BYTES,
    UNIT,
    Column,
    MaskBit,
)
from pipeline.sealed import HEAD_BYTES, SEAL_BYTES, begins_well, looks_sealed, seal, seal_is_whole

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["COLUMNS", "SCHEMA_VERSION", "MaskBit", "Sequence", "open_sequence", "write_sequence"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """All images of one object in time order, with what is known of each.

    The arrays are those of `COLUMNS`, of the same names; `class_name` is '' where unknown.
    """

    object_id: str
    survey: str
    ra_deg: float
    dec_deg: float
    class_name: str
    confirmation: str
    pixel_scale_arcsec: float
    wcs_header: str
    pipeline_version: int
    """Raised whenever the same inputs give other thumbnails."""
    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    noise_factor: NDArray[np.float32]
    mask: NDArray[np.uint8]
    band_id: NDArray[np.uint8]
    mjd_tai: NDArray[np.float64]
    run: NDArray[np.int32]
    rerun: NDArray[np.int32]
    camcol: NDArray[np.uint8]
    field: NDArray[np.int32]
    x_pix: NDArray[np.float64]
    y_pix: NDArray[np.float64]
    zeropoint: NDArray[np.float32]
    zeropoint_source: NDArray[np.uint8]
    zp_offset_mag: NDArray[np.float32]
    zp_error_mag: NDArray[np.float32]
    zp_scatter_mag: NDArray[np.float32]
    zp_stars: NDArray[np.int32]
    zp_flags: NDArray[np.uint8]
    psf_fwhm_arcsec: NDArray[np.float32]
    sky_nmgy_arcsec2: NDArray[np.float32]
    airmass: NDArray[np.float32]
    quality: NDArray[np.uint8]
    coverage: NDArray[np.float32]
    frame_sha256: NDArray[np.bytes_]

    def __len__(self) -> int:
        return len(self.band_id)

    def table(self) -> Table:
        """One row per image, with units: everything but the pixels. Needs astropy."""
        from astropy.table import Column as TableColumn
        from astropy.table import Table

        columns = [
            TableColumn(getattr(self, name), name, unit=column.unit or None, description=column.description)
            for name, column in COLUMNS.items()
            if column.ndim == 1
        ]
        return Table(columns, meta={key: getattr(self, field) for key, (field, _) in ATTRIBUTES.items()})

    @property
    def independent_variance(self) -> NDArray[np.float32]:
        """What the variance of each pixel would be without the correlation that resampling makes [nMgy²].

        The variance of a sum over many pixels, as of an aperture, is the sum over these.
        """
        return self.variance / self.noise_factor[:, None, None]

    def problems(self) -> list[str]:
        """What contradicts the schema, in words; empty when all is well."""
        found = []
        try:
            check_object_id(self.object_id)
        except ConfigError as error:
            return [str(error)]
        n_images = len(self.band_id)
        for name, column in COLUMNS.items():
            array = getattr(self, name)
            if array.ndim != column.ndim or len(array) != n_images:
                found.append(f"{name} has shape {array.shape}, expected {column.ndim} dimensions of length {n_images}")
        if found:
            return found
        if not self.image.shape == self.variance.shape == self.mask.shape:
            found.append(f"image {self.image.shape}, variance {self.variance.shape}, mask {self.mask.shape} differ")
            return found
        if not np.isin(self.band_id, (1, 2, 3, 4, 5)).all():
            found.append("band_id holds values outside 1 to 5")
        if not (np.isfinite(self.mjd_tai).all() and (np.diff(self.mjd_tai) >= 0).all()):
            found.append("mjd_tai is not finite and in time order")
        uncovered = (self.mask & MaskBit.UNCOVERED) > 0
        if not np.array_equal(uncovered, np.isnan(self.image)) or np.isinf(self.image).any():
            found.append("image is not NaN exactly where mask says UNCOVERED and finite elsewhere")
        if (self.variance < 0).any():
            found.append("variance is negative somewhere")
        if not (uncovered.all(axis=(1, 2)) | (self.noise_factor > 0)).all():
            found.append("noise_factor is not positive where the frame covers")
        if not (uncovered | np.isfinite(self.variance)).all():
            found.append("variance is not finite where the frame covers")
        return found


def write_sequence(path: Path, sequence: Sequence) -> str:
    """Write `sequence` to `path`, whole or not at all, the same bytes for the same content.

    Returns
    -------
    str
        sha256 of the file, in hexadecimal.

    Raises
    ------
    SequenceError
        The sequence contradicts the schema; nothing is written.
    StorageError
        There is no room, or no right, to write.
    """
    if problems := sequence.problems():
        raise SequenceError(f"object {sequence.object_id}: not written to {path}: {'; '.join(problems)}")
    body = _hdf5(sequence)
    if len(body) > MAX_BYTES - SEAL_BYTES:
        raise SequenceError(
            f"object {sequence.object_id}: not written to {path}: its {len(sequence)} images make {len(body)} bytes, "
            f"more than the {MAX_BYTES} that are read; choose a smaller [thumbnails] size"
        )
    return write_bytes(path, seal(body), body)


_GROWTH_BYTES: Final = 2**20
_SCALAR: Final = h5s.create(h5s.SCALAR)
_TEXT: Final = h5py.string_dtype()


def _hdf5(sequence: Sequence) -> bytes:
    """The file after its seal. Made in memory through h5py's low level, which takes half the time."""
    access, creation, contiguous = (h5p.create(of) for of in (h5p.FILE_ACCESS, h5p.FILE_CREATE, h5p.DATASET_CREATE))
    access.set_fapl_core(_GROWTH_BYTES, False)
    access.set_libver_bounds(h5f.LIBVER_V110, h5f.LIBVER_V110)
    creation.set_userblock(SEAL_BYTES)
    creation.set_obj_track_times(False)
    contiguous.set_obj_track_times(False)
    file = h5f.create(_own_name(), h5f.ACC_TRUNC, creation, access)
    try:
        _set(file, "schema_version", SCHEMA_VERSION)
        _set(file, "unit", UNIT)
        for key, (field, _) in ATTRIBUTES.items():
            _set(file, key, getattr(sequence, field))
        for name, column in COLUMNS.items():
            data = np.ascontiguousarray(getattr(sequence, name), dtype=column.dtype)
            dataset = h5d.create(
                file, name.encode(), h5t.py_create(data.dtype), h5s.create_simple(data.shape), contiguous
            )
            dataset.write(h5s.ALL, h5s.ALL, data)
            _set(dataset, "unit", column.unit)
            _set(dataset, "description", column.description)
        h5f.flush(file)
        return bytes(file.get_file_image())
    finally:
        file.close()


def _set(where: h5f.FileID | h5d.DatasetID, key: str, value: str | float) -> None:
    data = np.array(value.encode(), _TEXT) if isinstance(value, str) else np.array(value)
    h5a.create(where, key.encode(), h5t.py_create(data.dtype, logical=True), _SCALAR).write(data)


def open_sequence(path: str | os.PathLike[str]) -> Sequence:
    """Read and check one per-object file of any schema version.

    Raises
    ------
    SequenceError
        The file is missing, is not HDF5, is not what was written, or is of a newer schema version; the message says
        what is wrong.
    """
    path = Path(path)
    return parse_sequence(read_content(path), path)


def open_known(path: Path, sha256: str) -> Sequence:
    """As `open_sequence`, of a file that must have this sha256, which its very bytes are held against.

    Raises
    ------
    SequenceError
        As `open_sequence`, or it is another file.
    """
    content = read_content(path)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise SequenceError(f"{path} does not have the sha256 that it was written with")
    return parse_sequence(content, path, whole=True)


def parse_sequence(content: bytes, path: Path, *, whole: bool = False) -> Sequence:
    """As `open_sequence`, from the content of the file, which is named `path` where it is bad.

    Parameters
    ----------
    whole
        The content is known to be what was written, and is not held against its seal.
    """
    try:
        if (sealed := looks_sealed(content)) and not whole:
            _check_seal(content, path)
        with open_bytes(content) as file:
            return _read(file, path, len(content), sealed=sealed)
    except PipelineError:
        raise
    except Exception as error:  # h5py passes on whatever its C library stumbles over in a damaged file
        raise SequenceError(f"{path} is not a readable sequence: {type(error).__name__}: {error}") from error


def read_content(path: Path) -> bytes:
    """Read a file that should be a sequence.

    Raises
    ------
    SequenceError
        It is missing, no file, not readable or too large, or begins as no sequence does.
    """
    if path.exists() and not path.is_file():
        raise SequenceError(f"{path} is not a file")
    try:
        with path.open("rb") as file:
            if (n_bytes := os.fstat(file.fileno()).st_size) > MAX_BYTES:
                raise SequenceError(f"{path} has {n_bytes} bytes, more than the {MAX_BYTES} allowed")
            if not begins_well(file.read(HEAD_BYTES)):
                raise SequenceError(
                    f"{path} is not a sequence as it was written: it begins neither with a seal nor as HDF5; "
                    "fetch it again, or rebuild the dataset"
                )
            file.seek(0)
            return file.read(n_bytes)
    except FileNotFoundError as error:
        raise SequenceError(f"no sequence at {path}: rebuild the dataset, or fetch the file again") from error
    except OSError as error:
        raise SequenceError(f"cannot read {path}: {error.strerror}") from error


def _check_seal(content: bytes, path: Path) -> None:
    if not seal_is_whole(content):
        raise SequenceError(
            f"{path} is not a sequence as it was written: its content does not have the sha256 of its first line; "
            "fetch it again, or rebuild the dataset"
        )


def _own_name() -> bytes:
    """A name for a file in memory: HDF5 takes two of the same name for the same file, in other threads too."""
    return uuid4().hex.encode()


def _read(file: h5py.File, path: Path, file_bytes: int, *, sealed: bool) -> Sequence:
    version = _version(file, path)
    if sealed != (version > 2):
        raise SequenceError(f"{path} says schema version {version}, but {'has a' if sealed else 'lacks its'} seal")
    attributes = attributes_of(version).items()
    values: dict[str, Any] = {field: _attribute(file, key, kind, path) for key, (field, kind) in attributes}
    datasets = {name: _dataset(file, name, column, path) for name, column in columns_of(version).items()}
    most = min(MAX_BYTES, max(SMALL_BYTES, MAX_EXPANSION * file_bytes))
    if (n_bytes := sum(int(dataset.nbytes) for dataset in datasets.values())) > most:
        raise SequenceError(f"{path} opens to {n_bytes} bytes, more than the {most} allowed")
    _check_units(file, datasets, path)
    read = values | {name: dataset[()] for name, dataset in datasets.items()}
    sequence = Sequence(**complete(read, version))
    if problems := sequence.problems():
        raise SequenceError(f"{path}: {'; '.join(problems)}")
    return sequence


def _version(file: h5py.File, path: Path) -> int:
    version = file.attrs.get("schema_version")
    if not isinstance(version, int | np.integer) or version < 1:
        raise SequenceError(
            f"{path} is not a sequence of this software: its attribute schema_version is {version}, expected 1 to "
            f"{SCHEMA_VERSION}"
        )
    if version > SCHEMA_VERSION:
        raise SequenceError(
            f"{path} has schema version {version}, this software reads 1 to {SCHEMA_VERSION}: update it"
        )
    return int(version)


def _check_units(file: h5py.File, datasets: dict[str, h5py.Dataset], path: Path) -> None:
    """Numbers in another unit would be taken for ours."""
    expected = [(file, UNIT), *((dataset, COLUMNS[name].unit) for name, dataset in datasets.items())]
    for where, unit in expected:
        if unit and (found := where.attrs.get("unit")) != unit:
            raise SequenceError(f"{path}: {where.name} has the unit {found!r}, expected {unit!r}")


def _attribute(file: h5py.File, key: str, kind: type, path: Path) -> str | float:
    value = file.attrs.get(key)
    if kind is str and isinstance(value, str):
        return value
    if kind is int and isinstance(value, np.integer):
        return int(value)
    if kind is float and isinstance(value, int | float | np.integer | np.floating) and math.isfinite(value):
        return float(value)
    expected = {str: "text", int: "a whole number", float: "a finite number"}[kind]
    raise SequenceError(f"{path}: attribute {key} is {value!r}, expected {expected}")


def _dataset(file: h5py.File, name: str, column: Column, path: Path) -> h5py.Dataset:
    """A dataset that may be read: of the schema's type, of a possible size, and with its content in this very file."""
    link = file.get(name, getlink=True)
    dataset = file[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype != np.dtype(column.dtype):
        raise SequenceError(f"{path}: {name} is not a dataset of type {column.dtype} in this file")
    if dataset.is_virtual or dataset.external:
        raise SequenceError(f"{path}: dataset {name} has its content in another file")
    most = (MAX_IMAGES, MAX_SIZE, MAX_SIZE)[: column.ndim]
    shape = dataset.shape or ()
    if len(shape) != len(most) or any(length > limit for length, limit in zip(shape, most, strict=True)):
        raise SequenceError(f"{path}: dataset {name} has an impossible shape {shape}, expected at most {most}")
    return dataset
