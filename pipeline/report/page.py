"""The page of a dataset: what goes into the template, and the functions that write it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ReportError
from pipeline.manifest import NO_MASK, NOTES, VANISHED, Dataset, open_dataset
from pipeline.naming import SKIPS_FILE
from pipeline.photometry import RADIUS_ARCSEC
from pipeline.report.inspection import Inspection, inspect, worst_frames, worst_objects
from pipeline.report.measure import LightCurve, choose, measure_all
from pipeline.report.objects import MASK_COLOURS, object_view
from pipeline.report.observations import MAX_POINTS, cadence_figure, conditions_figure, objects_figure
from pipeline.report.outliers import BEYOND
from pipeline.report.skymap import sky_map
from pipeline.report.style import BAND_COLOUR, house_style
from pipeline.report.template import write_page
from pipeline.report.training import Run, described, loss_figure, read_run, scores_figure
from pipeline.report.truth import Truth, compare, comparison_figure, read_truth
from pipeline.version import software_version
from pipeline.versions import read_record

EXAMPLES_PER_REASON: Final = 3
"""Reason of a row in skips.parquet about a frame that was cut all the same, as `pipeline.sources` has it."""
MAX_REASONS: Final = 50


@dataclass(frozen=True, slots=True)
class SkipGroup:
    """Everything left out for one reason."""

    reason: str
    count: int
    examples: tuple[Mapping[str, str], ...]


def write_report(
    out: Path,
    dataset: Path,
    *,
    run: Path | None = None,
    truth: Path | None = None,
    seconds: Mapping[str, float] | None = None,
    max_objects: int = 8,
) -> Path:
    """Write one self-contained HTML page about a dataset.

    Parameters
    ----------
    out
        The page; an older one is replaced when the new one is complete.
    dataset
        Directory of a published dataset.
    run
        Run directory of a model trained on it: adds scores, loss curves, confusion matrix.
    truth
        Folder with the truth of the simulated archive it was built from: adds injected light curves.
    seconds
        Wall time per step, where more than the build was timed.
    max_objects
        Objects that are shown one by one.

    Raises
    ------
    DatasetError, SequenceError
        The dataset, or the file of an object in it, cannot be read.
    ReportError
        The run or the truth cannot be read, or is of another dataset.
    """
    opened = open_dataset(dataset)
    read = None if run is None else read_run(run, opened.info.dataset_id, opened.info.content_hash)
    injected = None if truth is None else read_truth(truth)
    content = measure_dataset(opened, max_objects)
    write_dataset_page(out, content, run=read, truth=injected, seconds=seconds)
    return out


@dataclass(frozen=True, slots=True)
class DatasetContent:
    """A dataset, inspected, and the light curves measured for its page."""

    inspection: Inspection
    curves: Sequence[LightCurve]
    max_objects: int

    def __post_init__(self) -> None:
        if self.max_objects < 1:
            raise ReportError(f"max_objects is {self.max_objects}: a report shows at least one object")

    def examples(self) -> list[LightCurve]:
        """Those that are shown one by one."""
        return choose(self.curves, self.max_objects)


def measure_dataset(dataset: Dataset, max_objects: int) -> DatasetContent:
    """Measure light curves and inspect the dataset; raises as `write_report` does."""
    curves = measure_all(dataset)
    return DatasetContent(inspect(dataset, curves), curves, max_objects)


def write_dataset_page(
    out: Path,
    content: DatasetContent,
    *,
    run: Run | None = None,
    truth: Truth | None = None,
    seconds: Mapping[str, float] | None = None,
    pages: Mapping[str, str] | None = None,
) -> None:
    """Write the page of what was measured before; `pages` has the way to the page of each object that has one."""
    with house_style():
        filled = _content(content, run=run, truth=truth, seconds=seconds)
    write_page(out, "report.html", {**filled, "pages": pages or {}})


def _content(
    content: DatasetContent, *, run: Run | None, truth: Truth | None, seconds: Mapping[str, float] | None
) -> dict[str, Any]:
    """Everything that the template shows."""
    dataset, frames, curves = content.inspection.dataset, content.inspection.frames, content.curves
    skips = dataset.table(SKIPS_FILE)
    groups = {group.reason: group for group in skip_groups(skips)}
    notes = {reason: group for reason in NOTES if (group := groups.pop(reason, None))}
    return {
        "info": dataset.info,
        "title": dataset.info.survey.get("title", dataset.info.dataset_id),
        "counts": {
            "objects": len(dataset.objects),
            "images": sum(row.n_images for row in dataset.objects),
            "frames": frames.num_rows,
            "bytes": pc.sum(frames["bytes"]).as_py() or 0,
            "skips": skips.num_rows - sum(group.count for group in notes.values()),
        },
        "written_by": software_version(),
        "classes": class_table(dataset),
        "seconds": dict(seconds if seconds is not None else _build_seconds(dataset)),
        "n_measured": len(curves),
        "radius_arcsec": RADIUS_ARCSEC,
        "band_colour": BAND_COLOUR,
        "mask_colours": MASK_COLOURS,
        "objects": [object_view(dataset, curve, truth) for curve in content.examples()],
        **_quality_content(content.inspection),
        **_truth_content(truth, curves),
        **_observations_content(dataset, curves, frames),
        **_run_content(run),
        "skips": list(groups.values()),
        "unmasked": notes.get(NO_MASK),
        "vanished": notes.get(VANISHED),
        "archives": _archives(frames),
        "software": list(dataset.info.software | (run.record.software if run else {})),
        "survey_json": json.dumps(dataset.info.survey, indent=2, ensure_ascii=False),
    }


def _quality_content(inspection: Inspection) -> dict[str, Any]:
    objects = inspection.dataset.objects
    place_deg = np.array([(row.ra_deg, row.dec_deg) for row in objects]).reshape(-1, 2)
    n_images = np.array([row.n_images for row in objects], dtype=np.int64)
    return {
        "sky_map": sky_map(place_deg[:, 0], place_deg[:, 1], n_images) if objects else None,
        "worst_objects_ranking": inspection.worst_objects,
        "worst_frames_ranking": inspection.worst_frames,
        "worst_objects": worst_objects(inspection),
        "worst_frames": list(worst_frames(inspection)),
        "beyond": BEYOND,
    }


def _build_seconds(dataset: Dataset) -> Mapping[str, float]:
    """Wall time per step of its build, where a record of that lies beside the dataset."""
    record = read_record(dataset.path)
    return record.seconds if record else {}


def class_table(dataset: Dataset) -> list[dict[str, Any]]:
    """Objects and images per class and confirmation."""
    images: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in dataset.objects:
        images[row.class_name or "unlabelled", row.confirmation].append(row.n_images)
    return [
        {"name": name, "confirmation": confirmation, "objects": len(found), "images": sum(found)}
        for (name, confirmation), found in sorted(images.items())
    ]


def _truth_content(truth: Truth | None, curves: Sequence[LightCurve]) -> dict[str, Any]:
    if truth is None:
        return {"comparisons": None, "comparison_figure": None}
    comparisons = compare(truth, curves)
    return {"comparisons": comparisons, "comparison_figure": comparison_figure(comparisons)}


def _observations_content(dataset: Dataset, curves: Sequence[LightCurve], frames: pa.Table) -> dict[str, Any]:
    rows = dataset.objects
    return {
        "conditions_figure": conditions_figure(curves) if curves else None,
        "cadence_figure": cadence_figure(frames) if frames.num_rows else None,
        "max_points": MAX_POINTS,
        "objects_figure": objects_figure([row.n_images for row in rows]) if rows else None,
    }


def _run_content(run: Run | None) -> dict[str, Any]:
    if run is None:
        return {"run": None}
    evaluation = run.evaluation
    return {
        "run": run,
        "evaluation": evaluation,
        "run_json": described(run),
        "loss_figure": loss_figure(run),
        "scores_figure": None if evaluation is None else scores_figure(evaluation),
    }


def skip_groups(skips: pa.Table) -> list[SkipGroup]:
    """What was left out by reason, the most frequent first, with the first examples of each."""
    counts = {str(pair["values"]): int(pair["counts"]) for pair in pc.value_counts(skips["reason"]).to_pylist()}
    groups = []
    for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_REASONS]:
        examples = skips.filter(pc.equal(skips["reason"], reason)).slice(0, EXAMPLES_PER_REASON).to_pylist()
        groups.append(SkipGroup(reason=reason, count=count, examples=tuple(examples)))
    return groups


def _archives(frames: pa.Table) -> list[dict[str, Any]]:
    """Frames, runs and bytes per archive."""
    grouped = frames.group_by("archive").aggregate(
        [("path", "count"), ("run", "count_distinct"), ("bytes", "sum"), ("mjd_tai", "min"), ("mjd_tai", "max")]
    )
    return sorted(grouped.to_pylist(), key=lambda row: str(row["archive"]))
