"""What a plan comes to, before anything is fetched: files, gigabytes, disk and hours, per archive.

Sizes and times are means over real files, named where they stand. What is in the cache already need not
be fetched. Above a terabyte the archive's keepers want to be told first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np

from pipeline.bands import Band
from pipeline.errors import LargeTransfer
from pipeline.ledger import Rate
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
CUT_CPU_S: Final[Mapping[Layout, float]] = {"sas-dr8": 0.46, "das-dr7": 0.11}
"""To decode and cut one of these frames with five objects on one 2026 server core (`benchmarks/cutting.py`); stars of
an fpC measured and, on 3 % of them, sought. Decoding a DR8+ frame in part takes less, a third with one object, which
is not counted on."""
VERIFY_CPU_S: Final[Mapping[Layout, float]] = {"sas-dr8": 0.7, "das-dr7": 0.03}
"""To unpack one as it arrives, where the archive's `verify` is `at-fetch`."""
TRANSFER_MB_PER_S: Final = 8.0
"""What four connections are taken to give before anything was fetched: no rate of the real servers is published.
After that, what they gave counts."""
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
class Known:
    """What earlier runs have left: it need not be fetched or cut again, and says how fast the servers are."""

    held: Held = field(default_factory=dict)
    done_cells: Collection[str] = frozenset()
    """Ids of the cells that are built."""
    kept: Mapping[str, Collection[Exposure]] = field(default_factory=dict)
    """Of other cells, exposures that need not be read again, as an earlier build has their images."""
    rates: Mapping[str, Rate] = field(default_factory=dict)
    """Per archive and connection, of what was fetched so far."""


NOTHING_KNOWN: Final = Known()


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
    fetch_gb: float
    """Still to fetch: for images that are not cut, and not in the cache."""
    mb_per_s: float
    """Of all connections together."""
    measured_files: int
    """On how many downloads `mb_per_s` was measured; 0: it is `TRANSFER_MB_PER_S`, an assumption."""
    transfer_hours: float
    """For `fetch_gb`."""


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
    cells_done: int
    """Built by an earlier run. What is still to be fetched, cut and stored is about the others."""
    archives: dict[str, ArchiveCosts]
    """In the survey's order of preference."""
    fetch_gb: float
    """Over the network, from all archives: what is not in the cache."""
    cache_gb: float
    """Most that the cache will hold."""
    dataset_gb: float
    disk_gb: float
    """Free disk needed: what is missing of the dataset, and the cache beyond what it holds already."""
    transfer_hours: float
    """Of all archives, one after the other, while frames are cut."""
    core_hours: float
    """To check, decode and cut, on one core."""


def summarise(survey: SurveyConfig, plan: Plan, known: Known = NOTHING_KNOWN) -> PlanSummary:
    """Count and weigh what the cells of `plan` need."""
    bands = survey.thumbnails.bands
    to_do = tuple(cell for cell in plan.cells if cell.cell_id not in known.done_cells)
    to_read = tuple(cell.without(known.kept.get(cell.cell_id, ())) for cell in to_do)
    archives = {archive.name: _archive_costs(archive, plan.cells, to_read, bands, known) for archive in survey.archives}
    cache_gb = _cache_gb(survey, to_read, sum(costs.gigabytes for costs in archives.values()))
    size = survey.thumbnails.size
    return PlanSummary(
        objects=sum(len(cell.targets) for cell in plan.cells),
        exposures=sum(costs.exposures for costs in archives.values()),
        frames=sum(costs.frames for costs in archives.values()),
        frame_reads=sum(len(cell.visits) for cell in plan.cells) * len(bands),
        thumbnails=sum(costs.thumbnails for costs in archives.values()),
        cells=len(plan.cells),
        cells_done=len(plan.cells) - len(to_do),
        archives=archives,
        fetch_gb=sum(costs.fetch_gb for costs in archives.values()),
        cache_gb=cache_gb,
        dataset_gb=_dataset_gb(plan.cells, len(bands), size),
        disk_gb=_dataset_gb(to_do, len(bands), size)
        + max(cache_gb - sum(costs.held_gb for costs in archives.values()), 0.0),
        transfer_hours=sum(costs.transfer_hours for costs in archives.values()),
        core_hours=_core_s(survey, to_read) / 3600,
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


def _archive_costs(
    archive: ArchiveConfig, cells: Iterable[Cell], to_read: Iterable[Cell], bands: tuple[Band, ...], known: Known
) -> ArchiveCosts:
    visits = [visit for cell in cells for visit in cell.visits if visit.exposure.archive == archive.name]
    exposures = _exposures(archive, cells)
    missing = _exposures(archive, to_read)
    held = frozenset(known.held.get(archive.name, ()))
    everything, there = _files(archive, exposures, len(bands)), _held(archive, exposures, bands, held)
    wanted, there_of_wanted = everything, there
    if missing != exposures:
        wanted, there_of_wanted = _files(archive, missing, len(bands)), _held(archive, missing, bands, held)
    fetch_gb = _gigabytes(archive.layout, wanted) - _gigabytes(archive.layout, there_of_wanted)
    rate = known.rates.get(archive.name)
    mb_per_s = rate.mb_per_s * archive.max_connections if rate else TRANSFER_MB_PER_S
    return ArchiveCosts(
        objects=len({object_id for visit in visits for object_id in visit.object_ids}),
        exposures=len(exposures),
        frames=everything.frames,
        sidecars=everything.masks + everything.tables,
        thumbnails=sum(len(visit.object_ids) for visit in visits) * len(bands),
        gigabytes=_gigabytes(archive.layout, everything),
        held_files=there.frames + there.masks + there.tables,
        held_gb=_gigabytes(archive.layout, there),
        fetch_gb=max(fetch_gb, 0.0),
        mb_per_s=mb_per_s,
        measured_files=rate.n_files if rate else 0,
        transfer_hours=max(fetch_gb, 0.0) * 1000 / mb_per_s / 3600,
    )


@dataclass(frozen=True, slots=True)
class _Files:
    """How many there are of each kind."""

    frames: int = 0
    masks: int = 0
    tables: int = 0


def _exposures(archive: ArchiveConfig, cells: Iterable[Cell]) -> set[Exposure]:
    return {visit.exposure for cell in cells for visit in cell.visits if visit.exposure.archive == archive.name}


def _files(archive: ArchiveConfig, exposures: Collection[Exposure], n_bands: int) -> _Files:
    n_frames = len(exposures) * n_bands
    return _Files(n_frames, n_frames, len(_tables(exposures, archive.sas_root)))


def _dataset_gb(cells: Iterable[Cell], n_bands: int, size: int) -> float:
    thumbnails = n_objects = 0
    for cell in cells:
        n_objects += len(cell.targets)
        thumbnails += sum(len(visit.object_ids) for visit in cell.visits) * n_bands
    return (thumbnails * _thumbnail_bytes(size) / 1e6 + n_objects * OBJECT_FILE_MB) / 1000


def _gigabytes(layout: Layout, files: _Files) -> float:
    megabytes = files.frames * FRAME_MB[layout] + files.masks * MASK_MB[layout] + files.tables * TABLE_MB[layout]
    return megabytes / 1000


def _tables(exposures: Iterable[Exposure], sas_root: str) -> set[str]:
    """Paths of the calibration tables, which do not depend on the band."""
    return {calibration_path(exposure.frame("r"), sas_root=sas_root) for exposure in exposures}


def _held(
    archive: ArchiveConfig, exposures: Collection[Exposure], bands: tuple[Band, ...], held: frozenset[str]
) -> _Files:
    """How many of the frames, of their fpM and of the tables are in the cache."""
    if not held:
        return _Files()
    frames = [exposure.frame(band) for exposure in exposures for band in bands]
    return _Files(
        frames=sum(frame_path(frame, sas_root=archive.sas_root) in held for frame in frames),
        masks=sum(mask_path(frame, sas_root=archive.sas_root) in held for frame in frames),
        tables=len(_tables(exposures, archive.sas_root) & held),
    )


def _cache_gb(survey: SurveyConfig, cells: Iterable[Cell], total_gb: float) -> float:
    """Most that lies in the cache at once: it keeps to its bound but for what running cells still need."""
    if survey.cache.max_gb is None:
        return total_gb
    return min(total_gb, max(survey.cache.max_gb, CELLS_AT_ONCE * _largest_cell_gb(survey, cells)))


def _largest_cell_gb(survey: SurveyConfig, cells: Iterable[Cell]) -> float:
    n_bands = len(survey.thumbnails.bands)
    return max(
        (
            sum(
                _gigabytes(archive.layout, _files(archive, _exposures(archive, [cell]), n_bands))
                for archive in survey.archives
            )
            for cell in cells
        ),
        default=0.0,
    )


def _thumbnail_bytes(size: int) -> int:
    """Of one image with all its columns: they are stored as they are, without compression."""
    return sum(np.dtype(column.dtype).itemsize * size ** (column.ndim - 1) for column in COLUMNS.values())


def _core_s(survey: SurveyConfig, cells: Collection[Cell]) -> float:
    """To decode and cut every frame of `cells` as often as it is read, and to check it once."""
    reads = sum(CUT_CPU_S[visit.exposure.layout] for cell in cells for visit in cell.visits)
    checks = sum(
        VERIFY_CPU_S[archive.layout] * len(_exposures(archive, cells))
        for archive in survey.archives
        if archive.verify == "at-fetch"
    )
    return (reads + checks) * len(survey.thumbnails.bands)
