"""How good a run is: every object predicted once, by the models of the fold that did not see it.

Shapes: V objects, C classes, G bins of confidence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_score, recall_score

from model.config import Config
from model.errors import RunError
from model.export import load_model
from model.rundir import EVALUATION_FILE, PREDICTIONS_FILE, step_dir
from model.runs import Session, finished_folds, open_session
from model.train import predict_logits
from pipeline.atomic import write_text
from pipeline.manifest import write_table

N_BOOTSTRAP: Final = 2000
N_BINS: Final = 10
Array = NDArray[Any]


class Estimate(Config):
    """A value and its 95 % bootstrap interval over objects."""

    value: float
    low: float
    high: float


class ClassScores(Config):
    """One class; a score is None where it is not defined (nothing of the class tested, or nothing predicted)."""

    name: str
    n_objects: int
    recall: Estimate | None
    precision: Estimate | None
    f1: float


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


class CalibrationBin(Config):
    """Objects whose highest probability lies in (low, high]."""

    low: float
    high: float
    n_objects: int
    confidence: float
    accuracy: float


class Evaluation(Config):
    """Content of evaluation.json. Lead with balanced accuracy and macro F1: classes are very uneven."""

    dataset_id: str
    preset: str
    classes: tuple[str, ...]
    folds: tuple[FoldScores, ...]
    members: int
    n_objects: int
    balanced_accuracy: Estimate
    macro_f1: Estimate
    accuracy: Estimate
    ece: Estimate
    """Expected calibration error of the highest probability, ten bins of equal width."""
    per_class: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    """Objects; a row per true class, a column per predicted class."""
    calibration: tuple[CalibrationBin, ...]
    majority: Baseline
    chance: Baseline
    n_bootstrap: int


def evaluate(dataset_path: str | Path, run_dir: str | Path) -> Evaluation:
    """Predict the test objects of every fine-tuned fold and score them pooled.

    The probabilities of a fold's members are averaged. Writes evaluation.json and predictions.parquet.

    Raises
    ------
    RunError
        The run is not fine-tuned, or is of another dataset.
    """
    session = open_session(dataset_path, run_dir)
    folds = finished_folds(session, "fine-tune")
    places, probability, fold_V = [], [], []
    for fold in folds:
        test = session.lists(fold).test
        if len(test):
            places.append(test)
            probability.append(_ensemble(session, fold, test))
            fold_V.append(np.full(len(test), fold))
    if not places:
        raise RunError(f"{run_dir}: no object of folds {folds} can be tested; train more folds")
    place_V, probability_VC = np.concatenate(places), np.concatenate(probability)
    evaluation = score(session, session.label_O[place_V], probability_VC, np.concatenate(fold_V))
    _write_predictions(session, place_V, probability_VC, np.concatenate(fold_V))
    write_text(session.run_dir / EVALUATION_FILE, evaluation.model_dump_json(indent=2) + "\n")
    return evaluation


def _ensemble(session: Session, fold: int, test: Array) -> Array:
    """Mean probability over the members, (V, C)."""
    device, members = session.device, []
    for member in range(session.config.protocol.members):
        model = load_model(step_dir(session.run_dir, fold, member, "fine-tune"), device)
        loader = session.loader(model.file.normalisation)
        logit_VC = predict_logits(model.network, loader, session.places(test), session.config.fine_tune.batch)
        members.append(torch.softmax(logit_VC.double(), dim=1).cpu().numpy())
    probability_VC: Array = np.stack(members).mean(axis=0)
    return probability_VC


def score(session: Session, true_V: Array, probability_VC: Array, fold_V: Array) -> Evaluation:
    """All scores of pooled predictions."""
    classes, seed = session.config.model.classes, session.config.protocol.seed
    predicted_V = probability_VC.argmax(axis=1)
    sure = (probability_VC.max(axis=1), predicted_V == true_V)
    draws = bootstrap(true_V, predicted_V, *sure, n_classes=len(classes), seed=seed)
    accuracy, balanced, macro_f1 = headline(true_V, predicted_V)
    return Evaluation(
        dataset_id=session.record.dataset_id,
        preset=session.config.preset,
        classes=classes,
        folds=tuple(
            _fold_scores(fold, true_V[fold_V == fold], predicted_V[fold_V == fold]) for fold in np.unique(fold_V)
        ),
        members=session.config.protocol.members,
        n_objects=len(true_V),
        accuracy=_estimate(accuracy, draws["accuracy"]),
        balanced_accuracy=_estimate(balanced, draws["balanced_accuracy"]),
        macro_f1=_estimate(macro_f1, draws["macro_f1"]),
        ece=_estimate(calibration_error(*sure), draws["ece"]),
        per_class=_class_scores(classes, true_V, predicted_V, draws),
        confusion=tuple(map(tuple, confusion_matrix(true_V, predicted_V, labels=range(len(classes))).tolist())),
        calibration=_calibration(*sure),
        majority=_baseline("most_frequent", f"always {classes[np.bincount(true_V).argmax()]}", true_V, seed),
        chance=_baseline("stratified", "at random, as often as each class occurs", true_V, seed),
        n_bootstrap=N_BOOTSTRAP,
    )


def headline(true_V: Array, predicted_V: Array) -> tuple[float, float, float]:
    """Accuracy, balanced accuracy (mean recall of the classes tested) and macro F1."""
    recall = recall_score(true_V, predicted_V, labels=np.unique(true_V), average="macro", zero_division=0)
    f1 = f1_score(true_V, predicted_V, average="macro", zero_division=0)
    return float(accuracy_score(true_V, predicted_V)), float(recall), float(f1)


def _fold_scores(fold: int, true_V: Array, predicted_V: Array) -> FoldScores:
    accuracy, balanced, macro_f1 = headline(true_V, predicted_V)
    return FoldScores(
        fold=int(fold), n_objects=len(true_V), accuracy=accuracy, balanced_accuracy=balanced, macro_f1=macro_f1
    )


def _baseline(strategy: str, answer: str, true_V: Array, seed: int) -> Baseline:
    dummy = DummyClassifier(strategy=strategy, random_state=seed).fit(true_V[:, None], true_V)
    accuracy, balanced, macro_f1 = headline(true_V, dummy.predict(true_V[:, None]))
    return Baseline(answer=answer, accuracy=accuracy, balanced_accuracy=balanced, macro_f1=macro_f1)


def _class_scores(
    classes: Sequence[str], true_V: Array, predicted_V: Array, draws: dict[str, Array]
) -> tuple[ClassScores, ...]:
    def per_class(metric: Callable[..., Any]) -> Array:
        scores: Array = metric(true_V, predicted_V, labels=range(len(classes)), average=None, zero_division=0)
        return scores

    recall, precision, f1 = per_class(recall_score), per_class(precision_score), per_class(f1_score)
    n_true, n_predicted = (np.bincount(labels, minlength=len(classes)) for labels in (true_V, predicted_V))
    return tuple(
        ClassScores(
            name=name,
            n_objects=int(n_true[c]),
            recall=_estimate(recall[c], draws["recall"][:, c]) if n_true[c] else None,
            precision=_estimate(precision[c], draws["precision"][:, c]) if n_predicted[c] else None,
            f1=float(f1[c]),
        )
        for c, name in enumerate(classes)
    )


def bootstrap(
    true_V: Array, predicted_V: Array, confidence_V: Array, correct_V: Array, *, n_classes: int, seed: int
) -> dict[str, Array]:
    """Scores of N_BOOTSTRAP resamples of the objects, from their confusion matrices; NaN where not defined."""
    random = np.random.default_rng(seed)
    cell_V = true_V * n_classes + predicted_V
    confusion = np.empty((N_BOOTSTRAP, n_classes, n_classes))
    ece = np.empty(N_BOOTSTRAP)
    for draw in range(N_BOOTSTRAP):
        chosen = random.integers(len(true_V), size=len(true_V))
        confusion[draw] = np.bincount(cell_V[chosen], minlength=n_classes**2).reshape(n_classes, n_classes)
        ece[draw] = calibration_error(confidence_V[chosen], correct_V[chosen])
    return {**scores_of_confusion(confusion), "ece": ece}


def scores_of_confusion(confusion: Array) -> dict[str, Array]:
    """Scores of confusion matrices (…, true, predicted), as scikit-learn defines them."""
    hit = np.diagonal(confusion, axis1=-2, axis2=-1)
    n_true, n_predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    recall, precision = _ratio(hit, n_true), _ratio(hit, n_predicted)
    return {
        "accuracy": hit.sum(axis=-1) / n_true.sum(axis=-1),
        "recall": recall,
        "precision": precision,
        "balanced_accuracy": np.nanmean(recall, axis=-1),
        "macro_f1": np.nanmean(_ratio(2 * hit, n_true + n_predicted), axis=-1),
    }


def _ratio(part: Array, whole: Array) -> Array:
    ratio = np.full(part.shape, np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


def _estimate(value: float, draws: Array) -> Estimate:
    defined = draws[~np.isnan(draws)]
    low, high = np.percentile(defined, (2.5, 97.5)) if len(defined) else (value, value)
    return Estimate(value=float(value), low=float(low), high=float(high))


def _bins(confidence_V: Array, correct_V: Array) -> tuple[Array, Array, Array]:
    """Objects, summed confidence and hits per bin of confidence (low, high], each (G,)."""
    bin_V = np.clip(np.ceil(confidence_V * N_BINS).astype(int) - 1, 0, N_BINS - 1)
    return tuple(np.bincount(bin_V, weights, minlength=N_BINS) for weights in (None, confidence_V, correct_V))  # type: ignore[return-value]


def calibration_error(confidence_V: Array, correct_V: Array) -> float:
    """Expected calibration error (Naeini et al. 2015): mean over objects of |accuracy - confidence| of their bin."""
    _, confidence_G, hits_G = _bins(confidence_V, correct_V)
    return float(np.abs(hits_G - confidence_G).sum() / len(confidence_V))


def _calibration(confidence_V: Array, correct_V: Array) -> tuple[CalibrationBin, ...]:
    """Bins that hold objects, for a reliability diagram."""
    return tuple(
        CalibrationBin(
            low=g / N_BINS,
            high=(g + 1) / N_BINS,
            n_objects=int(n),
            confidence=float(total / n),
            accuracy=float(hits / n),
        )
        for g, (n, total, hits) in enumerate(zip(*_bins(confidence_V, correct_V), strict=True))
        if n
    )


def _write_predictions(session: Session, place_V: Array, probability_VC: Array, fold_V: Array) -> None:
    classes = session.config.model.classes
    columns = [(f"p_{name}", pa.float64()) for name in classes]
    schema = pa.schema(
        [("object_id", pa.string()), ("fold", pa.int16()), ("true", pa.string()), ("predicted", pa.string()), *columns]
    )
    rows = [
        {
            "object_id": session.objects[place].object_id,
            "fold": int(fold),
            "true": classes[session.label_O[place]],
            "predicted": classes[probability_C.argmax()],
            **{f"p_{name}": float(p) for name, p in zip(classes, probability_C, strict=True)},
        }
        for place, fold, probability_C in zip(place_V.tolist(), fold_V, probability_VC, strict=True)
    ]
    write_table(session.run_dir / PREDICTIONS_FILE, rows, schema)
