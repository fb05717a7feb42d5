"""Build the tiny survey with plain functions: fast, and without Prefect between the fault and its effect."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.archive import Archive, Patience
from pipeline.build import exclusive, prepare
from pipeline.cellrecord import CellResult
from pipeline.cells import CellProgress, build_cell
from pipeline.manifest import Dataset, open_dataset
from pipeline.naming import cache_dir
from pipeline.publish import adopt, publish
from pipeline.recheck import recheck_sources
from pipeline.reuse import hold_against_versions, take_over
from pipeline.simulate.server import ArchiveServer
from pipeline.survey import CacheConfig, SurveyConfig, load_survey

IMPATIENT = Patience(attempts=3, timeout_s=5, wait_initial_s=0.01, wait_max_s=0.05)


def build(
    url: str,
    root: Path,
    progress: Callable[[CellProgress], None] | None = None,
    *,
    cell_width_deg: float = 1.0,
    cache: CacheConfig | None = None,
    changes: dict[str, Any] | None = None,
) -> Dataset:
    """Everything `build-dataset` does, in order, in threads; one cell unless told otherwise."""
    return bring_up_to_date(survey_at(url, cell_width_deg, changes), root, progress, cache=cache)


def refresh(
    url: str,
    root: Path,
    progress: Callable[[CellProgress], None] | None = None,
    *,
    recheck: bool = False,
    max_removed: float = 0.05,
    changes: dict[str, Any] | None = None,
    cell_width_deg: float = 0.06,
) -> Dataset:
    """Everything `refresh-dataset` does; small cells."""
    survey = survey_at(url, cell_width_deg, changes)
    return bring_up_to_date(survey, root, progress, again=True, recheck=recheck, max_removed=max_removed)


def survey_at(url: str, cell_width_deg: float, changes: dict[str, Any] | None) -> SurveyConfig:
    survey = load_survey("tiny").with_root(url)
    archives = tuple(archive.model_copy(update={"attempts": 3}) for archive in survey.archives)
    cells = survey.cells.model_copy(update={"ra_width_deg": cell_width_deg})
    return survey.model_copy(update={"archives": archives, "cells": cells, **(changes or {})})


def bring_up_to_date(
    survey: SurveyConfig,
    root: Path,
    progress: Callable[[CellProgress], None] | None,
    *,
    cache: CacheConfig | None = None,
    again: bool = False,
    recheck: bool = False,
    max_removed: float = 1.0,
) -> Dataset:
    with (
        Archive(survey.archives, cache_dir(root), IMPATIENT, limits=cache, retry_missing=again) as archive,
        ThreadPoolExecutor(2) as executor,
    ):
        plan = prepare(survey, root, archive, refresh_index=again)
        if recheck:
            recheck_sources(open_dataset(plan.versions), survey, archive)
        with exclusive(plan):
            outlook = hold_against_versions(plan, archive)
            if outlook.parent is not None and outlook.nothing_to_do:
                adopt(plan, outlook.parent, max_removed=max_removed)
                return outlook.parent
            take_over(plan, outlook)
            results = [
                build_cell(cell, survey, archive, executor, plan.building, workers=2, progress=progress)
                for cell in plan.plan.cells
            ]
            return publish(plan, results, {}, parent=outlook.parent, max_removed=max_removed)


def build_cells_without_lock(url: str, root: Path, cut: Callable[[str], None]) -> list[CellResult]:
    """All cells, as one of several workers would; `cut` is told the cells that this one has built."""
    survey = survey_at(url, 0.06, None)
    begun: set[str] = set()

    def note(progress: CellProgress) -> None:
        if progress.frames_done < progress.frames_total and progress.cell_id not in begun:
            begun.add(progress.cell_id)
            cut(progress.cell_id)

    with Archive(survey.archives, cache_dir(root), IMPATIENT) as archive, ThreadPoolExecutor(2) as executor:
        plan = prepare(survey, root, archive)
        return [
            build_cell(cell, survey, archive, executor, plan.building, workers=2, progress=note)
            for cell in plan.plan.cells
        ]


@pytest.fixture(scope="session")
def clean(tiny_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The dataset of an archive that behaves."""
    with ArchiveServer(tiny_archive) as server:
        return build(server.url, tmp_path_factory.mktemp("clean"))


@pytest.fixture
def spoilt(tiny_archive: Path, tmp_path: Path) -> Path:
    """A copy of the archive to do damage to."""
    copy = tmp_path / "archive"
    shutil.copytree(tiny_archive, copy)
    return copy
