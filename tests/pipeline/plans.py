"""A small plan made by hand: two archives, two cells that share exposures, two bands."""

from __future__ import annotations

from typing import Any

from pipeline.catalog import Target
from pipeline.plan import Cell, Exposure, Plan, Visit
from pipeline.survey import ArchiveConfig, CatalogConfig, SurveyConfig, ThumbnailConfig, TsFieldIndex

BANDS = ("g", "r")


def survey(**changes: Any) -> SurveyConfig:
    content: dict[str, Any] = {
        "name": "test",
        "title": "test",
        "catalog": CatalogConfig(source=""),
        "archives": (
            ArchiveConfig(name="das", layout="das-dr7", base_urls=("http://das/",)),
            ArchiveConfig(name="sas", layout="sas-dr8", base_urls=("http://sas/",), verify="when-cut"),
        ),
        "index": (TsFieldIndex(kind="tsfield", archive="das", fields=()),),
        "thumbnails": ThumbnailConfig(bands=BANDS),
    }
    return SurveyConfig(**(content | changes))


def das(run: int, field: int) -> Exposure:
    return Exposure("das", "das-dr7", run, 40, 4, field)


def sas(run: int, field: int) -> Exposure:
    return Exposure("sas", "sas-dr8", run, 301, 4, field)


def cell(name: str, ids: tuple[str, ...], *exposures: Exposure) -> Cell:
    targets = tuple(Target(object_id, 10.0, 0.0, "", "", "") for object_id in ids)
    return Cell(name, "all", targets, tuple(Visit(exposure, ids) for exposure in exposures))


PLAN = Plan(
    cells=(
        cell("a", ("1", "2"), das(1, 11), das(2, 11), sas(94, 11), sas(94, 12)),
        cell("b", ("3",), das(2, 11), sas(94, 12), sas(125, 11)),
    ),
    skips=(),
    left_out={},
)
