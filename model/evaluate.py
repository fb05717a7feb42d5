"""Evaluate a run: every object predicted once, by the models of the fold that did not see it.

Shapes: V objects, E models of an ensemble, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model.ensemble import Ensemble, log_mean
from model.errors import RunError
from model.evaluation.attention import examples_of, temporal_weights, write_examples
from model.evaluation.calibration import Calibration, fit_temperature, write_calibration
from model.evaluation.card import model_card
from model.evaluation.early import early_scores, grid_of_nights, n_nights
from model.evaluation.results import EarlyScores, Evaluation, SplitCounts
from model.evaluation.scores import Predictions, score
from model.evaluation.tables import latex, markdown
from model.export import load_model
from model.loader import Loader
from model.rundir import (
    ATTENTION_FILE,
    CARD_FILE,
    EVALUATION_FILE,
    LATEX_FILE,
    PREDICTIONS_FILE,
    TABLE_FILE,
    fold_dir,
    step_dir,
)
from model.runs import Session, finished_folds, open_session
from pipeline.atomic import write_text
from pipeline.manifest import write_table

__all__ = ["Evaluation", "evaluate", "write_evaluation"]

Array = NDArray[Any]


def evaluate(dataset_path: str | Path, run_dir: str | Path, *, early: bool = True) -> Evaluation:
    """Predict the test objects of every fine-tuned fold and score them pooled.

    The probabilities of a fold's members are averaged, then scaled by a temperature that is fitted on the validation
    objects of its fine-tuning. Writes evaluation.json, predictions.parquet, calibration.json of each fold and model,
    tables, the model's card, and attention weights of a few objects.

    Parameters
    ----------
    early
        With the scores after the first nights alone, each of which takes an evaluation of its own.

    Raises
    ------
    RunError
        The run is not fine-tuned, or is of another dataset.
    """
    session = open_session(dataset_path, run_dir)
    ensembles = {fold: _ensemble(session, fold) for fold in finished_folds(session, "fine-tune")}
    calibrations = {fold: _calibrate(session, fold, ensemble) for fold, ensemble in ensembles.items()}
    test = _test_objects(session, list(ensembles))
    predictions = _predict(session, ensembles, calibrations, test)
    seen = _early(session, ensembles, calibrations, test) if early else ()
    evaluation = score(session.record, predictions, calibrations, _split_counts(session, min(ensembles)), seen)
    _write_predictions(session, predictions)
    _write_attention(session, ensembles, predictions)
    write_evaluation(session, evaluation)
    return evaluation


def write_evaluation(session: Session, evaluation: Evaluation) -> None:
    """Write evaluation.json, and what is made of it for people."""
    run_dir = session.run_dir
    write_text(run_dir / TABLE_FILE, markdown(evaluation))
    write_text(run_dir / LATEX_FILE, latex(evaluation))
    write_text(run_dir / CARD_FILE, model_card(run_dir.resolve().name, session.record, evaluation))
    write_text(run_dir / EVALUATION_FILE, evaluation.model_dump_json(indent=2) + "\n")


def _split_counts(session: Session, fold: int) -> tuple[SplitCounts, ...]:
    lists, roles = session.lists(fold), set(SplitCounts.model_fields) - {"name"}
    return tuple(
        SplitCounts(name=name, **{role: int((session.label_O[getattr(lists, role)] == c).sum()) for role in roles})
        for c, name in enumerate(session.config.model.classes)
    )


@dataclass(frozen=True, slots=True)
class _TestObjects:
    """Places of the test objects and the fold that tests each."""

    place_V: Array
    fold_V: Array


def _ensemble(session: Session, fold: int) -> Ensemble:
    folders = [step_dir(session.run_dir, fold, m, "fine-tune") for m in range(session.config.protocol.members)]
    return Ensemble(tuple(load_model(folder, session.device) for folder in folders))


def _test_objects(session: Session, folds: list[int]) -> _TestObjects:
    tests = [session.lists(fold).test for fold in folds]
    if not sum(map(len, tests)):
        raise RunError(f"{session.run_dir}: no object of folds {folds} can be tested; train more folds")
    return _TestObjects(np.concatenate(tests), np.repeat(folds, list(map(len, tests))))


def _said(session: Session, ensemble: Ensemble, places: Array, until: int | None = None) -> Array:
    """log p of each model, (E, V, C)."""
    batch = session.config.fine_tune.batch
    return ensemble.log_probabilities(session.pack, session.places(places), session.device, batch, until)


def _calibrate(session: Session, fold: int, ensemble: Ensemble) -> Calibration:
    """Temperatures of the fold's models and, which is returned, of all of them together."""
    places = session.lists(fold).fine_tune_validation
    said_EVC, true_V = _said(session, ensemble, places), session.label_O[places]
    for member, said_VC in enumerate(said_EVC):
        folder = step_dir(session.run_dir, fold, member, "fine-tune")
        write_calibration(folder, fit_temperature(said_VC, true_V))
    calibration = fit_temperature(log_mean(said_EVC), true_V)
    write_calibration(fold_dir(session.run_dir, fold), calibration)
    return calibration


def _log_probability(
    session: Session, ensembles: Mapping[int, Ensemble], test: _TestObjects, until: int | None = None
) -> Array:
    """log of the mean probability of each test object's own fold, (V, C)."""
    parts = [
        log_mean(_said(session, ensemble, test.place_V[test.fold_V == fold], until))
        for fold, ensemble in ensembles.items()
    ]
    return np.concatenate(parts)


def _calibrated(calibrations: Mapping[int, Calibration], test: _TestObjects, log_probability_VC: Array) -> Array:
    parts = [one.applied(log_probability_VC[test.fold_V == fold]) for fold, one in calibrations.items()]
    return np.concatenate(parts)


def _predict(
    session: Session, ensembles: Mapping[int, Ensemble], calibrations: Mapping[int, Calibration], test: _TestObjects
) -> Predictions:
    log_probability_VC = _log_probability(session, ensembles, test)
    return Predictions(
        place_V=test.place_V,
        true_V=session.label_O[test.place_V],
        fold_V=test.fold_V,
        uncalibrated_VC=np.exp(log_probability_VC),
        calibrated_VC=_calibrated(calibrations, test, log_probability_VC),
    )


def _early(
    session: Session, ensembles: Mapping[int, Ensemble], calibrations: Mapping[int, Calibration], test: _TestObjects
) -> tuple[EarlyScores, ...]:
    first_O, length_O = session.pack.first_O.tolist(), session.pack.length_O.tolist()
    mjd_P = session.pack.mjd_P.cpu().numpy()
    n_nights_V = np.array([n_nights(mjd_P[first_O[o] : first_O[o] + length_O[o]]) for o in test.place_V.tolist()])
    nights = grid_of_nights(n_nights_V.tolist())
    probability_EVC = [
        _calibrated(calibrations, test, _log_probability(session, ensembles, test, until)) for until in nights
    ]
    true_V = session.label_O[test.place_V]
    return early_scores(nights, n_nights_V, true_V, probability_EVC, session.config.protocol.seed)


def _write_predictions(session: Session, predictions: Predictions) -> None:
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
        for place, fold, probability_C in zip(
            predictions.place_V.tolist(), predictions.fold_V.tolist(), predictions.calibrated_VC, strict=True
        )
    ]
    write_table(session.run_dir / PREDICTIONS_FILE, rows, schema)


def _write_attention(session: Session, ensembles: Mapping[int, Ensemble], predictions: Predictions) -> None:
    """Weights of a few test objects by the first model of their fold."""
    config, shown = session.config.model, []
    for v in examples_of(predictions.true_V, len(config.classes), session.config.protocol.seed):
        model = ensembles[int(predictions.fold_V[v])].models[0]
        place = int(predictions.place_V[v])
        loader = Loader(session.pack, model.file.normalisation, config, session.device)
        (batch,) = loader.batches(session.places(np.array([place])), 1)
        weight_LNThw = temporal_weights(model.network, batch)[:, 0]
        shown.append(
            {
                "object_id": np.array(session.objects[place].object_id),
                "true": np.array(config.classes[predictions.true_V[v]]),
                "predicted": np.array(config.classes[predictions.calibrated_VC[v].argmax()]),
                "probability": np.array(predictions.calibrated_VC[v].max()),
                "band_id": batch.band_BM[0].cpu().numpy().astype(np.uint8),
                "day": batch.day_BM[0].cpu().numpy(),
                "image": batch.pixels_BMCHW[0, :, 0].cpu().numpy(),
                "weight": weight_LNThw.float().cpu().numpy(),
            }
        )
    write_examples(session.run_dir / ATTENTION_FILE, config.block, shown)
