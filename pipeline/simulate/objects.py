"""The objects of the master table: host, class, light-curve parameters, and their flux at any time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.bands import BANDS, Band
from pipeline.simulate import lightcurves
from pipeline.simulate.config import Label
from pipeline.simulate.lightcurves import nmgy

Floats = NDArray[np.float64]
Kind = Literal["sn-ia", "sn-iip", "sn-ibc", "agn", "rr-lyrae", "eclipsing", "long-period"]

KIND_OF_LABEL: Final[dict[Label, Kind]] = {
    "AGN": "agn",
    **dict.fromkeys(("SNIa", "pSNIa", "zSNIa", "SNIa?"), "sn-ia"),
    **dict.fromkeys(("SNII", "pSNII", "zSNII"), "sn-iip"),
    **dict.fromkeys(("SNIb", "SNIc", "pSNIbc", "zSNIbc", "SLSN"), "sn-ibc"),
}
VARIABLES: Final[tuple[Kind, ...]] = ("rr-lyrae", "rr-lyrae", "eclipsing", "rr-lyrae", "long-period")
"""What the objects labelled Variable are, in turn."""
UNKNOWNS: Final[tuple[Kind, ...]] = ("sn-iip", "agn")


@dataclass(frozen=True, slots=True)
class Target:
    """One object: a varying point source, on or off a host galaxy (host flux 0: none)."""

    cid: int
    label: Label
    kind: Kind
    ra_deg: float
    dec_deg: float
    host_ra_deg: float
    host_dec_deg: float
    host_flux_nmgy: tuple[float, ...]
    host_radius_arcsec: float
    host_sersic: float
    host_axis_ratio: float
    host_position_angle_deg: float
    parameters: Mapping[str, float]
    """Of the light curve; `redshift` where the class has one."""
    seed: int

    @property
    def is_supernova(self) -> bool:
        """It explodes once, so that there is a maximum to speak of."""
        return self.kind.startswith("sn-")


def kind_of(label: Label, nth: int) -> Kind:
    """What the `nth` object of that label is."""
    if label == "Variable":
        return VARIABLES[nth % len(VARIABLES)]
    if label == "Unknown":
        return UNKNOWNS[nth % len(UNKNOWNS)]
    return KIND_OF_LABEL[label]


def draw_target(
    cid: int,
    label: Label,
    kind: Kind,
    ra_deg: float,
    dec_deg: float,
    season: tuple[float, float],
    rng: np.random.Generator,
) -> Target:
    """Draw the host and the light curve of one object; a supernova peaks inside the `season` (MJD)."""
    parameters, host_r, radius = _draw_parameters(kind, season, rng)
    shape = {
        "host_sersic": float(rng.choice([1.0, 1.5, 2.5])),
        "host_axis_ratio": float(rng.uniform(0.4, 1.0)),
        "host_position_angle_deg": float(rng.uniform(0, 180)),
    }
    north, east = _offset_arcsec(kind, radius, shape["host_axis_ratio"], shape["host_position_angle_deg"], rng)
    return Target(
        cid,
        label,
        kind,
        ra_deg,
        dec_deg,
        (ra_deg - east / 3600 / np.cos(np.deg2rad(dec_deg))) % 360,
        dec_deg - north / 3600,
        host_flux(host_r, parameters.get("redshift", 0.0), rng),
        radius,
        **shape,
        parameters=parameters,
        seed=int(rng.integers(2**32)),
    )


def _draw_parameters(
    kind: Kind, season: tuple[float, float], rng: np.random.Generator
) -> tuple[dict[str, float], float, float]:
    """(light-curve parameters, host r magnitude, host half-light radius in arcsec)."""
    start, end = season
    length = end - start
    if kind.startswith("sn-"):
        # Late enough for its rise to be seen, early enough for some of the decline.
        peak = start + rng.uniform(0.25, 0.7) * length
        parameters = {"peak_mjd": float(peak), **_draw_supernova(kind, rng)}
        radius = float(rng.uniform(1.2, 3.5))
        return parameters, float(np.clip(parameters["peak_r_mag"] + rng.normal(-1.0, 0.8), 16.5, 20.8)), radius
    if kind == "agn":
        parameters = {
            "redshift": float(rng.uniform(0.1, 1.2)),
            "mean_r_mag": float(rng.uniform(17.8, 20.3)),
            "tau_d": float(rng.uniform(100, 300)),
            "amplitude_mag": float(rng.uniform(0.15, 0.35)),
        }
        return parameters, parameters["mean_r_mag"] + float(rng.uniform(0.3, 1.5)), float(rng.uniform(0.8, 2.0))
    return _draw_variable(kind, start, rng), np.inf, 1.0


def _draw_supernova(kind: Kind, rng: np.random.Generator) -> dict[str, float]:
    if kind == "sn-ia":
        redshift = float(rng.uniform(0.07, 0.30))
        stretch, colour = float(np.clip(rng.normal(1.0, 0.08), 0.75, 1.2)), float(rng.normal(0.0, 0.08))
        mag = 19.2 + 5.3 * np.log10(redshift / 0.1) - 1.4 * (stretch - 1) + 2.5 * colour + rng.normal(0, 0.12)
        return {"redshift": redshift, "peak_r_mag": _clip_peak(mag), "stretch": stretch, "colour": colour}
    redshift = float(rng.uniform(0.03, 0.10))
    mag = 19.7 + 5 * np.log10(redshift / 0.05) + rng.normal(0, 0.4)
    if kind == "sn-iip":
        return {"redshift": redshift, "peak_r_mag": _clip_peak(mag), "plateau_d": float(rng.uniform(80, 110))}
    return {"redshift": redshift, "peak_r_mag": _clip_peak(mag - 0.4)}


def _clip_peak(mag: float) -> float:
    return float(np.clip(mag, 18.5, 21.8))


def _draw_variable(kind: Kind, start: float, rng: np.random.Generator) -> dict[str, float]:
    mag = float(rng.uniform(16.0, 20.0))
    if kind == "rr-lyrae":
        period = float(rng.uniform(0.4, 0.7))
        return {
            "max_r_mag": mag,
            "period_d": period,
            "amplitude_g": float(np.clip(1.9 - 1.6 * period + rng.normal(0, 0.12), 0.4, 1.3)),
            "mjd_max": start + float(rng.uniform(0, period)),
        }
    if kind == "eclipsing":
        period = float(rng.uniform(0.3, 2.0))
        return {
            "max_r_mag": mag,
            "period_d": period,
            "depth": float(rng.uniform(0.3, 0.9)),
            "mjd_min": start + float(rng.uniform(0, period)),
        }
    period = float(rng.uniform(80, 350))
    return {
        "mean_r_mag": mag,
        "period_d": period,
        "amplitude_g": float(rng.uniform(0.8, 2.5)),
        "mjd_max": start + float(rng.uniform(0, period)),
    }


def _offset_arcsec(
    kind: Kind, radius: float, axis_ratio: float, angle_deg: float, rng: np.random.Generator
) -> tuple[float, float]:
    """(north, east) of the object from its host's centre: a supernova within 1.5 half-light radii, an AGN at 0."""
    if not kind.startswith("sn-"):
        return 0.0, 0.0
    distance, angle = radius * rng.uniform(0.15, 1.5), rng.uniform(0, 2 * np.pi)
    along, across = distance * np.cos(angle), distance * np.sin(angle) * axis_ratio
    turn = np.deg2rad(angle_deg)
    return (
        float(along * np.cos(turn) - across * np.sin(turn)),
        float(along * np.sin(turn) + across * np.cos(turn)),
    )


def host_flux(r_mag: float, redshift: float, rng: np.random.Generator) -> tuple[float, ...]:
    """Flux of a host [nMgy] in ugriz; 0 where its magnitude is infinite."""
    if not np.isfinite(r_mag):
        return (0.0,) * 5
    g_r = float(np.clip(rng.normal(0.55, 0.12) + 1.2 * min(redshift, 0.4), 0.3, 1.5))
    r_i, i_z = 0.18 + 0.25 * g_r, 0.10 + 0.2 * g_r
    u_g = 0.6 + 1.0 * g_r
    mags = np.array([r_mag + g_r + u_g, r_mag + g_r, r_mag, r_mag - r_i, r_mag - r_i - i_z])
    return tuple(nmgy(mags).tolist())


POINT_COLOURS: Final[dict[Kind, dict[Band, float]]] = {
    "agn": {"u": 0.35, "g": 0.18, "r": 0.0, "i": -0.12, "z": -0.18},
    "rr-lyrae": {"u": 1.35, "g": 0.18, "r": 0.0, "i": -0.06, "z": -0.08},
    "eclipsing": {"u": 1.75, "g": 0.5, "r": 0.0, "i": -0.18, "z": -0.28},
    "long-period": {"u": 3.6, "g": 1.4, "r": 0.0, "i": -0.8, "z": -1.2},
}
"""Magnitude in each band minus that in r."""


def point_flux(target: Target, mjd_E: Floats, band_E: tuple[Band, ...]) -> Floats:
    """Flux [nMgy] of the varying source at E (time, band) pairs.

    An AGN's walk ties its epochs to one another, so ask for all of a survey's epochs at once.
    """
    flux = np.empty(len(band_E))
    walk = _walk(target, mjd_E)
    bands = np.array(band_E)
    for band in BANDS:
        here = bands == band
        flux[here] = _band_flux(target, band, mjd_E[here], walk[here])
    return flux


def _walk(target: Target, mjd_E: Floats) -> Floats:
    if target.kind != "agn":
        return np.zeros(mjd_E.size)
    rng = np.random.default_rng(target.seed)
    return lightcurves.damped_random_walk(mjd_E, target.parameters["tau_d"], rng)


def _band_flux(target: Target, band: Band, mjd: Floats, walk: Floats) -> Floats:
    p = target.parameters
    if target.kind == "sn-ia":
        return lightcurves.sn_ia_flux(mjd, band, **p)
    if target.kind == "sn-ibc":
        return lightcurves.sn_ibc_flux(mjd, band, **p)
    if target.kind == "sn-iip":
        return lightcurves.sn_iip_flux(mjd, band, **p)
    colour = POINT_COLOURS[target.kind][band]
    if target.kind == "agn":
        return nmgy(p["mean_r_mag"] + colour + p["amplitude_mag"] * lightcurves.AGN_AMPLITUDE[band] * walk)
    shape = {key: value for key, value in p.items() if not key.endswith("_r_mag")}
    if target.kind == "rr-lyrae":
        return nmgy(p["max_r_mag"] + colour + lightcurves.rr_lyrae_mag(mjd, band, **shape))
    if target.kind == "eclipsing":
        return nmgy(p["max_r_mag"] + colour + lightcurves.eclipsing_mag(mjd, **shape))
    return nmgy(p["mean_r_mag"] + colour + lightcurves.long_period_mag(mjd, band, **shape))
