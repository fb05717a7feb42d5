"""What a cell that was built before has of what it is to be now: images that need not be fetched and cut again.

An image depends on its frame's files, its object's place and how it is cut, and on no other image. So when a night
comes, or an object goes, the rest of a cell is taken from its earlier files; what comes of it is, to the byte, what
cutting everything would give. Not so where a cell makes its own standard stars: these rest on all its frames. What an
archive has lost since is taken from there in any case.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from pipeline.archive import Archive
from pipeline.bands import BANDS
from pipeline.earlier import EarlierCell, Row
from pipeline.finished import FinishedFrame
from pipeline.manifest import NO_MASK, VANISHED, Skip
from pipeline.plan import Cell, Exposure
from pipeline.sources import BAD_PAYLOAD, NOT_IN_ARCHIVE, changed_sources, sources_of
from pipeline.survey import SurveyConfig

Kept = Mapping[Exposure, tuple[FinishedFrame, ...]]
Keepable = Mapping[Exposure, tuple[Row, ...]]
"""Exposures and their rows in frames.parquet."""
_LOST: Final = (NOT_IN_ARCHIVE, BAD_PAYLOAD, NO_MASK)
"""Reasons of skips of what an archive does not have; a corrupt file it has."""


def keepable(earlier: EarlierCell, cell: Cell, recipe: str, survey: SurveyConfig, archive: Archive) -> Keepable:
    """Exposures of a cell whose images an earlier build of it should have, by what its done-marker says.

    Parameters
    ----------
    recipe
        Of the cell, as it is to be built.
    """
    if earlier.marker.recipe != recipe or _makes_standards(cell, survey):
        return {}
    in_place, bands = earlier.in_place(cell), survey.thumbnails.bands
    unmasked = {skip["frame"] for skip in earlier.marker.skips if skip["reason"] == NO_MASK}
    changed = changed_sources(sources_of(earlier.marker.frames, survey), archive)
    rows_of: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in earlier.marker.frames:
        if changed.isdisjoint(sources_of([row], survey)):
            rows_of[_exposure_key(row)].append(row)
    found = {}
    for visit in cell.visits:
        one = visit.exposure
        rows = rows_of[one.archive, one.run, one.rerun, one.camcol, one.field]
        masked = unmasked.isdisjoint(str(one.frame(band)) for band in bands)
        if masked and len(rows) == len(bands) and in_place.issuperset(visit.object_ids):
            found[one] = tuple(rows)
    return found


def _makes_standards(cell: Cell, survey: SurveyConfig) -> bool:
    return survey.calibration.reference == "built" and any(visit.exposure.layout == "das-dr7" for visit in cell.visits)


def _exposure_key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("archive", "run", "rerun", "camcol", "field"))


def read_kept(earlier: EarlierCell, cell: Cell, exposures: Keepable) -> Kept:
    """Read what can be kept; exposures that are not there as they should be are left out: they are to be cut."""
    kept = {}
    for visit in cell.visits:
        whole = [earlier.frame(row, visit) for row in exposures.get(visit.exposure, ())]
        if whole and None not in whole:
            kept[visit.exposure] = tuple(frame for frame in whole if frame is not None)
    return kept


def stand_ins(
    earlier: EarlierCell, cell: Cell, recipe: str, lost: Iterable[Skip], cut: Mapping[str, Row]
) -> dict[str, FinishedFrame]:
    """Frames that were cut when their archive still had them, or their masks: by name, as they were then.

    Parameters
    ----------
    recipe
        Of the cell, as it is to be built.
    lost
        Skips of frames that could not be had, or only without a mask.
    cut
        Rows of the frames that were cut now, by name.
    """
    if earlier.marker.recipe != recipe:
        return {}
    why = {skip.frame: skip for skip in lost if skip.reason in _LOST}
    rows = {(*_exposure_key(row), row["band"]): row for row in earlier.marker.frames}
    in_place, found = earlier.in_place(cell), {}
    for visit in cell.visits:
        if not in_place.issuperset(visit.object_ids):
            continue
        one = visit.exposure
        for band in BANDS:
            name = str(one.frame(band))
            row = rows.get((one.archive, one.run, one.rerun, one.camcol, one.field, band))
            if name not in why or row is None or not _serves(row, why[name], cut.get(name)):
                continue
            if (frame := earlier.frame(row, visit)) is not None:
                note = Skip(VANISHED, f"as it was cut before: {why[name].detail}", frame=name)
                found[name] = replace(frame, skips=(*frame.skips, note))
    return found


def _serves(row: Row, skip: Skip, now: Row | None) -> bool:
    """Whether a frame was better off then: it was there, or the very same with a mask."""
    if skip.reason != NO_MASK:
        return True
    same = now is not None and all(row[name] == now[name] for name in ("sha256", "calibration_sha256"))
    return same and bool(row["mask_sha256"])
