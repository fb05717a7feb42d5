"""What a cell that is done says of itself: its done-marker, by which builds know what need not be done again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.archive import Archive
from pipeline.errors import ConfigError
from pipeline.manifest import VANISHED
from pipeline.naming import CELLS_FOLDER, sequence_path
from pipeline.plan import Cell
from pipeline.sources import came_since, changed_sources, frame_of, sources_of
from pipeline.sums import file_sha256
from pipeline.survey import SurveyConfig


class CellResult(BaseModel):
    """What a cell wrote; also the content of its done-marker."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    cell_id: str
    input_hash: str
    recipe: str = ""
    """How its images were cut (`Cell.recipe`); '' where older software built it."""
    objects: tuple[dict[str, Any], ...]
    """Rows of the manifest, without the fold."""
    frames: tuple[dict[str, Any], ...]
    skips: tuple[dict[str, str], ...]
    standards_sha256: str | None = None
    """Of the cell's standard stars, where it has made any."""
    moments: dict[str, dict[str, tuple[float, float, float]]]
    """Per object and band: number of covered pixels, their sum [nMgy] and sum of squares."""


def read_marker(dataset: Path, cell_id: str) -> CellResult | None:
    """The content of a cell's done-marker; None where there is none that can be read, or that speaks of other files."""
    try:
        result = CellResult.model_validate_json(marker_file(dataset, cell_id).read_bytes())
        in_place = all(row["file"] == sequence_path(row["object_id"]) for row in result.objects)
    except (OSError, ValidationError, ConfigError, KeyError, TypeError):
        return None
    return result if result.cell_id == cell_id and in_place else None


def cell_files(result: CellResult) -> dict[str, str | None]:
    """Paths of a finished cell's files in its dataset, with their sha256 where the marker says it."""
    files: dict[str, str | None] = {row["file"]: row["sha256"] for row in result.objects}
    if result.standards_sha256:
        files[f"{CELLS_FOLDER}/{result.cell_id}.stars.parquet"] = result.standards_sha256
    return files | {f"{CELLS_FOLDER}/{result.cell_id}.json": None}


def claims_done(dataset: Path, cell_id: str, input_hash: str) -> bool:
    """Whether there is a done-marker of these inputs; a build believes it only if its files are still the same."""
    marker = read_marker(dataset, cell_id)
    return marker is not None and marker.input_hash == input_hash


def why_not_done(
    result: CellResult | None, cell: Cell, standards_sha256: str, survey: SurveyConfig, archive: Archive
) -> str | None:
    """Why what a done-marker says is not what a cell would give now; None: it is. Its files are not looked at.

    Raises
    ------
    ArchiveError
        A server did not answer when it was asked for what it lacked before.
    """
    if result is None:
        return "new"
    if result.input_hash != cell.input_hash(survey, standards_sha256):
        return "objects, exposures or configuration changed"
    # What an archive has lost stays as it was, whatever has become of its other files; `came_since` asks for it.
    vanished = {skip["frame"] for skip in result.skips if skip["reason"] == VANISHED}
    there = [row for row in result.frames if not vanished or str(frame_of(row, survey)) not in vanished]
    if changed := changed_sources(sources_of(there, survey), archive):
        return f"{min(changed).path} changed upstream"
    if frame := came_since(result.skips, cell, survey, archive):
        return f"frame {frame} was missing and is there now"
    return None


def marker_file(dataset: Path, cell_id: str) -> Path:
    """Where a cell's done-marker is."""
    return dataset / CELLS_FOLDER / f"{cell_id}.json"


def standards_file(dataset: Path, cell_id: str) -> Path:
    """Where the standard stars that a cell has made are."""
    return dataset / CELLS_FOLDER / f"{cell_id}.stars.parquet"


def files_are_whole(dataset: Path, result: CellResult) -> bool:
    """Whether every file that a marker lists is still what it was."""
    for name, sha256 in cell_files(result).items():
        file = dataset / name
        if not file.is_file() or (sha256 is not None and file_sha256(file) != sha256):
            return False
    return True
