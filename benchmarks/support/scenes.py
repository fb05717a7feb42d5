"""Frames of stars whose place and flux are known, written as SDSS writes them: fpC with tsField, frame with photoField.

Stars are Moffat profiles (Moffat 1969, A&A 3, 455; exponent 3, the wings of a star in fair seeing)
integrated over the camera's square pixels by Gauss-Legendre quadrature, which is exact to 1e-6 of the peak. Each frame
has its own rotation of the camera, its own pixel scale within 0.05 %, and the real optical distortion; stars have their
own sub-pixel phases.
"""

from __future__ import annotations

import bz2
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.support.files import FORMATS, FrameFiles
from pipeline.naming import FrameId, Layout, calibration_path, frame_path
from pipeline.simulate.camera import N_COLS, N_ROWS, PIXEL_ARCSEC, PIXEL_DEG, Astrometry, Strip, strips
from pipeline.simulate.conditions import Conditions, double_gaussian, draw_conditions
from pipeline.simulate.config import SimulationConfig, simulation_config
from pipeline.simulate.fpc import fpc_bytes, gzipped, tsfield_bytes
from pipeline.simulate.frame import SkyModel, calibrated, frame_bytes, photofield_bytes
from pipeline.simulate.render import add_noise
from pipeline.survey import load_survey

Floats = NDArray[np.float64]

BAND: Final = "r"
RUNS: Final[dict[Layout, int]] = {"das-dr7": 5582, "sas-dr8": 2662}
"""Runs of the survey `tiny` that lend their calibration, sky and noise."""
SPACING_PX: Final = 120
EDGE_PX: Final = 75
STAMP_PX: Final = 41
"""Half a star's stamp; 1e-4 of its flux at most is beyond."""
SKY_COUNTS: Final = 120
BRIGHT_COUNTS: Final = 400_000.0
"""Of a star in a frame without noise: so many that whole counts are as good as any, and none is saturated."""
FAINT_COUNTS: Final = 20_000.0
NODES: Final = np.polynomial.legendre.leggauss(4)


@dataclass(frozen=True, slots=True)
class Scene:
    """A written frame, and what is on it."""

    files: FrameFiles
    star_ra_deg: Floats
    star_dec_deg: Floats
    empty_ra_deg: Floats
    empty_dec_deg: Floats
    flux_nmgy: float
    """Of every star."""
    flux_counts: float
    fwhm_arcsec: float
    turn_deg: float
    scale: float
    """Of the pixels, in those of a thumbnail."""
    night: Conditions

    def profile(self, size: int) -> Floats:
        """A star of flux 1 at the middle of a thumbnail, as perfect resampling gives it."""
        offset = np.arange(size) - (size - 1) / 2
        x, y = np.meshgrid(offset, offset)
        return moffat(x, y, self.fwhm_arcsec / PIXEL_ARCSEC, side_px=self.scale, turn_deg=-self.turn_deg)

    def expected_error(self) -> float:
        """Relative error of a flux measured with the profile as weights, from the noise of the counts alone."""
        profile = self.profile(2 * STAMP_PX + 1)
        electrons = self.flux_counts * profile + SKY_COUNTS
        variance = electrons / self.night.ccd.gain_e_per_dn + self.night.ccd.dark_variance_dn2
        return float(np.sqrt((profile**2 * variance).sum()) / (profile**2).sum() / self.flux_counts)


def moffat(x_px: Floats, y_px: Floats, fwhm_px: float, *, side_px: float = 1.0, turn_deg: float = 0.0) -> Floats:
    """Flux per unit area of a star of flux 1, averaged over square pixels of that side, at offsets from its centre."""
    alpha2 = (fwhm_px / 2) ** 2 / (2 ** (1 / 3) - 1)
    turn = np.deg2rad(turn_deg)
    total = np.zeros(np.shape(x_px))
    for node_u, weight_u in zip(*NODES, strict=True):
        for node_v, weight_v in zip(*NODES, strict=True):
            u, v = node_u * side_px / 2, node_v * side_px / 2
            dx = x_px + u * np.cos(turn) - v * np.sin(turn)
            dy = y_px + u * np.sin(turn) + v * np.cos(turn)
            total += weight_u * weight_v / 4 / (1 + (dx**2 + dy**2) / alpha2) ** 3
    return 2 / (np.pi * alpha2) * total


def write_scene(folder: Path, layout: Layout, fwhm_arcsec: float, *, noise: bool, seed: int) -> Scene:
    """Draw and write one frame with its table; `seed` decides rotation, scale, phases and noise."""
    rng = np.random.default_rng([seed, round(100 * fwhm_arcsec), RUNS[layout], noise])
    turn_deg, scale = float(rng.uniform(0, 360)), float(rng.uniform(0.9995, 1.0005))
    strips_5, nights_5 = _night(layout, fwhm_arcsec, turn_deg, scale, tilted=noise)
    strip, night = next(pair for pair in zip(strips_5, nights_5, strict=True) if pair[0].band == BAND)
    counts = FAINT_COUNTS if noise else BRIGHT_COUNTS
    x_pix, y_pix = _lattice(0, rng)
    source_YX = counts * _draw(x_pix, y_pix, fwhm_arcsec / PIXEL_ARCSEC / scale) * night.flat_C
    row, col = np.mgrid[0.5:N_ROWS, 0.5:N_COLS]
    expected_YX = (source_YX + night.sky_dn_at(row, col)).astype(np.float32)
    ccd = night.ccd
    noisy_YX = add_noise(expected_YX, ccd.gain_e_per_dn, ccd.dark_variance_dn2, rng) if noise else expected_YX
    files = _write(folder, strips_5, nights_5, strip, np.rint(noisy_YX).astype(np.int32))
    to_sky = strip.field_astrometry(0).to_sky
    empty_x, empty_y = _lattice(SPACING_PX / 2, rng)
    return Scene(
        files,
        *to_sky(y_pix + 0.5, x_pix + 0.5),
        *to_sky(empty_y + 0.5, empty_x + 0.5),
        flux_nmgy=counts * night.nmgy_per_dn,
        flux_counts=counts,
        fwhm_arcsec=fwhm_arcsec,
        turn_deg=turn_deg,
        scale=scale,
        night=night,
    )


def _night(
    layout: Layout, fwhm_arcsec: float, turn_deg: float, scale: float, *, tilted: bool
) -> tuple[list[Strip], list[Conditions]]:
    """The five strips of a run, turned and scaled, and what the sky was like."""
    config = _config()
    strips_5 = [
        replace(strip, astrometry=_turned(strip.astrometry, turn_deg, scale))
        for strip in strips(config)
        if strip.run.run == RUNS[layout]
    ]
    nights_5 = []
    for strip in strips_5:
        drawn = draw_conditions(config, strip)
        sky = SKY_COUNTS * drawn.nmgy_per_dn / PIXEL_ARCSEC**2
        psf = double_gaussian(fwhm_arcsec, config.seeing.sigma_ratio, config.seeing.wing)
        tilt = drawn.sky_tilt if tilted else (0.0, 0.0, 0.0)  # whole counts cannot hold a slope of a tenth of one
        nights_5.append(replace(drawn, psf=psf, sky_nmgy_arcsec2=sky, sky_tilt=tilt))
    return strips_5, nights_5


@cache
def _config() -> SimulationConfig:
    return simulation_config(load_survey("tiny"))


def _turned(astrometry: Astrometry, turn_deg: float, scale: float) -> Astrometry:
    """The camera turned about the middle of the frame."""
    row, col = N_ROWS / 2, N_COLS / 2
    mu = astrometry.a + astrometry.b * row + astrometry.c * col
    nu = astrometry.d + astrometry.e * row + astrometry.f * col
    along, across = (PIXEL_DEG * scale * part for part in (np.cos(np.deg2rad(turn_deg)), np.sin(np.deg2rad(turn_deg))))
    b, c, e, f = float(along), float(-across), float(across), float(along)
    return replace(astrometry, a=(mu - b * row - c * col) % 360.0, b=b, c=c, d=nu - e * row - f * col, e=e, f=f)


def _lattice(shift_px: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Places well apart, each with its own phase; those of another `shift_px` lie between them."""
    axes = (np.arange(EDGE_PX + shift_px, size - EDGE_PX, SPACING_PX) for size in (N_COLS, N_ROWS))
    x, y = (axis.ravel() for axis in np.meshgrid(*axes))
    return x + rng.uniform(-0.5, 0.5, x.size), y + rng.uniform(-0.5, 0.5, y.size)


def _draw(x_pix: Floats, y_pix: Floats, fwhm_px: float) -> Floats:
    """Stars of flux 1."""
    canvas_YX = np.zeros((N_ROWS, N_COLS))
    reach = np.arange(-STAMP_PX, STAMP_PX + 1)
    for x, y in zip(x_pix, y_pix, strict=True):
        column, row = round(x) + reach, round(y) + reach
        offset_x, offset_y = np.meshgrid(column - x, row - y)
        canvas_YX[row[0] : row[-1] + 1, column[0] : column[-1] + 1] += moffat(offset_x, offset_y, fwhm_px)
    return canvas_YX


def _write(
    folder: Path, strips_5: list[Strip], nights_5: list[Conditions], strip: Strip, dn_YX: NDArray[np.int32]
) -> FrameFiles:
    frame, night = strip.frame(0), nights_5[strips_5.index(strip)]
    if FORMATS[frame.layout] == "fpC":
        image, table = gzipped(fpc_bytes(strip, 0, night, dn_YX)), tsfield_bytes(strips_5, 0, nights_5)
    else:
        sky = SkyModel.of(strip, night)
        image_YX = calibrated(dn_YX, sky.on_pixels(strip.n_rows), night)
        image, table = bz2.compress(frame_bytes(strip, 0, night, image_YX, sky)), photofield_bytes(strips_5, nights_5)
    return FrameFiles(frame, _put(folder, frame_path(frame), image), _table(folder, frame, table), None)


def _table(folder: Path, frame: FrameId, content: bytes) -> Path:
    return _put(folder, calibration_path(frame), content)


def _put(folder: Path, path: str, content: bytes) -> Path:
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return target
