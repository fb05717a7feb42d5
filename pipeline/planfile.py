"""A plan on disk: `plan.json` says what it comes to, `frames.parquet` lists every frame to fetch, once.

The folder is named after the dataset that the plan leads to. Both files are written atomically, the list
in pieces, and the same plan gives the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.atomic import replacing, write_text
from pipeline.build import Build
from pipeline.costs import FRAME_MB, NOTHING_HELD, Held, PlanSummary
from pipeline.errors import ConfigError, DatasetError
from pipeline.naming import FRAMES_FILE, PLAN_FILE, frame_path, plans_dir
from pipeline.plan import Cell, Exposure
from pipeline.sums import file_sha256
from pipeline.survey import SurveyConfig
from pipeline.version import software_versions

PLAN_SCHEMA: Final = pa.schema(
    [
        ("archive", pa.string()),
        ("path", pa.string()),
        ("run", pa.int32()),
        ("rerun", pa.int32()),
        ("camcol", pa.int8()),
        ("field", pa.int32()),
        ("band", pa.string()),
        ("cells", pa.list_(pa.string())),
        ("n_objects", pa.int32()),
        ("estimated_bytes", pa.int64()),
        ("held", pa.bool_()),
    ]
)
EXPOSURES_PER_PIECE: Final = 10_000
"""Rows of the list in memory at once: these times the bands."""


class PlanInfo(BaseModel):
    """Content of plan.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    build_id: str
    """Of the dataset that this plan leads to."""
    input_hash: str
    """sha256 of everything that decides its content."""
    summary: PlanSummary
    exposures_left_out: dict[str, int]
    """By the cut that rules them out."""
    objects_left_out: dict[str, int]
    """By reason, as in skips.parquet of a dataset."""
    survey: dict[str, Any]
    """The resolved survey description."""
    software: dict[str, str]
    frames_sha256: str
    """Of frames.parquet."""


@dataclass(slots=True)
class _Use:
    """Who needs an exposure."""

    cells: list[str] = field(default_factory=list)
    n_objects: int = 0


def write_plan(build: Build, folder: Path | None = None, *, held: Held = NOTHING_HELD) -> Path:
    """Write the plan of `build` below its root, or into `folder`; return the folder.

    Raises
    ------
    ConfigError
        It cannot be written.
    """
    folder = folder or plans_dir(build.root) / build.build_id
    try:
        return _write(build, folder, held)
    except OSError as error:
        raise ConfigError(f"cannot write the plan to {folder}: {error.strerror or error}; choose another") from error


def _write(build: Build, folder: Path, held: Held) -> Path:
    _write_frames(folder / FRAMES_FILE, build, held)
    info = PlanInfo(
        build_id=build.build_id,
        input_hash=build.input_hash,
        summary=build.summary,
        exposures_left_out=build.plan.left_out,
        objects_left_out=objects_left_out(build),
        survey=build.survey.model_dump(mode="json"),
        software=software_versions(),
        frames_sha256=file_sha256(folder / FRAMES_FILE),
    )
    write_text(folder / PLAN_FILE, info.model_dump_json(indent=2) + "\n")
    return folder


def read_plan(folder: Path) -> PlanInfo:
    """Read `plan.json` of a written plan.

    Raises
    ------
    DatasetError
        It is not there, or is none.
    """
    try:
        return PlanInfo.model_validate_json((folder / PLAN_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise DatasetError(f"{folder} has no plan that can be read: run `s82 plan` again ({error})") from error


def objects_left_out(build: Build) -> dict[str, int]:
    """Objects of the list that will not be in the dataset, counted by reason."""
    return dict(sorted(Counter(skip.reason for skip in (*build.catalog.skips, *build.plan.skips)).items()))


def _write_frames(path: Path, build: Build, held: Held) -> None:
    rows = _rows(build.survey, _uses(build.plan.cells), held)
    n_rows = EXPOSURES_PER_PIECE * len(build.survey.thumbnails.bands)
    with replacing(path) as temporary, pq.ParquetWriter(temporary, PLAN_SCHEMA, compression="zstd") as writer:
        while piece := list(islice(rows, n_rows)):
            writer.write_table(pa.Table.from_pylist(piece, schema=PLAN_SCHEMA))


def _uses(cells: tuple[Cell, ...]) -> dict[Exposure, _Use]:
    uses: dict[Exposure, _Use] = {}
    for cell in cells:
        for visit in cell.visits:
            use = uses.setdefault(visit.exposure, _Use())
            use.cells.append(cell.cell_id)
            use.n_objects += len(visit.object_ids)
    return uses


def _rows(survey: SurveyConfig, uses: Mapping[Exposure, _Use], held: Held) -> Iterator[dict[str, Any]]:
    """One row per frame, in the order of archive, run, rerun, camcol, field and band."""
    sas_roots = {archive.name: archive.sas_root for archive in survey.archives}
    in_cache = {archive.name: frozenset(held.get(archive.name, ())) for archive in survey.archives}
    for exposure in sorted(uses):
        use = uses[exposure]
        for band in survey.thumbnails.bands:
            path = frame_path(exposure.frame(band), sas_root=sas_roots[exposure.archive])
            yield {
                "archive": exposure.archive,
                "path": path,
                "run": exposure.run,
                "rerun": exposure.rerun,
                "camcol": exposure.camcol,
                "field": exposure.field,
                "band": band,
                "cells": use.cells,
                "n_objects": use.n_objects,
                "estimated_bytes": round(FRAME_MB[exposure.layout] * 1e6),
                "held": path in in_cache[exposure.archive],
            }
