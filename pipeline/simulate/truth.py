"""What was put in: every object, its flux at every epoch, and the field stars, as Parquet beside the archive."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.bands import BANDS, Band
from pipeline.simulate.camera import N_COLS, Strip
from pipeline.simulate.objects import Target, point_flux
from pipeline.simulate.population import Population, Stars

Floats = NDArray[np.float64]

CLASS_OF_KIND = {"sn-ia": "SNIa", "sn-iip": "SNOther", "sn-ibc": "SNOther", "agn": "AGN"}


@dataclass(frozen=True, slots=True)
class Epochs:
    """Where, when and how bright each of T targets is in each of S strips."""

    row_TS: Floats
    """In the strip's own rows; pixel centres at +0.5."""
    col_TS: Floats
    mjd_tai_TS: Floats
    """Mid-exposure at the object's row."""
    flux_nmgy_TS: Floats
    """Of the point source alone."""


def epochs(targets: Sequence[Target], strips: Sequence[Strip]) -> Epochs:
    """Evaluate every light curve at the moment each strip passed the object."""
    ra = np.array([target.ra_deg for target in targets])
    dec = np.array([target.dec_deg for target in targets])
    pixels = [strip.astrometry.to_pixel(ra, dec) for strip in strips]
    row_TS = np.stack([row for row, _ in pixels], axis=1)
    col_TS = np.stack([col for _, col in pixels], axis=1)
    mjd_TS = np.stack([strip.mid_exposure_mjd(row_TS[:, s]) for s, strip in enumerate(strips)], axis=1)
    bands: tuple[Band, ...] = tuple(strip.band for strip in strips)
    flux_TS = np.stack([point_flux(target, mjd_TS[t], bands) for t, target in enumerate(targets)])
    return Epochs(row_TS, col_TS, mjd_TS, flux_TS)


def write_truth(folder: Path, population: Population, strips: Sequence[Strip], seen: Epochs) -> None:
    """Write objects.parquet, epochs.parquet and stars.parquet into `folder`."""
    folder.mkdir(parents=True)
    pq.write_table(object_table(population.targets), folder / "objects.parquet")
    pq.write_table(epoch_table(population.targets, strips, seen), folder / "epochs.parquet")
    pq.write_table(_stars(population.stars), folder / "stars.parquet")


def object_table(targets: Sequence[Target]) -> pa.Table:
    """One row per object: where and what it is, its host, its light curve's parameters."""
    return pa.table(
        {
            "object_id": [str(target.cid) for target in targets],
            "class_name": [CLASS_OF_KIND.get(target.kind, "Variable") for target in targets],
            "kind": [target.kind for target in targets],
            "label": [target.label for target in targets],
            "ra_deg": [target.ra_deg for target in targets],
            "dec_deg": [target.dec_deg for target in targets],
            "host_ra_deg": [target.host_ra_deg for target in targets],
            "host_dec_deg": [target.host_dec_deg for target in targets],
            **{f"host_{band}_nmgy": [target.host_flux_nmgy[k] for target in targets] for k, band in enumerate(BANDS)},
            "host_radius_arcsec": [target.host_radius_arcsec for target in targets],
            "host_sersic": [target.host_sersic for target in targets],
            "host_axis_ratio": [target.host_axis_ratio for target in targets],
            "host_position_angle_deg": [target.host_position_angle_deg for target in targets],
            "parameters": [json.dumps(dict(target.parameters), sort_keys=True) for target in targets],
        }
    )


def epoch_table(targets: Sequence[Target], strips: Sequence[Strip], seen: Epochs) -> pa.Table:
    """One row per object and strip that the object's centre falls on."""
    n_rows = np.array([strip.n_rows for strip in strips])
    on_strip = (seen.row_TS >= 0) & (seen.row_TS < n_rows) & (seen.col_TS >= 0) & (seen.col_TS < N_COLS)
    t, s = np.nonzero(on_strip)
    seen_by = [strips[int(k)] for k in s]
    host_T5 = np.array([target.host_flux_nmgy for target in targets]).reshape(-1, 5)
    band_S = np.array([BANDS.index(strip.band) for strip in strips])
    return pa.table(
        {
            "object_id": np.array([str(target.cid) for target in targets])[t].tolist(),
            "run": pa.array([strip.run.run for strip in seen_by], pa.int32()),
            "camcol": pa.array([strip.camcol for strip in seen_by], pa.int8()),
            "band": [strip.band for strip in seen_by],
            "mjd_tai": seen.mjd_tai_TS[t, s],
            "flux_nmgy": seen.flux_nmgy_TS[t, s],
            "host_flux_nmgy": host_T5[t, band_S[s]],
        }
    )


def _stars(stars: Stars) -> pa.Table:
    fluxes = {f"flux_{band}_nmgy": stars.flux_nmgy_N5[:, k] for k, band in enumerate(BANDS)}
    return pa.table({"ra_deg": stars.ra_deg_N, "dec_deg": stars.dec_deg_N, **fluxes})
