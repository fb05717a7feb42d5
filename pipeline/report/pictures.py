"""The pictures of an evaluated run, as PNG files for a paper or a talk."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

from pipeline.atomic import replacing
from pipeline.errors import ReportError
from pipeline.report.attention import ATTENTION_FILE, attention_drawing, read_examples
from pipeline.report.style import house_style
from pipeline.report.training import (
    confusion_drawing,
    early_drawing,
    load_run,
    loss_drawing,
    reliability_drawing,
)

PICTURES_FOLDER: Final = "pictures"
_DPI: Final = 200


def write_pictures(run_dir: Path) -> list[Path]:
    """Write the confusion matrix, the reliability diagram, what few nights allow, attention and training curves.

    Returns
    -------
    list of Path
        The files in the run's folder `pictures`; of a run with nothing for one of them, the rest.

    Raises
    ------
    ReportError
        The run is not evaluated, or a file of it is not what a run writes.
    """
    run = load_run(run_dir)
    if run.evaluation is None:
        raise ReportError(f"{run_dir} is not evaluated: s82 evaluate")
    attention = run_dir / ATTENTION_FILE
    with house_style():
        drawings: dict[str, Figure | None] = {
            "confusion": confusion_drawing(run.evaluation),
            "reliability": reliability_drawing(run.evaluation),
            "early": early_drawing(run.evaluation),
            "training": loss_drawing(run),
            "attention": attention_drawing(read_examples(attention)) if attention.is_file() else None,
        }
        return [
            _write(run_dir / PICTURES_FOLDER / f"{name}.png", figure)
            for name, figure in drawings.items()
            if figure is not None
        ]


def _write(path: Path, figure: Figure) -> Path:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})
    return path
