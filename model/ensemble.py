"""Models that answer together: the mean of their probabilities.

Shapes: E models, V objects, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from model.data import Pack
from model.export import LoadedModel
from model.loader import Loader


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Models of the same classes, each with the band constants it was trained with."""

    models: tuple[LoadedModel, ...]

    def log_probabilities(
        self, pack: Pack, objects: Tensor, device: torch.device, batch: int, until: int | None = None
    ) -> NDArray[Any]:
        """log of what each model says, (E, V, C), float64, from images chosen by the fixed rule.

        Parameters
        ----------
        objects
            Places in the pack.
        until
            Only the first so many nights.
        """
        said_EVC = [self._of(model, pack, objects, device, batch, until) for model in self.models]
        log_probability_EVC: NDArray[Any] = torch.stack(said_EVC).cpu().numpy()
        return log_probability_EVC

    @staticmethod
    @torch.inference_mode()
    def _of(
        model: LoadedModel, pack: Pack, objects: Tensor, device: torch.device, batch: int, until: int | None
    ) -> Tensor:
        if not len(objects):
            return torch.empty(0, len(model.file.model.classes), dtype=torch.float64, device=device)
        loader = Loader(pack, model.file.normalisation, model.file.model, device)
        batches = loader.batches(objects, batch, until)
        return torch.cat([model.network(*each).double().log_softmax(dim=1) for each in batches])


def log_mean(log_probability_EVC: NDArray[Any]) -> NDArray[Any]:
    """log of the mean probability of the models: (E, V, C) → (V, C)."""
    said_EVC = torch.from_numpy(log_probability_EVC)
    mean_VC: NDArray[Any] = (said_EVC.logsumexp(dim=0) - math.log(len(said_EVC))).numpy()
    return mean_VC
