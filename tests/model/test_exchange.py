"""Exported graphs answer as the classifier they were made of, for other batches and lengths than they were traced with.

ONNX is held to ONNX's own reference evaluator.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.classify import Classifier, load_classifier
from model.evaluation.calibration import Calibration, write_calibration
from model.exchange import METADATA_KEY, Answering, export_classifier, inputs_of
from model.rundir import fold_dir
from pipeline.sequences import Sequence
from tests.model.untrained import TINY, write_model, write_run

EVERYTHING = TINY.updated(model={"inputs": ["flux", "difference", "weight"], "clock": "date"}, storage="float32")
"""All that a network can look at; images as they are, so that the answers are the same to rounding."""


@pytest.fixture(scope="module")
def classifier(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """Two folds of one model each, at different temperatures."""
    config = EVERYTHING.updated(protocol={"members": 1})
    run = write_run(tmp_path_factory.mktemp("run"), tiny_dataset, config)
    for fold, temperature in ((0, 0.5), (1, 2.0)):
        write_calibration(fold_dir(run, fold), Calibration(temperature=temperature))
    return load_classifier(run)


def arrays(sequences: list[Sequence], slots: int) -> dict[str, np.ndarray]:
    """What the metadata asks for, from the files' own arrays; empty slots hold nonsense."""
    shape = (len(sequences), slots)
    filled = {
        "image": np.full((*shape, 32, 32), 77, np.float32),
        "band_id": np.zeros(shape, np.int64),
        "mjd": np.full(shape, 77.0),
        "weight": np.full((*shape, 32, 32), 77, np.float32),
    }
    for place, sequence in enumerate(sequences):
        here = place, slice(len(sequence))
        filled["image"][here] = sequence.image
        filled["band_id"][here] = sequence.band_id
        filled["mjd"][here] = sequence.mjd_tai
        filled["weight"][here] = np.where(sequence.mask == 0, 1 / np.sqrt(sequence.variance), 0)
    return filled


Case = tuple[dict[str, np.ndarray], list[list[float]]]


def cases(classifier: Classifier, sequence_maker: Any) -> list[Case]:
    """Inputs and the classifier's answers: batches of one and of four, of two blocks and of all, with empty slots."""
    random, found = np.random.default_rng(0), []
    for lengths, slots in (((5,), 6), ((12, 1, 7, 10), 12)):
        sequences = [sequence_maker(str(n), ("AGN", "spectroscopic"), n, random) for n in lengths]
        answers = [list(classifier.classify(sequence).probabilities.values()) for sequence in sequences]
        found.append((arrays(sequences, slots), answers))
    return found


def assert_answers(graph: Callable[[dict[str, np.ndarray]], Any], expected: list[Case]) -> None:
    for inputs, answers in expected:
        np.testing.assert_allclose(graph(inputs), answers, atol=2e-6)


def in_torch(module: torch.nn.Module) -> Callable[[dict[str, np.ndarray]], Any]:
    """A module that takes numpy's arrays."""
    return torch.inference_mode()(lambda inputs: module(**{k: torch.from_numpy(v) for k, v in inputs.items()}))


def test_the_graph_that_is_traced_answers_as_the_models_do(
    classifier: Classifier, sequence_maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Computing what comes of empty slots, too, as an exported graph must, changes nothing."""
    expected = cases(classifier, sequence_maker)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert_answers(in_torch(Answering(classifier).eval()), expected)


@pytest.mark.slow
def test_a_torch_export_answers_as_the_models_do(classifier: Classifier, sequence_maker, tmp_path: Path) -> None:
    export_classifier(classifier, tmp_path / "model.pt2", "pt2")
    extra = {f"{METADATA_KEY}.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra).module()
    assert_answers(in_torch(program), cases(classifier, sequence_maker))
    said = json.loads(extra[f"{METADATA_KEY}.json"])
    assert list(said["inputs"]) == ["image", "band_id", "mjd", "weight"] == list(inputs_of(classifier.model))
    assert (said["classes"], said["bands"]["z"]) == (list(EVERYTHING.model.classes), 5)
    assert said["temperatures"] == [0.5, 2.0]
    constants = classifier.ensembles[0][0].models[0].file.normalisation
    assert said["normalisation"][0]["std_nmgy"] == list(constants.std_nmgy)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]


@pytest.mark.slow
def test_onnx_answers_as_the_model_does(sequence_maker, tmp_path: Path) -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    write_model(tmp_path / "model", EVERYTHING)
    write_calibration(tmp_path / "model", Calibration(temperature=2))
    one = load_classifier(tmp_path / "model")
    classifier = replace(one, config=EVERYTHING)  # a lone model does not say how images were stored
    export_classifier(classifier, tmp_path / "model.onnx", "onnx")
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model)
    graph = ReferenceEvaluator(model)
    assert_answers(lambda inputs: graph.run(["probability"], inputs)[0], cases(classifier, sequence_maker))
    (said,) = [json.loads(one.value) for one in model.metadata_props if one.key == METADATA_KEY]
    assert said["images"] == "a multiple of 3 from 6 to 12"
    assert [one.name for one in model.graph.input] == list(said["inputs"])
