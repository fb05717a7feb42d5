"""Where results may be written: nowhere among published versions and packs, which stay as they are."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.naming import DATASET_FILE, LATEST_FILE, PACK_FILE
from pipeline.versions import HISTORY_FOLDER


def check_output(path: Path) -> None:
    """Be sure that a file or folder which is going to be written is of no dataset and no pack.

    Raises
    ------
    ConfigError
        It is inside a version or a pack, or is a version; or it is what a survey's folder keeps beside its versions:
        the pointer, the history, work in progress.
    """
    place = path.parent.resolve() / path.name  # a link is replaced itself, but a folder that is one is written into
    for one in {place: None, path.resolve(): None}:
        for folder in (one, *one.parents):
            if (folder / DATASET_FILE).exists():
                raise ConfigError(f"{path} is inside the dataset {folder}, which stays as it is: name another place")
            if folder != one and (folder / PACK_FILE).exists():
                raise ConfigError(f"{path} is inside the pack {folder}, which stays as it is: name another place")
            if _is_kept(folder.name) and _holds_versions(folder.parent):
                raise ConfigError(
                    f"{path} is where {folder.parent} keeps what belongs to its versions: name another place"
                )


def _is_kept(name: str) -> bool:
    return name in (LATEST_FILE, HISTORY_FOLDER) or name.startswith(".")


def _holds_versions(folder: Path) -> bool:
    """Whether it is a survey's, and not merely a folder that somebody has copied a dataset to."""
    if not ((folder / LATEST_FILE).is_file() or (folder / HISTORY_FOLDER).is_dir()):
        return False
    return any((version / DATASET_FILE).exists() for version in folder.iterdir())
