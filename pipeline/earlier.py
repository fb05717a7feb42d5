"""A cell as an earlier build left it: frame by frame what was made of it, read from the objects' files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from pipeline.bands import BAND_ID
from pipeline.cellrecord import CellResult
from pipeline.errors import SequenceError
from pipeline.finished import FinishedFrame, summary_of
from pipeline.manifest import Skip
from pipeline.plan import Cell, Visit
from pipeline.sequences import COLUMNS, open_known
from pipeline.sources import BAD_ZEROPOINT, LOW_COVERAGE

Row = dict[str, Any]
FrameKey = tuple[int, ...]
"""run, rerun, camcol, field, band id."""
_EXPOSURE: Final = ("run", "rerun", "camcol", "field")


@dataclass(frozen=True)
class EarlierCell:
    """What a cell's done-marker and files in the directory `dataset` hold."""

    marker: CellResult
    dataset: Path

    def in_place(self, cell: Cell) -> frozenset[str]:
        """Objects of `cell` that were in it, at the very same place."""
        rows = self._rows
        return frozenset(
            one.object_id
            for one in cell.targets
            if (row := rows.get(one.object_id)) and (row["ra_deg"], row["dec_deg"]) == (one.ra_deg, one.dec_deg)
        )

    def frame(self, row: Row, visit: Visit) -> FinishedFrame | None:
        """What was made of one frame of a visit, for all its objects.

        None where the file of an object is not as the marker says, or lacks an image and nothing says why.

        Parameters
        ----------
        row
            Of the marker's frames.
        """
        name = str(visit.exposure.frame(row["band"]))
        if (dropped := self._why_not.get((name, ""))) is not None:
            return FinishedFrame(row | summary_of({}), {}, (dropped,))
        key = (*(row[one] for one in _EXPOSURE), BAND_ID[row["band"]])
        records, skips = {}, []
        for object_id in visit.object_ids:
            if (image := self._images(object_id).get(key)) is not None:
                records[object_id] = image
            elif (skip := self._why_not.get((name, object_id))) is not None:
                skips.append(skip)
            else:
                return None
        return FinishedFrame(row | summary_of(records), records, tuple(skips))

    @cached_property
    def _rows(self) -> dict[str, Row]:
        return {row["object_id"]: row for row in self.marker.objects}

    @cached_property
    def _why_not(self) -> dict[tuple[str, str], Skip]:
        """By frame and object; the latter is '' where all of a frame was dropped."""
        return {
            (skip["frame"], skip["object_id"]): Skip(**skip)
            for skip in self.marker.skips
            if skip["reason"] in (LOW_COVERAGE, BAD_ZEROPOINT)
        }

    @cached_property
    def _read(self) -> dict[str, dict[FrameKey, Row]]:
        return {}

    def _images(self, object_id: str) -> dict[FrameKey, Row]:
        if object_id not in self._read:
            row = self._rows.get(object_id)
            self._read[object_id] = _images(self.dataset / row["file"], row["sha256"]) if row else {}
        return self._read[object_id]


def _images(file: Path, sha256: str) -> dict[FrameKey, Row]:
    """Of a file that is still what it was."""
    try:
        sequence = open_known(file, sha256)
    except SequenceError:
        return {}
    keys = zip(*(getattr(sequence, name).tolist() for name in (*_EXPOSURE, "band_id")), strict=True)
    return {key: {name: getattr(sequence, name)[m] for name in COLUMNS} for m, key in enumerate(keys)}
