"""The benchmark survey's objects: the classes of the paper's Table 1, made to overlap, on nights of real seasons.

A supernova's peak magnitude is drawn from one distribution for all types, and its redshift follows from it; dust
reddens all types; type II decline as fast as II-L at one end; peaks lie anywhere in the season, so that rise or decline
may be missing. Hosts are about as bright as what explodes in them. AGN and variables go down to amplitudes of the
noise, and some of either lie on galaxies. A classifier that sees the peak magnitude alone must not do well.

Light curves and hosts are those of `objects` and `lightcurves`; what is drawn here are other parameters.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from pipeline.bands import Band
from pipeline.errors import ConfigError
from pipeline.simulate.camera import N_COLS, N_ROWS, PIXEL_DEG
from pipeline.simulate.config import SEQUENCES, Label, RunConfig, SimulationConfig
from pipeline.simulate.objects import Target, draw_target, host_flux, kind_of
from pipeline.simulate.population import Galaxies, Population, Stars, field_galaxies, field_stars, hosts_of
from pipeline.survey import Config, SurveyConfig
from pipeline.validation import explain

Floats = NDArray[np.float64]
NEW_MOON_MJD: Final = 51549.76
"""2000 January 6, 18:14 UT."""
SYNODIC_D: Final = 29.530589
NEIGHBOUR_REACH_PX: Final = 80.0
"""Half the side of the square in which an object has neighbours."""


class SequencesConfig(Config):
    """What `[simulation.sequences]` says."""

    seasons: dict[str, tuple[float, ...]]
    """Nights of each season, MJD of their middle."""
    nights_per_object: int = Field(default=20, ge=1, le=1000)
    """At most so many of its season, drawn at random: a run covers one half of the stripe."""
    ra_range_deg: tuple[float, float] = (-50.0, 59.0)
    dec_range_deg: tuple[float, float] = (-1.25, 1.25)
    peak_r_mag: tuple[float, float] = (21.0, 0.8)
    """Mean and scatter of supernova peaks, before host and cut."""
    peak_range_r_mag: tuple[float, float] = (18.5, 22.4)
    cloudy_nights: float = Field(default=0.3, ge=0, le=1)
    clouds_mag: float = Field(default=0.05, ge=0)
    """Mean extinction of a cloudy night; standard stars take it out again, with their error."""
    zp_error_mag: dict[Band, float]
    least_per_label: int = Field(default=12, ge=0)
    """When the survey is made smaller, no label falls below this, or its full count."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The benchmark survey, resolved."""

    simulation: dict[str, Any]
    """`[simulation]` without patch, runs and `sequences`."""
    sequences: SequencesConfig
    labels: dict[Label, int]
    seed: int

    def fingerprint(self) -> str:
        """sha256 of all that decides the bytes."""
        content = {
            "simulation": self.simulation,
            "sequences": self.sequences.model_dump(mode="json"),
            "labels": self.labels,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Scene:
    """One object, where it is and all that is around it, and the configuration of the strips that see it."""

    target: Target
    population: Population
    config: SimulationConfig


def benchmark_of(survey: SurveyConfig, *, n_objects: int | None = None, nights: int | None = None) -> Benchmark:
    """The survey's benchmark, made smaller if asked.

    Parameters
    ----------
    n_objects
        About so many objects, labels in proportion; more than are described: all.
    nights
        At most so many nights per object.

    Raises
    ------
    ConfigError
        The survey has no `[simulation.sequences]`, or a key of it cannot be used.
    """
    content = dict(survey.simulation or {})
    try:
        sequences = SequencesConfig.model_validate(content.pop(SEQUENCES))
    except KeyError:
        raise ConfigError(
            f"survey {survey.name!r} has no [simulation.sequences] section: choose one that has, such as benchmark"
        ) from None
    except ValidationError as error:
        raise ConfigError(f"survey {survey.name!r}, [simulation.sequences]: {explain(error)}") from error
    if nights is not None:
        sequences = sequences.model_copy(update={"nights_per_object": min(nights, sequences.nights_per_object)})
    labels = content.pop("labels", {})
    found = Benchmark(content, sequences, _scaled(labels, n_objects, sequences.least_per_label), int(content["seed"]))
    config_of(found, 0, 0.0, 0.0)  # which says what is wrong with the rest
    return found


def _scaled(labels: dict[Label, int], n_objects: int | None, least: int) -> dict[Label, int]:
    factor = min(1.0, (n_objects or 10**9) / max(sum(labels.values()), 1))
    return {label: min(count, max(round(factor * count), least)) for label, count in labels.items()}


def objects_of(benchmark: Benchmark) -> list[tuple[int, Label, int]]:
    """(id, label, which of its label) of every object, in the order of ids."""
    rng = np.random.default_rng([benchmark.seed, 7])
    sorts = [(label, nth) for label, count in benchmark.labels.items() for nth in range(count)]
    order = rng.permutation(len(sorts))
    return [(10_000 + place, *sorts[k]) for place, k in enumerate(order)]


def scene_of(benchmark: Benchmark, cid: int, label: Label, nth: int) -> Scene:
    """Draw one object and its surroundings; depends on nothing but seed, id and label."""
    rng = np.random.default_rng([benchmark.seed, 8, cid])
    own = benchmark.sequences
    ra_deg = float(rng.uniform(*own.ra_range_deg) % 360)
    dec_deg = float(rng.uniform(*own.dec_range_deg))
    config = config_of(benchmark, cid, ra_deg, dec_deg)
    season = config.runs[0].mjd, config.runs[-1].mjd
    whole = own.seasons[_season(benchmark, cid)]
    target = _harder(draw_target(cid, label, kind_of(label, nth), ra_deg, dec_deg, season, rng), whole, own, rng)
    stars, galaxies = _neighbours(config, target, rng)
    return Scene(target, Population(stars, galaxies, hosts_of((target,)), (target,)), config)


def config_of(benchmark: Benchmark, cid: int, ra_deg: float, dec_deg: float) -> SimulationConfig:
    """The strips of one object: its own nights, somewhere on the CCD, under its own part of the sky.

    Raises
    ------
    ConfigError
        A key of `[simulation]` cannot be used.
    """
    rng = np.random.default_rng([benchmark.seed, 9, cid])
    row, col = rng.uniform(-0.4, 0.4, 2) * (N_ROWS, N_COLS)
    patch = {
        "ra_deg": (ra_deg - row * PIXEL_DEG) % 360,
        "dec_deg": dec_deg - col * PIXEL_DEG,
        "camcol": int(rng.integers(1, 7)),
        "rows": 100,
        "cols": 100,
    }
    content = benchmark.simulation | {
        "seed": int(rng.integers(2**31)),
        "patch": patch,
        "labels": {},
        "runs": [run.model_dump() for run in _runs(benchmark, cid, rng)],
    }
    try:
        return SimulationConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"[simulation] of the benchmark survey: {explain(error)}") from error


def _season(benchmark: Benchmark, cid: int) -> str:
    """Seasons in turn."""
    names = sorted(benchmark.sequences.seasons)
    return names[cid % len(names)]


def _runs(benchmark: Benchmark, cid: int, rng: np.random.Generator) -> list[RunConfig]:
    own = benchmark.sequences
    nights = np.array(own.seasons[_season(benchmark, cid)])
    chosen = np.sort(rng.choice(len(nights), size=min(own.nights_per_object, len(nights)), replace=False))
    cloudy = rng.uniform(size=len(chosen)) < own.cloudy_nights
    clouds = np.where(cloudy, rng.exponential(own.clouds_mag, len(chosen)), 0.0).clip(max=0.5)
    moons = [moon(mjd) for mjd in nights[chosen].tolist()]
    return [
        RunConfig(
            run=int(mjd) - 48_000,  # 5566 to 7202 are the real ones' numbers; a night has one here
            rerun=40,
            layout="das-dr7",
            mjd=mjd,
            field=100,
            moon=bright,
            clouds_mag=cloud,
            quality=3 if bright < 2 else 2,
        )
        for mjd, bright, cloud in zip(nights[chosen].tolist(), moons, clouds.tolist(), strict=True)
    ]


def moon(mjd: float) -> float:
    """Brightness of the sky in u and g over dark time: five times at full moon, which is an hour away or more."""
    lit = 0.5 * (1 - np.cos(2 * np.pi * (mjd - NEW_MOON_MJD) / SYNODIC_D))
    return float(1 + 4 * lit**3)


def _harder(target: Target, nights: tuple[float, ...], own: SequencesConfig, rng: np.random.Generator) -> Target:
    """The same object with the benchmark's parameters."""
    parameters = dict(target.parameters)
    if target.is_supernova:
        parameters |= _supernova(target, nights, own, rng)
        host_r = float(np.clip(parameters["peak_r_mag"] + rng.normal(-0.7, 1.1), 16.5, 23.0))
        return replace(target, parameters=parameters, host_flux_nmgy=host_flux(host_r, parameters["redshift"], rng))
    if target.kind == "agn":
        parameters |= {"mean_r_mag": float(rng.uniform(17.5, 21.3)), "tau_d": float(10 ** rng.uniform(1.5, 2.6))}
        parameters["amplitude_mag"] = float(10 ** rng.uniform(-1.4, -0.5))
        host_r = parameters["mean_r_mag"] + float(rng.uniform(-1.0, 2.0))
        return replace(target, parameters=parameters, host_flux_nmgy=host_flux(host_r, parameters["redshift"], rng))
    magnitude = "mean_r_mag" if "mean_r_mag" in parameters else "max_r_mag"
    amplitude = "depth" if "depth" in parameters else "amplitude_g"
    parameters[magnitude] = float(rng.uniform(16.0, 21.3))
    parameters[amplitude] *= float(10 ** rng.uniform(-0.9, 0.0))
    if rng.uniform() < 0.25:  # a galaxy behind it
        east, north = rng.uniform(-3.0, 3.0, 2) / 3600
        target = replace(
            target,
            host_ra_deg=(target.ra_deg + east) % 360,
            host_dec_deg=target.dec_deg + north,
            host_radius_arcsec=float(rng.uniform(0.8, 2.5)),
            host_flux_nmgy=host_flux(float(rng.uniform(18.5, 21.5)), 0.1, rng),
        )
    return replace(target, parameters=parameters)


def _supernova(
    target: Target, nights: tuple[float, ...], own: SequencesConfig, rng: np.random.Generator
) -> dict[str, float]:
    """Peak, redshift, dust and shape: type Ia are standard, the others fainter and of all luminosities."""
    low, high = own.peak_range_r_mag
    peak = float(rng.normal(*own.peak_r_mag))
    while not low <= peak <= high:
        peak = float(rng.normal(*own.peak_r_mag))
    dust = float(rng.exponential(0.1))
    drawn = {
        "peak_r_mag": peak,
        "peak_mjd": float(rng.uniform(nights[0] - 5, nights[-1] - 15)),
        "colour": float(rng.normal(0, 0.06)) + dust,
    }
    if target.kind == "sn-ia":
        stretch = float(np.clip(rng.normal(1.0, 0.1), 0.7, 1.25))
        intrinsic = peak - 19.2 - 2.5 * drawn["colour"] + 1.4 * (stretch - 1) - rng.normal(0, 0.15)
        return drawn | {"redshift": float(np.clip(0.1 * 10 ** (intrinsic / 5.3), 0.02, 0.45)), "stretch": stretch}
    bright = -0.4 if target.kind == "sn-ibc" else 0.0
    intrinsic = peak - 19.7 - bright - 2.5 * drawn["colour"] - rng.normal(0, 0.8)
    drawn["redshift"] = float(np.clip(0.05 * 10 ** (intrinsic / 5), 0.01, 0.3))
    if target.kind == "sn-iip":
        drawn |= {"plateau_d": float(rng.uniform(40, 110)), "decline": float(rng.choice([0, 1]) * rng.uniform(0, 0.05))}
    return drawn


def _neighbours(config: SimulationConfig, target: Target, rng: np.random.Generator) -> tuple[Stars, Galaxies]:
    """Stars and galaxies of the field in a square around the object, but no bright one within 3″."""
    where = target.ra_deg, target.dec_deg
    stars = field_stars(config.field, where, NEIGHBOUR_REACH_PX, rng)
    galaxies = field_galaxies(config.field, where, NEIGHBOUR_REACH_PX, rng)
    apart_S, apart_G = (np.hypot(s.ra_deg_N - where[0], s.dec_deg_N - where[1]) * 3600 > 3.0 for s in (stars, galaxies))
    return (
        Stars(*(getattr(stars, name)[apart_S] for name in Stars.__dataclass_fields__)),
        Galaxies(*(getattr(galaxies, name)[apart_G] for name in Galaxies.__dataclass_fields__)),
    )
