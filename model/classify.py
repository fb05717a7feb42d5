"""Use trained models: a sequence of images in, the probability of each class out.

Shapes: V objects, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from model.config import ModelConfig, RunConfig, TrainConfig
from model.data import pack_sequences, pick_device
from model.ensemble import Ensemble, log_mean
from model.errors import RunError, WeightsError
from model.evaluation.calibration import Calibration, read_calibration
from model.export import load_model, read_description
from model.rundir import CONFIG_FILE, MODEL_FILE, fold_dir, is_finished, step_dir
from model.runs import read_record
from pipeline.errors import SequenceError
from pipeline.sequences import Sequence as ImageSequence

SEQUENCES_AT_ONCE: Final = 32
"""In one batch of the network."""
IMAGES_AT_ONCE: Final = 8192
"""After so many, a batch is not waited to be full: 33 MB at 32 × 32 px."""


@dataclass(frozen=True, slots=True)
class Classification:
    """What the models say of one object."""

    object_id: str
    probabilities: dict[str, float]
    """By class, in the model's order; they add up to 1."""
    n_images: int
    """Images that were looked at: those in the model's bands, at most as many as it takes."""

    @property
    def predicted(self) -> str:
        """The most probable class."""
        return max(self.probabilities, key=self.probabilities.__getitem__)


@dataclass(frozen=True, slots=True)
class Classifier:
    """Trained models that answer together; made by `load_classifier`."""

    ensembles: tuple[tuple[Ensemble, Calibration], ...]
    """Of each fold: its members are averaged, then calibrated; folds are averaged last."""
    config: RunConfig
    dataset_id: str
    """Dataset that the models were trained on."""
    device: torch.device
    calibrated: bool
    """Whether temperatures were fitted: the run was evaluated."""

    @property
    def model(self) -> ModelConfig:
        """The network of all models."""
        return self.config.model

    @property
    def n_models(self) -> int:
        """Networks that are averaged."""
        return sum(len(ensemble.models) for ensemble, _ in self.ensembles)

    def classify(self, sequence: ImageSequence) -> Classification:
        """The probability of each class.

        Raises
        ------
        SequenceError
            The sequence contradicts the schema: a band id that is none, say.
        DatasetError
            Its images are not of the model's size, none is in the model's bands, or not one pixel is covered.
        """
        self.check(sequence)
        (answer,) = self._answer([sequence])
        return answer

    def classify_all(self, sequences: Iterable[ImageSequence]) -> Iterator[Classification]:
        """The same for many, in their order, some at a time; each must pass `check`."""
        waiting: list[ImageSequence] = []
        for sequence in sequences:
            waiting.append(sequence)
            if len(waiting) == SEQUENCES_AT_ONCE or sum(map(len, waiting)) >= IMAGES_AT_ONCE:
                yield from self._answer(waiting)
                waiting = []
        if waiting:
            yield from self._answer(waiting)

    def check(self, sequence: ImageSequence) -> None:
        """Be sure that the sequence can be classified (raises as `classify`)."""
        if problems := sequence.problems():
            raise SequenceError(f"object {sequence.object_id}: {'; '.join(problems)}")
        pack_sequences([sequence], len(sequence), self.config)

    def _answer(self, sequences: list[ImageSequence]) -> list[Classification]:
        pack = pack_sequences(sequences, sum(map(len, sequences)), self.config).placed(self.device)
        objects = torch.arange(len(sequences), device=self.device)
        parts = [
            calibration.applied(log_mean(ensemble.log_probabilities(pack, objects, self.device, SEQUENCES_AT_ONCE)))
            for ensemble, calibration in self.ensembles
        ]
        probability_VC: NDArray[Any] = np.mean(parts, axis=0)
        n_images_V = pack.length_O.clamp(max=self.model.images).tolist()
        return [
            Classification(
                sequence.object_id, dict(zip(self.model.classes, probability_C, strict=True)), n_images
            )
            for sequence, probability_C, n_images in zip(
                sequences, probability_VC.tolist(), n_images_V, strict=True
            )
        ]  # fmt: skip


def load_classifier(path: str | Path, fold: int | None = None, device: torch.device | None = None) -> Classifier:
    """Load one model, or all fine-tuned models of a run.

    Parameters
    ----------
    path
        Folder of a model (it has a model.json), or of a run.
    fold
        Of a run, the models of this fold alone; by default of all whose members are all fine-tuned.
    device
        By default the one that the run is configured for, a GPU where there is one.

    Raises
    ------
    WeightsError
        The models are damaged, or not of the run's network.
    RunError
        There is neither model nor run, the run has no fine-tuned model, or not this fold.
    """
    path = Path(path)
    if (path / MODEL_FILE).is_file():
        if fold is not None:
            raise RunError(f"{path} is one model, not a run: leave the fold out")
        return _of_model(path, device)
    if (path / CONFIG_FILE).is_file():
        return _of_run(path, fold, device)
    what = f"it has neither {MODEL_FILE} nor {CONFIG_FILE}" if path.is_dir() else "there is no such folder"
    raise RunError(f"{path} is neither a model nor a run: {what}")


def _of_model(folder: Path, device: torch.device | None) -> Classifier:
    file, once = read_description(folder), TrainConfig(epochs=1)
    config = RunConfig(model=file.model, train=once, fine_tune=once)  # nothing is trained
    device, found = device or pick_device(config), read_calibration(folder)
    ensembles = ((Ensemble((load_model(folder, device),)), found or Calibration()),)
    return Classifier(ensembles, config, file.dataset_id, device, found is not None)


def _of_run(run_dir: Path, fold: int | None, device: torch.device | None) -> Classifier:
    record = read_record(run_dir)
    device = device or pick_device(record.config)
    members = record.config.protocol.members
    found: list[tuple[Ensemble, Calibration | None]] = []
    for number in _finished(run_dir, members) if fold is None else [fold]:
        folders = [step_dir(run_dir, number, member, "fine-tune") for member in range(members)]
        if not all(map(is_finished, folders)):
            raise RunError(f"{run_dir}: fold {number} has no fine-tuned models: it is not a fold, or fine-tune first")
        ensemble = Ensemble(tuple(load_model(folder, device) for folder in folders))
        _check_networks(run_dir, record.config.model, ensemble)
        found.append((ensemble, read_calibration(fold_dir(run_dir, number))))
    if not found:
        raise RunError(f"{run_dir} holds no fold whose models are all fine-tuned: fine-tune the run first")
    ensembles = tuple((ensemble, calibration or Calibration()) for ensemble, calibration in found)
    calibrated = all(calibration is not None for _, calibration in found)
    return Classifier(ensembles, record.config, record.dataset_id, device, calibrated)


def _finished(run_dir: Path, members: int) -> list[int]:
    """Folds whose members are all fine-tuned."""
    numbers = [
        int(name) for folder in run_dir.glob("fold-*") if (name := folder.name.removeprefix("fold-")).isdecimal()
    ]
    return [
        number
        for number in sorted(numbers)
        if all(is_finished(step_dir(run_dir, number, member, "fine-tune")) for member in range(members))
    ]


def _check_networks(run_dir: Path, config: ModelConfig, ensemble: Ensemble) -> None:
    for model in ensemble.models:
        if model.file.model != config:
            file, expected = model.file.model.model_dump(), config.model_dump()
            differing = ", ".join(key for key in expected if file[key] != expected[key])
            raise WeightsError(
                f"{run_dir}: the model of fold {model.file.fold}, member {model.file.member} is of another network "
                f"than {CONFIG_FILE} says ({differing}): it was copied from another run"
            )
