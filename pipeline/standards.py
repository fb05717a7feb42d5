"""The standard stars of a cell: given by a catalogue, or made once from the cell's own photometric nights.

Made ones are in the system of the survey's own zero points: of every band, the mean of those frames that agree on a
clear night. A cloud only takes light away, so a frame that is fainter than the others is left out of the mean.

Shapes: S stars, 5 bands u g r i z, F frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipeline.atomic import replacing
from pipeline.bands import BANDS
from pipeline.errors import CatalogError
from pipeline.manifest import Skip
from pipeline.naming import FrameId
from pipeline.objectlist import open_table
from pipeline.robust import ROUNDS, grouped_mean
from pipeline.starphot import Positions, StarFluxes

Floats = NDArray[np.float64]

MATCH_ARCSEC: Final = 1.5
ARCSEC_PER_DEG: Final = 3600.0
GOOD, ACCEPTABLE = 3, 2
CLOUDS_MAG: Final = 0.05
"""A frame so much fainter than the others was not taken on a photometric night."""
MIN_SNR: Final = 10.0
INTRINSIC_MAG: Final = 0.01
"""What stars' measurements differ by beyond their photon noise: flat fields, the shape of the PSF over the field."""
MAX_ERROR_MAG: Final = 0.05
VARIABLE_MAG: Final = 0.05
MIN_EPOCHS_TO_JUDGE: Final = 3
BRIGHTEST_MAG, FAINTEST_MAG = 14.0, 20.0
"""Of stars of a given catalogue, in each band: fainter ones add nothing, brighter ones are saturated."""
_WANTED: Final[dict[str, tuple[str, ...]]] = {
    "ra": ("ra_deg", "ra"),
    "dec": ("dec_deg", "dec", "decl"),
    **{band: (band,) for band in BANDS},
}

STANDARDS_SCHEMA: Final = pa.schema(
    [("ra_deg", pa.float64()), ("dec_deg", pa.float64())]
    + [(f"flux_{band}", pa.float64()) for band in BANDS]
    + [(f"error_{band}_mag", pa.float32()) for band in BANDS]
    + [(f"n_{band}", pa.int32()) for band in BANDS]
)


@dataclass(frozen=True, slots=True)
class Standards:
    """Stars of known flux."""

    positions: Positions
    flux_nmgy_S5: Floats
    """NaN where it is not known in a band."""
    error_mag_S5: Floats
    n_frames_S5: NDArray[np.int32]
    """On how many photometric frames it rests; 0: given."""


@dataclass(frozen=True, slots=True)
class MeasuredFrame:
    """What a frame has of the stars."""

    frame: FrameId
    quality: int
    stars: StarFluxes


def merge_positions(found: Iterable[Positions]) -> Positions:
    """One place for each star that was found on several frames: the first."""
    ra_deg, dec_deg = np.empty(0), np.empty(0)
    for one in found:
        ra_N, dec_N = one.ra_deg_S, one.dec_deg_S
        new_N = np.ones(len(ra_N), dtype=bool)
        if ra_deg.size and ra_N.size:
            distance_N, _ = cKDTree(flat_arcsec(ra_deg, dec_deg)).query(flat_arcsec(ra_N, dec_N))
            new_N = distance_N > MATCH_ARCSEC
        ra_deg, dec_deg = np.append(ra_deg, ra_N[new_N]), np.append(dec_deg, dec_N[new_N])
    return Positions(ra_deg, dec_deg)


def flat_arcsec(ra_deg: Floats, dec_deg: Floats) -> Floats:
    """Places in arcseconds on the unit sphere times its radius; distances are chords, which is the same at 1″."""
    ra, dec = np.deg2rad(ra_deg), np.deg2rad(dec_deg)
    places = np.column_stack([np.cos(ra) * np.cos(dec), np.sin(ra) * np.cos(dec), np.sin(dec)])
    return np.asarray(places * np.rad2deg(1) * ARCSEC_PER_DEG)


def read_standards(path: Path, content: bytes) -> Standards:
    """Stars of a catalogue with RA, Dec and AB magnitudes u g r i z; `starnotgal` is heeded where it is there.

    Magnitudes outside 14 to 20, and what is no number, count as unknown.

    Raises
    ------
    CatalogError
        It is no table, lacks a column, or has no star with a magnitude.
    """
    table = open_table(content, path)
    names = [name.strip().lower() for name in table.names]
    columns: dict[str, int] = {}
    for key, options in _WANTED.items():
        found = next((names.index(option) for option in options if option in names), None)
        if found is None:
            raise CatalogError(
                f"catalogue of standard stars {path} has no column {options[0]}: it needs ra, dec, u to z"
            )
        columns[key] = found
    if "starnotgal" in names:
        columns["starnotgal"] = names.index("starnotgal")
    rows = [_floats(row) for row in table.rows(columns) if not isinstance(row, Skip)]
    stars = np.array([row for row in rows if isinstance(row, list)], dtype=np.float64).reshape(-1, 2 + len(BANDS))
    stars = stars[np.isfinite(stars[:, :2]).all(axis=1)]
    magnitude_S5 = stars[:, 2:]
    known_S5 = (magnitude_S5 > BRIGHTEST_MAG) & (magnitude_S5 < FAINTEST_MAG)
    flux_S5 = np.where(known_S5, 10 ** (0.4 * (22.5 - np.where(known_S5, magnitude_S5, 22.5))), np.nan)
    kept_S = known_S5.any(axis=1)
    if not kept_S.any():
        raise CatalogError(
            f"catalogue of standard stars {path} has no star of magnitude {BRIGHTEST_MAG} to {FAINTEST_MAG}"
        )
    error_S5 = np.where(known_S5, INTRINSIC_MAG, np.nan)[kept_S]
    positions = Positions(stars[kept_S, 0] % 360, stars[kept_S, 1])
    return Standards(positions, flux_S5[kept_S], error_S5, np.zeros(error_S5.shape, dtype=np.int32))


def _floats(row: dict[str, str]) -> list[float] | None:
    """A row as numbers, NaN where there is none; None for what is no star."""
    if "starnotgal" in row and _number(row.pop("starnotgal")) != 1:
        return None
    return [_number(value) for value in row.values()]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def around(standards: Standards, ra_deg: Floats, dec_deg: Floats, *, margin_deg: float) -> Standards:
    """The stars within the box of some positions and a margin around it; RA may go through 0."""
    positions = standards.positions
    middle = float(ra_deg[0])
    offset_S = (positions.ra_deg_S - middle + 180) % 360 - 180
    offset = (ra_deg - middle + 180) % 360 - 180
    near_S = (offset_S > offset.min() - margin_deg) & (offset_S < offset.max() + margin_deg)
    near_S &= (positions.dec_deg_S > dec_deg.min() - margin_deg) & (positions.dec_deg_S < dec_deg.max() + margin_deg)
    return Standards(
        Positions(positions.ra_deg_S[near_S], positions.dec_deg_S[near_S]),
        standards.flux_nmgy_S5[near_S],
        standards.error_mag_S5[near_S],
        standards.n_frames_S5[near_S],
    )


def make_standards(positions: Positions, frames: Sequence[MeasuredFrame]) -> Standards:
    """Fluxes of the stars at `positions` from the photometric ones of `frames`, whose order does not matter."""
    shape = len(positions), len(BANDS)
    flux_S5, error_S5, n_S5 = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, dtype=np.int32)
    for column, band in enumerate(BANDS):
        of_band = sorted((one for one in frames if one.frame.band == band), key=lambda one: one.frame)
        if photometric := _photometric(of_band):
            solved = _solve(len(positions), photometric)
            flux_S5[:, column], error_S5[:, column], n_S5[:, column] = solved
    return Standards(positions, flux_S5, error_S5, n_S5)


def _photometric(frames: Sequence[MeasuredFrame]) -> list[MeasuredFrame]:
    """Those that the survey calls good; where there is none, acceptable; else all."""
    for quality in (GOOD, ACCEPTABLE):
        if found := [one for one in frames if one.quality == quality]:
            return found
    return list(frames)


def _solve(n_stars: int, frames: Sequence[MeasuredFrame]) -> tuple[Floats, Floats, NDArray[np.int32]]:
    """Flux, error and number of frames of each star, with a zero point for each frame; cloudy ones are left out."""
    frames = list(frames)
    while True:
        star_N, frame_N, mag_N, sigma_N = _measurements(frames)
        mag_S, offset_F, weight_S = _fit(star_N, frame_N, mag_N, sigma_N, n_stars, len(frames))
        clear_F = offset_F <= CLOUDS_MAG
        if clear_F.all() or not clear_F.any():
            break
        frames = [one for one, clear in zip(frames, clear_F, strict=True) if clear]
    n_S = np.bincount(star_N, minlength=n_stars).astype(np.int32)
    error_S = np.sqrt(1 / np.maximum(weight_S, 1e-9))
    residual_N = np.abs(mag_N - mag_S[star_N] - offset_F[frame_N])
    spread_S = np.bincount(star_N, residual_N, n_stars) / np.maximum(n_S, 1)
    known_S = (n_S > 0) & (error_S < MAX_ERROR_MAG)
    known_S &= (spread_S < VARIABLE_MAG) | (n_S < MIN_EPOCHS_TO_JUDGE)
    return np.where(known_S, 10 ** (-0.4 * mag_S), np.nan), np.where(known_S, error_S, np.nan), n_S


def _fit(
    star_N: NDArray[np.intp],
    frame_N: NDArray[np.intp],
    mag_N: Floats,
    sigma_N: Floats,
    n_stars: int,
    n_frames: int,
) -> tuple[Floats, Floats, Floats]:
    """Magnitude of each star, offset of each frame, and weights of the stars, by turns until they agree."""
    offset_F, weight_S = np.zeros(n_frames), np.zeros(n_stars)
    first_S = np.full(n_stars, np.inf)
    np.minimum.at(first_S, star_N, mag_N)
    mag_S = np.where(np.isfinite(first_S), first_S, 0.0)
    for _ in range(ROUNDS):
        mag_S, weight_S = grouped_mean(mag_N - offset_F[frame_N], sigma_N, star_N, n_stars, mag_S)
        offset_F, _ = grouped_mean(mag_N - mag_S[star_N], sigma_N, frame_N, n_frames, offset_F)
        offset_F -= offset_F.mean()
    return mag_S, offset_F, weight_S


def _measurements(frames: Sequence[MeasuredFrame]) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats, Floats]:
    """Star, frame, magnitude -2.5 log10(flux) and its error, of all that are measured well."""
    parts = [(np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0), np.empty(0))]
    for number, one in enumerate(frames):
        star_M, mag_M, sigma_M = magnitudes(one.stars)
        parts.append((star_M, np.full(len(star_M), number, dtype=np.intp), mag_M, sigma_M))
    star_N, frame_N, mag_N, sigma_N = (np.concatenate(column) for column in zip(*parts, strict=True))
    return star_N, frame_N, mag_N, sigma_N


def magnitudes(stars: StarFluxes) -> tuple[NDArray[np.intp], Floats, Floats]:
    """Index, -2.5 log10(flux) and its error of the stars with enough signal."""
    good_S = stars.flux_nmgy_S > MIN_SNR * stars.error_nmgy_S
    flux_M = stars.flux_nmgy_S[good_S]
    sigma_M = np.hypot(2.5 / np.log(10) * stars.error_nmgy_S[good_S] / flux_M, INTRINSIC_MAG)
    return stars.star_S[good_S], -2.5 * np.log10(flux_M), sigma_M


def write_standards(path: Path, standards: Standards) -> None:
    """Write them as Parquet, atomically, the same bytes for the same stars."""
    columns: dict[str, NDArray[np.generic]] = {
        "ra_deg": standards.positions.ra_deg_S,
        "dec_deg": standards.positions.dec_deg_S,
    }
    for column, band in enumerate(BANDS):
        columns[f"flux_{band}"] = standards.flux_nmgy_S5[:, column]
        columns[f"error_{band}_mag"] = standards.error_mag_S5[:, column].astype(np.float32)
        columns[f"n_{band}"] = standards.n_frames_S5[:, column]
    with replacing(path) as temporary:
        pq.write_table(pa.table(columns, schema=STANDARDS_SCHEMA), temporary, compression="zstd")
