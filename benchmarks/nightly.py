"""A season that grows night by night: what each refresh fetches and takes, and what cutting its cells whole would.

A simulated archive of the survey `demo`, in r, whose index learns of one more night before each refresh; nothing stays
in the cache. Three ways, from the same first nights on, one after the other each night:

kept    zero points held against a catalogue of stars (those of the first nights): images of earlier nights are kept
whole   the same, but nothing is kept: what a build of whole cells does
built   each cell makes its own standard stars of all its nights, the default; every image is made anew
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from unittest.mock import patch

from pipeline.build import exclusive, open_archive, prepare
from pipeline.cells import build_cell
from pipeline.manifest import Dataset
from pipeline.publish import publish
from pipeline.reuse import hold_against_versions, take_over
from pipeline.simulate.archive import simulate_archive
from pipeline.simulate.server import ArchiveServer
from pipeline.starcatalog import write_catalogue
from pipeline.survey import CacheConfig, CalibrationConfig, SurveyConfig, load_survey

WORKERS: Final = 2
FIELDS: Final = Path("stripe82/Field.csv")
WAYS: Final = ("kept", "whole", "built")


def one_band(survey: SurveyConfig) -> SurveyConfig:
    """The survey in r alone, with nothing kept in the cache."""
    assert survey.simulation is not None
    return survey.model_copy(
        update={
            "thumbnails": survey.thumbnails.model_copy(update={"bands": ("r",)}),
            "simulation": survey.simulation | {"written_bands": ["r"]},
            "cache": CacheConfig(max_gb=0),
        }
    )


def show_nights(tree: Path, rows: list[list[str]], runs: list[str]) -> None:
    """Let the archive's index know these runs only."""
    column = rows[0].index("run")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([rows[0], *(row for row in rows[1:] if row[column] in runs)])
    (tree / FIELDS).write_text(text.getvalue(), encoding="utf-8")


def bring_up_to_date(survey: SurveyConfig, root: Path) -> Dataset:
    """What the flow `refresh-dataset` does, without Prefect."""
    with open_archive(survey, root, retry_missing=True) as archive, ThreadPoolExecutor(WORKERS) as executor:
        build = prepare(survey, root, archive, refresh_index=True)
        with exclusive(build):
            outlook = hold_against_versions(build, archive)
            take_over(build, outlook)
            results = [
                build_cell(cell, survey, archive, executor, build.building, workers=WORKERS)
                for cell in build.plan.cells
            ]
            return publish(build, results, {}, parent=outlook.parent)


def refreshed(survey: SurveyConfig, root: Path, tree: Path, server: ArchiveServer, *, whole: bool) -> dict[str, float]:
    """Seconds, frames and megabytes of one refresh, and how many images there are then."""
    before = len(server.requests)
    spared: Any = patch("pipeline.cells.keepable", return_value={}) if whole else nullcontext()
    started = time.perf_counter()
    with spared:
        dataset = bring_up_to_date(survey, root)
    seconds = time.perf_counter() - started
    asked = [one.path.lstrip("/") for one in list(server.requests)[before:] if one.status == 200]
    frames = [path for path in asked if "/fpC-" in path or "/frame-" in path]
    megabytes = sum((tree / path).stat().st_size for path in frames) / 1e6
    return {"s": seconds, "frames": len(frames), "mb": megabytes, "images": dataset.info.counts["images"]}


def measure(folder: Path, *, quick: bool) -> dict[str, float]:
    """Everything the table shows, flat."""
    tree, survey = folder / "archive", one_band(load_survey("demo"))
    simulate_archive(survey, tree, workers=WORKERS)
    rows = list(csv.reader((tree / FIELDS).read_text(encoding="utf-8").splitlines()))
    runs = sorted({row[rows[0].index("run")] for row in rows[1:]}, key=int)
    first = len(runs) - (1 if quick else 6)
    result: dict[str, float] = {"nights_first": first, "nights_last": len(runs)}
    with ArchiveServer(tree) as server:
        survey = survey.with_root(server.url)
        show_nights(tree, rows, runs[:first])
        write_catalogue(bring_up_to_date(survey, folder / "built"), stars := folder / "stars.csv")
        pinned = survey.model_copy(update={"calibration": CalibrationConfig(reference=str(stars))})
        surveys = {"kept": pinned, "whole": pinned, "built": survey}
        for way in ("kept", "whole"):
            bring_up_to_date(pinned, folder / way)
        for night in range(first + 1, len(runs) + 1):
            show_nights(tree, rows, runs[:night])
            for way in WAYS:
                found = refreshed(surveys[way], folder / way, tree, server, whole=way == "whole")
                result |= {f"{way}_{night}_nights_{key}": value for key, value in found.items()}
        same = {(folder / way / "datasets/demo/latest").read_text() for way in ("kept", "whole")}
    assert len(same) == 1, "what was kept is not what cutting gives"
    for key in ("s", "mb"):
        kept, whole = (
            sum(result[f"{way}_{night}_nights_{key}"] for night in range(first + 1, len(runs) + 1))
            for way in ("kept", "whole")
        )
        result[f"kept_over_whole_{key}"] = kept / whole
    return result


def show(result: dict[str, float]) -> None:
    """The table."""
    print(f"{'':<10}" + "".join(f"{way:>32}" for way in WAYS))
    print(f"{'nights':<10}" + f"{'frames':>12}{'MB':>10}{'s':>10}" * len(WAYS))
    for night in range(int(result["nights_first"]) + 1, int(result["nights_last"]) + 1):
        cells = ""
        for way in WAYS:
            frames, megabytes, seconds = (result[f"{way}_{night}_nights_{key}"] for key in ("frames", "mb", "s"))
            cells += f"{frames:>12.0f}{megabytes:>10.1f}{seconds:>10.1f}"
        print(f"{night:<10}{cells}")
    of_bytes, of_time = result["kept_over_whole_mb"], result["kept_over_whole_s"]
    print(f"\nkept over whole: {of_bytes:.3f} of the bytes, {of_time:.2f} of the time")
    print("both ways end in the same version, by the hash of its content")


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one night")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        result = measure(Path(folder), quick=options.quick)
    print(f"{len(os.sched_getaffinity(0))} processors, load {os.getloadavg()[0]:.1f} at the end")
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
