"""What a cell that was built before has of what it is to be now: images that need not be fetched and cut again.

An image depends on its frame's files, its object's place and how it is cut, and on no other image. So when a night
comes, or an object goes, the rest of a cell is taken from its earlier files; what comes of it is, to the byte, what
cutting everything would give. Not so where a cell makes its own standard stars: these rest on all its frames.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.archive import Archive
from pipeline.bands import BAND_ID
from pipeline.cellrecord import CellResult
from pipeline.errors import SequenceError
from pipeline.finished import FinishedFrame, summary_of
from pipeline.manifest import Skip, file_sha256
from pipeline.plan import Cell, Exposure, Visit
from pipeline.sequences import COLUMNS, Sequence, open_sequence
from pipeline.sources import BAD_ZEROPOINT, LOW_COVERAGE, NO_MASK, changed_sources, sources_of
from pipeline.survey import SurveyConfig

Row = dict[str, Any]
FrameKey = tuple[int, ...]
"""run, rerun, camcol, field, band id."""
EXPOSURE_KEYS: Final = ("archive", "run", "rerun", "camcol", "field")


Kept = Mapping[Exposure, tuple[FinishedFrame, ...]]
Keepable = Mapping[Exposure, tuple[Row, ...]]
"""Exposures and their rows in frames.parquet."""


def keepable(
    marker: CellResult | None, cell: Cell, standards_sha256: str, survey: SurveyConfig, archive: Archive
) -> Keepable:
    """Exposures of a cell whose images an earlier build of it should have, by what its done-marker says.

    Parameters
    ----------
    standards_sha256
        Of the survey's catalogue of standard stars, where it gives one.
    """
    if marker is None or marker.recipe != cell.recipe(survey, standards_sha256) or _makes_standards(cell, survey):
        return {}
    at = {row["object_id"]: (row["ra_deg"], row["dec_deg"]) for row in marker.objects}
    in_place = {one.object_id for one in cell.targets if at.get(one.object_id) == (one.ra_deg, one.dec_deg)}
    unmasked = {skip["frame"] for skip in marker.skips if skip["reason"] == NO_MASK}
    changed = changed_sources(sources_of(marker.frames, survey), archive)
    rows_of: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in marker.frames:
        if changed.isdisjoint(sources_of([row], survey)):
            rows_of[tuple(row[key] for key in EXPOSURE_KEYS)].append(row)
    found = {}
    for visit in cell.visits:
        one, bands = visit.exposure, survey.thumbnails.bands
        rows = rows_of[one.archive, one.run, one.rerun, one.camcol, one.field]
        names = {str(one.frame(band)) for band in bands}
        if len(rows) == len(bands) and unmasked.isdisjoint(names) and in_place.issuperset(visit.object_ids):
            found[one] = tuple(rows)
    return found


def _makes_standards(cell: Cell, survey: SurveyConfig) -> bool:
    return survey.calibration.reference == "built" and any(visit.exposure.layout == "das-dr7" for visit in cell.visits)


def read_kept(marker: CellResult | None, cell: Cell, frames: Keepable, dataset: Path) -> Kept:
    """Read what can be kept from the cell's files in the directory `dataset`.

    Exposures whose objects' files are not as the marker says, or lack an image, are left out: they are to be cut.
    """
    if marker is None:
        return {}
    visits = [visit for visit in cell.visits if visit.exposure in frames]
    wanted = {object_id for visit in visits for object_id in visit.object_ids}
    images = {
        row["object_id"]: _images(sequence)
        for row in marker.objects
        if row["object_id"] in wanted and (sequence := _read(dataset / row["file"], row["sha256"])) is not None
    }
    why_not = {
        (skip["frame"], skip["object_id"]): Skip(**skip)
        for skip in marker.skips
        if skip["reason"] in (LOW_COVERAGE, BAD_ZEROPOINT)
    }
    kept = {}
    for visit in visits:
        whole = [_frame(row, visit, images, why_not) for row in frames[visit.exposure]]
        if None not in whole:
            kept[visit.exposure] = tuple(frame for frame in whole if frame is not None)
    return kept


def _read(file: Path, sha256: str) -> Sequence | None:
    try:
        return open_sequence(file) if file_sha256(file) == sha256 else None
    except (SequenceError, OSError):
        return None


def _images(sequence: Sequence) -> dict[FrameKey, Row]:
    keys = zip(*(getattr(sequence, name).tolist() for name in (*EXPOSURE_KEYS[1:], "band_id")), strict=True)
    return {key: {name: getattr(sequence, name)[m] for name in COLUMNS} for m, key in enumerate(keys)}


def _frame(
    row: Row, visit: Visit, images: Mapping[str, Mapping[FrameKey, Row]], why_not: Mapping[tuple[str, str], Skip]
) -> FinishedFrame | None:
    """One frame of an exposure; None where an image is not there and nothing says why."""
    name = str(visit.exposure.frame(row["band"]))
    if (dropped := why_not.get((name, ""))) is not None:
        return FinishedFrame(row | summary_of({}), {}, (dropped,))
    key = (*(row[key] for key in EXPOSURE_KEYS[1:]), BAND_ID[row["band"]])
    records, skips = {}, []
    for object_id in visit.object_ids:
        if (image := images.get(object_id, {}).get(key)) is not None:
            records[object_id] = image
        elif (skip := why_not.get((name, object_id))) is not None:
            skips.append(skip)
        else:
            return None
    return FinishedFrame(row | summary_of(records), records, tuple(skips))
