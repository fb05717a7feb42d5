"""Light curves of the four classes: parametric forms of our own, of the right kind.

All give magnitudes in AB. None is fitted to data; each has what an image sequence of its class shows:

- **SN Ia**: a rise of about 18 rest-frame days, a decline that is slower in redder light, a second
  maximum some 25 days after the first in i and z, faint in u, reddening with time. The rise and decline
  have the form of Bazin et al. 2009 (A&A 499, 653, Eq. 1); time scales and colours are read off the
  templates of Nugent et al. 2002 (PASP 114, 803) and Hsiao et al. 2007 (ApJ 663, 1187).
- **SN II-P**: a rise of a week, a plateau of 80 to 110 days in r, i, z, fading fast in u and steadily
  in g, then a drop (e.g. Anderson et al. 2014, ApJ 786, 67).
- **SN Ib/c**: like Ia, but redder, narrower and without the second maximum (Drout et al. 2011, ApJ 741, 97).
- **AGN**: a damped random walk in magnitude (Kelly et al. 2009, ApJ 698, 895), larger in bluer bands
  (MacLeod et al. 2010, ApJ 721, 1014).
- **Variables**: RR Lyrae saw-tooth with the band amplitudes of Sesar et al. 2010 (ApJ 708, 717, their
  Table 2: medians u 1.0, g 1.0, r 0.72, i 0.57, z 0.53 of the g amplitude), eclipsing binaries, long-period variables.

Supernova bands at redshift z are looked up at wavelength / (1 + z) and time runs slower by 1 + z.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.bands import Band

Floats = NDArray[np.float64]

WAVELENGTH_NM: Final[dict[Band, float]] = {"u": 355.1, "g": 468.6, "r": 616.6, "i": 748.0, "z": 893.2}
_REST_NM: Final = np.array([250.0, *WAVELENGTH_NM.values()])
"""Nodes of the supernova templates: the near ultraviolet, then ugriz."""

IA_RISE_D: Final = 18.0


def _at(nodes: tuple[float, ...], band: Band, redshift: float) -> float:
    return float(np.interp(WAVELENGTH_NM[band] / (1 + redshift), _REST_NM, nodes))


def _bazin(phase_d: Floats, rise_d: float, fall_d: float) -> Floats:
    """Rise and exponential decline, 1 at the maximum, which is at phase 0."""
    peak_d = rise_d * np.log(fall_d / rise_d - 1)

    def curve(time_d: Floats) -> Floats:
        time_d = np.maximum(time_d, -50.0 * rise_d)  # long before, where it is 0 anyway
        return np.asarray(np.exp(-time_d / fall_d) / (1 + np.exp(-time_d / rise_d)))

    return np.asarray(curve(phase_d + peak_d) / curve(np.array(peak_d)))


def _switch_on(phase_d: Floats, rise_d: float) -> Floats:
    """0 before the explosion, 1 from half-way up."""
    return np.asarray(np.clip((phase_d + rise_d) / (0.5 * rise_d), 0, 1) ** 2)


def sn_ia_flux(
    mjd: Floats, band: Band, *, peak_mjd: float, peak_r_mag: float, redshift: float, stretch: float, colour: float
) -> Floats:
    """Flux [nMgy] of a SN Ia; `colour` is an excess B - V [mag] that dims blue bands more."""
    phase = (mjd - peak_mjd) / (1 + redshift) / stretch
    fall_d = _at((10.0, 11.0, 15.0, 21.0, 23.0, 25.0), band, redshift)
    bump = _at((0.0, 0.0, 0.02, 0.12, 0.33, 0.42), band, redshift)
    shape = _bazin(phase, 3.6, fall_d) + bump * np.exp(-0.5 * ((phase - 25.0) / 7.0) ** 2)
    late = _at((0.01, 0.02, 0.04, 0.06, 0.05, 0.04), band, redshift) * np.exp(-np.clip(phase, 0, None) / 60.0)
    shape = (shape + late * (phase > 0) * (1 - np.exp(-np.clip(phase, 0, None) / 20.0))) * _switch_on(phase, IA_RISE_D)
    colours = (2.2, 0.75, 0.0, 0.05, 0.45, 0.55)
    offset = _at(colours, band, redshift) - _at(colours, "r", redshift)
    return np.asarray(nmgy(peak_r_mag + offset + _reddening(colour, band, redshift)) * shape)


def _reddening(colour: float, band: Band, redshift: float) -> float:
    """Magnitudes by which dust of an excess B - V dims a band beyond r's share."""
    return colour * (_at((7.0, 4.8, 3.6, 2.5, 1.9, 1.4), band, redshift) - 2.5)


def sn_ibc_flux(
    mjd: Floats, band: Band, *, peak_mjd: float, peak_r_mag: float, redshift: float, colour: float = 0.0
) -> Floats:
    """Flux [nMgy] of a SN Ib or Ic; `colour` as of a SN Ia."""
    phase = (mjd - peak_mjd) / (1 + redshift)
    fall_d = _at((8.0, 9.0, 13.0, 20.0, 23.0, 26.0), band, redshift)
    shape = _bazin(phase, 3.2, fall_d) * _switch_on(phase, 16.0)
    colours = (3.4, 1.9, 0.55, 0.0, -0.1, -0.15)
    offset = _at(colours, band, redshift) - _at(colours, "r", redshift)
    return nmgy(peak_r_mag + offset + _reddening(colour, band, redshift)) * shape


def sn_iip_flux(
    mjd: Floats,
    band: Band,
    *,
    peak_mjd: float,
    peak_r_mag: float,
    redshift: float,
    plateau_d: float,
    decline: float = 0.0,
    colour: float = 0.0,
) -> Floats:
    """Flux [nMgy] of a SN II-P whose plateau ends `plateau_d` rest-frame days after maximum.

    `decline` [mag per rest-frame day] tilts it in all bands, up to that of a SN II-L; `colour` as of a SN Ia.
    """
    phase = (mjd - peak_mjd) / (1 + redshift)
    after = np.clip(phase, 0, None)
    slope = _at((0.15, 0.10, 0.035, 0.010, 0.005, 0.003), band, redshift)
    drop = 2.0 / (1 + np.exp(-(phase - plateau_d) / 4.0))
    colours = (0.3, 0.0, 0.0, 0.05, 0.1, 0.15)
    offset = _at(colours, band, redshift) - _at(colours, "r", redshift)
    # The ultraviolet fades to a floor, the line-blanketed photosphere of the plateau.
    fading = np.minimum(slope * after, 3.0) + drop + decline * after + _reddening(colour, band, redshift)
    return nmgy(peak_r_mag + offset + fading) * _switch_on(np.minimum(phase, 0.0), 8.0)


def damped_random_walk(mjd: Floats, tau_d: float, rng: np.random.Generator) -> Floats:
    """Unit-variance Ornstein-Uhlenbeck process at the times `mjd`, in any order, by its exact recursion."""
    order = np.argsort(mjd, kind="stable")
    steps = rng.standard_normal(mjd.size)
    keep = np.exp(-np.diff(mjd[order]) / tau_d)
    walk = np.empty(mjd.size)
    value = 0.0
    for k in range(mjd.size):
        value = float(steps[0]) if k == 0 else value * keep[k - 1] + float(steps[k]) * np.sqrt(1 - keep[k - 1] ** 2)
        walk[order[k]] = value
    return walk


AGN_AMPLITUDE: Final[dict[Band, float]] = {"u": 1.35, "g": 1.1, "r": 0.9, "i": 0.75, "z": 0.7}
RR_LYRAE_AMPLITUDE: Final[dict[Band, float]] = {"u": 1.0, "g": 1.0, "r": 0.72, "i": 0.57, "z": 0.53}
LONG_PERIOD_AMPLITUDE: Final[dict[Band, float]] = {"u": 1.2, "g": 1.0, "r": 0.85, "i": 0.6, "z": 0.45}


def rr_lyrae_mag(mjd: Floats, band: Band, *, period_d: float, amplitude_g: float, mjd_max: float) -> Floats:
    """Magnitude relative to maximum light: up in 15 % of the period, down in the rest, flattening out."""
    cycle = ((mjd - mjd_max) / period_d) % 1.0
    down = (cycle / 0.85) ** 0.7
    up = (1.0 - cycle) / 0.15
    return np.asarray(amplitude_g * RR_LYRAE_AMPLITUDE[band] * np.where(cycle < 0.85, down, up))


def eclipsing_mag(mjd: Floats, *, period_d: float, depth: float, mjd_min: float, width: float = 0.06) -> Floats:
    """Magnitude out of eclipse 0: a deep and, half a period later, a shallower minimum, alike in all bands."""
    cycle = ((mjd - mjd_min) / period_d + 0.5) % 1.0 - 0.5
    other = (cycle + 1.0) % 1.0 - 0.5
    primary = np.exp(-((cycle / width) ** 4))
    secondary = 0.5 * np.exp(-((other / width) ** 4))
    return np.asarray(depth * (primary + secondary))


def long_period_mag(mjd: Floats, band: Band, *, period_d: float, amplitude_g: float, mjd_max: float) -> Floats:
    """Magnitude relative to the mean: a sine, larger in the blue."""
    cycle = 2 * np.pi * (mjd - mjd_max) / period_d
    return np.asarray(-0.5 * amplitude_g * LONG_PERIOD_AMPLITUDE[band] * np.cos(cycle))


def nmgy(mag: Floats | float) -> Floats:
    """AB magnitude → flux in nanomaggies."""
    return np.asarray(10.0 ** (0.4 * (22.5 - np.asarray(mag))))
