"""Scores are scikit-learn's; what scikit-learn lacks is checked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score, roc_auc_score

from model.config import preset
from model.evaluation.bootstrap import areas_under_curve, bootstrap, scores_of_confusion
from model.evaluation.calibration import Calibration, calibration_error, fit_temperature, probability_at
from model.evaluation.early import grid_of_nights, n_nights
from model.evaluation.published import PUBLISHED
from model.evaluation.scores import Predictions, confusion_over_folds, headline, roc_areas, score
from model.evaluation.tables import latex, markdown
from model.runs import RunRecord

RANDOM = np.random.default_rng(0)
TRUE = RANDOM.choice(4, size=400, p=[0.2, 0.1, 0.65, 0.05])
LOGIT = 2.0 * np.eye(4)[TRUE] + RANDOM.normal(size=(400, 4))
PROBABILITY = np.round(probability_at(1.0, LOGIT), 2) + 1e-3  # rounded: many ties
PREDICTED = PROBABILITY.argmax(axis=1)


def test_scores_of_a_confusion_matrix_are_scikit_learns() -> None:
    """The bootstrap's shortcut against the library, on all classes."""
    found = scores_of_confusion(confusion_matrix(TRUE, PREDICTED))
    assert found["accuracy"] == pytest.approx(accuracy_score(TRUE, PREDICTED))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(TRUE, PREDICTED))
    assert found["macro_f1"] == pytest.approx(f1_score(TRUE, PREDICTED, average="macro"))
    assert headline(TRUE, PREDICTED) == pytest.approx(
        (found["accuracy"], found["balanced_accuracy"], found["macro_f1"])
    )


def test_the_area_of_a_resample_is_scikit_learns() -> None:
    """With ties and with objects drawn many times or never; undefined without objects on both sides."""
    chosen_DV = RANDOM.integers(400, size=(3, 400))
    times_DV = np.stack([np.bincount(chosen, minlength=400) for chosen in chosen_DV]).astype(float)
    for c in range(4):
        expected = [roc_auc_score(TRUE[chosen] == c, PROBABILITY[chosen, c]) for chosen in chosen_DV]
        assert areas_under_curve(times_DV, c == TRUE, PROBABILITY[:, c]) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(areas_under_curve(times_DV * (c == TRUE), c == TRUE, PROBABILITY[:, c])).all()


def test_bootstrap_scatter_is_the_binomial_one() -> None:
    hit = (PREDICTED == TRUE).mean()
    draws = bootstrap(TRUE, PROBABILITY, seed=0)
    sure = PROBABILITY.max(axis=1), TRUE == PREDICTED
    assert draws["ece"].min() < calibration_error(*sure) < draws["ece"].max()
    expected = np.sqrt(hit * (1 - hit) / 400)
    assert draws["accuracy"].std() == pytest.approx(expected, rel=0.1)
    assert draws["accuracy"].mean() == pytest.approx(hit, abs=expected / 5)
    assert draws["macro_roc_auc"].mean() == pytest.approx(roc_areas(TRUE, PROBABILITY).mean(), abs=0.01)
    again = bootstrap(TRUE, PROBABILITY, seed=0, ranking=False)
    np.testing.assert_array_equal(draws["ece"], again["ece"])


def test_calibration_error_by_hand() -> None:
    """Two bins: 0.95 said and 0.5 right for 4 objects, 0.55 said and 1.0 right for 1."""
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55])
    correct = np.array([True, True, False, False, True])
    assert calibration_error(confidence, correct) == pytest.approx((4 * 0.45 + 1 * 0.45) / 5)


def test_certain_and_right_is_calibrated() -> None:
    assert calibration_error(np.ones(5), np.ones(5, bool)) == 0


@pytest.mark.parametrize("true_temperature", [0.4, 1.0, 3.0])
def test_the_temperature_is_the_one_that_the_truth_was_drawn_with(true_temperature: float) -> None:
    random = np.random.default_rng(1)
    log_probability = np.log(probability_at(1.0, random.normal(size=(5000, 4)) * 2))
    chance = probability_at(true_temperature, log_probability)
    truth = (chance.cumsum(axis=1) > random.random((5000, 1))).argmax(axis=1)
    found = fit_temperature(log_probability, truth)
    assert found.temperature == pytest.approx(true_temperature, rel=0.1)
    assert found.nll_after <= found.nll_before
    after, before = found.applied(log_probability), probability_at(1.0, log_probability)
    assert (after.argmax(axis=1) == before.argmax(axis=1)).all()
    hit = before.argmax(axis=1) == truth
    assert calibration_error(after.max(axis=1), hit) < 0.03


def test_few_validation_objects_do_not_make_a_model_infinitely_sure() -> None:
    """All three right: the greatest likelihood alone would be at T = 0. None at all: T = 1."""
    right = fit_temperature(np.log(np.full((3, 4), 0.1) + 0.6 * np.eye(4)[:3]), np.arange(3))
    assert 0.3 < right.temperature < 1
    assert fit_temperature(np.empty((0, 4)), np.empty(0, int)) == Calibration(temperature=1, n_objects=0)


def test_confusion_over_folds_by_hand() -> None:
    """Class 0: half and all of it right in two folds; class 1 in one fold alone; class 2 nowhere."""
    true, predicted = np.array([0, 0, 0, 0, 1]), np.array([0, 2, 0, 0, 1])
    found = confusion_over_folds(true, predicted, np.array([0, 0, 1, 1, 1]), n_classes=3)
    assert found.mean_percent == ((75.0, 0.0, 25.0), (0.0, 100.0, 0.0), (None, None, None))
    assert found.std_percent[0] == pytest.approx((np.sqrt(2) * 25, 0, np.sqrt(2) * 25))
    assert found.std_percent[1:] == ((None,) * 3,) * 2


def test_nights_by_hand() -> None:
    assert n_nights(np.array([53700.0, 53700.01, 53701.2, 53701.3, 53760.0])) == 3
    assert grid_of_nights([1, 1, 1]) == (1,)
    assert grid_of_nights([9, 10, 40]) == (1, 2, 3, 4, 7, 10)


def test_a_class_that_a_fold_lacks_leaves_its_scores_undefined() -> None:
    """One fold, no SNOther tested, no validation object: None where nothing can be said, and tables all the same."""
    record = RunRecord(config=preset("small"), dataset_id="d_1", dataset_content_hash="0", software={})
    known = TRUE < 3
    probability = PROBABILITY[known] / PROBABILITY[known].sum(axis=1, keepdims=True)
    fold = np.zeros(known.sum(), int)
    predictions = Predictions(np.arange(known.sum()), TRUE[known], fold, probability, probability)
    found = score(record, predictions, {0: Calibration()})
    other = found.per_class[3]
    assert (other.n_objects, other.recall, other.roc_auc) == (0, None, None)
    assert found.folds[0].macro_roc_auc is None
    assert found.confusion_over_folds.std_percent == ((None,) * 4,) * 4
    assert found.macro_roc_auc.value == pytest.approx(np.mean([one.roc_auc.value for one in found.per_class[:3]]))
    assert found.ece == found.ece_uncalibrated
    assert "| SNOther | 0 | – |" in markdown(found)
    assert r"d\_1" in latex(found)
    assert "79.83 & 70.62" in latex(found)


def test_published_numbers_stand_as_printed() -> None:
    """A table that is short of a row, or has one twice, would mislead."""
    assert len({(row.model, row.n_classes, row.bands) for row in PUBLISHED}) == len(PUBLISHED) == 15
    assert max(PUBLISHED, key=lambda row: row.accuracy).source == "Bairouk et al. 2023, Table 5"
