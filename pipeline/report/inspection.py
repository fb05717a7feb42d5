"""What is read of a dataset for all its pages, once: the tables, and what stands out of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np
import pyarrow as pa

from pipeline.errors import ReportError
from pipeline.manifest import Dataset, ObjectRow
from pipeline.naming import FRAMES_FILE, MANIFEST_FILE, check_object_id
from pipeline.report.framelist import web_address
from pipeline.report.measure import LightCurve
from pipeline.report.outliers import Outlier, Ranking, rank_frames, rank_objects
from pipeline.report.residuals import measured_columns
from pipeline.report.timeaxis import LATEST_MJD, calendar_date

SHA_DIGITS: Final = 12
"""Of a sha256, as the pages show it: none in a survey begins like another."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """A dataset, its tables, and the rows that stand out."""

    dataset: Dataset
    manifest: pa.Table
    frames: pa.Table
    worst_objects: Ranking
    worst_frames: Ranking

    def stands_out(self, object_id: str) -> Outlier | None:
        """Why the object is among the worst, if it is."""
        rows = self.dataset.objects
        return next((found for found in self.worst_objects.worst if rows[found.row].object_id == object_id), None)


def inspect(dataset: Dataset, curves: Sequence[LightCurve] = ()) -> Inspection:
    """Read the tables and rank their rows, objects also by the light curves that were measured.

    Raises
    ------
    DatasetError
        A table cannot be read.
    """
    manifest, frames = dataset.table(MANIFEST_FILE), dataset.table(FRAMES_FILE)
    measured = measured_columns(curves, dataset.objects) if curves else {}
    return Inspection(dataset, manifest, frames, rank_objects(manifest, measured), rank_frames(frames))


def find_object(dataset: Dataset, object_id: str) -> ObjectRow:
    """The object's row.

    Raises
    ------
    ConfigError
        The id cannot be one.
    ReportError
        The dataset does not hold it.
    """
    check_object_id(object_id)
    for row in dataset.objects:
        if row.object_id == object_id:
            return row
    raise ReportError(
        f"{dataset.path} has no object {object_id}: manifest.parquet lists those that it has, "
        "skips.parquet why others were left out"
    )


def even_sample(n_objects: int, count: int, seed: int) -> list[int]:
    """Places of `count` objects (all, where there are fewer): one out of each of equal parts, drawn by `seed`."""
    count = min(count, n_objects)
    edges = np.arange(count + 1) * n_objects // max(count, 1)
    return [int(place) for place in np.random.default_rng(seed).integers(edges[:-1], edges[1:])]


@dataclass(frozen=True, slots=True)
class WorstFrame:
    """A line of the table of worst frames."""

    frame: str
    band: str
    date: date | None
    sha256: str
    file: str
    url: str
    """Where it was fetched; empty where no browser may go there."""
    object_id: str
    """Of an object that was cut from it; empty where the table does not name one."""
    found: Outlier


def worst_frames(inspection: Inspection) -> Iterator[WorstFrame]:
    """The frames to look at first."""
    object_ids = {row.object_id for row in inspection.dataset.objects}
    for found in inspection.worst_frames.worst:
        row = inspection.frames.slice(found.row, 1).to_pylist()[0]
        yield WorstFrame(
            frame="/".join(str(row[key]) for key in ("run", "camcol", "field")),
            band=str(row["band"]),
            date=calendar_date(row["mjd_tai"]) if 0 < (row["mjd_tai"] or 0) < LATEST_MJD else None,
            sha256=str(row["sha256"])[:SHA_DIGITS],
            file=str(row["path"]).rpartition("/")[2],
            url=web_address(row.get("url")),
            object_id=row["first_object"] if row.get("first_object") in object_ids else "",
            found=found,
        )


def worst_objects(inspection: Inspection) -> list[tuple[ObjectRow, Outlier]]:
    """The objects to look at first."""
    return [(inspection.dataset.objects[found.row], found) for found in inspection.worst_objects.worst]
