"""Light curves measured on a dataset's thumbnails, and the objects worth looking at.

Shapes: M images of one object in time order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.bands import BAND_ID, BANDS, Band
from pipeline.forced import images_of, point_source_aperture
from pipeline.manifest import Dataset, ObjectRow

Floats = NDArray[np.float64]

MAX_MEASURED: Final = 1000
"""A page about a large dataset measures this many objects, evenly drawn."""


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

    def usable(self, band: Band) -> NDArray[np.bool_]:
        """Images of `band` whose flux can be trusted."""
        return np.asarray((self.band_id_M == BAND_ID[band]) & self.ok_M)

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


def measure(dataset: Dataset, row: ObjectRow) -> LightCurve:
    """Read one object's images and measure each."""
    sequence = dataset.sequence(row)
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
    )


def measure_all(dataset: Dataset) -> tuple[LightCurve, ...]:
    """Light curves of the objects, or of an even draw of them where there are very many."""
    n_objects = len(dataset.objects)
    places = np.unique(np.linspace(0, n_objects - 1, min(n_objects, MAX_MEASURED)).round().astype(int))
    return tuple(measure(dataset, dataset.objects[place]) for place in places.tolist())


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
    parts = [value[curve.band_id_M == BAND_ID[band]] for curve, value in zip(curves, values, strict=True)]
    return np.concatenate(parts).astype(np.float64) if parts else np.empty(0)


def bands_of(curves: Many[LightCurve]) -> list[Band]:
    """Bands that hold any image."""
    present = set(np.concatenate([np.unique(curve.band_id_M) for curve in curves]).tolist()) if curves else set()
    return [band for band in BANDS if BAND_ID[band] in present]
