"""Frames on this machine with the files that belong to them: real ones where there are any, else simulated."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.archive import Fetched
from pipeline.astrometry import AsTrans
from pipeline.bands import BANDS
from pipeline.catalog import Target
from pipeline.cutting import FrameJob, find_frame_stars
from pipeline.frame import Frame
from pipeline.frames import read_frame
from pipeline.identity import SHAPE
from pipeline.naming import DAS_FOLDER, FrameId, calibration_path, frame_path, mask_path, parse_frame_file
from pipeline.starphot import Positions
from pipeline.survey import ThumbnailConfig

Floats = NDArray[np.float64]

LEGACY: Final = tuple(FrameId("sas-dr8", 94, 301, 1, 12, band) for band in BANDS)
FIRST_EPOCH: Final = tuple(FrameId("das-dr7", 4192, 40, 4, 300, band) for band in BANDS)
SECOND_EPOCH: Final = tuple(FrameId("das-dr7", 6377, 40, 4, 399, band) for band in BANDS)
"""What the folder of real files holds: a field of run 94, and one field in two nights."""
FORMATS: Final = {"das-dr7": "fpC", "sas-dr8": "frame"}
NO_REAL_FILES: Final = "no real SDSS files here (S82_REAL_DATA, else ../shared/sdss): their rows are left out"
EDGE_PX: Final = 40
"""Objects are this far from the edges of a frame, so that their thumbnails are whole."""


def real_data() -> Path | None:
    """Folder of real SDSS files, or None where there is none."""
    folder = Path(os.environ.get("S82_REAL_DATA", Path(__file__).resolve().parents[3] / "shared" / "sdss"))
    return folder if (folder / "archive").is_dir() else None


@dataclass(frozen=True, slots=True)
class FrameFiles:
    """One image file, the table that calibrates it, and its mask planes if it has any."""

    frame: FrameId
    image: Path
    table: Path
    mask: Path | None

    @classmethod
    def below(cls, archive: Path, frame: FrameId) -> FrameFiles:
        """In an archive tree that holds both servers."""
        server = archive / DAS_FOLDER if frame.layout == "das-dr7" else archive
        return cls(frame, server / frame_path(frame), server / calibration_path(frame), server / mask_path(frame))

    @property
    def format(self) -> str:
        """What SDSS calls it: fpC or frame."""
        return FORMATS[self.frame.layout]

    def read(self, *, header_astrometry: bool = False) -> Frame:
        """By the pipeline's reader."""
        way = "header" if header_astrometry else "full"
        return read_frame(self.image, self.table, self.mask, rerun=self.frame.rerun, astrometry=way)  # type: ignore[arg-type]

    def job(self, ra_deg: Floats, dec_deg: Floats, config: ThumbnailConfig, *, check_stars: bool = True) -> FrameJob:
        """What a worker is given to cut thumbnails at these places; as in a build, fpC with their standard stars."""
        targets = tuple(
            Target(f"t{number}", float(ra), float(dec), "", "", "")
            for number, (ra, dec) in enumerate(zip(ra_deg, dec_deg, strict=True))
        )
        job = FrameJob(
            archive="das" if self.frame.layout == "das-dr7" else "sas",
            path=self.image.name,
            frame=self.frame,
            frame_file=_fetched(self.image),
            calibration_file=_fetched(self.table),
            mask_file=_fetched(self.mask) if self.mask else None,
            targets=targets,
            config=config,
        )
        stars = _standard_stars(self) if check_stars and self.format == "fpC" else None
        return replace(job, stars=stars)


@cache
def _standard_stars(files: FrameFiles) -> Positions:
    """Those that the frame itself shows."""
    return find_frame_stars(files.job(np.empty(0), np.empty(0), ThumbnailConfig(), check_stars=False))


def _fetched(path: Path) -> Fetched:
    return Fetched(path, "", path.stat().st_size, True)


def simulated_frames(archive: Path) -> list[FrameFiles]:
    """All images of a simulated archive, fpC first."""
    paths = (*sorted(archive.rglob("fpC-*.fit.gz")), *sorted(archive.rglob("frame-*.fits.bz2")))
    # …/rerun/corr/camcol/fpC-… and …/rerun/run/camcol/frame-…
    return [FrameFiles.below(archive, parse_frame_file(path.name, rerun=int(path.parts[-4]))) for path in paths]


def random_places(files: FrameFiles, number: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """RA and Dec [deg] of so many places on the frame."""
    height, width = SHAPE
    x_pix, y_pix = (rng.uniform(EDGE_PX, size - EDGE_PX, number) for size in (width, height))
    return _solution(files).pixel_to_world(x_pix, y_pix)


@cache
def _solution(files: FrameFiles) -> AsTrans:
    solution = files.read().solution
    assert isinstance(solution, AsTrans)
    return solution
