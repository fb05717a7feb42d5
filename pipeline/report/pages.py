"""The pages of a dataset as a folder: index.html, and a page for each object that it names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from pipeline.manifest import ObjectRow, open_dataset
from pipeline.report.framelist import FrameList
from pipeline.report.inspection import Inspection, even_sample, find_object, inspect, worst_frames, worst_objects
from pipeline.report.objectpage import object_path, write_object_page
from pipeline.report.page import measure_dataset, write_dataset_page
from pipeline.report.training import read_run
from pipeline.report.truth import Truth, read_truth

INDEX_FILE: Final = "index.html"
BACK: Final = f"../{INDEX_FILE}"


def write_pages(
    folder: Path,
    dataset: Path,
    *,
    run: Path | None = None,
    truth: Path | None = None,
    seconds: Mapping[str, float] | None = None,
    object_ids: Iterable[str] = (),
    sample: int = 30,
    seed: int = 0,
    max_objects: int = 8,
) -> Path:
    """Write the dataset's page, and a page for each object that stands out, shows a frame that does, or is an example.

    Besides, for an even sample of all.

    Parameters
    ----------
    folder
        Gets `index.html` and `objects/`; pages of an earlier report with the same names are replaced.
    dataset, run, truth, seconds, max_objects
        As `write_report` has them.
    object_ids
        Objects that get a page besides.
    sample, seed
        So many objects are drawn evenly from the manifest, the same ones for the same seed.

    Returns
    -------
    The dataset's page, which is written last: all its links lead somewhere.

    Raises
    ------
    DatasetError, SequenceError
        The dataset, or the file of an object in it, cannot be read.
    ReportError
        The run or the truth cannot be read or is of another dataset, or an object is not in the dataset.
    """
    opened = open_dataset(dataset)
    read = None if run is None else read_run(run, opened.info.dataset_id, opened.info.content_hash)
    injected = None if truth is None else read_truth(truth)
    wanted = [find_object(opened, object_id) for object_id in object_ids]
    content = measure_dataset(opened, max_objects)
    wanted += [row for row, _ in worst_objects(content.inspection)]
    wanted += [find_object(opened, line.object_id) for line in worst_frames(content.inspection) if line.object_id]
    wanted += [curve.row for curve in content.examples()]
    wanted += [opened.objects[place] for place in even_sample(len(opened.objects), sample, seed)]
    named = list({row.object_id: row for row in wanted}.values())
    _write_objects(folder, named, content.inspection, injected, back=BACK)
    pages = {row.object_id: object_path(row.object_id) for row in named}
    write_dataset_page(folder / INDEX_FILE, content, run=read, truth=injected, seconds=seconds, pages=pages)
    return folder / INDEX_FILE


def write_object_pages(
    folder: Path, dataset: Path, object_ids: Iterable[str], *, truth: Path | None = None
) -> list[Path]:
    """Write the pages of these objects alone, below `folder`; raises as `write_pages` does."""
    opened = open_dataset(dataset)
    rows = [find_object(opened, object_id) for object_id in dict.fromkeys(object_ids)]
    injected = None if truth is None else read_truth(truth)
    return _write_objects(folder, rows, inspect(opened), injected, back="")


def _write_objects(
    folder: Path, rows: Iterable[ObjectRow], inspection: Inspection, truth: Truth | None, *, back: str
) -> list[Path]:
    frames = FrameList.of(inspection.frames)
    return [
        write_object_page(folder, row, inspection=inspection, frames=frames, truth=truth, back=back) for row in rows
    ]
