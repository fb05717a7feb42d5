"""What a build need not do, because a version that is published holds it: found out, and taken over by hard links.

Where objects of a cell have other labels now, and nothing else is new, their files are written with these.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.archive import Archive
from pipeline.atomic import make_folder, replacing, storing, sync_dir
from pipeline.build import Build
from pipeline.cellrecord import CellResult, cell_files, claims_done, marker_file, read_marker, why_not_done
from pipeline.errors import DatasetError, NewerSchema, SequenceError
from pipeline.manifest import Dataset, open_dataset
from pipeline.naming import DATASET_FILE, FRAMES_FILE, MANIFEST_FILE, SKIPS_FILE
from pipeline.plan import Cell
from pipeline.relabel import as_labelled_in, relabel_cell
from pipeline.sums import check_listed, file_sha256, read_sums
from pipeline.versions import Version, newest, versions

LOG: Final = logging.getLogger(__name__)
LINK_PART: Final = ".link.part"


@dataclass(frozen=True, slots=True)
class Outlook:
    """A build, held against a version that is there."""

    parent: Dataset | None
    """None: there is none."""
    to_build: dict[str, str]
    """Cells that have to be built, and why."""
    to_relabel: frozenset[str]
    """Cells of which nothing but labels of objects has changed."""
    same_plan: bool
    """Whether the parent was built after this very plan."""

    @property
    def nothing_to_do(self) -> bool:
        """Whether the parent is what the build would give."""
        return self.same_plan and not self.to_build and not self.to_relabel


def hold_against_versions(build: Build, archive: Archive) -> Outlook:
    """Find which cells of the build the latest version does not have as they would be now.

    An older version that is all that the build would give is preferred; where the latest was moved away, the newest
    that is left stands in for it. Files are compared by what the ledger knows of them; nothing is fetched but what a
    cell lacked before, where `archive` retries that.

    Raises
    ------
    DatasetError
        The version is damaged.
    ArchiveError
        A server did not answer.
    """
    found = versions(build.versions) if build.versions.is_dir() else []
    last = newest(found)
    for version in [*(one for one in found[::-1] if _is_of(build, one)), last]:
        if version is not None and (version is last or not version.problem):
            outlook = _hold_against(version, build, archive)
            if outlook.nothing_to_do or version is last:
                return outlook
    return Outlook(None, {cell.cell_id: "new" for cell in build.plan.cells}, frozenset(), same_plan=False)


def _hold_against(version: Version, build: Build, archive: Archive) -> Outlook:
    if version.newer:
        raise NewerSchema(version.problem)
    if version.problem:
        raise DatasetError(
            f"{version.path} is published but damaged: {version.problem}; look with `s82 dataset verify`, and move it "
            "away to build without it"
        )
    sums = _sums_of_tables(version)
    to_build, to_relabel = {}, set()
    for cell in build.plan.cells:
        marker = _believable_marker(version.path, cell.cell_id, sums)
        as_it_was = as_labelled_in(marker, cell) if marker else cell
        if why := why_not_done(marker, as_it_was, build.standards_sha256, build.survey, archive):
            to_build[cell.cell_id] = why
        elif as_it_was is not cell:
            to_relabel.add(cell.cell_id)
    return Outlook(open_dataset(version.path), to_build, frozenset(to_relabel), same_plan=_is_of(build, version))


def _sums_of_tables(version: Version) -> Mapping[str, str]:
    """The version's list of sums, which its tables and description are held against before anything rests on them."""
    if version.info is None or version.info.schema_version < 3:
        return {}
    return check_listed(version.path, (MANIFEST_FILE, SKIPS_FILE, FRAMES_FILE, DATASET_FILE))


def _believable_marker(version: Path, cell_id: str, sums: Mapping[str, str]) -> CellResult | None:
    """A cell's done-marker, if it is the one that was published."""
    file = marker_file(version, cell_id)
    if not file.is_file() or file_sha256(file) != sums.get(file.relative_to(version).as_posix()):
        return None
    return read_marker(version, cell_id)


def _is_of(build: Build, version: Version) -> bool:
    """Whether the version came of this very plan."""
    plans = version.record.plans if version.record else ()
    return build.input_hash in plans or (version.info is not None and version.info.input_hash == build.input_hash)


def take_over(build: Build, outlook: Outlook) -> int:
    """Link the finished cells of the parent into the build, with new labels where objects have such; how many.

    Of cells that are to be built what they were before is linked, too, where images of it may stay (`kept`).
    `build_cell` checks every file, and builds a cell that cannot be taken over after all.

    Raises
    ------
    StorageError
        There is no room, or no right, to write.
    """
    if outlook.parent is None:
        return 0
    parent, taken = outlook.parent.path, 0
    sums = read_sums(parent) if outlook.parent.info.schema_version > 2 else {}
    for cell in build.plan.cells:
        marker = _believable_marker(parent, cell.cell_id, sums)
        if marker is None or (cell.cell_id in outlook.to_build and not _is_of_use(marker, cell, build)):
            continue
        _link_all(parent, build.building, cell_files(marker))
        if cell.cell_id in outlook.to_relabel:
            _relabel(build, cell, marker, parent)
        taken += cell.cell_id not in outlook.to_build
    return taken


def _is_of_use(marker: CellResult, cell: Cell, build: Build) -> bool:
    """Whether a cell that is to be built can take images from how it was, and has not been built since."""
    if marker.recipe != cell.recipe(build.survey, build.standards_sha256):
        return False
    return not claims_done(build.building, cell.cell_id, cell.input_hash(build.survey, build.standards_sha256))


def _relabel(build: Build, cell: Cell, marker: CellResult, parent: Path) -> None:
    try:
        relabel_cell(marker, cell, cell.input_hash(build.survey, build.standards_sha256), parent, build.building)
    except (SequenceError, OSError) as error:
        LOG.warning("cell %s is built again, as one of its files cannot be labelled anew: %s", cell.cell_id, error)


def share_equal_files(parent: Dataset, building: Path, sha256_of: Mapping[str, str]) -> None:
    """Let files that came out as they are in the parent be the parent's own: equal ones lie on the disk once.

    Raises
    ------
    StorageError
        There is no room, or no right, to write.
    """
    for row in parent.objects:
        source, target = parent.path / row.file, building / row.file
        if sha256_of.get(row.file) != row.sha256 or not source.is_file() or source.samefile(target):
            continue
        if file_sha256(source) == row.sha256:  # it may have rotted, and then must not be spread
            _link(source, target, or_copy=False)


def _link_all(source: Path, target: Path, names: Iterable[str]) -> None:
    """Link files in the order given: a done-marker comes after what it speaks of."""
    for name in names:
        _link(source / name, target / name)
    for folder in {(target / name).parent for name in names}:
        sync_dir(folder)


def _link(source: Path, target: Path, *, or_copy: bool = True) -> None:
    """Let `target` be the very file `source`; across devices, or where links are not to be had, a copy of it."""
    if source.is_symlink() or not source.is_file() or (target.exists() and target.samefile(source)):
        return
    with storing(target):
        make_folder(target.parent)
        part = target.with_name(f".{target.name}{LINK_PART}")
        part.unlink(missing_ok=True)
        try:
            os.link(source, part)
        except OSError:  # EXDEV, EPERM, EMLINK, ENOTSUP: each file system has its own word for no
            if or_copy:
                with replacing(target) as copy:
                    shutil.copyfile(source, copy)
            return
        part.replace(target)
