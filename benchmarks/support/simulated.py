"""Thumbnails of simulated frames against what was drawn: fluxes, places, noise, and agreement with reproject."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, get_args

import numpy as np
from numpy.typing import NDArray

from benchmarks.support.files import FORMATS, FrameFiles
from benchmarks.support.reference import header_wcs, reproject_crop
from benchmarks.support.scenes import RUNS, Scene, write_scene
from benchmarks.support.stars import centroids, circle_sums, circle_weights, profile_fluxes
from pipeline.frame import Frame
from pipeline.naming import Layout
from pipeline.sequences import MaskBit
from pipeline.survey import ThumbnailConfig
from pipeline.thumbnails import Thumbnails, cut_thumbnails

Floats = NDArray[np.float64]

KERNELS: Final = ("nearest", "bilinear", "cubic", "quintic")
SEEING_ARCSEC: Final = (1.0, 1.3, 1.7)
STAR_SIZE: Final = 41
APERTURE_PX: Final = 3.0 / 0.396
APERTURES: Final = [(x, y) for x in (-7.9, 7.9) for y in (-7.9, 7.9)]
"""Circles that fit into a thumbnail of 32 × 32 without touching each other."""
COMPARED_STARS: Final = 3
"""Per frame, with reproject."""
FELT_SIZE: Final = 76
"""Of a thumbnail of 32 and the kernel's reach on both sides."""
MMAG: Final = 2500 / np.log(10)

assert set(KERNELS) == set(get_args(ThumbnailConfig.model_fields["kernel"].annotation))


def measure_simulated(rotations: int) -> dict[str, float]:
    """All figures, flat: format, seeing, kernel, what."""
    return {
        f"{FORMATS[layout]}_{key}": value for layout in RUNS for key, value in measure_format(layout, rotations).items()
    }


def measure_format(layout: Layout, rotations: int) -> dict[str, float]:
    """Figures of one format; each rotation is one frame without noise and one with, at each seeing."""
    result: dict[str, float] = {}
    noise: dict[str, list[Floats]] = defaultdict(list)
    apart: dict[str, list[float]] = defaultdict(list)
    for fwhm_arcsec in SEEING_ARCSEC:
        stars: dict[str, list[Floats]] = defaultdict(list)
        for seed in range(rotations):
            with TemporaryDirectory() as folder:
                clean = write_scene(Path(folder) / "clean", layout, fwhm_arcsec, noise=False, seed=seed)
                noisy = write_scene(Path(folder) / "noisy", layout, fwhm_arcsec, noise=True, seed=seed)
                collect_stars(clean, clean.files.read(), "clean", stars)
                places = clean.star_ra_deg[:COMPARED_STARS], clean.star_dec_deg[:COMPARED_STARS]
                for kernel, value in from_reproject(clean.files, *places)[0].items():
                    apart[kernel].append(value)
                frame = noisy.files.read()
                collect_stars(noisy, frame, "noisy", stars)
                collect_noise(noisy, frame, noise)
        result |= {f"{fwhm_arcsec}_arcsec_{key}": value for key, value in star_figures(stars).items()}
    result |= noise_figures(noise)
    return result | {f"{kernel}_from_reproject_peaks": max(values) for kernel, values in apart.items()}


def collect_stars(scene: Scene, frame: Frame, how: str, found: dict[str, list[Floats]]) -> None:
    """Flux errors [mmag] and offsets [px] of all stars, per kernel."""
    profile_HW = scene.profile(STAR_SIZE)
    for kernel in KERNELS:
        config = ThumbnailConfig(size=STAR_SIZE, kernel=kernel)
        cut = cut_thumbnails(frame, scene.star_ra_deg, scene.star_dec_deg, config)
        ratio = profile_fluxes(cut.image_THW, profile_HW) / scene.flux_nmgy
        found[f"{kernel}_{how}_flux"].append(MMAG * np.log(ratio))
        found[f"{kernel}_{how}_place"].append(centroids(cut.image_THW, scene.fwhm_arcsec / config.pixel_scale_arcsec))
    if how == "noisy":
        found["expected"].append(np.array([MMAG * scene.expected_error()]))


def star_figures(found: Mapping[str, Sequence[Floats]]) -> dict[str, float]:
    """Bias and scatter of fluxes and places of one seeing."""
    result = {"expected_scatter_mmag": float(found["expected"][0][0])}
    for kernel in KERNELS:
        for how in ("clean", "noisy"):
            error, place = (np.concatenate(found[f"{kernel}_{how}_{what}"]) for what in ("flux", "place"))
            result |= {
                f"{kernel}_{how}_flux_bias_mmag": float(error.mean()),
                f"{kernel}_{how}_flux_bias_error_mmag": float(error.std() / np.sqrt(len(error))),
                f"{kernel}_{how}_flux_scatter_mmag": float(error.std()),
                f"{kernel}_{how}_centroid_bias_px": float(np.hypot(*place.mean(axis=0))),
                f"{kernel}_{how}_centroid_rms_px": float(np.sqrt((place**2).mean())),
            }
    return result


def noise_factors(cut: Thumbnails) -> Floats:
    """Variance of a pixel over that of independent ones; 1 where thumbnails have variances of independent pixels."""
    return np.asarray(getattr(cut, "noise_factor_T", np.ones(len(cut.image_THW))), dtype=np.float64)


def collect_noise(scene: Scene, frame: Frame, noise: dict[str, list[Floats]]) -> None:
    """Squares of what empty sky holds, per pixel and per aperture, beside what the variance says.

    Aperture sums are taken about their mean in the frame: what the frame's sky is off by is a figure of its own.
    """
    weights_AHW = circle_weights(ThumbnailConfig().size, tuple(APERTURES), APERTURE_PX)
    for kernel in KERNELS:
        config = ThumbnailConfig(kernel=kernel)
        cut = cut_thumbnails(frame, scene.empty_ra_deg, scene.empty_dec_deg, config)
        independent_THW = (cut.variance_THW / noise_factors(cut)[:, None, None]).astype(np.float32)
        noise[f"{kernel}_pixel_measured"].append(np.square(cut.image_THW, dtype=np.float64).mean(axis=(1, 2)))
        noise[f"{kernel}_pixel_predicted"].append(cut.variance_THW.mean(axis=(1, 2), dtype=np.float64))
        sums = circle_sums(cut.image_THW, APERTURES, APERTURE_PX).ravel()
        noise[f"{kernel}_aperture_measured"].append((sums - sums.mean()) ** 2 * len(sums) / (len(sums) - 1))
        sky = sums.mean() / (np.pi * APERTURE_PX**2) / np.sqrt(independent_THW.mean())
        noise[f"{kernel}_sky"].append(np.array([sky]))
        noise[f"{kernel}_aperture_predicted"].append(np.einsum("thw,ahw->ta", independent_THW, weights_AHW**2).ravel())


def noise_figures(noise: Mapping[str, Sequence[Floats]]) -> dict[str, float]:
    """Measured over predicted variance, with its statistical error."""
    result: dict[str, float] = {}
    for kernel in KERNELS:
        for what in ("pixel", "aperture"):
            measured, predicted = (np.concatenate(noise[f"{kernel}_{what}_{key}"]) for key in ("measured", "predicted"))
            ratio = measured / predicted.mean()
            result[f"{kernel}_{what}_variance_over_predicted"] = float(ratio.mean())
            result[f"{kernel}_{what}_variance_over_predicted_error"] = float(ratio.std() / np.sqrt(len(ratio)))
        sky = np.concatenate(noise[f"{kernel}_sky"])
        result[f"{kernel}_sky_rms_over_pixel_noise"] = float(np.sqrt((sky**2).mean()))
    return result


def from_reproject(files: FrameFiles, ra_deg: Floats, dec_deg: Floats) -> tuple[dict[str, float], int]:
    """Largest difference between our thumbnails and reproject's, both by the header's astrometry [peaks], per kernel.

    And at how many places. Those with a saturated pixel within reach are left out: ours fills such pixels, so that they
    do not ring into their neighbours, and a plain spline lets them ring (3e-3 of the peak beside a real star).
    """
    frame = files.read(header_astrometry=True)
    wcs = header_wcs(files.image)
    felt = cut_thumbnails(frame, ra_deg, dec_deg, ThumbnailConfig(size=FELT_SIZE))
    clean = np.flatnonzero(~((felt.mask_THW & int(MaskBit.SATUR)) > 0).any(axis=(1, 2)))
    image_YX, worst = frame.whole().image_YX, dict.fromkeys(KERNELS, 0.0)
    for kernel in KERNELS:
        config = ThumbnailConfig(kernel=kernel, astrometry="header")
        cut = cut_thumbnails(frame, ra_deg, dec_deg, config)
        for n in clean:
            place = float(ra_deg[n]), float(dec_deg[n])
            reference_HW = reproject_crop(image_YX, wcs, *place, config)
            apart = np.abs(cut.image_THW[n] - reference_HW).max() / reference_HW.max()
            worst[kernel] = max(worst[kernel], float(apart))
    return worst, len(clean)
