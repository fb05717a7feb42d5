"""What a build will do, before anything large is fetched: objects × exposures → cells; `costs` says what it comes to.

A cell is the unit of everything: the objects of one patch (camcol × RA interval) and season, with every
exposure of theirs. An object is in exactly one cell, so a cell ends with finished per-object files.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import astuple, dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.bands import Band
from pipeline.catalog import Catalog, Target
from pipeline.cuts import EPOCHS, in_own_season, judge, limit_epochs
from pipeline.exposures import ExposureIndex
from pipeline.footprint import Footprint, choose_fields, covering
from pipeline.manifest import Skip
from pipeline.naming import FrameId, Layout
from pipeline.selection import season_of
from pipeline.sequences import SCHEMA_VERSION
from pipeline.survey import Season, SurveyConfig
from pipeline.version import PIPELINE_VERSION

ALL_SEASONS: Final = "all"


@dataclass(frozen=True, slots=True, order=True)
class Exposure:
    """One (run, camcol, field) of an archive, in all bands."""

    archive: str
    layout: Layout
    run: int
    rerun: int
    camcol: int
    field: int

    def frame(self, band: Band) -> FrameId:
        """One band of it."""
        return FrameId(self.layout, self.run, self.rerun, self.camcol, self.field, band)


@dataclass(frozen=True, slots=True)
class Visit:
    """An exposure and the ids of the objects to cut from it, sorted."""

    exposure: Exposure
    object_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """The objects of one patch and season, with all their exposures."""

    cell_id: str
    season: str
    targets: tuple[Target, ...]
    visits: tuple[Visit, ...]

    def input_hash(self, survey: SurveyConfig, standards_sha256: str = "") -> str:
        """sha256 of all that decides the cell's content but the files themselves: equal hash, equal objects.

        Parameters
        ----------
        standards_sha256
            Of the survey's catalogue of standard stars, where it gives one.
        """
        content = self._how(survey, standards_sha256) | {
            "cell": self.cell_id,
            "targets": [
                [target.object_id, repr(target.ra_deg), repr(target.dec_deg), target.class_name, target.confirmation]
                for target in self.targets
            ],
            "visits": [[astuple(visit.exposure), visit.object_ids] for visit in self.visits],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def without(self, exposures: Collection[Exposure]) -> Cell:
        """The cell with the rest of its visits."""
        return replace(self, visits=tuple(visit for visit in self.visits if visit.exposure not in exposures))

    def recipe(self, survey: SurveyConfig, standards_sha256: str = "") -> str:
        """sha256 of how its images are cut: equal recipe, place and files, equal image."""
        return hashlib.sha256(json.dumps(self._how(survey, standards_sha256), sort_keys=True).encode()).hexdigest()

    def _how(self, survey: SurveyConfig, standards_sha256: str) -> dict[str, Any]:
        archives = {visit.exposure.archive for visit in self.visits}
        return {
            "software": [PIPELINE_VERSION, SCHEMA_VERSION],
            "survey": survey.cell_fingerprint(archives),
            "standards": standards_sha256,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """Cells in the order of their ids, and the objects of the catalogue that no usable exposure covers."""

    cells: tuple[Cell, ...]
    skips: tuple[Skip, ...]
    left_out: dict[str, int]
    """Exposures of the index that the selection leaves out, by the name of the first cut that applies (`cuts.judge`);
    'epochs': those that `max_epochs` leaves without an object."""


def make_plan(survey: SurveyConfig, catalog: Catalog, index: ExposureIndex) -> Plan:
    """Join objects and exposures into cells. The result does not depend on the order of rows in either.

    An object of a season (by its id) uses that season's exposures; an object of none uses those of all seasons.
    """
    selection = survey.selection
    targets = tuple(sorted(catalog.targets, key=lambda target: target.object_id))
    verdict = judge(index, selection, survey.thumbnails.bands)
    seasons = [season_of(target.object_id, selection.seasons) for target in targets]

    covered = covering(
        index,
        np.array([target.ra_deg for target in targets]),
        np.array([target.dec_deg for target in targets]),
        margin_px=selection.column_margin_px,
    )
    usable = (verdict[covered.exposure_index] == "") & in_own_season(covered, index, seasons, selection)
    candidates = choose_fields(covered.take(usable), index, tuple(archive.name for archive in survey.archives))
    chosen = limit_epochs(candidates, index, selection)
    left_out = Counter(verdict[verdict != ""].tolist())
    left_out[EPOCHS] = len(np.setdiff1d(candidates.exposure_index, chosen.exposure_index))

    skips = _explain_missing(targets, seasons, covered, chosen, verdict)
    cells = _make_cells(survey, targets, seasons, chosen, index)
    return Plan(cells, skips, dict(sorted((+left_out).items())))  # without the cuts that leave out nothing


def _explain_missing(
    targets: tuple[Target, ...],
    seasons: list[Season | None],
    covered: Footprint,
    chosen: Footprint,
    verdict: NDArray[np.str_],
) -> tuple[Skip, ...]:
    """A skip for each object without a usable exposure, saying what became of those that cover it."""
    lost = np.setdiff1d(np.arange(len(targets)), chosen.target_index)
    reasons: dict[int, Counter[str]] = defaultdict(Counter)
    of_lost = covered.take(np.isin(covered.target_index, lost))
    for target, exposure in zip(of_lost.target_index.tolist(), of_lost.exposure_index.tolist(), strict=True):
        reasons[target][str(verdict[exposure]) or "season"] += 1
    skips = []
    for target in lost.tolist():
        season = seasons[target]
        cuts = ", ".join(f"{number} by {cut}" for cut, number in sorted(reasons[target].items()))
        detail = f"every exposure that covers it is cut: {cuts}" if cuts else "no exposure of the index covers it"
        of_season = f" (season {season.name})" if season else ""
        skips.append(Skip("no-exposure", detail + of_season, targets[target].object_id))
    return tuple(skips)


def _make_cells(
    survey: SurveyConfig,
    targets: tuple[Target, ...],
    seasons: list[Season | None],
    chosen: Footprint,
    index: ExposureIndex,
) -> tuple[Cell, ...]:
    exposures = _exposures(survey, index, chosen.exposure_index)
    exposures_of: dict[int, list[Exposure]] = defaultdict(list)
    for target, exposure in zip(chosen.target_index.tolist(), chosen.exposure_index.tolist(), strict=True):
        exposures_of[target].append(exposures[exposure])

    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for target, covering_it in exposures_of.items():
        season = seasons[target]
        name = season.name if season else ALL_SEASONS
        camcols = Counter(exposure.camcol for exposure in covering_it)
        camcol = min(camcols, key=lambda camcol: (-camcols[camcol], camcol))
        width_deg = survey.cells.ra_width_deg
        start_deg = math.floor(targets[target].ra_deg / width_deg) * width_deg
        members[f"{name}-c{camcol}-ra{start_deg:07.3f}", name].append(target)

    cells = []
    for (cell_id, season_name), inside in sorted(members.items()):
        ids_of: dict[Exposure, list[str]] = defaultdict(list)
        for target in inside:
            for exposure in exposures_of[target]:
                ids_of[exposure].append(targets[target].object_id)
        visits = tuple(Visit(exposure, tuple(sorted(ids))) for exposure, ids in sorted(ids_of.items()))
        cells.append(Cell(cell_id, season_name, tuple(targets[target] for target in sorted(inside)), visits))
    return tuple(cells)


def _exposures(survey: SurveyConfig, index: ExposureIndex, wanted: NDArray[np.intp]) -> dict[int, Exposure]:
    """The exposures at `wanted`, by their place in the index."""
    layouts = {archive.name: archive.layout for archive in survey.archives}
    places = np.unique(wanted)
    part = index.take(places)
    keys = zip(*(column.tolist() for column in (part.run, part.rerun, part.camcol, part.field)), strict=True)
    return {
        place: Exposure(archive, layouts[archive], *key)
        for place, archive, key in zip(places.tolist(), part.archive.tolist(), keys, strict=True)
    }
