"""Synthetic datasets of any size: built and published by the pipeline's own functions, with no frame behind them.

The noise, masks and edges of a few hundred thumbnails are drawn once; an object takes some of them and adds a point
source of its own. Fifty objects share a cell and its exposures. All is decided by the seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.atomic import write_text
from pipeline.bands import BANDS
from pipeline.build import Build
from pipeline.catalog import Catalog, Target
from pipeline.cellrecord import CellResult
from pipeline.costs import summarise
from pipeline.manifest import Dataset
from pipeline.naming import CELLS_FOLDER, frame_path, sequence_path
from pipeline.objectrow import manifest_row, pixel_moments
from pipeline.pixelcheck import PixelCheck
from pipeline.plan import Cell, Exposure, Plan, Visit
from pipeline.publish import publish
from pipeline.schema import COLUMNS, MaskBit
from pipeline.sequences import Sequence as ImageSequence
from pipeline.sequences import write_sequence
from pipeline.survey import load_survey
from pipeline.thumbnails import target_wcs_header
from pipeline.version import PIPELINE_VERSION

Images = NDArray[np.float32]

SIZE: Final = 32
SCALE_ARCSEC: Final = 0.396
OBJECTS_PER_CELL: Final = 50
STOCK: Final = 60
"""Drawn per band."""
NOISE_NMGY: Final = (0.19, 0.08, 0.14, 0.21, 0.39)
"""u to z, of one pixel in an image of the survey."""
NMGY_PER_ELECTRON: Final = 0.001
SOURCES: Final = (
    ("AGN", "spectroscopic"),
    ("Variable", "spectroscopic"),
    ("SNIa", "photometric"),
    ("SNIa", "spectroscopic"),
    ("SNOther", "photometric"),
)


@dataclass(frozen=True)
class Sky:
    """What all objects draw from, and how many images each has."""

    n_images: int = 100
    seed: int = 82

    @cached_property
    def background(self) -> Images:
        """Noise of an empty sky, some of it beyond a frame's edge, by band and number [nMgy]."""
        rng = np.random.default_rng(self.seed)
        noise = np.array(NOISE_NMGY)[:, None, None, None] * rng.standard_normal((len(BANDS), STOCK, SIZE, SIZE))
        noise[:, ::20, :, :5] = np.nan
        return noise.astype(np.float32)

    @cached_property
    def background_variance(self) -> Images:
        """Of the sky, within some per cent the same in all images of a band [nMgy²]."""
        rng = np.random.default_rng(self.seed + 1)
        factor = 1 + 0.03 * rng.standard_normal(self.background.shape)
        return (np.square(NOISE_NMGY)[:, None, None, None] * factor).astype(np.float32)

    @cached_property
    def mask(self) -> NDArray[np.uint8]:
        """Bad columns and cosmic rays in some, and what lies beyond the edge."""
        rng = np.random.default_rng(self.seed + 2)
        mask = np.where(rng.random(self.background.shape) < 0.002, int(MaskBit.INTERP | MaskBit.CR), 0)
        mask[:, ::9, :, 12] |= MaskBit.INTERP
        return np.where(np.isnan(self.background), int(MaskBit.UNCOVERED), mask).astype(np.uint8)

    @cached_property
    def star(self) -> Images:
        """A point source of 1 nMgy in the middle, FWHM 1.4 arcsec."""
        y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
        star = np.exp(-(x**2 + y**2) / (2 * (1.4 / SCALE_ARCSEC / 2.355) ** 2))
        return (star / star.sum()).astype(np.float32)

    def sequence(self, target: Target, exposures: Sequence[Exposure]) -> ImageSequence:
        """One object in five bands of each exposure."""
        rng = np.random.default_rng([self.seed, int(target.object_id)])
        n = len(exposures) * len(BANDS)
        band = np.tile(np.arange(len(BANDS)), len(exposures))
        drawn = rng.integers(STOCK, size=n)
        mjd = np.repeat([_mjd(exposure) for exposure in exposures], len(BANDS)) + 8.3e-4 * band
        flux = rng.uniform(5, 50) * (1 + 0.5 * np.sin(mjd / rng.uniform(3, 30)))
        light = (flux[:, None, None] * self.star).astype(np.float32)
        columns = {name: np.ones(n, column.dtype) for name, column in COLUMNS.items() if column.ndim == 1}
        columns |= {
            name: np.repeat([getattr(exposure, name) for exposure in exposures], len(BANDS)).astype(COLUMNS[name].dtype)
            for name in ("run", "rerun", "camcol", "field")
        }
        columns |= {
            "image": self.background[band, drawn] + light,
            "variance": self.background_variance[band, drawn] + NMGY_PER_ELECTRON * light,
            "mask": self.mask[band, drawn],
            "band_id": (band + 1).astype(np.uint8),
            "mjd_tai": mjd,
            "psf_fwhm_arcsec": rng.normal(1.4, 0.1, n).astype(np.float32),
            "sky_nmgy_arcsec2": rng.normal(5, 0.5, n).astype(np.float32),
            "coverage": np.where(drawn % 20 == 0, 27 / 32, 1).astype(np.float32),
            "frame_sha256": np.array([_sha256(e, band) for e in exposures for band in BANDS], "S64"),
        }
        return ImageSequence(
            object_id=target.object_id,
            survey="demo",
            ra_deg=target.ra_deg,
            dec_deg=target.dec_deg,
            class_name=target.class_name,
            confirmation=target.confirmation,
            pixel_scale_arcsec=SCALE_ARCSEC,
            wcs_header=target_wcs_header(target.ra_deg, target.dec_deg, size=SIZE, pixel_scale_arcsec=SCALE_ARCSEC),
            pipeline_version=PIPELINE_VERSION,
            **columns,
        )


def _mjd(exposure: Exposure) -> float:
    return 53600 + 0.31 * exposure.run


def _sha256(exposure: Exposure, band: str) -> str:
    return hashlib.sha256(f"{exposure} {band}".encode()).hexdigest()


def plan_build(root: Path, n_objects: int, sky: Sky) -> Build:
    """A build of so many objects along the stripe, without catalogue or index."""
    survey = load_survey("demo")
    cells = tuple(_cells(n_objects, sky.n_images // len(BANDS)))
    targets = tuple(target for cell in cells for target in cell.targets)
    catalog = Catalog(targets=targets, skips=(), sha256=hashlib.sha256(b"synthetic").hexdigest())
    plan = Plan(cells=cells, skips=(), left_out={})
    return _build_of(Build(survey, root, catalog, plan, summarise(survey, plan), "", ""))


def with_new_exposures(build: Build, n_cells: int) -> Build:
    """The same build after a night in which so many of its cells were observed once more."""
    cells = list(build.plan.cells)
    for place in range(n_cells):
        visits = cells[place].visits
        exposure = replace(visits[-1].exposure, run=visits[-1].exposure.run + 1)
        cells[place] = replace(cells[place], visits=(*visits, Visit(exposure, visits[-1].object_ids)))
    return _build_of(replace(build, plan=replace(build.plan, cells=tuple(cells))))


def _build_of(build: Build) -> Build:
    hashes = "".join(cell.input_hash(build.survey) for cell in build.plan.cells)
    return replace(build, input_hash=hashlib.sha256(hashes.encode()).hexdigest())


def _cells(n_objects: int, n_exposures: int) -> Iterator[Cell]:
    for number, first in enumerate(range(0, n_objects, OBJECTS_PER_CELL)):
        targets = tuple(_target(n) for n in range(first, min(first + OBJECTS_PER_CELL, n_objects)))
        ids = tuple(target.object_id for target in targets)
        exposures = [Exposure("sas", "sas-dr8", 1000 + 10 * n, 301, 4, 11 + number) for n in range(n_exposures)]
        visits = tuple(Visit(exposure, ids) for exposure in exposures)
        yield Cell(f"all-c4-ra{number:05d}", "all", targets, visits)


def _target(number: int) -> Target:
    class_name, confirmation = SOURCES[number % len(SOURCES)]
    ra_deg, dec_deg = (310 + 0.01 * number) % 360, -1.2 + 0.3 * (number % 9)
    return Target(str(100_000 + number), ra_deg, dec_deg, class_name, class_name, confirmation)


def build_cell(build: Build, cell: Cell, sky: Sky) -> CellResult:
    """What `pipeline.cells.build_cell` leaves, with thumbnails that were not cut: files, and the done-marker."""
    exposures = [visit.exposure for visit in cell.visits]
    rows, moments, pixels = [], {}, PixelCheck()
    for target in cell.targets:
        sequence = sky.sequence(target, exposures)
        sha256 = write_sequence(build.building / sequence_path(target.object_id), sequence)
        rows.append(manifest_row(sequence, sha256, cell.cell_id))
        moments[target.object_id] = pixel_moments(sequence, BANDS)
        pixels.add(sequence)
    frames = [_frame_row(exposure, band, cell) for exposure in exposures for band in BANDS]
    result = CellResult(
        cell_id=cell.cell_id,
        input_hash=cell.input_hash(build.survey),
        objects=tuple(rows),
        recipe=cell.recipe(build.survey),
        frames=tuple(row | pixels.columns(row["sha256"]) for row in frames),
        skips=(),
        moments=moments,
    )
    write_text(build.building / CELLS_FOLDER / f"{cell.cell_id}.json", result.model_dump_json() + "\n")
    return result


def _frame_row(exposure: Exposure, band: Any, cell: Cell) -> dict[str, Any]:
    return {
        "archive": exposure.archive,
        "run": exposure.run,
        "rerun": exposure.rerun,
        "camcol": exposure.camcol,
        "field": exposure.field,
        "band": band,
        "path": frame_path(exposure.frame(band)),
        "sha256": _sha256(exposure, band),
        "calibration_sha256": _sha256(exposure, "calibration"),
        "mask_sha256": "",
        "bytes": 3_500_000,
        "n_thumbnails": len(cell.targets),
        "first_object": cell.targets[0].object_id,
        "n_partly_covered": 0,
        "psf_fwhm_arcsec": 1.4,
        "sky_nmgy_arcsec2": 5.0,
        "mjd_tai": _mjd(exposure),
        "quality": 3,
        "zp_offset_mag": float("nan"),
        "zp_error_mag": float("nan"),
        "zp_scatter_mag": float("nan"),
        "zp_stars": 0,
        "zp_flags": 0,
    }


def build_dataset(build: Build, sky: Sky) -> Dataset:
    """Build all cells and publish."""
    return publish(build, [build_cell(build, cell, sky) for cell in build.plan.cells], {})
