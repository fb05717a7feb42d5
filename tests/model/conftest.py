"""Small datasets of synthetic sequences, written by the same functions as real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.manifest import (
    MANIFEST_SCHEMA,
    DatasetInfo,
    ObjectRow,
    content_hash,
    write_info,
    write_table,
)
from pipeline.naming import MANIFEST_FILE, sequence_path
from pipeline.sequences import MaskBit, Sequence, write_sequence
from pipeline.splits import assign_folds
from pipeline.sums import file_sha256

SIZE = 32
DATASET_ID = "synthetic-0123456789ab"
NOISE_NMGY = (0.19, 0.08, 0.14, 0.21, 0.39)
Source = tuple[str, str]
"""Class and confirmation of an object."""


def _blob(sigma_px: float, dx: float = 0.0, dy: float = 0.0) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    blob = np.exp(-((x - dx) ** 2 + (y - dy) ** 2) / (2 * sigma_px**2))
    return blob / blob.sum()


def _fluxes(class_name: str, day_M: np.ndarray, band_M: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Images without noise: galaxy + what varies, by class and band, easily told apart."""
    galaxy = _blob(3.0, *random.uniform(-3, 3, 2))
    phase = day_M - random.uniform(60, 120)
    if class_name == "Variable":
        light = 30 + 15 * np.sin(day_M / random.uniform(0.1, 0.2))
        return light[:, None, None] * _blob(1.6)
    if class_name == "AGN":
        light = 12 + 4 * np.sin(day_M / random.uniform(30, 60) + random.uniform(0, 6))
        return light[:, None, None] * _blob(1.6) + 20 * _blob(3.0)
    if class_name == "SNIa":
        light = 30 * np.exp(-0.5 * (phase / 12) ** 2) * np.where(band_M == 1, 0.1, 1.0)
    else:
        light = 12 / (1 + np.exp(-phase / 3)) * np.where(phase > 60, 0.3, 1.0) * np.where(band_M == 5, 2.0, 1.0)
    return 20 * galaxy + light[:, None, None] * _blob(1.6)


def make_sequence(object_id: str, source: Source, n_images: int, random: np.random.Generator) -> Sequence:
    """One object in `n_images` images, five bands interleaved, some pixels uncovered."""
    band = np.resize(np.array([3, 4, 1, 5, 2], np.uint8), n_images)
    day = np.sort(random.uniform(0, 180, -(-n_images // 5))).repeat(5)[:n_images] + np.resize(
        np.arange(5) * 8e-4, n_images
    )
    day.sort()
    noise = random.normal(size=(n_images, SIZE, SIZE)) * np.array(NOISE_NMGY)[band - 1][:, None, None]
    image = (_fluxes(source[0], day, band, random) + noise).astype(np.float32)
    mask = np.zeros(image.shape, np.uint8)
    mask[::7, :, :3] = MaskBit.UNCOVERED
    image[::7, :, :3] = np.nan

    def column(value: float, dtype: str) -> np.ndarray:
        return np.full(n_images, value, dtype)

    return Sequence(
        object_id=object_id,
        survey="synthetic",
        ra_deg=0.0,
        dec_deg=0.0,
        class_name=source[0],
        confirmation=source[1],
        pixel_scale_arcsec=0.396,
        wcs_header="",
        pipeline_version=2,
        image=image,
        variance=np.ones_like(image),
        noise_factor=column(1, "f4"),
        mask=mask,
        band_id=band,
        mjd_tai=53700 + day,
        run=column(94, "i4"),
        rerun=column(40, "i4"),
        camcol=column(1, "u1"),
        field=column(100, "i4"),
        x_pix=column(50, "f8"),
        y_pix=column(50, "f8"),
        zeropoint=column(0.005, "f4"),
        zeropoint_source=column(2, "u1"),
        zp_offset_mag=column(0.01, "f4"),
        zp_error_mag=column(0.01, "f4"),
        zp_scatter_mag=column(0.02, "f4"),
        zp_stars=column(20, "i4"),
        zp_flags=column(1, "u1"),
        psf_fwhm_arcsec=column(1.4, "f4"),
        sky_nmgy_arcsec2=column(1, "f4"),
        airmass=column(1.2, "f4"),
        quality=column(3, "u1"),
        coverage=column(1, "f4"),
        frame_sha256=column(0, "S64"),
    )


def make_rows(sources: Iterable[Source], *, seed: int = 0, folds: int = 5) -> list[ObjectRow]:
    """Manifest rows along the stripe, 36″ apart, with folds."""
    rows = [
        ObjectRow(str(1000 + i), name, confirmation, 0.01 * i, 0.0, -1, sequence_path(str(1000 + i)), "0" * 64, 1)
        for i, (name, confirmation) in enumerate(sources)
    ]
    folds_O = assign_folds(rows, np.arange(len(rows)), folds=folds, seed=seed)
    return [replace(row, fold=int(fold)) for row, fold in zip(rows, folds_O, strict=True)]


def mixed_sources(per_class: int) -> list[Source]:
    """Equal numbers of all classes, supernovae half photometric."""
    half = ("spectroscopic", "photometric")
    return [
        (name, half[i % 2] if name.startswith("SN") else "spectroscopic")
        for i in range(per_class)
        for name in ("AGN", "SNIa", "Variable", "SNOther")
    ]


def write_dataset(path: Path, sources: list[Source], *, n_images: tuple[int, int], seed: int = 0) -> Path:
    """Write a dataset of these sources, each with n_images[0] to n_images[1] images."""
    random = np.random.default_rng(seed)
    rows = []
    for row in make_rows(sources):
        length = int(random.integers(n_images[0], n_images[1] + 1))
        sequence = make_sequence(row.object_id, (row.class_name, row.confirmation), length, random)
        write_sequence(path / row.file, sequence)
        rows.append(replace(row, sha256=file_sha256(path / row.file), n_images=length))
    write_table(
        path / MANIFEST_FILE, [{name: getattr(row, name) for name in row.__slots__} for row in rows], MANIFEST_SCHEMA
    )
    info = DatasetInfo(
        dataset_id=DATASET_ID,
        survey={},
        software={},
        input_hash="",
        content_hash=content_hash((row.object_id, row.sha256) for row in rows),
        counts={},
        size=SIZE,
        pixel_scale_arcsec=0.396,
    )
    write_info(path, info)
    return path


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Parallel test workers share the cores, and torch's threads spin while they wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def dataset_writer() -> Callable[..., Path]:
    return write_dataset


@pytest.fixture(scope="session")
def row_maker() -> Callable[..., list[ObjectRow]]:
    return make_rows


@pytest.fixture(scope="session")
def sequence_maker() -> Callable[..., Sequence]:
    return make_sequence


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 objects of 5 to 25 images."""
    return write_dataset(tmp_path_factory.mktemp("tiny"), mixed_sources(6), n_images=(5, 25))


@pytest.fixture(scope="session")
def separable_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 objects of about 80 images: the size of the demo."""
    return write_dataset(tmp_path_factory.mktemp("separable"), mixed_sources(12), n_images=(70, 90))
