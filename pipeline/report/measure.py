"""Light curves measured on a dataset's thumbnails, and the objects worth looking at.

Shapes: M images of one object in time order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import sep
from numpy.typing import NDArray

from pipeline.bands import BAND_ID, BANDS, Band
from pipeline.forced import Images, images_of, point_source_aperture
from pipeline.manifest import Dataset, ObjectRow
from pipeline.photometry import usable_pixels
from pipeline.sequences import MaskBit, Sequence

Floats = NDArray[np.float64]

MAX_MEASURED: Final = 400
"""A page about a large dataset measures this many objects, evenly drawn: enough for every histogram, in ten seconds."""
CENTROID_RADIUS_ARCSEC: Final = 3.0
WINDOW_ARCSEC: Final = 1.0
"""Standard deviation of the Gaussian window of a centroid."""
MIN_SIGNIFICANCE: Final = 10.0
"""Of the light about the middle, for its centroid to mean something."""


@dataclass(frozen=True, slots=True)
class LightCurve:
    """One object's images, each measured and with the circumstances it was taken in."""

    row: ObjectRow
    band_id_M: NDArray[np.uint8]
    mjd_tai_M: Floats
    run_M: NDArray[np.int32]
    camcol_M: NDArray[np.uint8]
    flux_nmgy_M: Floats
    """In the aperture, corrected for a point source's light outside it; host galaxy included."""
    error_nmgy_M: Floats
    ok_M: NDArray[np.bool_]
    psf_fwhm_arcsec_M: NDArray[np.float32]
    sky_nmgy_arcsec2_M: NDArray[np.float32]
    coverage_M: NDArray[np.float32]
    masked_fraction_M: Floats
    """Part of the covered pixels that the survey's masks name; NaN where nothing is covered."""
    zp_offset_mag_M: NDArray[np.float32]
    off_middle_arcsec: float
    """How far from the middle the light is, of all images together; NaN where too little of it is seen."""

    def in_band(self, band: Band) -> NDArray[np.bool_]:
        """Images of `band`."""
        return np.asarray(self.band_id_M == BAND_ID[band])

    def usable(self, band: Band) -> NDArray[np.bool_]:
        """Images of `band` whose flux can be trusted."""
        return self.in_band(band) & self.ok_M

    def change(self) -> float:
        """How surely the brightness changes: the largest χ² per degree of freedom of g, r, i about a constant."""
        return max((self._reduced_chi2(band) for band in ("g", "r", "i")), default=0.0)

    def _reduced_chi2(self, band: Any) -> float:
        use = self.usable(band)
        if use.sum() < 2:
            return 0.0
        flux, weight = self.flux_nmgy_M[use], self.error_nmgy_M[use] ** -2
        mean = (weight * flux).sum() / weight.sum()
        return float((weight * (flux - mean) ** 2).sum() / (use.sum() - 1))


def measure(row: ObjectRow, sequence: Sequence) -> LightCurve:
    """Measure each of one object's images."""
    images = images_of(sequence)
    flux_M, error_M, ok_M = point_source_aperture(images)
    return LightCurve(
        row=row,
        band_id_M=sequence.band_id,
        mjd_tai_M=sequence.mjd_tai,
        run_M=sequence.run,
        camcol_M=sequence.camcol,
        flux_nmgy_M=flux_M,
        error_nmgy_M=error_M,
        ok_M=ok_M & images.psf_known_M & (error_M > 0),
        psf_fwhm_arcsec_M=sequence.psf_fwhm_arcsec,
        sky_nmgy_arcsec2_M=sequence.sky_nmgy_arcsec2,
        coverage_M=sequence.coverage,
        masked_fraction_M=masked_fraction(sequence.mask),
        zp_offset_mag_M=sequence.zp_offset_mag,
        off_middle_arcsec=off_middle(images, np.isin(sequence.band_id, [BAND_ID[band] for band in ("g", "r", "i")])),
    )


def off_middle(images: Images, use_M: NDArray[np.bool_]) -> float:
    """How far the light is from the middle [arcsec] in the mean of these images; NaN where it is lost in the noise.

    The windowed centroid of Source Extractor, which finds its way from the middle to what shines beside it.
    """
    usable_MHW = usable_pixels(images.image_MHW[use_M], images.variance_MHW[use_M], images.mask_MHW[use_M])
    n_HW = usable_MHW.sum(axis=0)
    if not n_HW.size or not n_HW.all():
        return float("nan")
    mean_HW = np.where(usable_MHW, images.image_MHW[use_M], 0).sum(axis=0, dtype=np.float64) / n_HW
    mean_HW -= np.median(mean_HW)
    middle = (np.array(mean_HW.shape) - 1) / 2
    radius_px = CENTROID_RADIUS_ARCSEC / images.pixel_scale_arcsec
    flux, *_ = sep.sum_circle(mean_HW, middle[1:], middle[:1], radius_px)
    noise = 1.4826 * float(np.median(np.abs(mean_HW)))
    if not flux[0] > MIN_SIGNIFICANCE * noise * np.sqrt(np.pi) * radius_px:
        return float("nan")
    x, y, _ = sep.winpos(mean_HW, middle[1:], middle[:1], np.array([WINDOW_ARCSEC / images.pixel_scale_arcsec]))
    return float(np.hypot(x[0] - middle[1], y[0] - middle[0]) * images.pixel_scale_arcsec)


def masked_fraction(mask_MHW: NDArray[np.uint8]) -> Floats:
    """Part of each image's covered pixels with any of INTERP, SATUR, CR, GHOST; NaN where nothing is covered."""
    covered_MHW = (mask_MHW & int(MaskBit.UNCOVERED)) == 0
    n_masked_M = (covered_MHW & (mask_MHW > 0)).sum(axis=(1, 2))
    n_covered_M = covered_MHW.sum(axis=(1, 2)).astype(np.float64)
    unknown_M = np.full(len(mask_MHW), np.nan)
    return np.asarray(np.divide(n_masked_M, n_covered_M, out=unknown_M, where=n_covered_M > 0))


def measure_all(dataset: Dataset) -> tuple[LightCurve, ...]:
    """Light curves of the objects that have images, or of an even draw of them where there are very many."""
    rows = [row for row in dataset.objects if row.n_images]
    places = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MAX_MEASURED)).round().astype(int))
    return tuple(measure(rows[place], dataset.sequence(rows[place])) for place in places.tolist())


def choose(curves: Many[LightCurve], max_objects: int) -> list[LightCurve]:
    """A few objects of every class: the one that changes most, and others down to the median of its class."""
    by_class: dict[str, list[LightCurve]] = defaultdict(list)
    for curve in sorted(curves, key=lambda curve: (-curve.change(), curve.row.object_id)):
        by_class[curve.row.class_name].append(curve)
    names = sorted(by_class, key=lambda name: (name == "", name))
    turns = [name for turn in range(max_objects) for name in names if turn < len(by_class[name])]
    shares = Counter(turns[:max_objects])
    chosen: list[LightCurve] = []
    for name in names:
        members = by_class[name]
        last = max(len(members) // 2, shares[name] - 1)
        chosen += [members[rank] for rank in np.linspace(0, last, shares[name]).round().astype(int).tolist()]
    return chosen


def in_band(curves: Many[LightCurve], values: Many[NDArray[Any]], band: Band) -> Floats:
    """One array of `values` (one per curve, of M each) over all images in `band`."""
    parts = [value[curve.in_band(band)] for curve, value in zip(curves, values, strict=True)]
    return np.concatenate(parts).astype(np.float64) if parts else np.empty(0)


def bands_of(curves: Many[LightCurve]) -> list[Band]:
    """Bands that hold any image."""
    present = set(np.concatenate([np.unique(curve.band_id_M) for curve in curves]).tolist()) if curves else set()
    return [band for band in BANDS if BAND_ID[band] in present]
