"""One frame with all that a cell takes of it: images of the objects, its row in frames.parquet, what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.cutting import FrameCut
from pipeline.manifest import Skip
from pipeline.sources import BAD_ZEROPOINT, LOW_COVERAGE
from pipeline.survey import SurveyConfig
from pipeline.zeropoints import ZeropointCheck, ZeropointFlag, apply_check


@dataclass(frozen=True, slots=True)
class FinishedFrame:
    """What a frame gives once its zero point is judged."""

    row: dict[str, Any]
    """In frames.parquet."""
    records: dict[str, dict[str, Any]]
    """Images by object, with the keys of `sequences.COLUMNS`."""
    skips: tuple[Skip, ...]


def finish(cut: FrameCut, check: ZeropointCheck, survey: SurveyConfig) -> FinishedFrame:
    """Correct, flag or drop a frame by its standard stars, and keep the thumbnails that are covered well enough."""
    row, name = cut.row | check.columns(), str(cut.frame)
    if check.flags & ZeropointFlag.BEYOND_LIMIT and survey.calibration.beyond_limit == "drop":
        detail = f"off by {check.offset_mag:.3f} mag, its {check.stars} stars scatter by {check.scatter_mag:.3f}"
        return FinishedFrame(row | summary_of({}), {}, (Skip(BAD_ZEROPOINT, detail, frame=name),))
    records, skips = {}, []
    for object_id, record in cut.records.items():
        if record["coverage"] < survey.selection.min_coverage:
            detail = f"{record['coverage']:.2f} of the thumbnail on the frame"
            skips.append(Skip(LOW_COVERAGE, detail, object_id=object_id, frame=name))
        else:
            records[object_id] = apply_check(record, check)
    return FinishedFrame(row | summary_of(records), records, tuple(skips))


def summary_of(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What frames.parquet says of the images from one frame, by object."""
    return {
        "n_thumbnails": len(records),
        "n_partly_covered": sum(bool(image["coverage"] < 1) for image in records.values()),
        "first_object": min(records, default=""),
    }
