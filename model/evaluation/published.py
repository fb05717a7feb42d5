"""Published results on Stripe 82, to stand beside a run's own.

Source: Bairouk et al. 2023, A&A 673, A141, Tables 4 (four classes) and 5 (three): means over five folds, in per cent,
where the methods of others are as its authors trained them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Published:
    """One row of a table of the paper."""

    model: str
    n_classes: int
    bands: str
    data: str
    accuracy: float
    macro_f1: float

    @property
    def source(self) -> str:
        """Where it is printed."""
        return f"Bairouk et al. 2023, Table {4 if self.n_classes == 4 else 5}"


PUBLISHED: Final = (
    Published("ConvEntion", 4, "ugriz", "images", 79.83, 70.62),
    Published("CNN+GRU (Gómez et al. 2020)", 4, "ugriz", "images", 66.39, 63.22),
    Published("ConvEntion", 4, "g", "images", 76.89, 63.20),
    Published("CNN+GRU (Gómez et al. 2020)", 4, "g", "images", 63.67, 61.00),
    Published("CNN+LSTM (Carrasco-Davis et al. 2019)", 4, "ugriz", "images", 64.08, 60.65),
    Published("CNN+LSTM (Carrasco-Davis et al. 2019)", 4, "g", "images", 63.00, 60.00),
    Published("SuperNNova, Bayes (Möller & de Boissière 2020)", 4, "ugriz", "light curves", 65.54, 55.40),
    Published("SITS-BERT (Yuan & Lin 2021)", 4, "ugriz", "light curves", 67.43, 51.60),
    Published("SCONE (Qu et al. 2021)", 4, "ugriz", "light curves", 62.57, 50.43),
    Published("SuperNNova, RNN (Möller & de Boissière 2020)", 4, "ugriz", "light curves", 56.30, 42.60),
    Published("LSTM", 4, "ugriz", "light curves", 55.24, 40.33),
    Published("ConvEntion", 3, "ugriz", "images", 83.90, 75.77),
    Published("ConvEntion", 3, "g", "images", 79.47, 72.38),
    Published("CNN+GRU (Gómez et al. 2020)", 3, "g", "images", 74.84, 68.95),
    Published("CNN+LSTM (Carrasco-Davis et al. 2019)", 3, "g", "images", 73.94, 67.29),
)

MAJORITY_NOTE: Final = (
    "Table 3 of the paper has 645 Variables among the 943 objects of a test fold: to answer Variable always is "
    "68.4 % accurate."
)


def comparable(n_classes: int) -> tuple[Published, ...]:
    """Results of the task with so many classes."""
    return tuple(row for row in PUBLISHED if row.n_classes == n_classes)
