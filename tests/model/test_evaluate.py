"""Scores are scikit-learn's; what scikit-learn lacks is checked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score

from model.evaluate import bootstrap, calibration_error, headline, scores_of_confusion

RANDOM = np.random.default_rng(0)
TRUE = RANDOM.choice(4, size=400, p=[0.2, 0.1, 0.65, 0.05])
PREDICTED = np.where(RANDOM.random(400) < 0.7, TRUE, RANDOM.integers(4, size=400))


def test_scores_of_a_confusion_matrix_are_scikit_learns() -> None:
    """The bootstrap's shortcut against the library, on all classes."""
    found = scores_of_confusion(confusion_matrix(TRUE, PREDICTED))
    assert found["accuracy"] == pytest.approx(accuracy_score(TRUE, PREDICTED))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(TRUE, PREDICTED))
    assert found["macro_f1"] == pytest.approx(f1_score(TRUE, PREDICTED, average="macro"))
    assert headline(TRUE, PREDICTED) == pytest.approx(
        (found["accuracy"], found["balanced_accuracy"], found["macro_f1"])
    )


def test_bootstrap_scatter_is_the_binomial_one() -> None:
    hit = PREDICTED == TRUE
    draws = bootstrap(TRUE, PREDICTED, np.full(400, 0.7), hit, n_classes=4, seed=0)
    expected = np.sqrt(hit.mean() * (1 - hit.mean()) / 400)
    assert draws["accuracy"].std() == pytest.approx(expected, rel=0.1)
    assert draws["accuracy"].mean() == pytest.approx(hit.mean(), abs=expected / 5)
    again = bootstrap(TRUE, PREDICTED, np.full(400, 0.7), hit, n_classes=4, seed=0)
    np.testing.assert_array_equal(draws["ece"], again["ece"])


def test_calibration_error_by_hand() -> None:
    """Two bins: 0.95 said and 0.5 right for 4 objects, 0.55 said and 1.0 right for 1."""
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55])
    correct = np.array([True, True, False, False, True])
    assert calibration_error(confidence, correct) == pytest.approx((4 * 0.45 + 1 * 0.45) / 5)


def test_certain_and_right_is_calibrated() -> None:
    assert calibration_error(np.ones(5), np.ones(5, bool)) == 0
