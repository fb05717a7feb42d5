"""Writing the light-curve table of a dataset: `pipeline.forced` on every object, object by object."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.atomic import make_parent, replacing
from pipeline.bands import BANDS
from pipeline.export import PARQUET
from pipeline.forced import forced_photometry
from pipeline.lightcurves import LIGHT_CURVE_SCHEMA
from pipeline.manifest import Dataset
from pipeline.outputs import check_output
from pipeline.photometry import MATCHED_FWHM_ARCSEC, RADIUS_ARCSEC
from pipeline.sequences import Sequence

ROWS_PER_GROUP: Final = 100_000
"""5 MB in memory; what a reader of one object looks through."""


def light_curve(sequence: Sequence, *, subtract_background: bool = False) -> pa.Table:
    """One object's rows of the table."""
    measured = forced_photometry(sequence, subtract_background=subtract_background)
    fluxes = {
        "aperture_flux_nmgy": measured.aperture_flux_M,
        "aperture_error_nmgy": measured.aperture_error_M,
        "psf_flux_nmgy": measured.psf_flux_M,
        "psf_error_nmgy": measured.psf_error_M,
        "psf_left": measured.psf_left_M,
        "matched_flux_nmgy": measured.matched_flux_M,
        "matched_error_nmgy": measured.matched_error_M,
    }
    same = ("mjd_tai", "run", "camcol", "field", "psf_fwhm_arcsec", "zp_offset_mag", "zp_error_mag", "zp_flags")
    columns = {
        "object_id": [sequence.object_id] * len(sequence),
        "band": [BANDS[band_id - 1] for band_id in sequence.band_id.tolist()],
        "flags": measured.flags_M,
        **{name: getattr(sequence, name) for name in same},
        **{name: values_M.astype(np.float32) for name, values_M in fluxes.items()},
    }
    return pa.table(columns, schema=LIGHT_CURVE_SCHEMA)


def write_light_curves(dataset: Dataset, out: Path, *, subtract_background: bool = False) -> int:
    """Measure every object and write the table, sorted by object and time, whole or not at all; gives its rows.

    Raises
    ------
    ConfigError
        `out` is inside a dataset, or below a file.
    SequenceError, DatasetError
        An object's file is damaged, or another's.
    StorageError
        There is no room, or no right, to write.
    """
    check_output(out)
    make_parent(out)
    notes = {
        "dataset_id": dataset.info.dataset_id,
        "content_hash": dataset.info.content_hash,
        "aperture_radius_arcsec": str(RADIUS_ARCSEC),
        "matched_fwhm_arcsec": str(MATCHED_FWHM_ARCSEC),
        "background": "annulus" if subtract_background else "none",
    }
    schema = LIGHT_CURVE_SCHEMA.with_metadata(notes)
    n_rows = 0
    with replacing(out) as temporary, pq.ParquetWriter(temporary, schema, **PARQUET) as writer:
        for rows in _row_groups(dataset, subtract_background=subtract_background):
            writer.write_table(rows.replace_schema_metadata(notes), row_group_size=rows.num_rows)
            n_rows += rows.num_rows
    return n_rows


def _row_groups(dataset: Dataset, *, subtract_background: bool) -> Iterator[pa.Table]:
    """Whole objects, as many as fill a row group."""
    waiting: list[pa.Table] = []
    for row in sorted(dataset.objects, key=lambda row: row.object_id):
        waiting.append(light_curve(dataset.sequence(row), subtract_background=subtract_background))
        if sum(rows.num_rows for rows in waiting) >= ROWS_PER_GROUP:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)
