"""Refresh on a disk that is full or read-only: a script that runs with a small file system of its own mounted at ROOT.

Prints, as JSON, what each attempt ended in, and how the versions were after it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.naming import survey_dir
from pipeline.survey import SplitConfig, ThumbnailConfig
from pipeline.verify import verify_dataset
from pipeline.versions import versions
from tests.faults.conftest import refresh

NEW_TABLES = {"splits": SplitConfig(folds=3, seed=5)}
NEW_OBJECTS = {"thumbnails": ThumbnailConfig(bands=("g", "r"), size=48)}


def attempt(url: str, root: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """The error and its message, or the new version; with what is wrong with the versions that are visible."""
    try:
        said = {"version": refresh(url, root, changes=changes).path.name}
    except PipelineError as error:
        said = {"error": type(error).__name__, "message": str(error)}
    found = versions(survey_dir(root, "tiny"))
    wrong = [str(problem) for version in found for problem in verify_dataset(version.path)]
    return said | {"versions": len(found), "wrong": wrong, "latest": sum(version.latest for version in found)}


def remount(root: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(root)], check=True)


def main(url: str, root: Path) -> dict[str, Any]:
    """Each kind of shortage, and then again with room."""
    said = {
        "no room for tables": attempt(url, root, NEW_TABLES),
        "no room for objects": attempt(url, root, NEW_OBJECTS),
    }
    remount(root, "ro")
    said["read-only"] = attempt(url, root, NEW_TABLES)
    remount(root, "rw,size=1g")
    said["tables"] = attempt(url, root, NEW_TABLES)
    return said


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
