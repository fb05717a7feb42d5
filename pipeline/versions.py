"""The versions of one survey's dataset: which there are, in which order they came, which is the latest.

`datasets/<survey>/` holds the versions, the text file `latest`, and `history/<version>.json`, a record of how each
version came to be. The records carry numbers: the order of versions does not rest on a clock. They outlive their
versions, so that a number is never given twice.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout
from pydantic import AwareDatetime, BaseModel, ConfigDict, NonNegativeFloat, PositiveInt, ValidationError

from pipeline.atomic import make_folder, storing, sync_dir, write_text
from pipeline.errors import ConfigError, DatasetError, NewerSchema
from pipeline.manifest import DatasetInfo, read_info
from pipeline.naming import (
    DATASET_FILE,
    LATEST_FILE,
    OBJECTS_FOLDER,
    PACKS_FOLDER,
    SUMS_FILE,
    building_dir,
    check_version,
)
from pipeline.sums import read_sums
from pipeline.validation import explain

LOG: Final = logging.getLogger(__name__)
HISTORY_FOLDER: Final = "history"
DELETING: Final = ".deleting-"
LOCK_FILE: Final = ".lock"
"""Held while versions are made visible or removed."""
BUILD_LOCK_FILE: Final = ".build.lock"
"""Held while a build runs."""
LOCK_WAIT_S: Final = 600
DAY_S: Final = 86400.0


class Record(BaseModel):
    """How one version came to be; content of history/<version>.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    number: PositiveInt
    """1 for the survey's first version, and so on."""
    parent: str | None
    """The version that was the latest when this one was published."""
    published_at: AwareDatetime
    seconds: dict[str, NonNegativeFloat]
    """Wall time per step."""
    plans: tuple[str, ...] = ()
    """Input hashes of the builds that gave this version: another plan may come to the same."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version that is here."""

    name: str
    path: Path
    record: Record | None
    """None where nothing is known of it: it was copied here."""
    info: DatasetInfo | None
    problem: str
    """What of it is gone; empty when every file is there (`verify` reads them, too)."""
    newer: bool
    """Whether only newer software can tell."""
    latest: bool


@contextmanager
def only_one(survey_folder: Path) -> Iterator[None]:
    """Inside, no other process publishes, points or deletes versions of the survey.

    Raises
    ------
    DatasetError
        Another process has been at it for ten minutes.
    """
    with storing(survey_folder):
        make_folder(survey_folder)
        lock = FileLock(survey_folder / LOCK_FILE)
        try:
            lock.acquire(timeout=LOCK_WAIT_S)
        except Timeout as error:
            raise DatasetError(
                f"another process has been changing {survey_folder} for over ten minutes; wait for it or stop it"
            ) from error
    try:
        for pattern in (f".{LATEST_FILE}.*.part", f"{HISTORY_FOLDER}/.*.json.*.part"):
            for leftover in survey_folder.glob(pattern):  # of a process that was killed: nobody else writes these now
                leftover.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def versions(survey_folder: Path) -> list[Version]:
    """All versions of a survey in the order in which they were published, those of unknown date first.

    Raises
    ------
    DatasetError
        There is no such folder, or a record of its history is damaged.
    """
    _check_is_survey(survey_folder)
    latest = latest_version(survey_folder)
    found = [_version(path, latest) for path in _version_folders(survey_folder)]
    return sorted(found, key=lambda version: (version.record.number if version.record else 0, version.name))


def _check_is_survey(folder: Path) -> None:
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not there: no dataset of that survey was built below this root")


def _version_folders(survey_folder: Path) -> Iterator[Path]:
    for path in survey_folder.iterdir():
        if path.is_dir() and not path.name.startswith(".") and path.name not in (HISTORY_FOLDER, PACKS_FOLDER):
            yield path


def _version(path: Path, latest: str | None) -> Version:
    info, problem, newer = None, "", False
    try:
        info = read_info(path)
        if info.schema_version > 2 and (lost := [name for name in read_sums(path) if not (path / name).is_file()]):
            problem = f"{len(lost)} files are missing, first {lost[0]}"
    except DatasetError as error:
        problem, newer = str(error), isinstance(error, NewerSchema)
    return Version(path.name, path, read_record(path), info, problem, newer, latest == path.name)


def read_record(version_folder: Path) -> Record | None:
    """The record of a version, None where there is none.

    Raises
    ------
    DatasetError
        It is damaged.
    """
    version_folder = version_folder.absolute()  # `.` has no name
    path = _record_path(version_folder.parent, version_folder.name)
    try:
        record = Record.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        raise DatasetError(f"{path} is damaged: {explain(error, Record)}; move it away") from error
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}") from error
    if record.version != version_folder.name:
        raise DatasetError(f"{path} is the record of another version, {record.version}: move it away")
    return record


def _record_path(survey_folder: Path, version: str) -> Path:
    return survey_folder / HISTORY_FOLDER / f"{version}.json"


def _records(survey_folder: Path) -> list[Record]:
    names = sorted(path.stem for path in (survey_folder / HISTORY_FOLDER).glob("*.json"))
    return [record for name in names if (record := read_record(survey_folder / name)) is not None]


def gone(survey_folder: Path) -> list[str]:
    """Names of the versions that were published once and are not here any more, in order.

    Raises
    ------
    DatasetError
        A record of the history is damaged.
    """
    records = sorted(_records(survey_folder), key=lambda record: record.number)
    return [record.version for record in records if not (survey_folder / record.version).exists()]


def write_record(
    survey_folder: Path, version: str, parent: str | None, seconds: Mapping[str, float], plan: str = ""
) -> Record:
    """Give a version that is about to be published its number. To be called inside `only_one`."""
    records = _records(survey_folder)
    now = datetime.now(UTC)
    newest = max(records, key=lambda record: record.number, default=None)
    if newest is not None and newest.published_at > now:
        LOG.warning(
            "the clock of this machine says %s, but version %s was published at %s: is it wrong? Versions are ordered "
            "by their numbers, not by this clock", now, newest.version, newest.published_at,
        )  # fmt: skip
    number = 1 + (newest.number if newest else 0)
    record = Record(
        version=version, number=number, parent=parent, published_at=now, seconds=dict(seconds), plans=(plan,)
    )
    _write(survey_folder, record)
    return record


def note_plan(survey_folder: Path, version: str, plan: str) -> None:
    """Take note that this plan, too, gave the version. To be called inside `only_one`."""
    record = read_record(survey_folder / version)
    if record is not None and plan not in record.plans:
        _write(survey_folder, record.model_copy(update={"plans": (*record.plans, plan)}))


def _write(survey_folder: Path, record: Record) -> None:
    text = json.dumps(record.model_dump(mode="json"), indent=2) + "\n"
    write_text(_record_path(survey_folder, record.version), text)


def newest(found: Sequence[Version]) -> Version | None:
    """Of versions in order, the one to go on from: the latest, or, where that was moved away, the last that is left.

    A folder that is nothing of ours, such as a disk's `lost+found`, is none.
    """
    ours = [version for version in found if is_a_version(version.path)]
    return next((version for version in ours if version.latest), ours[-1] if ours else None)


def latest_version(survey_folder: Path) -> str | None:
    """The version that `latest` names, None where it names none.

    Raises
    ------
    DatasetError
        It names what cannot be a version.
    """
    try:
        with (survey_folder / LATEST_FILE).open("rb") as pointer:
            return check_version(pointer.read(256).decode("ascii").strip())
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        raise DatasetError(
            f"{survey_folder / LATEST_FILE} does not name a dataset version: {error}; remove it, and build or refresh: "
            "what is published is not built again"
        ) from error


def point_latest(survey_folder: Path, version: str) -> None:
    """Make `latest` name this version."""
    write_text(survey_folder / LATEST_FILE, check_version(version) + "\n")


@dataclass(frozen=True, slots=True)
class Collected:
    """What a garbage collection did, or would do."""

    removed: tuple[str, ...]
    builds_removed: tuple[str, ...]
    kept: tuple[str, ...]
    freed_bytes: int
    """Of files that no other version has."""


def collect(
    survey_folder: Path,
    keep: int,
    *,
    protected: Collection[str] = (),
    damaged: bool = False,
    unfinished: float | None = None,
    dry_run: bool = False,
) -> Collected:
    """Remove the versions before the newest `keep`, their packs, and what an earlier removal left.

    The latest, the protected, and those without a record (copied here by somebody) stay. A version disappears by one
    rename before its files go, so that nobody ever opens one that is half deleted.

    Parameters
    ----------
    damaged
        Remove damaged and half deleted versions, too.
    unfinished
        Remove what builds have left in which nothing was done for so many days, unless one runs now. None: leave it.

    Raises
    ------
    ConfigError
        `keep` is less than 1.
    DatasetError
        There is no such folder.
    """
    if keep < 1:
        raise ConfigError(f"--keep {keep}: at least the newest version stays")
    _check_is_survey(survey_folder)
    with only_one(survey_folder), ExitStack() as held:
        found = versions(survey_folder)
        dated = [version for version in found if version.record and not version.newer]
        going = {version.name for version in [one for one in dated if not one.problem][:-keep]}
        going |= {version.name for version in dated if damaged and version.problem}
        going -= {*protected, *(version.name for version in found if version.latest)}
        leaving = [version for version in found if version.name in going and is_a_version(version.path)]
        builds = list(_builds(survey_folder, unfinished, held)) if unfinished is not None else []
        packs = list(_packs_without(survey_folder, {version.name for version in found} - going))
        hidden = [*survey_folder.glob(f"{DELETING}*"), *(survey_folder / PACKS_FOLDER).glob(f"{DELETING}*")]
        folders = [*builds, *(version.path for version in leaving), *packs, *hidden]
        freed = _freed_bytes(folders)
        for folder in () if dry_run else folders:
            with storing(folder):
                _remove(hide(folder))
    removed = tuple(version.name for version in leaving)
    kept = tuple(version.name for version in found if version.name not in removed)
    return Collected(removed, tuple(path.name for path in builds), kept, freed)


def _builds(survey_folder: Path, unfinished: float, held: ExitStack) -> Iterator[Path]:
    """Folders of builds in which nothing was done for so many days; none, if one runs. None starts while `held` is."""
    lock = FileLock(survey_folder / BUILD_LOCK_FILE)
    try:
        held.enter_context(lock.acquire(timeout=0))
    except Timeout:
        return
    oldest = time.time() - unfinished * DAY_S
    for path in survey_folder.glob(building_dir(survey_folder, "", "*").name):
        if path.is_dir() and max(one.lstat().st_mtime for one in (path, *path.glob("*"))) <= oldest:
            yield path


def _packs_without(survey_folder: Path, staying: Collection[str]) -> Iterator[Path]:
    """Packs of versions that go or are gone, and what packing them has left when it was killed.

    One that is being packed now is told by its lock, which packing holds.
    """
    folder = survey_folder / PACKS_FOLDER
    for path in sorted(folder.glob("*")):
        name = path.name.removeprefix(".")
        for suffix in (".packing", ".journal", ".lock"):
            name = name.removesuffix(suffix)
        if not path.name.startswith(DELETING) and name.rpartition("-")[0] not in staying and _is_idle(folder, name):
            yield path


def _is_idle(packs: Path, name: str) -> bool:
    """Whether nobody makes the pack of that name now."""
    if not (lock := packs / f".{name}.lock").exists():
        return True
    try:
        with FileLock(lock).acquire(timeout=0):
            return True
    except Timeout:
        return False


def is_a_version(path: Path) -> bool:
    """Whether the folder is, or was, one of ours: a stranger's is not for us to delete."""
    return any((path / name).exists() for name in (DATASET_FILE, SUMS_FILE, OBJECTS_FOLDER))


def hide(path: Path) -> Path:
    """Give a folder, file or link a name beside it that nobody opens and that the next `collect` removes."""
    if path.name.startswith(DELETING):
        return path
    hidden = path.with_name(f"{DELETING}{path.name}-{time.time_ns()}")
    path.rename(hidden)
    sync_dir(path.parent)
    return hidden


def _remove(path: Path) -> None:
    """A folder with all in it; of a link, which somebody made to have a version elsewhere, the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _freed_bytes(folders: Iterable[Path]) -> int:
    """Bytes of the files all links of which are in these folders."""
    links: Counter[tuple[int, int]] = Counter()
    stats = {}
    for folder in folders:
        for where, _, files in os.walk(folder):
            for name in files:
                stat = os.lstat(Path(where) / name)
                links[stat.st_dev, stat.st_ino] += 1
                stats[stat.st_dev, stat.st_ino] = stat
    return sum(stat.st_size for key, stat in stats.items() if links[key] == stat.st_nlink)
