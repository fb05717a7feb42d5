"""Whether a probability means what it says, and one number that makes it so.

Temperature scaling (Guo et al. 2017): the logarithms of the probabilities are divided by T, fitted on objects that
neither trained the model nor test it. The order of the classes, and so the prediction, stays. An ensemble is averaged
first and scaled as a whole: the mean of scaled members would be less sure than it is right.

Shapes: V objects, C classes, G bins of confidence.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from model.config import Config
from model.errors import RunError
from model.evaluation.results import CalibrationBin
from model.rundir import CALIBRATION_FILE
from pipeline.atomic import write_text
from pipeline.validation import explain

N_BINS: Final = 10
LIMITS: Final = (0.05, 20.0)
"""Between which temperatures are looked for."""
Array = NDArray[Any]


class Calibration(Config):
    """Content of a calibration.json, beside one model or one fold's ensemble of models."""

    format_version: Literal[1] = 1
    temperature: float = Field(default=1.0, ge=LIMITS[0], le=LIMITS[1])
    n_objects: int = Field(default=0, ge=0)
    """Validation objects that it was fitted on; with none it is 1."""
    nll_before: float | None = None
    """Mean -log(probability of the truth) of those objects as the model gave it."""
    nll_after: float | None = None

    def applied(self, log_probability_VC: Array) -> Array:
        """Probabilities that this temperature makes."""
        return probability_at(self.temperature, log_probability_VC)


def fit_temperature(log_probability_VC: Array, true_V: Array) -> Calibration:
    """The temperature of the greatest likelihood.

    A weak prior, log T of 0 ± 1, keeps a handful of objects that happen to be all right from making the model
    infinitely sure; a hundred objects outweigh it.
    """
    from scipy.optimize import minimize_scalar

    if not len(true_V):
        return Calibration()

    def cost(log_temperature: float) -> float:
        nll = _mean_nll(probability_at(math.exp(log_temperature), log_probability_VC), true_V)
        return len(true_V) * nll + log_temperature**2 / 2

    bounds = tuple(math.log(limit) for limit in LIMITS)
    found = minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    temperature = min(max(math.exp(float(found.x)), LIMITS[0]), LIMITS[1])
    return Calibration(
        temperature=temperature,
        n_objects=len(true_V),
        nll_before=_mean_nll(probability_at(1.0, log_probability_VC), true_V),
        nll_after=_mean_nll(probability_at(temperature, log_probability_VC), true_V),
    )


def probability_at(temperature: float, log_probability_VC: Array) -> Array:
    """softmax(log p / T)."""
    scaled_VC = log_probability_VC / temperature
    scaled_VC = np.exp(scaled_VC - scaled_VC.max(axis=1, keepdims=True))
    probability_VC: Array = scaled_VC / scaled_VC.sum(axis=1, keepdims=True)
    return probability_VC


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Write calibration.json."""
    write_text(folder / CALIBRATION_FILE, calibration.model_dump_json(indent=2) + "\n")


def read_calibration(folder: Path) -> Calibration | None:
    """Read calibration.json; None where nothing was fitted yet.

    Raises
    ------
    RunError
        It is not one.
    """
    path = folder / CALIBRATION_FILE
    try:
        return Calibration.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise RunError(f"{path} is not a calibration: {explain(error)}; evaluate the run again") from error


def calibration_error(confidence_V: Array, correct_V: Array) -> float:
    """Expected calibration error (Naeini et al. 2015): mean over objects of |accuracy - confidence| of their bin."""
    _, confidence_G, hits_G = _bins(confidence_V, correct_V)
    return float(np.abs(hits_G - confidence_G).sum() / len(confidence_V))


def reliability(confidence_V: Array, correct_V: Array) -> tuple[CalibrationBin, ...]:
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


def bin_of(confidence_V: Array) -> Array:
    """Number of the bin (low, high] that each confidence lies in."""
    bin_V: Array = np.clip(np.ceil(confidence_V * N_BINS).astype(int) - 1, 0, N_BINS - 1)
    return bin_V


def _mean_nll(probability_VC: Array, true_V: Array) -> float:
    of_truth_V = probability_VC[np.arange(len(true_V)), true_V]
    return float(-np.log(np.maximum(of_truth_V, np.finfo(np.float64).tiny)).mean())


def _bins(confidence_V: Array, correct_V: Array) -> tuple[Array, Array, Array]:
    """Objects, summed confidence and hits per bin of confidence (low, high], each (G,)."""
    bin_V = bin_of(confidence_V)
    return tuple(np.bincount(bin_V, weights, minlength=N_BINS) for weights in (None, confidence_V, correct_V))  # type: ignore[return-value]
