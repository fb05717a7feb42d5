"""What is in the patch: field stars and galaxies, hosts, and the objects of the master table.

Drawn once per archive from its seed; where and how bright, in nanomaggies and degrees. Colours follow
the stellar locus (Covey et al. 2007, AJ 134, 2398, coarsely) and the two galaxy sequences
(Strateva et al. 2001, AJ 122, 1861).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.simulate.camera import EQUATOR, FIELD_STEP, N_COLS, N_ROWS, PIXEL_DEG
from pipeline.simulate.config import FieldConfig, SimulationConfig
from pipeline.simulate.lightcurves import nmgy
from pipeline.simulate.objects import Target, draw_target, kind_of

Floats = NDArray[np.float64]
MARGIN_PX: Final = 60.0
PLACEMENT_ATTEMPTS: Final = 2000
"""In a row without success: then the patch is full."""
SERSIC_INDICES: Final = (1.0, 1.5, 2.5)
"""GalSim makes a table per index, so only these few are used."""


@dataclass(frozen=True, slots=True)
class Stars:
    """N constant point sources; fluxes in ugriz order."""

    ra_deg_N: Floats
    dec_deg_N: Floats
    flux_nmgy_N5: Floats


@dataclass(frozen=True, slots=True)
class Galaxies:
    """N Sersic profiles; `position angle` from north through east."""

    ra_deg_N: Floats
    dec_deg_N: Floats
    flux_nmgy_N5: Floats
    radius_arcsec_N: Floats
    """Half-light radius along the circle of the same area."""
    sersic_N: Floats
    axis_ratio_N: Floats
    position_angle_deg_N: Floats


@dataclass(frozen=True, slots=True)
class Population:
    """All sources of the archive. `hosts` row k belongs to `targets[k]`; flux 0 where it has none."""

    stars: Stars
    galaxies: Galaxies
    hosts: Galaxies
    targets: tuple[Target, ...]


def draw_population(config: SimulationConfig) -> Population:
    """Fill the sky that any run of `config` can see, and place the objects in the patch."""
    rng = np.random.default_rng([config.seed, 2])
    stars = _draw_stars(config, rng)
    galaxies = _draw_galaxies(config, rng)
    positions = _place_targets(config, stars, rng)
    sorts = [(label, kind_of(label, nth)) for label, count in config.labels.items() for nth in range(count)]
    sorts = [sorts[k] for k in rng.permutation(len(sorts))]
    ids = np.sort(rng.choice(np.arange(config.first_cid, config.last_cid + 1), size=len(sorts), replace=False))
    season = _season(config)
    targets = tuple(
        draw_target(
            int(cid), label, kind, float(ra), float(dec), season, np.random.default_rng([config.seed, 3, int(cid)])
        )
        for cid, (label, kind), (ra, dec) in zip(ids, sorts, positions, strict=True)
    )
    return Population(stars, galaxies, hosts_of(targets), targets)


def _season(config: SimulationConfig) -> tuple[float, float]:
    """MJD span of the supernova-season runs (of all runs, where there are no DR7 ones)."""
    nights = [run.mjd for run in config.runs if run.layout == "das-dr7"] or [run.mjd for run in config.runs]
    return min(nights), max(nights)


def _extent(config: SimulationConfig) -> tuple[float, float]:
    """Half height and half width [px] of the sky that the runs see about the patch's centre."""
    rows, cols = config.pointing_scatter_px
    boundary = any(run.boundary_in_patch for run in config.runs)
    half_rows = (N_ROWS + FIELD_STEP) / 2 if boundary else N_ROWS / 2
    return half_rows + rows + MARGIN_PX, N_COLS / 2 + cols + MARGIN_PX


def _to_sky(config: SimulationConfig, row: Floats, col: Floats) -> tuple[Floats, Floats]:
    """Offsets from the patch's centre [px] → (ra, dec)."""
    return EQUATOR.to_sky(config.patch.ra_deg + PIXEL_DEG * row, config.patch.dec_deg + PIXEL_DEG * col)


def _magnitudes(count: int, slope: float, brightest: float, faintest: float, rng: np.random.Generator) -> Floats:
    """Draw from dN/dm ∝ 10^(slope m) between the two limits."""
    low, high = 10 ** (slope * brightest), 10 ** (slope * faintest)
    return np.asarray(np.log10(low + (high - low) * rng.uniform(size=count)) / slope)


def _count(per_field: int, slope: float, brightest: float, faintest: float, area_fields: float) -> int:
    return round(_expected(per_field, slope, brightest, faintest) * area_fields)


def _expected(per_field: int, slope: float, brightest: float, faintest: float) -> float:
    """Sources per field down to `faintest`, from their number down to r = 22."""
    growth = (10 ** (slope * faintest) - 10 ** (slope * brightest)) / (10 ** (slope * 22) - 10 ** (slope * brightest))
    return per_field * growth


def field_stars(field: FieldConfig, where_deg: tuple[float, float], half_px: float, rng: np.random.Generator) -> Stars:
    """As many as fall by chance into a square about a place, brighter than 17 left out."""
    area = (2 * half_px) ** 2 / (N_ROWS * N_COLS)
    expected = _expected(field.stars_r22, field.star_slope, 17.0, field.faintest_r) * area
    row, col = rng.uniform(-half_px, half_px, (2, int(rng.poisson(expected))))
    r = _magnitudes(row.size, field.star_slope, 17.0, field.faintest_r, rng)
    return _stars_of(r, *_around(where_deg, row, col), rng)


def field_galaxies(
    field: FieldConfig, where_deg: tuple[float, float], half_px: float, rng: np.random.Generator
) -> Galaxies:
    """The same of galaxies."""
    area = (2 * half_px) ** 2 / (N_ROWS * N_COLS)
    expected = _expected(field.galaxies_r22, field.galaxy_slope, 15.5, 22.0) * area
    row, col = rng.uniform(-half_px, half_px, (2, int(rng.poisson(expected))))
    r = _magnitudes(row.size, field.galaxy_slope, 15.5, 22.0, rng)
    return _galaxies_of(r, *_around(where_deg, row, col), rng)


def _around(where_deg: tuple[float, float], row: Floats, col: Floats) -> tuple[Floats, Floats]:
    return EQUATOR.to_sky(where_deg[0] + PIXEL_DEG * row, where_deg[1] + PIXEL_DEG * col)


def _draw_stars(config: SimulationConfig, rng: np.random.Generator) -> Stars:
    half_rows, half_cols = _extent(config)
    area = 4 * half_rows * half_cols / (N_ROWS * N_COLS)
    field = config.field
    count = _count(field.stars_r22, field.star_slope, field.brightest_r, field.faintest_r, area)
    row = rng.uniform(-half_rows, half_rows, count)
    col = rng.uniform(-half_cols, half_cols, count)
    r = _magnitudes(count, field.star_slope, field.brightest_r, field.faintest_r, rng)
    return _stars_of(r, *_to_sky(config, row, col), rng)


def _stars_of(r: Floats, ra: Floats, dec: Floats, rng: np.random.Generator) -> Stars:
    """Give stars of these magnitudes their colours."""
    count = r.size
    # Bright stars are turn-off stars and giants, faint ones increasingly M dwarfs.
    dwarf = rng.uniform(size=count) < np.clip((r - 15.0) / 8.0, 0.1, 0.7)
    g_r = np.where(dwarf, 1.40 + 0.06 * rng.standard_normal(count), rng.triangular(0.2, 0.4, 1.2, count))
    r_i = np.where(dwarf, rng.uniform(0.6, 1.8, count), 0.40 * g_r - 0.04 + 0.02 * rng.standard_normal(count))
    i_z = 0.55 * r_i + 0.02 * rng.standard_normal(count)
    u_g = np.where(dwarf, 2.5, np.clip(0.65 + 1.25 * g_r, 0.8, 2.2)) + 0.08 * rng.standard_normal(count)
    return Stars(ra, dec, _fluxes(r, u_g, g_r, r_i, i_z))


def _draw_galaxies(config: SimulationConfig, rng: np.random.Generator) -> Galaxies:
    half_rows, half_cols = _extent(config)
    area = 4 * half_rows * half_cols / (N_ROWS * N_COLS)
    field = config.field
    count = _count(field.galaxies_r22, field.galaxy_slope, 15.5, 22.0, area)
    row = rng.uniform(-half_rows, half_rows, count)
    col = rng.uniform(-half_cols, half_cols, count)
    r = _magnitudes(count, field.galaxy_slope, 15.5, 22.0, rng)
    return _galaxies_of(r, *_to_sky(config, row, col), rng)


def _galaxies_of(r: Floats, ra: Floats, dec: Floats, rng: np.random.Generator) -> Galaxies:
    """Give galaxies of these magnitudes size, shape and colours."""
    count = r.size
    radius = 1.3 * 10 ** (-0.11 * (r - 20.0)) * np.exp(0.25 * rng.standard_normal(count))
    red = rng.uniform(size=count) < 0.4
    g_r = np.where(red, 1.1, 0.6) + 0.15 * rng.standard_normal(count)
    return Galaxies(
        ra,
        dec,
        _fluxes(r, 0.5 + 1.1 * g_r, g_r, 0.15 + 0.25 * g_r, 0.10 + 0.2 * g_r),
        radius,
        rng.choice(SERSIC_INDICES, count),
        rng.uniform(0.3, 1.0, count),
        rng.uniform(0.0, 180.0, count),
    )


def _fluxes(r: Floats, u_g: Floats, g_r: Floats, r_i: Floats, i_z: Floats) -> Floats:
    return nmgy(np.stack([r + g_r + u_g, r + g_r, r, r - r_i, r - r_i - i_z], axis=-1))


def _place_targets(config: SimulationConfig, stars: Stars, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Positions in the patch, apart from each other and clear of bright stars; the last few on a column edge."""
    patch = config.patch
    total = sum(config.labels.values())
    bright = stars.flux_nmgy_N5[:, 2] > float(nmgy(17.0))
    star_row = (stars.ra_deg_N[bright] - patch.ra_deg) / PIXEL_DEG
    star_col = (stars.dec_deg_N[bright] - patch.dec_deg) / PIXEL_DEG
    rows, cols = np.empty(0), np.empty(0)
    failures = 0
    while rows.size < total and failures < PLACEMENT_ATTEMPTS:
        row = rng.uniform(-patch.rows / 2, patch.rows / 2)
        col = rng.uniform(-patch.cols / 2, patch.cols / 2)
        if rows.size >= total - patch.at_column_edge:
            col = (-1) ** rows.size * (N_COLS / 2 - rng.uniform(-4, 8))
        near_other = np.hypot(rows - row, cols - col) < patch.min_separation_px
        near_star = np.hypot(star_row - row, star_col - col) < patch.min_separation_px
        if near_other.any() or near_star.any():
            failures += 1
            continue
        rows, cols, failures = np.append(rows, row), np.append(cols, col), 0
    if rows.size < total:
        raise ConfigError(
            f"[simulation.patch]: {total} objects do not fit into {patch.rows} × {patch.cols} px "
            f"{patch.min_separation_px:g} px apart; make the patch larger or min_separation_px smaller"
        )
    ra, dec = _to_sky(config, rows, cols)
    return list(zip(ra.tolist(), dec.tolist(), strict=True))


def hosts_of(targets: tuple[Target, ...]) -> Galaxies:
    """The hosts as galaxies, a row per target."""
    return Galaxies(
        np.array([target.host_ra_deg for target in targets]),
        np.array([target.host_dec_deg for target in targets]),
        np.array([target.host_flux_nmgy for target in targets]).reshape(-1, 5),
        np.array([target.host_radius_arcsec for target in targets]),
        np.array([target.host_sersic for target in targets]),
        np.array([target.host_axis_ratio for target in targets]),
        np.array([target.host_position_angle_deg for target in targets]),
    )
