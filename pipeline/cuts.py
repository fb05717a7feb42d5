"""Which exposures are used: the cuts of `[selection]`, each with a name by which what it leaves out is counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.bands import BANDS, Band
from pipeline.exposures import ExposureIndex, R
from pipeline.footprint import Footprint
from pipeline.survey import Season, SelectionConfig

EPOCHS: Final = "epochs"
"""Name of the cut by `max_epochs`."""
_QUALITIES: Final = {"any": (0, 1, 2, 3, 4, 5), "acceptable": (0, 2, 3), "good": (0, 3)}
"""0: the source does not tell."""
_IMAGE_STATUS_BIT: Final = {
    "CLOUDY": 1,
    "UNKNOWN": 2,
    "BAD_ROTATOR": 3,
    "BAD_ASTROM": 4,
    "BAD_FOCUS": 5,
    "SHUTTERS": 6,
    "FF_PETALS": 7,
    "DEAD_CCD": 8,
    "NOISY_CCD": 9,
}
_CALIB_STATUS_BIT: Final = {
    "UNPHOT_OVERLAP": 1,
    "UNPHOT_EXTRAP_CLEAR": 2,
    "UNPHOT_EXTRAP_CLOUDY": 3,
    "UNPHOT_DISJOINT": 4,
    "INCREMENT_CALIB": 5,
}
"""Bits of the masks IMAGE_STATUS and CALIB_STATUS (https://www.sdss4.org/dr17/algorithms/bitmasks/)."""


def judge(index: ExposureIndex, selection: SelectionConfig, bands: Sequence[Band]) -> NDArray[np.str_]:
    """Per exposure, the name of the first cut that it fails; '' for a good one.

    'psf', 'quality', 'sky', 'image-status', 'calib-status', 'date', 'season', in this order.
    """
    psf_fwhm, sky, mjd = index.psf_fwhm_N5[:, R], index.sky_N5[:, R], index.mjd_tai_N5[:, R]
    image_bits = sum(1 << _IMAGE_STATUS_BIT[name] for name in set(selection.forbidden_image_status))
    calib_bits = sum(1 << _CALIB_STATUS_BIT[name] for name in set(selection.forbidden_calib_status))
    used = [BANDS.index(band) for band in bands]
    failed = {
        "psf": ~((psf_fwhm > 0) & (psf_fwhm <= selection.max_psf_fwhm_arcsec)),  # NaN: not measured, not used
        "quality": ~np.isin(index.quality, _QUALITIES[selection.min_quality]),
        "sky": sky > (np.inf if selection.max_sky_nmgy_arcsec2 is None else selection.max_sky_nmgy_arcsec2),
        "image-status": (index.image_status_N5[:, used] & image_bits).any(axis=1),
        "calib-status": (index.calib_status_N5[:, used] & calib_bits).any(axis=1),
        "date": ~_between(mjd, selection.mjd_range or (-np.inf, np.inf)),
        "season": ~_in_any_season(mjd, selection.seasons),
    }
    return np.select(list(failed.values()), list(failed), default="")


def _between(mjd: NDArray[np.float64], ends: tuple[float, float]) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = (mjd >= ends[0]) & (mjd <= ends[1])
    return inside


def _in_any_season(mjd: NDArray[np.float64], seasons: Sequence[Season]) -> NDArray[np.bool_]:
    inside = np.full(len(mjd), not seasons)
    for season in seasons:
        inside |= _between(mjd, (season.mjd_start, season.mjd_end))
    return inside


def in_own_season(
    pairs: Footprint, index: ExposureIndex, seasons: Sequence[Season | None], selection: SelectionConfig
) -> NDArray[np.bool_]:
    """Whether each pair's exposure is of its object's own season (any, where the object has none).

    Parameters
    ----------
    seasons
        Of each object, as `selection.season_of` has them.
    """
    if not selection.seasons:
        return np.ones(len(pairs), dtype=bool)
    start = np.array([-np.inf if season is None else season.mjd_start for season in seasons])
    end = np.array([np.inf if season is None else season.mjd_end for season in seasons])
    mjd = index.mjd_tai_N5[pairs.exposure_index, R]
    inside: NDArray[np.bool_] = (mjd >= start[pairs.target_index]) & (mjd <= end[pairs.target_index])
    return inside


def limit_epochs(pairs: Footprint, index: ExposureIndex, selection: SelectionConfig) -> Footprint:
    """At most `max_epochs` exposures of each object, those that `epochs_by` names; the same for any order of rows.

    Parameters
    ----------
    pairs
        One per object, run and camcol, as `choose_fields` gives them.
    """
    if selection.max_epochs is None or not len(pairs):
        return pairs
    target, exposure = pairs.target_index, pairs.exposure_index
    # Run and camcol are one of a kind within an object, so that the order leaves nothing open.
    names = index.camcol[exposure], index.run[exposure]
    by_time = (*names, index.mjd_tai_N5[exposure, R])
    by_rule = (*by_time, index.psf_fwhm_N5[exposure, R]) if selection.epochs_by == "seeing" else by_time
    order = np.lexsort((*by_rule, target))
    starts = np.flatnonzero(np.r_[True, target[order][1:] != target[order][:-1]])
    counts = np.diff(np.r_[starts, len(order)])
    rank, count = np.arange(len(order)) - np.repeat(starts, counts), np.repeat(counts, counts)
    if selection.epochs_by == "seeing":
        stays = rank < selection.max_epochs
    else:
        stays = _is_spread(rank, count, selection.max_epochs)
    return pairs.take(np.sort(order[stays]))


def _is_spread(rank: NDArray[np.intp], count: NDArray[np.intp], n_kept: int) -> NDArray[np.bool_]:
    """Whether `rank`, of 0 to `count` - 1, is among `n_kept` that are spread evenly from the first to the last."""
    if n_kept == 1:
        return np.equal(rank, 0)
    # The k-th that stays is nearest to k (count - 1) / (n_kept - 1): over 1 apart, so only the nearest k can be `rank`.
    step = np.maximum((count - 1) / (n_kept - 1), 1)
    return np.equal(np.floor(np.rint(rank / step) * step + 0.5), rank)
