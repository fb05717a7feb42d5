"""Thumbnails of real frames against the survey's catalogue, and two nights of one field against each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from benchmarks.support.files import FIRST_EPOCH, LEGACY, SECOND_EPOCH, FrameFiles
from benchmarks.support.matching import Match
from benchmarks.support.simulated import COMPARED_STARS, KERNELS, from_reproject, noise_factors
from benchmarks.support.stars import centroids, circle_sums, spread
from flows.crews.workers import worker_pool
from pipeline.bands import BAND_ID, BANDS, Band
from pipeline.build import open_archive, prepare, publish
from pipeline.calibrate import read_calibration
from pipeline.cells import build_cell
from pipeline.frame import Frame
from pipeline.manifest import Dataset
from pipeline.photometry import aperture_fluxes, aperture_fraction
from pipeline.realsample import PHOTOOBJ, REFERENCE, REFERENCE_FIELD, SATURATED, STAR, write_real_sample
from pipeline.sequences import MaskBit, Sequence
from pipeline.simulate.server import ArchiveServer
from pipeline.survey import ThumbnailConfig, load_survey
from pipeline.thumbnails import Thumbnails, cut_thumbnails

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

PIXEL_ARCSEC: Final = 0.396
RADIUS_ARCSEC: Final = 3.0
RADIUS_PX: Final = RADIUS_ARCSEC / PIXEL_ARCSEC
APERTURE_3_ARCSEC: Final = 4
"""Of photoObj's eight apertures, the one of 3″."""
ISOLATION_ARCSEC: Final = 8.0
MAG_EDGES: Final = (14, 17, 18, 19, 20, 21, 22)
POSITION_FLUX_NMGY: Final = 20.0
"""Stars brighter than 19.25 mag have centroids good to a few hundredths of a pixel."""
SPOILT: Final = MaskBit.SATUR | MaskBit.CR | MaskBit.UNCOVERED
"""INTERP alone is a bad column that the survey mended: kept, as the catalogue keeps it."""
RATIO_ERROR: Final = 0.05
"""Relative error of the flux up to which a star counts for the ratio of two nights."""
MATCH_SIZE: Final = 48
MATCHED_FLUX_ERROR: Final = 0.01
LEFT_BAR: Final = 0.03
MOVED_ARCSEC: Final = 0.15
"""In the three years between the epochs."""
VARIED: Final = 0.03
VARIED_SIGMAS: Final = 3.0
VARIED_BANDS: Final = 3


@dataclass(frozen=True, slots=True)
class Stars:
    """Where isolated stars are [deg]."""

    ra_deg: Floats
    dec_deg: Floats


def isolated(ra_deg: Floats, dec_deg: Floats, crowd: Flags) -> Flags:
    """Whether nothing else of `crowd` is near; at the equator, so a flat sky will do."""
    places = np.column_stack([ra_deg, dec_deg]) * 3600
    neighbours = cKDTree(places[crowd]).query_ball_point(places, ISOLATION_ARCSEC, return_length=True)
    return np.asarray(neighbours - crowd <= 0)


def measure_catalogue(real: Path) -> dict[str, float]:
    """Run 94, flat: fluxes by magnitude, places, in five bands."""
    table = fits.getdata(real / PHOTOOBJ)
    leaf = table["NCHILD"] == 0
    good = leaf & (table["OBJC_TYPE"] == STAR) & ((table["FLAGS"] & SATURATED) == 0).all(axis=1)
    good &= (np.abs(table["OBJC_ROWC"] - 744.5) < 700) & (np.abs(table["OBJC_COLC"] - 1024) < 980)
    good &= isolated(table["RA"], table["DEC"], leaf & (table["PSFFLUX"][:, 2] > 1))
    table = table[good]
    result: dict[str, float] = {"stars": float(len(table))}
    for band, frame in zip(BANDS, LEGACY, strict=True):
        number = BANDS.index(band)
        psf, aperture = table["PSFFLUX"][:, number], table["APERFLUX"].reshape(len(table), 5, 8)[:, number]
        opened = FrameFiles.below(real / "archive", frame).read()
        cut = cut_thumbnails(opened, table["RA"], table["DEC"], ThumbnailConfig())
        result |= {
            f"{band}_{key}": value
            for key, value in against_catalogue(opened, cut, psf, aperture[:, APERTURE_3_ARCSEC]).items()
        }
    return result


def against_catalogue(frame: Frame, cut: Thumbnails, psf: Floats, aperture: Floats) -> dict[str, float]:
    """One band: our 3″ flux over the catalogue's in 3″, and corrected for the PSF over its PSF flux."""
    flux, _, ok = fluxes(cut)
    psf_width = frame.calibration.psf_fwhm_arcsec
    whole = flux / aperture_fraction(RADIUS_ARCSEC, np.array(psf_width))
    magnitude = 22.5 - 2.5 * np.log10(np.maximum(psf, 1e-3))
    result: dict[str, float] = {}
    for low, high in pairwise(MAG_EDGES):
        used = ok & (magnitude >= low) & (magnitude < high)
        key = f"mag_{low}_{high}"
        result[f"{key}_stars"] = float(used.sum())
        if used.any():
            for name, ours, theirs in (("psfflux", whole, psf), ("aperflux", flux, aperture)):
                ratio = ours[used] / theirs[used]
                result[f"{key}_over_{name}"] = float(np.median(ratio))
                result[f"{key}_over_{name}_scatter"] = spread(ratio)
    bright = ok & (psf > POSITION_FLUX_NMGY)
    place = PIXEL_ARCSEC * centroids(cut.image_THW[bright], psf_width / PIXEL_ARCSEC)
    result |= {f"offset_{axis}_median_arcsec": float(np.median(place[:, n])) for n, axis in enumerate(("x", "y"))}
    result |= {f"offset_{axis}_scatter_arcsec": spread(place[:, n]) for n, axis in enumerate(("x", "y"))}
    return result | {"offset_stars": float(bright.sum())}


def fluxes(cut: Thumbnails) -> tuple[Floats, Floats, Flags]:
    """Flux within 3″ of the middle, its error, and whether nothing spoils it."""
    independent_THW = (cut.variance_THW / noise_factors(cut)[:, None, None]).astype(np.float32)
    middle = [(0.0, 0.0)]
    flux = circle_sums(np.nan_to_num(cut.image_THW), middle, RADIUS_PX)[:, 0]
    error = np.sqrt(circle_sums(np.nan_to_num(independent_THW), middle, RADIUS_PX)[:, 0])
    spoilt = ((cut.mask_THW & int(SPOILT)) > 0).astype(np.float32)
    return flux, error, circle_sums(spoilt, middle, RADIUS_PX)[:, 0] == 0


def measure_against_reproject(real: Path) -> dict[str, float]:
    """Largest difference from reproject per kernel [peaks], at the brightest stars of run 94 and of run 4192."""
    stars, table = reference_stars(real), fits.getdata(real / PHOTOOBJ)
    single = (table["OBJC_TYPE"] == STAR) & ((table["FLAGS"] & SATURATED) == 0).all(axis=1)
    single &= np.abs(table["OBJC_ROWC"] - 744.5) < 700
    table = table[single][np.argsort(-table["PSFFLUX"][single, 2])]
    worst, compared = dict.fromkeys(KERNELS, 0.0), 0
    for frame in (*LEGACY, *FIRST_EPOCH):
        places = (table["RA"], table["DEC"]) if frame in LEGACY else (stars.ra_deg, stars.dec_deg)
        ra_deg, dec_deg = (np.asarray(axis[:COMPARED_STARS], dtype=np.float64) for axis in places)
        apart, number = from_reproject(FrameFiles.below(real / "archive", frame), ra_deg, dec_deg)
        compared += number
        worst = {kernel: max(worst[kernel], apart[kernel]) for kernel in KERNELS}
    return {f"{kernel}_from_reproject_peaks": value for kernel, value in worst.items()} | {"compared": float(compared)}


def reference_stars(real: Path) -> Stars:
    """Isolated stars of the field that runs 4192 and 6377 share, brightest first."""
    table = fits.getdata(real / REFERENCE)
    ra_deg, dec_deg = table["ra"] % 360, np.asarray(table["dec"], dtype=np.float64)
    ra_min, ra_max, dec_min, dec_max = REFERENCE_FIELD
    good = (ra_deg > ra_min) & (ra_deg < ra_max) & (dec_deg > dec_min) & (dec_deg < dec_max)
    good &= (table["starnotgal"] == 1) & (table["r"] > 14) & (table["r"] < 21)
    good &= isolated(ra_deg, dec_deg, np.ones(len(table), dtype=bool))
    order = np.flatnonzero(good)[np.argsort(table["r"][good])]
    return Stars(ra_deg[order], dec_deg[order])


@dataclass(frozen=True, slots=True)
class Pair:
    """The same stars in one band on two nights."""

    first: Thumbnails
    second: Thumbnails
    widths_arcsec: tuple[float, float]

    @classmethod
    def of(cls, real: Path, band: Band, stars: Stars) -> Pair:
        """Cut both frames."""
        config, number = ThumbnailConfig(size=MATCH_SIZE), BANDS.index(band)
        frames = [FrameFiles.below(real / "archive", epoch[number]).read() for epoch in (FIRST_EPOCH, SECOND_EPOCH)]
        cuts = [cut_thumbnails(frame, stars.ra_deg, stars.dec_deg, config) for frame in frames]
        first, second = (frame.calibration.psf_fwhm_arcsec for frame in frames)
        return cls(cuts[0], cuts[1], (first, second))

    @property
    def good(self) -> Flags:
        """Stars that nothing spoils, on either night."""
        return fluxes(self.first)[2] & fluxes(self.second)[2]

    def ratio(self) -> tuple[Floats, Floats]:
        """Flux of the second night over the first by matched apertures, and its error."""
        nights = []
        for cut, width in zip((self.first, self.second), self.widths_arcsec, strict=True):
            flux, error, _ = fluxes(cut)
            nights.append((flux / aperture_fraction(RADIUS_ARCSEC, np.array(width)), error / flux))
        (first, first_error), (second, second_error) = nights
        return second / first, np.abs(second / first) * np.hypot(first_error, second_error)

    def moved_arcsec(self) -> Floats:
        """East and North of the second night from the first, S × 2."""
        places = [
            centroids(cut.image_THW, width / PIXEL_ARCSEC)
            for cut, width in zip((self.first, self.second), self.widths_arcsec, strict=True)
        ]
        return np.asarray((places[1] - places[0]) * PIXEL_ARCSEC * (-1, 1))


def measure_pair(real: Path) -> tuple[dict[str, float], list[str]]:
    """Alignment, flux ratio, and what is left after matching, in five bands; and a line for each star left over."""
    stars = reference_stars(real)
    pairs = {band: Pair.of(real, band, stars) for band in BANDS}
    result: dict[str, float] = {"stars": float(len(stars.ra_deg))}
    moved, varied = set_aside(pairs)
    result |= {"moved_stars": float(moved.sum()), "varied_stars": float((varied & ~moved).sum())}
    left = {band: leftover(pair, ~moved & ~varied) for band, pair in pairs.items()}
    for band, pair in pairs.items():
        result |= {f"{band}_{key}": value for key, value in (compare_nights(pair) | left[band].figures).items()}
    above = np.any([one.counted & (np.abs(one.left) > LEFT_BAR) for one in left.values()], axis=0)
    return result, [
        f"{stars.ra_deg[n]:.5f} {stars.dec_deg[n]:+.5f} "
        + " ".join(f"{band} {one.left[n]:+.1%} ± {one.noise[n]:.1%}" for band, one in left.items())
        for n in np.flatnonzero(above)
    ]


def compare_nights(pair: Pair) -> dict[str, float]:
    """Flux ratio and displacement of the stars that are bright on both nights."""
    ratio, error = pair.ratio()
    used = pair.good & (error < RATIO_ERROR)
    sure = pair.good & (error < MATCHED_FLUX_ERROR)
    moved = pair.moved_arcsec()[sure]
    result = {"ratio_stars": float(used.sum()), "moved_stars_measured": float(sure.sum())}
    result |= {"ratio_before": float(np.median(ratio[used])), "ratio_before_scatter": spread(ratio[used])}
    for n, axis in enumerate(("east", "north")):
        result[f"displacement_{axis}_median_arcsec"] = float(np.median(moved[:, n]))
        result[f"displacement_{axis}_scatter_arcsec"] = spread(moved[:, n])
    return result


def set_aside(pairs: Mapping[Band, Pair]) -> tuple[Flags, Flags]:
    """Stars of high proper motion, and real variables, by rules that a fault of one band does not meet.

    Moved: the median displacement over the bands where the star is bright, less that of all stars, is above
    `MOVED_ARCSEC`. Varied: in three bands or more the star's flux ratio is off the median of its band by over 3 % and
    3 sigma, all to the same side.
    """
    shifts, signs = [], []
    for pair in pairs.values():
        ratio, error = pair.ratio()
        sure = pair.good & (error < 0.03)
        moved = pair.moved_arcsec()
        shifts.append(np.where(sure[:, None], moved - np.median(moved[sure], axis=0), np.nan))
        relative = ratio / np.median(ratio[sure]) - 1
        beyond = sure & (np.abs(relative) > np.maximum(VARIED, VARIED_SIGMAS * error))
        signs.append(np.where(beyond, np.sign(relative), 0))
    known: Flags = np.asarray(np.isfinite(shifts).any(axis=(0, 2)))
    shift = np.zeros((len(known), 2))
    shift[known] = np.nanmedian(np.array(shifts)[:, known], axis=0)
    return np.hypot(*shift.T) > MOVED_ARCSEC, np.abs(np.sum(signs, axis=0)) >= VARIED_BANDS


@dataclass(frozen=True, slots=True)
class Leftover:
    """What PSF matching leaves of the stars of one band."""

    figures: dict[str, float]
    left: Floats
    """Of each star, in its fluxes; NaN where it was not judged."""
    noise: Floats
    counted: Flags


def leftover(pair: Pair, usable: Flags) -> Leftover:
    """Fit the kernel on half of the stars, judge it on the other half, and the other way round."""
    first_is_sharp = pair.widths_arcsec[0] <= pair.widths_arcsec[1]
    sharp, broad = (pair.first, pair.second) if first_is_sharp else (pair.second, pair.first)
    flux, error, _ = fluxes(broad)
    whole = (np.isfinite(sharp.image_THW) & np.isfinite(broad.image_THW)).all(axis=(1, 2))
    candidates = np.flatnonzero(usable & pair.good & whole & (error / np.abs(flux) < 5 * MATCHED_FLUX_ERROR))
    left, noise, ratios = np.full(len(flux), np.nan), np.full(len(flux), np.nan), []
    for half in (0, 1):
        fitted, judged = candidates[half::2], candidates[1 - half :: 2]
        images = [cut.image_THW.astype(np.float64) for cut in (sharp, broad)]
        variance = (sharp.variance_THW + broad.variance_THW).astype(np.float64)
        match = Match.of(images[0][fitted], images[1][fitted], variance[fitted])
        difference = match.difference(images[0][judged], images[1][judged]).astype(np.float32)
        left[judged] = circle_sums(difference, [(0.0, 0.0)], RADIUS_PX)[:, 0] / flux[judged]
        noise[judged] = np.hypot(error, match.ratio * fluxes(sharp)[1])[judged] / flux[judged]
        ratios.append(match.ratio if first_is_sharp else 1 / match.ratio)
    counted = noise < MATCHED_FLUX_ERROR  # NaN: not judged
    figures = {
        "matched_stars": float(len(candidates)),
        "matched_counted_stars": float(counted.sum()),
        "matched_ratio": float(np.mean(ratios)),
        "left_scatter": spread(left[counted]),
        "left_noise_median": float(np.median(noise[counted])) if counted.any() else np.nan,
        "left_largest": float(np.abs(left[counted]).max()) if counted.any() else np.nan,
        "left_above_3_percent": float((counted & (np.abs(left) > LEFT_BAR)).sum()),
    }
    return Leftover(figures, left, noise, counted)


def measure_built(real: Path) -> dict[str, float]:
    """Flux ratio of the two nights as a built dataset has it, with what its survey corrects, in five bands.

    `correction` is what the second night's fluxes over the first's were multiplied with; 1: nothing was corrected.
    """
    result: dict[str, float] = {}
    with TemporaryDirectory() as folder:
        dataset = build(real, Path(folder))
        sequences = [dataset.sequence(row) for row in dataset.objects if row.object_id.startswith("ref-")]
        for number, band in enumerate(BANDS):
            found = [one for sequence in sequences if (one := nights_of(sequence, band))]
            ratio, zeropoint_ratio = np.array(found).T
            read = [FrameFiles.below(real / "archive", epoch[number]) for epoch in (FIRST_EPOCH, SECOND_EPOCH)]
            first, second = (read_calibration(one.table, one.frame).nmgy_per_count for one in read)
            result |= {f"{band}_correction": float(np.median(zeropoint_ratio) / (second / first))}
            result |= {f"{band}_ratio_after": float(np.median(ratio)), f"{band}_ratio_after_scatter": spread(ratio)}
            result[f"{band}_ratio_after_stars"] = float(len(ratio))
    return result


def nights_of(sequence: Sequence, band: Band) -> tuple[float, float] | None:
    """Ratio of an object's flux on the two nights and of the zero points in use; None where it is faint or spoilt."""
    rows = [
        np.flatnonzero((sequence.run == epoch[0].run) & (sequence.band_id == BAND_ID[band]))
        for epoch in (FIRST_EPOCH, SECOND_EPOCH)
    ]
    if any(len(found) != 1 for found in rows):
        return None
    both = np.concatenate(rows)
    flux, error, ok = aperture_fluxes(
        sequence.image[both],
        sequence.independent_variance[both],
        sequence.mask[both],
        pixel_scale_arcsec=sequence.pixel_scale_arcsec,
        bad=SPOILT,
    )
    if not ok.all() or (error > RATIO_ERROR * flux).any():
        return None
    whole = flux / aperture_fraction(RADIUS_ARCSEC, sequence.psf_fwhm_arcsec[both].astype(np.float64))
    return float(whole[1] / whole[0]), float(sequence.zeropoint[both[1]] / sequence.zeropoint[both[0]])


def build(real: Path, root: Path) -> Dataset:
    """The two nights of survey `real-sample`, over HTTP, by the steps of a build without their orchestrator."""
    with ArchiveServer(real / "archive") as server:
        survey = load_survey(str(write_real_sample(real, server.url, root)))
        archives = tuple(one for one in survey.archives if one.name == "das")
        index = tuple(one for one in survey.index if one.kind == "tsfield")
        survey = survey.model_copy(update={"archives": archives, "index": index})
        with open_archive(survey, root) as archive, worker_pool(2) as pool:
            planned = prepare(survey, root, archive)
            results = [
                build_cell(cell, survey, archive, pool, planned.building, workers=2) for cell in planned.plan.cells
            ]
            return publish(planned, results, {})
