"""Every file and directory name, in one place: SDSS's own names, and ours.

Sources: frame-* and photoField data models (https://data.sdss.org/datamodel/), DR7 DAS layout
(https://classic.sdss.org/dr7/dm/flatFiles/).
"""

from __future__ import annotations

import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, cast

from pipeline.bands import BANDS, Band
from pipeline.errors import ConfigError, FrameError

Layout = Literal["sas-dr8", "das-dr7"]
"""The two forms SDSS imaging comes in: `frame-*.fits.bz2` (DR8+) and `fpC-*.fit.gz` (DR7)."""

_VERSION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,127}")
_OBJECT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")
N_SHARDS = 100
CACHE_VARIABLE: Final = "S82_CACHE"
"""Environment variable: the folder of this machine's downloads."""


@dataclass(frozen=True, slots=True, order=True)
class FrameId:
    """One band of one exposure: what a frame file's name says it is."""

    layout: Layout
    run: int
    rerun: int
    camcol: int
    field: int
    band: Band

    def __str__(self) -> str:
        return f"{self.run}/{self.rerun}/{self.camcol}/{self.field}/{self.band}"


def frame_file(frame: FrameId) -> str:
    """Name of the image file, as the archive spells it."""
    if frame.layout == "sas-dr8":
        return f"frame-{frame.band}-{frame.run:06d}-{frame.camcol}-{frame.field:04d}.fits.bz2"
    return f"fpC-{frame.run:06d}-{frame.band}{frame.camcol}-{frame.field:04d}.fit.gz"


def parse_frame_file(name: str, *, rerun: int) -> FrameId:
    """Read a frame's identity from its file name; the rerun is in the folder, not in the name.

    Raises
    ------
    FrameError
        The name is neither a DR8+ `frame-*` nor a DR7 `fpC-*` name.
    """
    said = parse_archive_name(name)
    if said and said.field is not None and said.band:
        if said.kind == "frame":
            return FrameId("sas-dr8", said.run, rerun, said.camcol, said.field, said.band)
        if said.kind == "fpC":
            return FrameId("das-dr7", said.run, rerun, said.camcol, said.field, said.band)
    raise FrameError(
        f"{name!r} is not an SDSS frame name: expected frame-<band>-<run>-<camcol>-<field>.fits.bz2 "
        "or fpC-<run>-<band><camcol>-<field>.fit.gz"
    )


Kind = Literal["frame", "fpC", "fpM", "psField", "tsField", "photoField"]
_ARCHIVE_NAMES: Final = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?P<kind>frame)-(?P<band>[ugriz])-(?P<run>\d{6})-(?P<camcol>[1-6])-(?P<field>\d{4})\.fits\.bz2",
        r"(?P<kind>fpC)-(?P<run>\d{6})-(?P<band>[ugriz])(?P<camcol>[1-6])-(?P<field>\d{4})\.fit\.gz",
        r"(?P<kind>fpM)-(?P<run>\d{6})-(?P<band>[ugriz])(?P<camcol>[1-6])-(?P<field>\d{4})\.fit(\.gz)?",
        r"(?P<kind>psField)-(?P<run>\d{6})-(?P<camcol>[1-6])-(?P<field>\d{4})\.fit",
        r"(?P<kind>tsField)-(?P<run>\d{6})-(?P<camcol>[1-6])-(?P<rerun>\d{1,4})-(?P<field>\d{4})\.fit",
        r"(?P<kind>photoField)-(?P<run>\d{6})-(?P<camcol>[1-6])\.fits",
    )
)


@dataclass(frozen=True, slots=True)
class ArchiveName:
    """What the name of an archive's file says; None where such a name says nothing."""

    kind: Kind
    run: int
    camcol: int
    rerun: int | None = None
    field: int | None = None
    band: Band | None = None


def parse_archive_name(name: str) -> ArchiveName | None:
    """Read the name of an image, mask or table file; None if it is of no known form."""
    match = next((match for pattern in _ARCHIVE_NAMES if (match := pattern.fullmatch(name))), None)
    if match is None:
        return None
    said = match.groupdict()
    band = said.get("band")
    numbers = {key: int(said[key]) for key in ("run", "camcol", "rerun", "field") if said.get(key)}
    return ArchiveName(kind=cast(Kind, said["kind"]), band=_band(band) if band else None, **numbers)


def _band(letter: str) -> Band:
    return next(band for band in BANDS if band == letter)


def frame_path(frame: FrameId, *, sas_root: str = "sas/dr17/eboss") -> str:
    """Path of the image file below the archive's base URL."""
    if frame.layout == "sas-dr8":
        return f"{sas_root}/photoObj/frames/{frame.rerun}/{frame.run}/{frame.camcol}/{frame_file(frame)}"
    return f"imaging/{frame.run}/{frame.rerun}/corr/{frame.camcol}/{frame_file(frame)}"


def mask_path(frame: FrameId, *, sas_root: str = "sas/dr17/eboss") -> str:
    """Path of the frame's fpM mask planes below the archive's base URL."""
    name = f"fpM-{frame.run:06d}-{frame.band}{frame.camcol}-{frame.field:04d}.fit"
    if frame.layout == "sas-dr8":
        return f"{sas_root}/photo/redux/{frame.rerun}/{frame.run}/objcs/{frame.camcol}/{name}.gz"
    return f"imaging/{frame.run}/{frame.rerun}/objcs/{frame.camcol}/{name}"


def photofield_path(run: int, rerun: int, camcol: int, *, sas_root: str = "sas/dr17/eboss") -> str:
    """Path of the DR8+ field table of one run and camcol."""
    return f"{sas_root}/photoObj/{rerun}/{run}/photoField-{run:06d}-{camcol}.fits"


def tsfield_path(run: int, rerun: int, camcol: int, field: int) -> str:
    """Path of the DR7 calibration table of one field."""
    name = f"tsField-{run:06d}-{camcol}-{rerun}-{field:04d}.fit"
    return f"imaging/{run}/{rerun}/calibChunks/{camcol}/{name}"


def calibration_path(frame: FrameId, *, sas_root: str = "sas/dr17/eboss") -> str:
    """Path of the table that calibrates `frame`: photoField (DR8+) or tsField (DR7)."""
    if frame.layout == "sas-dr8":
        return photofield_path(frame.run, frame.rerun, frame.camcol, sas_root=sas_root)
    return tsfield_path(frame.run, frame.rerun, frame.camcol, frame.field)


DAS_FOLDER = "das"
"""The DR7 server's tree inside an archive tree that holds both; its own paths begin at imaging/."""
MASTER_TABLE = "sas/dr10/boss/papers/supernova/sdsssn_master.dat2"
SKYSERVER_FIELDS = "stripe82/Field.csv"
CAS_FIELDS = "cas/Field.csv"
"""SkyServer has no such files: what a served archive tree answers SQL from, for DR7's Stripe 82 and for DR8+."""


def cas_page(data_release: int) -> str:
    """Path of the SQL page of DR8 and later below a SkyServer (as astroquery 0.4.11 has it)."""
    page = {8: "x_sql.asp", 9: "x_sql.asp", 10: "x_sql.aspx"}.get(data_release, "x_results.aspx")
    return f"/dr{data_release}/en/tools/search/{page}"


TRUTH_FOLDER = "truth"
"""Beside a simulated archive: what was put into it."""
SIMULATION_FILE = "truth/archive.json"


def check_object_id(object_id: str) -> str:
    """Return `object_id` if it can be a file name that stays in its folder.

    Raises
    ------
    ConfigError
        It holds anything but letters, digits, `_ . + -`, starts with a sign or dot, or is over 64 long.
    """
    if not _OBJECT_ID.fullmatch(object_id):
        raise ConfigError(
            f"object id {object_id!r} cannot be a file name: use 1-64 letters, digits, '_', '.', '+', '-', "
            "starting with a letter or digit"
        )
    return object_id


def sequence_path(object_id: str) -> str:
    """Path of an object's HDF5 file inside its dataset, sharded so that no folder grows past 1 % of the objects."""
    check_object_id(object_id)
    number = int(object_id) if object_id.isdecimal() else zlib.crc32(object_id.encode())
    return f"{OBJECTS_FOLDER}/{number % N_SHARDS:02d}/{object_id}.h5"


OBJECTS_FOLDER = "objects"
LATEST_FILE = "latest"
MANIFEST_FILE = "manifest.parquet"
SKIPS_FILE = "skips.parquet"
FRAMES_FILE = "frames.parquet"
DATASET_FILE = "dataset.json"
PLAN_FILE = "plan.json"
CARD_FILE = "README.md"
SUMS_FILE = "SHA256SUMS"
CHANGES_FILE = "changes.json"
CROISSANT_FILE = "croissant.json"
PACKAGES_FILE = "environment.txt"
CELLS_FOLDER = "cells"
LOCKS_FOLDER = ".locks"
LEDGER_FILE = "ledger.sqlite"


def datasets_dir(root: Path) -> Path:
    """Directory of all surveys' datasets."""
    return root / "datasets"


def survey_dir(root: Path, survey: str) -> Path:
    """Directory of all versions of a survey's dataset."""
    return datasets_dir(root) / survey


def building_dir(root: Path, survey: str, build: str) -> Path:
    """Directory that a dataset version grows in until it is published by one rename."""
    return survey_dir(root, survey) / f".building-{build}"


def check_version(name: str) -> str:
    """Return `name` if it can be that of a dataset version, and so stays in its survey's folder.

    Raises
    ------
    ConfigError
        It cannot.
    """
    if not _VERSION_NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is not the name of a dataset version")
    return name


def plans_dir(root: Path) -> Path:
    """Directory of written plans, one folder per build."""
    return root / "plans"


def cache_dir(root: Path) -> Path:
    """Directory of files fetched from archives, laid out as the servers lay them out.

    It belongs to one machine. Where several share `root`, each names a folder of its own in S82_CACHE.
    """
    own = os.environ.get(CACHE_VARIABLE)
    return Path(own) if own else root / "cache"


def index_path(root: Path, survey: str, fingerprint: str) -> Path:
    """File of a survey's exposure index; another `[[index]]` gives another fingerprint."""
    return root / "index" / f"{survey}-{fingerprint[:12]}.parquet"


def reports_dir(root: Path) -> Path:
    """Directory of HTML pages about datasets and runs."""
    return root / "reports"


def report_dir(root: Path, name: str) -> Path:
    """Folder of the pages about a dataset, by its id, or about a run, by its name."""
    return reports_dir(root) / name


def logs_dir(root: Path) -> Path:
    """Directory of structured logs, a file per day."""
    return root / "logs"


def root_of_dataset(version: Path) -> Path:
    """The root below which a dataset version was published."""
    return version.resolve().parents[2]


RUN_CONFIG_FILE = "config.json"


def runs_dir(root: Path) -> Path:
    """Directory of all training runs."""
    return root / "runs"


def run_dir(root: Path, run: str) -> Path:
    """Directory of one training run: resolved configuration, metrics, weights, evaluation."""
    return runs_dir(root) / run


PACK_FILE = "pack.json"
PACK_OBJECTS_FILE = "objects.parquet"
PACKS_FOLDER = "packs"


def pack_dir(dataset: Path, dtype: str) -> Path:
    """Directory of a dataset version's pack where nobody chose another: beside the versions, which stay as they are."""
    dataset = dataset.resolve()
    return dataset.parent / PACKS_FOLDER / f"{dataset.name}-{dtype}"
