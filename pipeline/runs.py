"""Which datasets training runs rest on."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.errors import DatasetError
from pipeline.naming import RUN_CONFIG_FILE, runs_dir


def datasets_of_runs(root: Path) -> set[str]:
    """Ids of the datasets that the training runs below `root`, at any depth of its `runs`, were made from.

    Raises
    ------
    DatasetError
        The configuration of a run cannot be read, so that it cannot be said.
    """
    found = set()
    for file in sorted(runs_dir(root).rglob(RUN_CONFIG_FILE)):
        try:
            found.add(str(json.loads(file.read_bytes())["dataset_id"]))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DatasetError(
                f"{file} does not say which dataset its run was trained on: move the run away"
            ) from error
    return found
