"""Forced photometry against stars that GalSim put in, and against least squares written out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import galsim
import numpy as np
import pytest
from astropy.io import fits

from pipeline.forced import (
    MATCHED_LEFT,
    Images,
    forced_photometry,
    images_of,
    local_background,
    matched_fluxes,
    point_source_aperture,
    psf_fluxes,
)
from pipeline.identity import SHAPE
from pipeline.lightcurves import PhotometryFlag
from pipeline.photometry import MATCHED_FWHM_ARCSEC, SIGMA_RATIO, WING, psf_profile
from pipeline.sequences import MaskBit, Sequence
from pipeline.survey import ThumbnailConfig
from pipeline.thumbnails import cut_thumbnails
from pipeline.zeropoints import ZeropointFlag
from tests.pipeline.test_photometry import SCALE, double_gaussian, drawn, fine_width
from tests.pipeline.test_sequences import make_sequence
from tests.pipeline.test_thumbnails import make_frame, sdss_wcs

SIZE = 32


def star(fwhm: float, flux: float, size: int = SIZE) -> np.ndarray:
    """By GalSim, float64: of the effective width, in the middle."""
    return drawn(flux * typical_psf(fwhm), size, SCALE)


def typical_psf(fwhm: float) -> galsim.GSObject:
    """A double Gaussian of this effective width."""
    return double_gaussian(fwhm / fine_width(double_gaussian(1, SIGMA_RATIO, WING)), 2.3, 0.08)


def host(flux: float) -> galsim.GSObject:
    """An inclined disk whose middle is 1.3 arcsec beside the object."""
    disk = galsim.Exponential(half_light_radius=1.5, flux=flux)
    return disk.shear(q=0.5, beta=40 * galsim.degrees).shift(1.2, -0.5)


def in_gaussian(light: galsim.GSObject) -> float:
    """Its flux where each place counts as much as a Gaussian with a peak of 1 about the object says, by GalSim."""
    peak = drawn(galsim.Convolve(light, galsim.Gaussian(fwhm=MATCHED_FWHM_ARCSEC)), 33, 0.05)[16, 16] / 0.05**2
    return float(peak * 2 * np.pi * MATCHED_FWHM_ARCSEC**2 / (8 * np.log(2)))


def quiet(n_images: int = 6, size: int = SIZE) -> Sequence:
    """All zero, every pixel good, seeing 1.4 arcsec, unit variance of independent pixels."""
    base = make_sequence(n_images, size)
    planes = {
        "image": np.zeros_like(base.image),
        "variance": np.full_like(base.variance, 0.7),
        "noise_factor": np.full(n_images, 0.7, np.float32),
        "mask": np.zeros_like(base.mask),
        "psf_fwhm_arcsec": np.full(n_images, 1.4, np.float32),
        "zp_flags": np.zeros(n_images, np.uint8),
    }
    return dataclasses.replace(base, **planes)


def with_image(sequence: Sequence, image_MHW: np.ndarray) -> Sequence:
    return dataclasses.replace(sequence, image=image_MHW.astype(np.float32))


def images_from(image_MHW: np.ndarray, variance_MHW: np.ndarray, fwhm: float) -> Images:
    """All pixels good, the seeing known."""
    return Images(
        image_MHW=image_MHW.astype(np.float32),
        variance_MHW=variance_MHW.astype(np.float32),
        mask_MHW=np.zeros(image_MHW.shape, np.uint8),
        pixel_scale_arcsec=SCALE,
        psf_width_arcsec_M=np.full(len(image_MHW), fwhm),
        psf_known_M=np.ones(len(image_MHW), bool),
    )


@pytest.mark.parametrize("size", [31, 32, 48])
def test_the_profile_is_galsims_star(size: int) -> None:
    widths = np.array([0.9, 1.4, 2.2])
    profile = psf_profile((size, size), widths, pixel_scale_arcsec=SCALE)
    for fwhm, image in zip(widths, profile, strict=True):
        np.testing.assert_allclose(image, star(fwhm, 1.0, size), atol=2e-6)


@pytest.mark.parametrize("fwhm", [0.9, 1.4, 2.2])
def test_stars_have_their_flux_and_errors_their_size(fwhm: float) -> None:
    """4000 noisy stars of each brightness, faint to bright: no bias, pulls of unit width, by both ways."""
    n_images, rng = 4000, np.random.default_rng(3)
    shape = (n_images, SIZE, SIZE)
    for flux in (0.0, 20.0, 2000.0):
        truth_HW = star(fwhm, flux)
        variance_HW = 1 + np.clip(truth_HW, 0, None) / 5
        image_MHW = truth_HW + rng.normal(size=shape) * np.sqrt(variance_HW)
        images = images_from(image_MHW, np.broadcast_to(variance_HW, shape), fwhm)
        background = local_background(images)
        for measure in (point_source_aperture, psf_fluxes, matched_fluxes):
            for given in (None, background):
                measured_M, error_M, _ = measure(images, given)
                pull_M = (measured_M - flux) / error_M
                assert abs(pull_M.mean()) < 4 / np.sqrt(n_images) + 5e-4 * flux / error_M.mean()
                # SEP's convention for the aperture's error counts the pixels on its rim a little too much.
                assert pull_M.std() == pytest.approx(1, abs=0.05)


def test_a_host_is_the_same_constant_in_whatever_seeing() -> None:
    """What varies by the matched flux is the point source; the PSF flux, which follows the seeing, is flagged.

    The constant of the matched flux is what GalSim says of the host without any PSF.
    """
    widths = np.array([0.9, 1.2, 1.5, 1.8, 2.2, 2.7])
    fluxes = np.array([0.0, 3.0, 9.0, 6.0, 1.0, 0.0])
    scene = [
        drawn(galsim.Convolve(typical_psf(width), host(60.0)), SIZE, SCALE) + star(width, flux)
        for width, flux in zip(widths, fluxes, strict=True)
    ]
    sequence = dataclasses.replace(with_image(quiet(6), np.stack(scene)), psf_fwhm_arcsec=widths.astype(np.float32))
    sequence.band_id[:] = 2
    measured = forced_photometry(sequence)
    np.testing.assert_allclose(measured.matched_flux_M - fluxes, in_gaussian(host(60.0)), rtol=1e-3)
    assert np.ptp(measured.aperture_flux_M - fluxes) < 0.06 * 60
    assert np.ptp(measured.psf_flux_M - fluxes) > 0.3 * 60
    assert measured.flags_M.tolist() == [PhotometryFlag.EXTENDED] * 6


@pytest.mark.parametrize(("wing", "flux"), [(WING, 500.0), (0.14, 500.0), (WING, 0.0)])
def test_a_star_is_not_extended_though_its_wings_are_and_nothing_is_neither(wing: float, flux: float) -> None:
    """PSFs with as much wing as any real one, whose fit lacks some per cent, in noise."""
    rng = np.random.default_rng(4)
    psf = double_gaussian(1.0, SIGMA_RATIO, wing)
    sequence = with_image(quiet(200), drawn(flux * psf, SIZE, SCALE) + rng.normal(size=(200, SIZE, SIZE)))
    sequence = dataclasses.replace(sequence, psf_fwhm_arcsec=np.full(200, fine_width(psf), np.float32))
    assert not (forced_photometry(sequence).flags_M & PhotometryFlag.EXTENDED).any()


def test_a_variance_that_follows_the_noise_does_not_draw_fluxes_down() -> None:
    """Few electrons in a dark band: with weights from such a variance the mean would be off by its error."""
    rng, n_images, sky = np.random.default_rng(5), 2000, 30.0
    counts_MHW = rng.poisson(sky, (n_images, SIZE, SIZE)).astype(np.float32)
    flux_M, error_M, _ = psf_fluxes(images_from(counts_MHW - sky, np.maximum(counts_MHW, 1), 1.4))
    assert abs(flux_M.mean()) < 4 * flux_M.std() / np.sqrt(n_images)
    assert (flux_M / error_M).std() == pytest.approx(1, abs=0.05)


def test_a_fit_leaves_out_what_is_masked_as_least_squares_written_out_does() -> None:
    """Against numpy.linalg.lstsq on the good pixels alone."""
    rng = np.random.default_rng(8)
    sequence = with_image(quiet(20), star(1.4, 50.0) + rng.normal(size=(20, SIZE, SIZE)))
    sequence.mask[:] = np.where(rng.random(sequence.mask.shape) < 0.1, MaskBit.CR, 0)
    sequence.image[sequence.mask > 0] = 1e5
    measured = forced_photometry(sequence)
    for m in range(20):
        good = sequence.mask[m] == 0
        profile = star(1.4, 1.0)[good]
        flux = np.linalg.lstsq(profile[:, None], sequence.image[m][good].astype(np.float64), rcond=None)[0][0]
        assert measured.psf_flux_M[m] == pytest.approx(flux, rel=1e-4)
        assert measured.psf_error_M[m] == pytest.approx(1 / np.sqrt((profile**2).sum()), rel=1e-4)
        assert measured.psf_left_M[m] == pytest.approx((profile**2).sum() / (star(1.4, 1.0) ** 2).sum(), abs=1e-4)


def test_flags_say_why_a_flux_is_not_there() -> None:
    sequence = with_image(quiet(10), np.broadcast_to(star(1.4, 50.0), (10, SIZE, SIZE)).copy())
    sequence.mask[1, 15, 20] = MaskBit.SATUR
    sequence.mask[2, :, 20:] = MaskBit.UNCOVERED
    sequence.psf_fwhm_arcsec[3] = np.nan
    sequence.mask[4, 12:20, 12:20] = MaskBit.INTERP
    sequence.zp_flags[5] = ZeropointFlag.CHECKED | ZeropointFlag.BEYOND_LIMIT
    sequence.mask[6, 0, 0] = MaskBit.GHOST
    sequence.mask[7] = MaskBit.UNCOVERED
    sequence.psf_fwhm_arcsec[8] = 2.9
    sequence.psf_fwhm_arcsec[9] = 1.8
    sequence.mask[9, np.hypot(*(np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2)) > 8.3] = MaskBit.CR
    sequence.image[(sequence.mask & MaskBit.UNCOVERED) > 0] = np.nan
    sequence.variance[(sequence.mask & MaskBit.UNCOVERED) > 0] = np.nan
    sequence.noise_factor[7] = np.nan
    measured = forced_photometry(sequence)
    flag = PhotometryFlag
    assert [PhotometryFlag(int(flags)) for flags in measured.flags_M] == [
        flag(0),
        flag.MASKED,
        flag.UNCOVERED | flag.NOT_MATCHED,
        flag.PSF_UNKNOWN,
        flag.MASKED | flag.PSF_LOST | flag.NOT_MATCHED,
        flag.ZEROPOINT,
        flag(0),
        flag.UNCOVERED | flag.PSF_LOST | flag.NOT_MATCHED,
        flag.NOT_MATCHED,
        flag.NOT_MATCHED,
    ]
    assert np.flatnonzero(np.isfinite(measured.aperture_flux_M)).tolist() == [0, 5, 6, 8, 9]
    assert np.flatnonzero(np.isfinite(measured.psf_flux_M)).tolist() == [0, 1, 2, 5, 6, 8, 9]
    assert np.flatnonzero(np.isfinite(measured.matched_flux_M)).tolist() == [0, 5, 6]
    np.testing.assert_allclose(measured.psf_flux_M[[0, 1, 2, 5, 6]], 50.0, rtol=1e-3)
    np.testing.assert_allclose(measured.matched_flux_M[[0, 5, 6]], 50.0, rtol=1e-3)
    for kind in ("psf", "matched"):
        flux_M, error_M = (getattr(measured, f"{kind}_{what}_M") for what in ("flux", "error"))
        assert (np.isfinite(error_M) == np.isfinite(flux_M)).all()


def test_a_local_background_is_taken_off_and_its_want_is_said() -> None:
    """The star's own light in the annulus is not taken for background."""
    image = np.stack([star(2.2, 50.0), star(2.2, 50.0) + 3.0, star(2.2, 50.0)])
    sequence = dataclasses.replace(with_image(quiet(3), image), psf_fwhm_arcsec=np.full(3, 2.2, np.float32))
    distance = np.hypot(*(np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2)) * SCALE
    sequence.mask[2, distance > 4.5] = MaskBit.CR
    measured = forced_photometry(sequence, subtract_background=True)
    np.testing.assert_allclose(measured.psf_flux_M[:2], 50.0, rtol=2e-3)
    np.testing.assert_allclose(measured.aperture_flux_M[:2], 50.0, rtol=2e-3)
    assert np.isnan(measured.psf_flux_M[2])
    assert measured.flags_M.tolist() == [0, 0, PhotometryFlag.NO_BACKGROUND]


def test_thumbnails_larger_or_smaller_than_usual_and_none_at_all() -> None:
    large = with_image(quiet(2, 96), np.broadcast_to(star(1.4, 50.0, 96), (2, 96, 96)))
    np.testing.assert_allclose(forced_photometry(large).psf_flux_M, 50.0, rtol=1e-3)
    small = with_image(quiet(2, 12), np.broadcast_to(star(1.4, 50.0, 12), (2, 12, 12)))
    measured = forced_photometry(small)
    np.testing.assert_allclose(measured.psf_flux_M, 50.0, rtol=1e-3)
    assert measured.flags_M.tolist() == [PhotometryFlag.UNCOVERED | PhotometryFlag.NOT_MATCHED] * 2
    assert np.isnan(measured.aperture_flux_M).all()
    assert forced_photometry(make_sequence(0)).flags_M.shape == (0,)


def test_errors_are_those_of_independent_pixels() -> None:
    sequence = quiet(1)
    assert images_of(sequence).variance_MHW[0, 0, 0] == pytest.approx(1)
    expected = 1 / np.sqrt((star(1.4, 1.0) ** 2).sum())
    assert forced_photometry(sequence).psf_error_M[0] == pytest.approx(expected, rel=1e-3)


def test_the_survey_s_own_psfs_lose_little(real_data: Path) -> None:
    """A noiseless star of each real PSF (psField's Karhunen-Loève images): the fit finds 95 to 100 % of its light."""
    files = sorted((real_data / "archive").rglob("psField-*.fit"))
    assert len(files) >= 3
    for file in files:
        for band in range(5):
            star_HW = karhunen_loeve_psf(fits.getdata(file, band + 1))
            width = float(fits.getdata(file, 6)[0]["psf_width"][band])
            flux_M, _, _ = psf_fluxes(images_from(star_HW[None], np.ones((1, 51, 51)), width))
            assert 0.95 < flux_M[0] < 1


def test_a_host_under_the_survey_s_own_psfs_is_a_constant_to_two_per_cent(real_data: Path) -> None:
    """Whatever the shapes of real PSFs, of 1.1 to 1.8 arcsec: stars and hosts scatter by it, no more."""
    found = []
    for file in sorted((real_data / "archive").rglob("psField-*.fit")):
        for band in range(5):
            star_HW = karhunen_loeve_psf(fits.getdata(file, band + 1))
            psf = galsim.InterpolatedImage(galsim.ImageD(star_HW, scale=SCALE), flux=1)
            width = float(fits.getdata(file, 6)[0]["psf_width"][band])
            scene = np.stack([drawn(light, 50, SCALE) for light in (psf, galsim.Convolve(psf, host(1.0)))])
            flux_S, _, left_S = matched_fluxes(images_from(scene, np.ones_like(scene), width))
            assert (left_S > MATCHED_LEFT).all()
            found.append(flux_S)
    star_F, host_F = np.array(found).T
    assert star_F.mean() == pytest.approx(1, abs=0.02)
    assert host_F.mean() == pytest.approx(in_gaussian(host(1.0)), rel=0.03)
    assert star_F.std() < 0.025
    assert host_F.std() < 0.025 * host_F.mean()


def karhunen_loeve_psf(rows: fits.FITS_rec, row: float = 744, column: float = 1024) -> np.ndarray:
    """The PSF in the middle of the field, of unit flux (https://www.sdss4.org/dr17/imaging/images/#psf)."""
    image = np.zeros((51, 51))
    for basis in rows:
        used = np.s_[: basis["nrow_b"], : basis["ncol_b"]]
        powers = np.outer((row * 1e-3) ** np.arange(5), (column * 1e-3) ** np.arange(5))
        image += (basis["c"] * powers)[used].sum() * basis["rrows"].reshape(51, 51)
    return image / image.sum()


@pytest.mark.parametrize(("turn_deg", "shift_px"), [(0.0, 0.5), (0.0, 0.0), (30.0, 0.3)])
def test_errors_hold_on_resampled_noise(turn_deg: float, shift_px: float) -> None:
    """White noise through the cutting itself, at the worst and the best sub-pixel phase: pulls of unit width to 5 %."""
    wcs = sdss_wcs(turn_deg=turn_deg)
    frame = make_frame(np.random.default_rng(2).normal(0, 0.2, SHAPE), wcs)
    x, y = (axis.ravel() + shift_px for axis in np.meshgrid(np.arange(40, 2000, 34.0), np.arange(40, 1440, 34.0)))
    ra_deg, dec_deg = wcs.wcs_pix2world(np.column_stack([x, y]), 0).T
    cut = cut_thumbnails(frame, ra_deg, dec_deg, ThumbnailConfig())
    images = images_from(cut.image_THW, cut.variance_THW / cut.noise_factor_T[:, None, None], 1.3)
    for measure in (psf_fluxes, point_source_aperture, matched_fluxes):
        flux_M, error_M, _ = measure(images)
        assert (flux_M / error_M).std() == pytest.approx(1, abs=0.05)
