"""The per-object image sequence: HDF5 schema version 2, written whole, read with checks.

`docs/format.md` describes the file for readers without this package. Free of astropy, so that
training machines can read it.

Shapes: M images in time order, H × W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.atomic import replacing
from pipeline.errors import PipelineError, SequenceError

SCHEMA_VERSION: Final = 2
MAX_IMAGES: Final = 100_000
MAX_SIZE: Final = 512
"""Largest height and width [px]."""
MAX_BYTES: Final = 4 * 2**30
"""Most that one file may open to."""


class MaskBit(IntFlag):
    """Bits of a thumbnail's mask; the first four are planes of the survey's own fpM file."""

    INTERP = 1
    """Interpolated over (bad column, bleed, cosmic ray)."""
    SATUR = 2
    """Saturated."""
    CR = 4
    """Cosmic ray."""
    GHOST = 8
    """Ghost of a bright star."""
    UNCOVERED = 16
    """Outside the frame; the image is NaN here."""


@dataclass(frozen=True, slots=True)
class Column:
    """One dataset of the file: its type, shape beyond M, unit and meaning."""

    dtype: str
    ndim: int
    unit: str
    description: str


COLUMNS: Final[dict[str, Column]] = {
    "image": Column("<f4", 3, "nanomaggy", "sky-subtracted flux per pixel; NaN where the frame does not cover"),
    "variance": Column("<f4", 3, "nanomaggy2", "variance of each pixel from photon and detector noise"),
    "noise_factor": Column("<f4", 1, "", "variance over that of independent pixels, as summed apertures need it"),
    "mask": Column("|u1", 3, "", "bits: 1 INTERP, 2 SATUR, 4 CR, 8 GHOST, 16 UNCOVERED"),
    "band_id": Column("|u1", 1, "", "1 u, 2 g, 3 r, 4 i, 5 z"),
    "mjd_tai": Column("<f8", 1, "d", "MJD (TAI) of the middle of the exposure at the object's row"),
    "run": Column("<i4", 1, "", "imaging run"),
    "rerun": Column("<i4", 1, "", "processing rerun"),
    "camcol": Column("|u1", 1, "", "camera column, 1 to 6"),
    "field": Column("<i4", 1, "", "field of the run, from the file name"),
    "x_pix": Column("<f8", 1, "pixel", "column of the object in the frame, 0 at the centre of the first pixel"),
    "y_pix": Column("<f8", 1, "pixel", "row of the object in the frame, 0 at the centre of the first pixel"),
    "zeropoint": Column("<f4", 1, "nanomaggy", "flux of one count"),
    "zeropoint_source": Column("|u1", 1, "", "1 frame header (DR8+), 2 tsField (DR7), 3 tsField, corrected by stars"),
    "zp_offset_mag": Column(
        "<f4", 1, "mag", "stars less their standard magnitudes before correction; NaN: not measured"
    ),
    "zp_error_mag": Column("<f4", 1, "mag", "error of zp_offset_mag"),
    "zp_scatter_mag": Column("<f4", 1, "mag", "scatter of the stars"),
    "zp_stars": Column("<i4", 1, "", "number of standard stars on the frame"),
    "zp_flags": Column("|u1", 1, "", "bits: 1 CHECKED, 2 CORRECTED, 4 BEYOND_LIMIT, 8 TOO_FEW_STARS"),
    "psf_fwhm_arcsec": Column("<f4", 1, "arcsec", "effective PSF width"),
    "sky_nmgy_arcsec2": Column("<f4", 1, "nanomaggy/arcsec2", "sky brightness before subtraction"),
    "airmass": Column("<f4", 1, "", "airmass of the field"),
    "quality": Column("|u1", 1, "", "field quality: 3 GOOD, 2 ACCEPTABLE, 1 BAD, 4 MISSING, 5 HOLE, 0 unknown"),
    "coverage": Column("<f4", 1, "", "part of the thumbnail that the frame covers, 0 to 1"),
    "frame_sha256": Column("|S64", 1, "", "sha256 of the frame file as fetched, in hexadecimal"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """All images of one object in time order, with what is known of each.

    The arrays are those of `COLUMNS`, of the same names; `class_name` is '' where unknown.
    """

    object_id: str
    survey: str
    dataset_id: str
    ra_deg: float
    dec_deg: float
    class_name: str
    confirmation: str
    pixel_scale_arcsec: float
    wcs_header: str
    software_version: str
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

    @property
    def independent_variance(self) -> NDArray[np.float32]:
        """What the variance of each pixel would be without the correlation that resampling makes [nMgy²].

        The variance of a sum over many pixels, as of an aperture, is the sum over these.
        """
        return self.variance / self.noise_factor[:, None, None]

    def problems(self) -> list[str]:
        """What contradicts the schema, in words; empty when all is well."""
        found = []
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


_ATTRIBUTES: Final[dict[str, tuple[str, type]]] = {
    "survey": ("survey", str),
    "dataset_id": ("dataset_id", str),
    "object_id": ("object_id", str),
    "ra_deg": ("ra_deg", float),
    "dec_deg": ("dec_deg", float),
    "class": ("class_name", str),
    "confirmation": ("confirmation", str),
    "pixel_scale_arcsec": ("pixel_scale_arcsec", float),
    "wcs": ("wcs_header", str),
    "software_version": ("software_version", str),
}


def write_sequence(path: Path, sequence: Sequence) -> None:
    """Write `sequence` to `path`, whole or not at all, the same bytes for the same content.

    Raises
    ------
    SequenceError
        The sequence contradicts the schema; nothing is written.
    """
    if problems := sequence.problems():
        raise SequenceError(f"object {sequence.object_id}: not written to {path}: {'; '.join(problems)}")
    with replacing(path) as temporary, h5py.File(temporary, "w", libver=("v110", "v110")) as file:
        file.attrs["schema_version"] = SCHEMA_VERSION
        file.attrs["unit"] = "nanomaggy"
        for key, (field, _) in _ATTRIBUTES.items():
            file.attrs[key] = getattr(sequence, field)
        for name, column in COLUMNS.items():
            data = np.ascontiguousarray(getattr(sequence, name), dtype=column.dtype)
            dataset = file.create_dataset(name, data=data, track_times=False)
            dataset.attrs["unit"] = column.unit
            dataset.attrs["description"] = column.description


def read_sequence(path: Path) -> Sequence:
    """Read and check one per-object file.

    Raises
    ------
    SequenceError
        The file is missing, is not HDF5, or is not of this schema version; the message says what is wrong.
    """
    try:
        with h5py.File(path, "r") as file:
            return _read(file, path)
    except FileNotFoundError as error:
        raise SequenceError(f"no sequence at {path}: rebuild the dataset, or fetch the file again") from error
    except PipelineError:
        raise
    except Exception as error:  # h5py passes on whatever its C library stumbles over in a damaged file
        raise SequenceError(f"{path} is not a readable sequence: {type(error).__name__}: {error}") from error


def _read(file: h5py.File, path: Path) -> Sequence:
    version = file.attrs.get("schema_version")
    if not isinstance(version, int | np.integer) or version != SCHEMA_VERSION:
        raise SequenceError(f"{path} has schema version {version!r}, this software reads {SCHEMA_VERSION}: update it")
    values: dict[str, Any] = {field: _attribute(file, key, kind, path) for key, (field, kind) in _ATTRIBUTES.items()}
    datasets = {name: _dataset(file, name, path) for name in COLUMNS}
    if (n_bytes := sum(int(dataset.nbytes) for dataset in datasets.values())) > MAX_BYTES:
        raise SequenceError(f"{path} opens to {n_bytes} bytes, more than the {MAX_BYTES} allowed")
    sequence = Sequence(**values, **{name: dataset[()] for name, dataset in datasets.items()})
    if problems := sequence.problems():
        raise SequenceError(f"{path}: {'; '.join(problems)}")
    return sequence


def _attribute(file: h5py.File, key: str, kind: type, path: Path) -> str | float:
    value = file.attrs.get(key)
    if kind is str and isinstance(value, str):
        return value
    if kind is float and isinstance(value, int | float | np.integer | np.floating) and math.isfinite(value):
        return float(value)
    raise SequenceError(
        f"{path}: attribute {key} is {value!r}, expected {'text' if kind is str else 'a finite number'}"
    )


def _dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    """A dataset that may be read: of the schema's type, of a possible size, and with its content in this very file."""
    column = COLUMNS[name]
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
