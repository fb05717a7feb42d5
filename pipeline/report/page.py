"""The page itself: what goes into the template, and the one function that writes it."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.atomic import write_text
from pipeline.errors import ReportError
from pipeline.manifest import Dataset, open_dataset
from pipeline.naming import FRAMES_FILE, SKIPS_FILE
from pipeline.photometry import RADIUS_ARCSEC
from pipeline.report.measure import LightCurve, choose, measure_all
from pipeline.report.objects import FLAGGED_COLOUR, INTERPOLATED_COLOUR, UNCOVERED_COLOUR, object_view
from pipeline.report.observations import cadence_figure, conditions_figure, objects_figure
from pipeline.report.style import BAND_COLOUR, house_style
from pipeline.report.training import Run, described, loss_figure, read_run, scores_figure
from pipeline.report.truth import Truth, compare, comparison_figure, read_truth
from pipeline.version import software_version
from pipeline.versions import read_record

EXAMPLES_PER_REASON: Final = 3
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
    if max_objects < 1:
        raise ReportError(f"max_objects is {max_objects}: a report shows at least one object")
    opened = open_dataset(dataset)
    content = _content(
        opened,
        run=None if run is None else read_run(run, opened.info.dataset_id, opened.info.content_hash),
        truth=None if truth is None else read_truth(truth),
        seconds=seconds,
        max_objects=max_objects,
    )
    environment = Environment(
        loader=PackageLoader("pipeline.report", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["count"] = lambda number: f"{number:,}".replace(",", "\u202f")
    write_text(out, environment.get_template("report.html").render(content))
    return out


def _content(
    dataset: Dataset, *, run: Run | None, truth: Truth | None, seconds: Mapping[str, float] | None, max_objects: int
) -> dict[str, Any]:
    """Everything that the template shows."""
    curves = measure_all(dataset)
    frames, skips = dataset.table(FRAMES_FILE), dataset.table(SKIPS_FILE)
    with house_style():
        return {
            "info": dataset.info,
            "title": dataset.info.survey.get("title", dataset.info.dataset_id),
            "counts": {
                "objects": len(dataset.objects),
                "images": sum(row.n_images for row in dataset.objects),
                "frames": frames.num_rows,
                "bytes": sum(frames["bytes"].to_pylist()),
                "skips": skips.num_rows,
            },
            "written_by": software_version(),
            "classes": class_table(dataset),
            "seconds": dict(seconds if seconds is not None else _build_seconds(dataset)),
            "n_measured": len(curves),
            "radius_arcsec": RADIUS_ARCSEC,
            "band_colour": BAND_COLOUR,
            "mask_colours": _mask_colours(),
            "objects": [object_view(dataset, curve, truth) for curve in choose(curves, max_objects)],
            **_truth_content(truth, curves),
            **_observations_content(dataset, curves, frames),
            **_run_content(run),
            "skips": skip_groups(skips),
            "archives": _archives(frames),
            "software": list(dataset.info.software | (run.record.software if run else {})),
            "survey_json": json.dumps(dataset.info.survey, indent=2, ensure_ascii=False),
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


def _mask_colours() -> dict[str, str]:
    return {
        "not covered by the frame": UNCOVERED_COLOUR,
        "saturated, cosmic ray or ghost": FLAGGED_COLOUR,
        "interpolated": INTERPOLATED_COLOUR,
    }


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
    counts = Counter(skips["reason"].to_pylist())
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
