"""What evaluation.json holds. A score is None where it is not defined: nothing of the class tested, say."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from model.config import Config
from model.errors import RunError
from model.rundir import EVALUATION_FILE
from pipeline.bands import Band
from pipeline.validation import explain


class Estimate(Config):
    """A value and its 95 % bootstrap interval over objects."""

    value: float
    low: float
    high: float


class ClassScores(Config):
    """One class."""

    name: str
    n_objects: int
    recall: Estimate | None
    precision: Estimate | None
    f1: float
    roc_auc: Estimate | None
    """Of this class against all others."""


class Baseline(Config):
    """The same scores for an answer that ignores the images."""

    answer: str
    accuracy: float
    balanced_accuracy: float
    macro_f1: float


class FoldScores(Config):
    """Scores of one fold alone; the paper averages these."""

    fold: int
    n_objects: int
    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    macro_roc_auc: float | None
    temperature: float
    n_calibrated: int
    """Validation objects that the temperature was fitted on; with none it is 1."""


class MeanConfusion(Config):
    """Confusion matrix as the paper's Figs. 6 and 7 have it: per cent of each true class, over the folds.

    A row per true class, a column per predicted class. The scatter is the standard deviation between folds (n - 1);
    None for a class that fewer folds tested than it takes.
    """

    mean_percent: tuple[tuple[float | None, ...], ...]
    std_percent: tuple[tuple[float | None, ...], ...]


class CalibrationBin(Config):
    """Objects whose highest probability lies in (low, high]."""

    low: float
    high: float
    n_objects: int
    confidence: float
    accuracy: float


class EarlyScores(Config):
    """Scores when no more than the first so many nights of each object have been seen."""

    nights: int
    n_objects: int
    """Objects that were observed on so many nights at least; the others count with all their nights."""
    balanced_accuracy: Estimate
    macro_f1: Estimate
    accuracy: Estimate


class SplitCounts(Config):
    """Objects of one class by role in one fold, as the paper's Table 3."""

    name: str
    train: int
    train_validation: int
    fine_tune: int
    fine_tune_validation: int
    test: int


class Evaluation(Config):
    """Content of evaluation.json. Lead with balanced accuracy and macro F1: classes are very uneven."""

    dataset_id: str
    preset: str
    classes: tuple[str, ...]
    bands: tuple[Band, ...]
    folds: tuple[FoldScores, ...]
    members: int
    split: tuple[SplitCounts, ...]
    """Of the first fold that was evaluated."""
    n_objects: int
    balanced_accuracy: Estimate
    macro_f1: Estimate
    accuracy: Estimate
    macro_roc_auc: Estimate | None
    """Mean over the classes of the area under the curve of each against the others."""
    ece: Estimate
    """Expected calibration error of the highest probability, ten bins of equal width."""
    ece_uncalibrated: Estimate
    """The same without the temperatures of the folds."""
    per_class: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    """Objects; a row per true class, a column per predicted class."""
    confusion_over_folds: MeanConfusion
    calibration: tuple[CalibrationBin, ...]
    calibration_before: tuple[CalibrationBin, ...]
    early: tuple[EarlyScores, ...]
    majority: Baseline
    chance: Baseline
    n_bootstrap: int


def read_evaluation(run_dir: Path) -> Evaluation:
    """Read a run's evaluation.json.

    Raises
    ------
    RunError
        The run is not evaluated, or by software of another time.
    """
    path = run_dir / EVALUATION_FILE
    try:
        return Evaluation.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise RunError(f"{run_dir} has no {path.name}: evaluate the run first") from error
    except ValidationError as error:
        raise RunError(f"{path} is not an evaluation of this version: {explain(error)}; evaluate again") from error
