"""Objects that are called something else now: their files get the new labels, and no frame is read for it.

A list of objects is revised as a whole, and a cell that were cut again for one new label would want all its frames,
which may be gone from the cache. What is written is, to the byte, what cutting would have given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.atomic import write_text
from pipeline.catalog import Target
from pipeline.cellrecord import CellResult, marker_file
from pipeline.plan import Cell
from pipeline.sequences import open_known, write_sequence


def as_labelled_in(marker: CellResult, cell: Cell) -> Cell:
    """The cell with the labels that its objects had when it was built; the cell itself, if they have them still."""
    rows = {row["object_id"]: row for row in marker.objects}
    targets = tuple(_as_in(rows.get(target.object_id), target) for target in cell.targets)
    return cell if targets == cell.targets else replace(cell, targets=targets)


def _as_in(row: Mapping[str, Any] | None, target: Target) -> Target:
    """An object without an image has no row, and no file in which a label could be."""
    if row is None or _labels(row) == (target.class_name, target.confirmation):
        return target
    class_name, confirmation = _labels(row)
    return replace(target, class_name=class_name, confirmation=confirmation)


def _labels(row: Mapping[str, Any]) -> tuple[str, str]:
    return str(row.get("class_name")), str(row.get("confirmation"))


def relabel_cell(marker: CellResult, cell: Cell, input_hash: str, old: Path, new: Path) -> None:
    """Write into the dataset `new` the files of the objects that have other labels now, and the cell's done-marker.

    The cell's other files have to be there: the marker speaks of them.

    Parameters
    ----------
    marker
        Of the cell in the dataset `old`.
    input_hash
        Of the cell as it is now.

    Raises
    ------
    SequenceError
        A file of `old` is damaged.
    StorageError
        There is no room, or no right, to write.
    """
    targets = {target.object_id: target for target in cell.targets}
    rows = tuple(_relabel(row, targets[row["object_id"]], old, new) for row in marker.objects)
    result = marker.model_copy(update={"input_hash": input_hash, "objects": rows})
    write_text(marker_file(new, cell.cell_id), result.model_dump_json() + "\n")


def _relabel(row: dict[str, Any], target: Target, old: Path, new: Path) -> dict[str, Any]:
    if _labels(row) == (target.class_name, target.confirmation):
        return row
    sequence = open_known(old / row["file"], row["sha256"])
    sequence = replace(sequence, class_name=target.class_name, confirmation=target.confirmation)
    sha256 = write_sequence(new / row["file"], sequence)
    return row | {"class_name": target.class_name, "confirmation": target.confirmation, "sha256": sha256}
