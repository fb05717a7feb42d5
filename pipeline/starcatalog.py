"""One catalogue of the standard stars that the cells of a dataset have made, for later versions to be held against.

Standards that a cell makes rest on all its frames, so that a new night moves the zero points of the older ones by a
little. Held against a catalogue that stays, an image is what it was, whatever comes after it.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipeline.atomic import write_text
from pipeline.bands import BANDS
from pipeline.errors import DatasetError
from pipeline.manifest import Dataset, read_table
from pipeline.naming import CELLS_FOLDER
from pipeline.outputs import check_output
from pipeline.standards import Standards, flat_arcsec, merge_positions
from pipeline.starphot import Positions

Floats = NDArray[np.float64]
LEAST_ERROR_MAG: Final = 1e-4
PLACE: Final = ".7f"
MAGNITUDE: Final = ".4f"


def write_catalogue(dataset: Dataset, out: Path) -> int:
    """Write the stars of all cells as CSV with `ra`, `dec` [deg] and AB magnitudes `u` … `z`; how many there are.

    What several cells say of a star is averaged, by its errors. It is what `[calibration] reference` reads.

    Raises
    ------
    ConfigError
        `out` is inside a dataset.
    DatasetError
        No cell has made standards: the survey gives a catalogue, checks no zero points, or has no DR7 frames of
        several nights; or a file of them cannot be read, or is not the published one.
    StorageError
        There is no room, or no right, to write.
    """
    check_output(out)
    files = sorted((dataset.path / CELLS_FOLDER).glob("*.stars.parquet"))
    dataset.check_files(*(file.relative_to(dataset.path).as_posix() for file in files))
    stars = merge([_read(file) for file in files]) if files else None
    if stars is None or not len(stars.positions):
        raise DatasetError(
            f"no cell of {dataset.info.dataset_id} has made standard stars: its [calibration] reference is not "
            '"built", or it has no two nights of DR7 frames'
        )
    write_text(out, _csv(stars))
    return len(stars.positions)


def merge(found: Sequence[Standards]) -> Standards:
    """Stars of several cells, each once, with the mean of its magnitudes weighted by their errors."""
    positions = merge_positions(one.positions for one in found)
    places = cKDTree(flat_arcsec(positions.ra_deg_S, positions.dec_deg_S))
    shape = len(positions), len(BANDS)
    weight_S5, sum_S5, n_S5 = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=np.int32)
    for one in found:
        if not len(one.positions):
            continue
        _, star_N = places.query(flat_arcsec(one.positions.ra_deg_S, one.positions.dec_deg_S))
        known_N5 = np.isfinite(one.flux_nmgy_S5)
        weight_N5 = np.where(known_N5, np.maximum(one.error_mag_S5, LEAST_ERROR_MAG), np.inf) ** -2.0
        magnitude_N5 = -2.5 * np.log10(np.where(known_N5, one.flux_nmgy_S5, 1.0))
        np.add.at(weight_S5, star_N, weight_N5)
        np.add.at(sum_S5, star_N, weight_N5 * magnitude_N5)
        np.add.at(n_S5, star_N, one.n_frames_S5)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Standards(positions, 10 ** (-0.4 * sum_S5 / weight_S5), weight_S5**-0.5, n_S5)


def _read(file: Path) -> Standards:
    table = read_table(file)
    try:
        columns = {name: table[name].to_numpy() for name in table.column_names}
        by_band = {what: [columns[what.format(band)] for band in BANDS] for what in ("flux_{}", "error_{}_mag", "n_{}")}
        positions = Positions(columns["ra_deg"], columns["dec_deg"])
    except KeyError as error:
        raise DatasetError(f"{file} has no column {error}: it is no table of standard stars") from error
    flux_S5, error_S5, n_S5 = (np.column_stack(of_bands) for of_bands in by_band.values())
    return Standards(positions, flux_S5, error_S5.astype(np.float64), n_S5)


def _csv(stars: Standards) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["ra", "dec", *BANDS])
    with np.errstate(invalid="ignore"):
        magnitude_S5 = 22.5 - 2.5 * np.log10(stars.flux_nmgy_S5)
    places = zip(stars.positions.ra_deg_S, stars.positions.dec_deg_S, magnitude_S5, strict=True)
    for ra_deg, dec_deg, magnitudes in places:
        values = [format(one, MAGNITUDE) if np.isfinite(one) else "" for one in magnitudes]
        writer.writerow([format(ra_deg, PLACE), format(dec_deg, PLACE), *values])
    return text.getvalue()
