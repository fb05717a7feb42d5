"""The flow `build-dataset` on real SDSS files, judged by the survey's own catalogues."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import sep
from astropy.io import fits
from scipy.spatial import cKDTree

from pipeline.astrometry import AsTrans
from pipeline.bands import BAND_ID, BANDS
from pipeline.forced import forced_photometry
from pipeline.lightcurves import PhotometryFlag
from pipeline.naming import FRAMES_FILE, SKIPS_FILE
from pipeline.photometry import aperture_fluxes
from pipeline.robust import robust_mean
from pipeline.sequences import COLUMNS, MaskBit, Sequence
from pipeline.sums import file_sha256
from pipeline.verify import verify_dataset
from pipeline.zeropoints import ZeropointFlag
from tests.real.conftest import RealBuild

pytestmark = pytest.mark.real

APERTURE_PX = 3.0 / 0.396
SPOILING = MaskBit.SATUR | MaskBit.CR | MaskBit.UNCOVERED
MIDDLE = 15.5


def aperture_flux(image_HW: np.ndarray) -> float:
    """Flux within 3″ of the middle, straight from `sep`."""
    flux, _, _ = sep.sum_circle(np.ascontiguousarray(image_HW), [MIDDLE], [MIDDLE], APERTURE_PX, subpix=0)
    return float(flux[0])


def centroid(image_HW: np.ndarray, fwhm_arcsec: float) -> tuple[float, float]:
    """Windowed centroid relative to the middle [px]."""
    sigma = fwhm_arcsec / 0.396 / 2.355
    x, y, _ = sep.winpos(np.ascontiguousarray(image_HW), [MIDDLE], [MIDDLE], sigma)
    return float(x[0]) - MIDDLE, float(y[0]) - MIDDLE


def encircled(row: fits.FITS_record, band: str) -> float:
    """Part of a star's light within 3″, by the survey's own double-Gaussian PSF (sigmas in pixels)."""
    b = BANDS.index(band)
    names = "PSF_SIGMA1_2G", "PSF_SIGMA2_2G", "PSF_B_2G"
    sigma1, sigma2, height2 = (float(row[name][b]) for name in names)
    within = [sigma**2 * (1 - np.exp(-(APERTURE_PX**2) / 2 / sigma**2)) for sigma in (sigma1, sigma2)]
    return (within[0] + height2 * within[1]) / (sigma1**2 + height2 * sigma2**2)


@pytest.fixture(scope="module")
def psf_rows(real_data: Path) -> dict[int, fits.FITS_record]:
    """Each run's PSF as its own field table has it."""
    archive = real_data / "archive"
    legacy = fits.getdata(archive / "sas/dr17/eboss/photoObj/301/94/photoField-000094-1.fits")
    rows = {94: legacy[legacy["FIELD"] == 12][0]}
    for run, field in ((4192, 300), (6377, 399)):
        path = archive / f"das/imaging/{run}/40/calibChunks/4/tsField-{run:06d}-4-40-{field:04d}.fit"
        rows[run] = fits.getdata(path)[0]
    return rows


def unflagged(sequence: Sequence, m: int) -> bool:
    """Neither saturated nor at an edge."""
    return not (sequence.mask[m] & (MaskBit.SATUR | MaskBit.UNCOVERED)).any()


@pytest.mark.parametrize("band", BANDS)
def test_star_fluxes_agree_with_the_catalogue(real_build: RealBuild, psf_rows: dict, band: str) -> None:
    """Median of aperture-corrected flux over catalogue flux within 3 %, for both archives, on at least 15 images.

    In u of the fpC field within 5 %: the standard there is run 4192 alone, which is brighter than the catalogue.
    """
    for prefix in ("123", "ref-"):
        ratios = []
        for row in real_build.rows("star", prefix):
            sequence = real_build.dataset.sequence(row)
            truth = real_build.known[row.object_id].flux_nmgy[BANDS.index(band)]
            ratios += [
                aperture_flux(sequence.image[m]) / encircled(psf_rows[int(sequence.run[m])], band) / truth
                for m in np.flatnonzero(sequence.band_id == BAND_ID[band])
                if unflagged(sequence, m) and truth > 6
            ]
        print(f"{band} {prefix:<4} stars: flux / catalogue {np.median(ratios):.4f}, {len(ratios)} images")
        assert len(ratios) >= 15
        assert np.median(ratios) == pytest.approx(1, abs=0.05 if (band, prefix) == ("u", "ref-") else 0.03)


@pytest.mark.parametrize("band", BANDS)
def test_forced_photometry_of_stars(real_build: RealBuild, band: str) -> None:
    """Aperture and matched fluxes as the catalogue's within 4 %, PSF fluxes 2 to 8 % below, with smaller errors."""
    found = []
    for row in real_build.rows("star"):
        sequence = real_build.dataset.sequence(row)
        measured = forced_photometry(sequence)
        truth = real_build.known[row.object_id].flux_nmgy[BANDS.index(band)]
        use = (sequence.band_id == BAND_ID[band]) & (measured.flags_M == 0) & (truth > 6)
        aperture, psf = measured.aperture_flux_M[use], measured.psf_flux_M[use]
        matched = measured.matched_flux_M[use]
        errors = [measured.psf_error_M[use], measured.matched_error_M[use]] / measured.aperture_error_M[use]
        found.append(np.stack([aperture / truth, matched / truth, psf / aperture, *errors]))
    on_catalogue, matched, psf_on_aperture, *errors = np.nanmedian(np.concatenate(found, axis=1), axis=1)
    print(
        f"{band} aperture / catalogue {on_catalogue:.3f}, matched {matched:.3f}, PSF / aperture {psf_on_aperture:.3f}"
    )
    print(f"{band} errors over the aperture's: PSF {errors[0]:.2f}, matched {errors[1]:.2f}")
    assert on_catalogue == pytest.approx(1, abs=0.04)
    assert matched == pytest.approx(1, abs=0.04)
    assert 0.92 < psf_on_aperture < 0.98
    assert max(errors) < 0.85
    assert min(errors) > 0.4


def test_galaxies_are_extended_and_stars_are_not(real_build: RealBuild) -> None:
    """In g, r and i, of objects that are bright enough to tell: nine of ten, and at most one of a hundred."""
    extended = {}
    for kind in ("star", "galaxy"):
        found = []
        for row in real_build.rows(kind):
            sequence = real_build.dataset.sequence(row)
            measured = forced_photometry(sequence)
            use = np.isin(sequence.band_id, [2, 3, 4]) & (measured.aperture_flux_M > 20 * measured.aperture_error_M)
            found.append((measured.flags_M[use] & PhotometryFlag.EXTENDED) > 0)
        extended[kind] = np.concatenate(found)
        print(f"{kind}: {extended[kind].mean():.3f} of {len(extended[kind])} images are flagged EXTENDED")
    assert extended["star"].mean() < 0.01
    assert extended["galaxy"].mean() > 0.9


@pytest.mark.parametrize("band", ["g", "r", "i", "z"])
def test_galaxy_fluxes_agree_with_the_catalogue(real_build: RealBuild, band: str) -> None:
    """Galaxies of run 94: the catalogue's own 3″ aperture, so no correction is needed."""
    ratios = []
    for row in real_build.rows("galaxy"):
        sequence = real_build.dataset.sequence(row)
        (m,) = np.flatnonzero(sequence.band_id == BAND_ID[band])
        ratios.append(aperture_flux(sequence.image[m]) / real_build.known[row.object_id].flux_nmgy[BANDS.index(band)])
    print(f"{band} galaxies: flux in 3 arcsec / catalogue {np.median(ratios):.4f}, {len(ratios)} images")
    assert len(ratios) >= 15
    assert np.median(ratios) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("band", BANDS)
def test_positions_agree_with_the_catalogue(real_build: RealBuild, band: str) -> None:
    """Median offset of stars from the middle of their thumbnails below 0.1″."""
    offsets = []
    for row in real_build.rows("star"):
        sequence = real_build.dataset.sequence(row)
        truth = real_build.known[row.object_id].flux_nmgy[BANDS.index(band)]
        offsets += [
            np.hypot(*centroid(sequence.image[m], float(sequence.psf_fwhm_arcsec[m]))) * 0.396
            for m in np.flatnonzero(sequence.band_id == BAND_ID[band])
            if unflagged(sequence, m) and truth > 20
        ]
    print(f"{band} position: median offset {np.median(offsets):.3f} arcsec, {len(offsets)} images")
    assert len(offsets) >= 15
    assert np.median(offsets) < 0.1


def epoch_offset(build: RealBuild, psf_rows: dict, band: str, *, undo: bool) -> tuple[float, float, int]:
    """Robust mean of stars' magnitudes, run 6377 less 4192, its error, their number; `undo`: as before correction."""
    differences, errors = [], []
    for row in build.rows("star", "ref-"):
        sequence = build.dataset.sequence(row)
        flux_M, error_M, ok_M = aperture_fluxes(
            sequence.image, sequence.independent_variance, sequence.mask, pixel_scale_arcsec=0.396, bad=SPOILING
        )
        magnitude, error = {}, {}
        for m in np.flatnonzero((sequence.band_id == BAND_ID[band]) & ok_M & (flux_M > 10 * error_M)):
            run = int(sequence.run[m])
            corrected = sequence.zp_flags[m] & ZeropointFlag.CORRECTED
            removed = float(sequence.zp_offset_mag[m]) if undo and corrected else 0.0
            magnitude[run] = -2.5 * np.log10(flux_M[m] / encircled(psf_rows[run], band)) + removed
            error[run] = np.hypot(1.0857 * error_M[m] / flux_M[m], 0.007)
        if len(magnitude) == 2:
            differences.append(magnitude[6377] - magnitude[4192])
            errors.append(np.hypot(*error.values()))
    mean, uncertainty, _ = robust_mean(np.array(differences), np.array(errors))
    return mean, uncertainty, len(differences)


@pytest.mark.parametrize("band", BANDS)
def test_the_two_epochs_agree_once_zero_points_are_corrected(real_build: RealBuild, psf_rows: dict, band: str) -> None:
    """Flux ratio 6377 / 4192 within 1 %, in u 2 %, by the catalogued stars' thumbnails and the field tables' PSF.

    Neither made the correction: that is from stars found on the frames, with their own aperture correction.
    """
    before, _, _ = epoch_offset(real_build, psf_rows, band, undo=True)
    after, error, n_stars = epoch_offset(real_build, psf_rows, band, undo=False)
    ratios = 10 ** (-0.4 * before), 10 ** (-0.4 * after)
    print(f"{band} flux ratio 6377/4192: before {ratios[0]:.4f}, after {ratios[1]:.4f} +- {error:.4f}, {n_stars} stars")
    assert n_stars >= (8 if band == "u" else 15)
    assert ratios[1] == pytest.approx(1, abs=0.02 if band == "u" else 0.01)


def displacement(sequence: Sequence, band: str) -> np.ndarray | None:
    """Where the object went between runs 4192 and 6377, on its thumbnails (x, y) [px]."""
    places = []
    for run in (4192, 6377):
        found = np.flatnonzero((sequence.run == run) & (sequence.band_id == BAND_ID[band]))
        if len(found) != 1 or not unflagged(sequence, found[0]):
            return None
        places.append(centroid(sequence.image[found[0]], 1.3))
    return np.subtract(places[1], places[0])


def test_galaxies_stay_where_they_are(real_build: RealBuild) -> None:
    """The same galaxies, three years apart: median displacement over g, r, i below 0.15 px."""
    sequences = real_build.sequences(set(real_build.galaxies))
    moved = [displacement(sequence, band) for sequence in sequences.values() for band in "gri"]
    offsets = np.array([item for item in moved if item is not None])
    print(f"galaxies 2003 to 2006: median displacement {np.median(offsets, axis=0).round(3)} px, {len(offsets)} pairs")
    assert len(offsets) >= 40
    assert np.hypot(*np.median(offsets, axis=0)) < 0.15


def test_resampling_adds_no_displacement(real_build: RealBuild, real_data: Path) -> None:
    """What stars seem to move on thumbnails is what they move on the sky by the frames' own astrometry, to 0.05 px.

    The sky side is measured on the raw frames: proper motion and the survey's astrometric error
    (together 0.1-0.2 px in these three years) are in both, resampling only in one.
    """
    sky = {run: raw_stars(real_data, run, field) for run, field in ((4192, 300), (6377, 399))}
    differences = []
    for object_id, sequence in real_build.sequences(set(real_build.known)).items():
        if not object_id.startswith("ref-") or (moved := displacement(sequence, "r")) is None:
            continue
        places = []
        for positions in sky.values():
            near, index = cKDTree(positions).query((sequence.ra_deg, sequence.dec_deg))
            places.append(positions[index] if near < 1 / 3600 else None)
        if any(place is None for place in places):
            continue
        on_sky_px = np.subtract(places[1], places[0]) * 3600 / 0.396 * (-1, 1)  # East is left
        differences.append(moved - on_sky_px)
    print(f"stars, thumbnails less raw frames: {np.median(differences, axis=0).round(4)} px, {len(differences)} stars")
    assert len(differences) >= 20
    assert np.abs(np.median(differences, axis=0)).max() < 0.01
    assert np.median(np.abs(differences)) < 0.05


def raw_stars(real_data: Path, run: int, field: int) -> np.ndarray:
    """RA, Dec [deg] of everything on a raw r frame, by `sep` and the astrometric terms of its tsField."""
    folder = real_data / f"archive/das/imaging/{run}/40"
    counts = fits.getdata(folder / f"corr/4/fpC-{run:06d}-r4-{field:04d}.fit.gz").astype(np.float32)
    with fits.open(folder / f"calibChunks/4/tsField-{run:06d}-4-40-{field:04d}.fit") as hdus:
        header, row = hdus[0].header, hdus[1].data[0]
        solution = AsTrans.of_table(header["NODE"], header["INCL"], lambda name: float(row[name][BANDS.index("r")]))
    sky = sep.Background(counts)
    image = counts - sky.back()
    found = sep.extract(image, 5.0, err=sky.globalrms)
    x, y, _ = sep.winpos(image, found["x"], found["y"], np.full(len(found), 1.3 / 0.396 / 2.355))
    return np.column_stack(solution.pixel_to_world(x, y))


def test_bands_times_and_provenance_are_those_of_the_files(real_build: RealBuild, real_data: Path) -> None:
    """Band ids, mid-exposure times from each file's own header and the object's row, and sha256 of the bytes."""
    archive = real_data / "archive"
    paths = {
        (row["run"], row["band"]): archive / ("das" if row["archive"] == "das" else "") / row["path"]
        for row in real_build.dataset.table(FRAMES_FILE).to_pylist()
    }
    assert len(paths) == 15
    headers = {key: fits.getheader(path) for key, path in paths.items()}
    digests = {key: file_sha256(path) for key, path in paths.items()}
    for row in (*real_build.rows("star", "123")[:3], *real_build.rows("star", "ref-")[:3]):
        sequence = real_build.dataset.sequence(row)
        assert len(sequence) == (5 if row.object_id.startswith("123") else 10)
        for m, band_id in enumerate(sequence.band_id):
            key = (int(sequence.run[m]), BANDS[band_id - 1])
            header = headers[key]
            row_clock_s = header["C_OBS"] * 1e-6
            middle = header["TAI"] + sequence.y_pix[m] * row_clock_s - float(header["EXPTIME"]) / 2
            assert sequence.mjd_tai[m] == pytest.approx(middle / 86400, abs=1e-7)
            assert sequence.frame_sha256[m].decode() == digests[key]


def test_masks_flag_saturated_stars(real_build: RealBuild, real_data: Path) -> None:
    """Thumbnails at a saturated patch of the fpM file are flagged, those far from any are not."""
    masks = real_data / "archive/das/imaging/6377/40/objcs/4/fpM-006377-r4-0399.fit"
    with fits.open(masks) as hdus:
        saturated = hdus[2].data
        wide = [(r["rmin"] + r["rmax"]) / 2 for r in saturated], [(r["cmin"] + r["cmax"]) / 2 for r in saturated]
    places = cKDTree(np.column_stack(wide))
    agreed = 0
    for sequence in real_build.sequences({*real_build.known, *real_build.galaxies}).values():
        for m in np.flatnonzero((sequence.run == 6377) & (sequence.band_id == BAND_ID["r"])):
            near, _ = places.query((sequence.y_pix[m], sequence.x_pix[m]))
            flagged = bool((sequence.mask[m] & MaskBit.SATUR).any())
            if near < 8:
                assert flagged
                agreed += 1
            elif near > 60:
                assert not flagged
                agreed += 1
    assert agreed >= 30


def test_every_file_opens_with_plain_h5py(real_build: RealBuild) -> None:
    """And nothing was lost on the way: all objects are in the manifest or among the counted skips."""
    for row in real_build.dataset.objects:
        with h5py.File(real_build.dataset.path / row.file) as file:
            assert set(file) == set(COLUMNS)
            assert file["image"].shape == (row.n_images, 32, 32)
    skips = real_build.dataset.table(SKIPS_FILE).to_pylist()
    left_out = {skip["object_id"] for skip in skips if skip["reason"] in ("no-exposure", "no-image")}
    in_dataset = {row.object_id for row in real_build.dataset.objects}
    assert in_dataset | left_out == {*real_build.known, *real_build.galaxies}
    assert not in_dataset & left_out
    assert verify_dataset(real_build.dataset.path) == []
