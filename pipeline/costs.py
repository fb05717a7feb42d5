"""What a plan comes to, before anything is fetched: files, gigabytes, disk and hours, per archive.

Sizes and times are means over real files, named where they stand. What is in the cache already need not
be fetched. Above a terabyte the archive's keepers want to be told first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from pipeline.bands import Band
from pipeline.errors import LargeTransfer
from pipeline.naming import Layout, calibration_path, frame_path, mask_path
from pipeline.plan import Cell, Exposure, Plan
from pipeline.sequences import COLUMNS
from pipeline.survey import ArchiveConfig, SurveyConfig

FRAME_MB: Final[Mapping[Layout, float]] = {"sas-dr8": 3.5, "das-dr7": 2.356}
"""`frame-*.fits.bz2` (five of run 94), `fpC-*.fit.gz` (ten of runs 4192 and 6377)."""
MASK_MB: Final[Mapping[Layout, float]] = {"sas-dr8": 0.122, "das-dr7": 0.295}
"""fpM of the same frames, one per band; gzipped on the SAS only."""
TABLE_MB: Final[Mapping[Layout, float]] = {"sas-dr8": 1.5, "das-dr7": 0.0288}
"""photoField (run 94 camcol 1), one per run and camcol; tsField, one per field."""
CUT_CPU_S: Final[Mapping[Layout, float]] = {"sas-dr8": 0.66, "das-dr7": 0.31}
"""To decode and cut one of these frames on one 2026 server core; one object or ten make 5 % of difference."""
VERIFY_CPU_S: Final[Mapping[Layout, float]] = {"sas-dr8": 0.7, "das-dr7": 0.03}
"""To unpack one as it arrives, where the archive's `verify` is `at-fetch`."""
TRANSFER_MB_PER_S: Final = 8.0
"""What four connections are taken to give. No rate of the real servers is published; `s82 doctor` measures one file."""
OBJECT_FILE_MB: Final = 0.0185
"""HDF5's own structures and attributes in one object's file, of the built demo and real-sample datasets."""
CELLS_AT_ONCE: Final = 2
"""One cell's frames are fetched while another's are cut."""
LARGE_TRANSFER_GB: Final = 1000.0
"""SDSS asks to be told before more is fetched (https://www.sdss3.org/dr10/data_access/bulk.php)."""
HELPDESK: Final = "helpdesk@sdss.org"

Held = Mapping[str, Collection[str]]
"""Archive name → paths below its base URL that are in the cache."""
NOTHING_HELD: Final[Held] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ArchiveCosts:
    """What is used of one archive, each file counted once."""

    objects: int
    exposures: int
    frames: int
    sidecars: int
    """fpM per frame; tsField per exposure, or photoField per run and camcol."""
    thumbnails: int
    gigabytes: float
    """Of frames and sidecars."""
    held_files: int
    held_gb: float
    """Of these, in the cache already."""

    @property
    def fetch_gb(self) -> float:
        """Still to fetch."""
        return max(self.gigabytes - self.held_gb, 0.0)


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """What the whole plan comes to. Volumes and hours are estimates from the constants of this module."""

    objects: int
    exposures: int
    """Distinct ones."""
    frames: int
    """Distinct ones, each fetched once."""
    frame_reads: int
    """Frames decoded: those that two cells share count twice."""
    thumbnails: int
    cells: int
    archives: dict[str, ArchiveCosts]
    """In the survey's order of preference."""
    fetch_gb: float
    """Over the network, from all archives: what is not in the cache."""
    cache_gb: float
    """Most that the cache will hold."""
    dataset_gb: float
    disk_gb: float
    """Free disk needed: the dataset, and the cache beyond what it holds already."""
    transfer_hours: float
    """At `TRANSFER_MB_PER_S`, while frames are cut."""
    core_hours: float
    """To check, decode and cut, on one core."""


def summarise(survey: SurveyConfig, plan: Plan, held: Held = NOTHING_HELD) -> PlanSummary:
    """Count and weigh what the cells of `plan` need."""
    bands = survey.thumbnails.bands
    archives = {archive.name: _archive_costs(archive, plan.cells, bands, held) for archive in survey.archives}
    fetch_gb = sum(costs.fetch_gb for costs in archives.values())
    cache_gb = _cache_gb(survey, plan.cells, sum(costs.gigabytes for costs in archives.values()))
    objects = sum(len(cell.targets) for cell in plan.cells)
    thumbnails = sum(costs.thumbnails for costs in archives.values())
    dataset_gb = (thumbnails * _thumbnail_bytes(survey.thumbnails.size) / 1e6 + objects * OBJECT_FILE_MB) / 1000
    return PlanSummary(
        objects=objects,
        exposures=sum(costs.exposures for costs in archives.values()),
        frames=sum(costs.frames for costs in archives.values()),
        frame_reads=sum(len(cell.visits) for cell in plan.cells) * len(bands),
        thumbnails=thumbnails,
        cells=len(plan.cells),
        archives=archives,
        fetch_gb=fetch_gb,
        cache_gb=cache_gb,
        dataset_gb=dataset_gb,
        disk_gb=dataset_gb + max(cache_gb - sum(costs.held_gb for costs in archives.values()), 0.0),
        transfer_hours=fetch_gb * 1000 / TRANSFER_MB_PER_S / 3600,
        core_hours=_core_s(survey, plan.cells, archives) / 3600,
    )


def check_transfer(summary: PlanSummary, *, allowed: bool) -> None:
    """Stop before a transfer that SDSS wants to be told of, unless the user says that this was done.

    Raises
    ------
    LargeTransfer
        More than `LARGE_TRANSFER_GB` are still to be fetched, and that is not `allowed`.
    """
    if not allowed and (advice := large_transfer_advice(summary)):
        raise LargeTransfer(advice)


def large_transfer_advice(summary: PlanSummary) -> str:
    """Whom to write to and what flag to give before this transfer; '' where it is small enough."""
    if summary.fetch_gb <= LARGE_TRANSFER_GB:
        return ""
    return (
        f"this build fetches about {summary.fetch_gb:,.0f} GB; above {LARGE_TRANSFER_GB:,.0f} GB write to {HELPDESK} "
        "first and say what you will fetch and when, then build with --large-transfer (large_transfer of the flow); "
        "or fetch less: [catalog.select] and [selection] of the survey"
    )


def _archive_costs(archive: ArchiveConfig, cells: Iterable[Cell], bands: tuple[Band, ...], held: Held) -> ArchiveCosts:
    visits = [visit for cell in cells for visit in cell.visits if visit.exposure.archive == archive.name]
    exposures = {visit.exposure for visit in visits}
    tables = _tables(exposures, archive.sas_root)
    n_frames = len(exposures) * len(bands)
    held_frames, held_masks, held_tables = _held(
        exposures, tables, bands, archive, frozenset(held.get(archive.name, ()))
    )
    return ArchiveCosts(
        objects=len({object_id for visit in visits for object_id in visit.object_ids}),
        exposures=len(exposures),
        frames=n_frames,
        sidecars=n_frames + len(tables),
        thumbnails=sum(len(visit.object_ids) for visit in visits) * len(bands),
        gigabytes=_gigabytes(archive.layout, n_frames, n_frames, len(tables)),
        held_files=held_frames + held_masks + held_tables,
        held_gb=_gigabytes(archive.layout, held_frames, held_masks, held_tables),
    )


def _gigabytes(layout: Layout, frames: int, masks: int, tables: int) -> float:
    return (frames * FRAME_MB[layout] + masks * MASK_MB[layout] + tables * TABLE_MB[layout]) / 1000


def _tables(exposures: Iterable[Exposure], sas_root: str) -> set[str]:
    """Paths of the calibration tables, which do not depend on the band."""
    return {calibration_path(exposure.frame("r"), sas_root=sas_root) for exposure in exposures}


def _held(
    exposures: set[Exposure],
    tables: set[str],
    bands: tuple[Band, ...],
    archive: ArchiveConfig,
    held: frozenset[str],
) -> tuple[int, int, int]:
    """How many of the frames, of their fpM and of the tables are in the cache."""
    if not held:
        return 0, 0, 0
    frames = [exposure.frame(band) for exposure in exposures for band in bands]
    return (
        sum(frame_path(frame, sas_root=archive.sas_root) in held for frame in frames),
        sum(mask_path(frame, sas_root=archive.sas_root) in held for frame in frames),
        len(tables & held),
    )


def _cache_gb(survey: SurveyConfig, cells: Iterable[Cell], total_gb: float) -> float:
    """Most that lies in the cache at once: it keeps to its bound but for what running cells still need."""
    if survey.cache.max_gb is None:
        return total_gb
    return min(total_gb, max(survey.cache.max_gb, CELLS_AT_ONCE * _largest_cell_gb(survey, cells)))


def _largest_cell_gb(survey: SurveyConfig, cells: Iterable[Cell]) -> float:
    n_bands = len(survey.thumbnails.bands)
    largest = 0.0
    for cell in cells:
        cell_gb = 0.0
        for archive in survey.archives:
            exposures = [visit.exposure for visit in cell.visits if visit.exposure.archive == archive.name]
            n_frames = len(exposures) * n_bands
            cell_gb += _gigabytes(archive.layout, n_frames, n_frames, len(_tables(exposures, archive.sas_root)))
        largest = max(largest, cell_gb)
    return largest


def _thumbnail_bytes(size: int) -> int:
    """Of one image with all its columns: they are stored as they are, without compression."""
    return sum(np.dtype(column.dtype).itemsize * size ** (column.ndim - 1) for column in COLUMNS.values())


def _core_s(survey: SurveyConfig, cells: Iterable[Cell], archives: Mapping[str, ArchiveCosts]) -> float:
    reads = sum(CUT_CPU_S[visit.exposure.layout] for cell in cells for visit in cell.visits)
    checks = sum(
        VERIFY_CPU_S[archive.layout] * archives[archive.name].frames
        for archive in survey.archives
        if archive.verify == "at-fetch"
    )
    return reads * len(survey.thumbnails.bands) + checks
