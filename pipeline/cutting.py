"""Cut one frame: what a decoding worker does, in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pipeline.archive import Fetched
from pipeline.bands import BAND_ID
from pipeline.catalog import Target
from pipeline.errors import FrameError
from pipeline.frame import Frame, Need
from pipeline.frames import read_frame
from pipeline.identity import SHAPE
from pipeline.naming import FrameId
from pipeline.starphot import Positions, StarFluxes, find_stars, measure_stars
from pipeline.survey import ThumbnailConfig
from pipeline.thumbnails import cut_thumbnails, rows_looked_at


@dataclass(frozen=True, slots=True)
class FrameJob:
    """All that a worker needs to cut one frame."""

    archive: str
    path: str
    frame: FrameId
    frame_file: Fetched
    calibration_file: Fetched
    mask_file: Fetched | None
    targets: tuple[Target, ...]
    config: ThumbnailConfig
    stars: Positions | None = None
    """Of a DR7 frame: where to measure standard stars."""
    partial_decoding: bool = True
    """Whether no more of a DR8+ frame is decompressed than its thumbnails need."""


@dataclass(frozen=True, slots=True)
class FrameCut:
    """What came of one frame: one record per target it covers, with the keys of `sequences.COLUMNS`."""

    frame: FrameId
    records: dict[str, dict[str, Any]]
    """By object id."""
    row: dict[str, Any]
    """The frame's row in frames.parquet."""
    stars: StarFluxes | None


def cut_frame(job: FrameJob) -> FrameCut:
    """Decode one frame once and cut the thumbnails of all its targets.

    Raises
    ------
    FrameError
        One of its three files is corrupt or contradicts its name.
    """
    ra_deg = np.array([target.ra_deg for target in job.targets])
    dec_deg = np.array([target.dec_deg for target in job.targets])
    need = partial(rows_looked_at, ra_deg_T=ra_deg, dec_deg_T=dec_deg, config=job.config, shape=SHAPE)
    frame = _read(job, need if job.partial_decoding else None)
    cut = cut_thumbnails(frame, ra_deg, dec_deg, job.config)
    shared = {
        "band_id": BAND_ID[job.frame.band],
        "run": job.frame.run,
        "rerun": job.frame.rerun,
        "camcol": job.frame.camcol,
        "field": job.frame.field,
        "zeropoint": frame.zeropoint_nmgy,
        "zeropoint_source": int(frame.zeropoint_source),
        "psf_fwhm_arcsec": frame.calibration.psf_fwhm_arcsec,
        "sky_nmgy_arcsec2": frame.calibration.sky_nmgy_arcsec2,
        "airmass": frame.calibration.airmass,
        "quality": frame.calibration.quality,
        "frame_sha256": job.frame_file.sha256,
    }
    records = {
        target.object_id: shared
        | {
            "image": cut.image_THW[t],
            "variance": cut.variance_THW[t],
            "mask": cut.mask_THW[t],
            "noise_factor": float(cut.noise_factor_T[t]),
            "coverage": float(cut.coverage_T[t]),
            "x_pix": float(cut.x_pix_T[t]),
            "y_pix": float(cut.y_pix_T[t]),
            "mjd_tai": float(cut.mjd_tai_T[t]),
        }
        for t, target in enumerate(job.targets)
    }
    row = {key: shared[key] for key in ("run", "rerun", "camcol", "field", "quality")} | {
        "archive": job.archive,
        "path": job.path,
        "band": job.frame.band,
        "sha256": job.frame_file.sha256,
        "calibration_sha256": job.calibration_file.sha256,
        "mask_sha256": job.mask_file.sha256 if job.mask_file else "",
        "bytes": job.frame_file.n_bytes,
        "psf_fwhm_arcsec": frame.calibration.psf_fwhm_arcsec,
        "sky_nmgy_arcsec2": frame.calibration.sky_nmgy_arcsec2,
        "mjd_tai": float(frame.mjd_tai(frame.pixels.shape[0] / 2)),
    }
    stars = None if job.stars is None else measure_stars(frame, job.stars)
    return FrameCut(frame=job.frame, records=records, row=row, stars=stars)


def find_frame_stars(job: FrameJob) -> Positions:
    """The stars on a DR7 frame that are fit to be standards.

    Raises
    ------
    FrameError
        One of its files is corrupt or contradicts its name.
    """
    return find_stars(_read(job))


def _read(job: FrameJob, need: Need | None = None) -> Frame:
    frame = read_frame(
        job.frame_file.path,
        job.calibration_file.path,
        job.mask_file.path if job.mask_file else None,
        rerun=job.frame.rerun,
        astrometry=job.config.astrometry,
        need=need,
    )
    if frame.id != job.frame:
        raise FrameError(f"{job.frame_file.path.name} was asked for as frame {job.frame}")
    return frame
