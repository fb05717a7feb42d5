"""Runs: the two steps learn, repeat and resume to the same bits, and refuse what they cannot use."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from model.config import THREE_CLASSES, RunConfig, preset
from model.errors import ModelConfigError, RunError, TrainingError
from model.evaluate import Evaluation, evaluate
from model.export import load_model
from model.rundir import CHECKPOINT_FILE, EVALUATION_FILE, METRICS_FILE, PREDICTIONS_FILE, WEIGHTS_FILE, step_dir
from model.runs import fine_tune, open_session, read_history, train
from pipeline.errors import DatasetError

STEP = {"samples_per_epoch": 8, "batch": 8}
TINY = preset("small").updated(
    model={"images": 12}, train={"epochs": 3, **STEP}, fine_tune={"epochs": 2, **STEP}, device="cpu"
)


@pytest.fixture(scope="module")
def finished(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two members per fold, both steps."""
    run_dir = tmp_path_factory.mktemp("run")
    train(tiny_dataset, run_dir, TINY.updated(protocol={"members": 2}))
    fine_tune(tiny_dataset, run_dir)
    return run_dir


def assert_same_weights(left: Path, right: Path) -> None:
    one, other = load_file(left / WEIGHTS_FILE), load_file(right / WEIGHTS_FILE)
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.equal(other[name]), name


class Interrupted(Exception):
    """Stands for a killed process."""


@pytest.mark.parametrize("freeze", ["encoder"])
def test_an_interrupted_run_resumes_to_the_same_bits(tiny_dataset: Path, tmp_path: Path, freeze: str) -> None:
    """Killed after an epoch of either step, then called again: weights, metrics, kept epoch as if never killed."""
    config = TINY.updated(fine_tune={"freeze": freeze})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(tiny_dataset, whole, config, folds=[1])
    fine_tune(tiny_dataset, whole)

    def stop(progress) -> None:
        if progress.epoch == (2 if progress.step == "train" else 1):
            raise Interrupted

    with pytest.raises(Interrupted):
        train(tiny_dataset, broken, config, folds=[1], progress=stop)
    assert (step_dir(broken, 1, 0, "train") / CHECKPOINT_FILE).is_file()
    epochs = []
    train(tiny_dataset, broken, config, folds=[1], progress=lambda p: epochs.append(p.epoch))
    assert epochs == [3]
    with pytest.raises(Interrupted):
        fine_tune(tiny_dataset, broken, progress=stop)
    fine_tune(tiny_dataset, broken)

    for step in ("train", "fine-tune"):
        left, right = step_dir(whole, 1, 0, step), step_dir(broken, 1, 0, step)
        assert_same_weights(left, right)
        one, other = read_history(left), read_history(right)
        assert one.best_epoch == other.best_epoch
        assert [m.model_copy(update={"seconds": 0}) for m in one.metrics] == [
            m.model_copy(update={"seconds": 0}) for m in other.metrics
        ]
        assert not (right / CHECKPOINT_FILE).exists()


def test_seeds_decide_the_weights_and_nothing_else_does(tiny_dataset: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    train(tiny_dataset, tmp_path / "a", TINY, folds=[0])
    assert torch.get_rng_state().equal(state)
    torch.manual_seed(2)
    train(tiny_dataset, tmp_path / "b", TINY, folds=[0])
    train(tiny_dataset, tmp_path / "c", TINY.updated(protocol={"seed": 7}), folds=[0])
    a, b, c = (step_dir(tmp_path / name, 0, 0, "train") for name in "abc")
    assert_same_weights(a, b)
    with pytest.raises(AssertionError):
        assert_same_weights(a, c)


def test_members_of_a_fold_differ(finished: Path) -> None:
    with pytest.raises(AssertionError):
        assert_same_weights(step_dir(finished, 0, 0, "train"), step_dir(finished, 0, 1, "train"))


def test_fine_tuning_changes_the_head_alone(finished: Path) -> None:
    before, after = (load_file(step_dir(finished, 0, 0, step) / WEIGHTS_FILE) for step in ("train", "fine-tune"))
    changed = {name.split(".")[0] for name in before if not before[name].equal(after[name])}
    assert changed == {"head"}


def test_finished_models_are_not_trained_again(tiny_dataset: Path, finished: Path) -> None:
    config = TINY.updated(protocol={"members": 2})
    result = train(tiny_dataset, finished, config, progress=lambda p: pytest.fail(f"trained {p}"))
    assert len(result.models) == 10
    assert all(model.epochs == 3 and np.isfinite(model.loss) for model in result.models)


def test_evaluation_predicts_each_spectroscopic_object_once_by_its_own_fold(tiny_dataset: Path, finished: Path) -> None:
    evaluation = evaluate(tiny_dataset, finished)
    predictions = pq.read_table(finished / PREDICTIONS_FILE).to_pylist()
    rows = {row.object_id: row for row in open_session(tiny_dataset, finished).objects}
    expected = {i for i, row in rows.items() if row.confirmation == "spectroscopic"}
    assert len(predictions) == len(expected)
    assert {p["object_id"] for p in predictions} == expected
    for p in predictions:
        assert (p["fold"], p["true"]) == (rows[p["object_id"]].fold, rows[p["object_id"]].class_name)
        assert sum(p[f"p_{name}"] for name in evaluation.classes) == pytest.approx(1, abs=1e-9)
        assert p[f"p_{p['predicted']}"] == max(p[f"p_{name}"] for name in evaluation.classes)
    assert np.sum(evaluation.confusion) == evaluation.n_objects == len(expected)
    assert Evaluation.model_validate_json((finished / EVALUATION_FILE).read_text()) == evaluation


def test_constants_of_a_fold_come_from_its_training_objects_alone(tiny_dataset: Path, finished: Path) -> None:
    """Recomputed from the files; the model carries them, so that it can be applied alone."""
    session = open_session(tiny_dataset, finished)
    places = session.lists(2).train
    file = load_model(step_dir(finished, 2, 0, "fine-tune")).file
    assert file.normalisation == session.pack.normalisation(places.tolist())
    assert file.normalisation != session.pack.normalisation(range(len(session.objects)))


def test_small_preset_learns_what_is_easy(separable_dataset: Path, tmp_path: Path) -> None:
    """One fold of the demo-sized dataset: far above the majority class on objects not seen."""
    config = preset("small").updated(model={"images": 30}, train={"epochs": 16, "samples_per_epoch": 32}, device="cpu")
    train(separable_dataset, tmp_path, config, folds=[0, 1])
    fine_tune(separable_dataset, tmp_path)
    evaluation = evaluate(separable_dataset, tmp_path)
    assert evaluation.balanced_accuracy.value > evaluation.majority.balanced_accuracy + 0.25
    assert evaluation.accuracy.value > evaluation.majority.accuracy + 0.2


def test_three_classes_and_one_band(tiny_dataset: Path, tmp_path: Path) -> None:
    config = TINY.updated(model={"classes": THREE_CLASSES, "bands": ["g"]}, train={"epochs": 1})
    train(tiny_dataset, tmp_path, config, folds=[0])
    fine_tune(tiny_dataset, tmp_path)
    assert evaluate(tiny_dataset, tmp_path).classes == THREE_CLASSES


def test_a_loss_that_is_not_finite_names_fold_and_epoch(dataset_writer, tmp_path: Path) -> None:
    config = TINY.updated(train={"lr": 1e30})
    dataset = dataset_writer(tmp_path / "data", [("AGN", "spectroscopic")] * 8 + KINDS, n_images=(5, 8))
    with pytest.raises(TrainingError, match=r"epoch \d of fold 0, member 0, train"):
        train(dataset, tmp_path / "run", config)
    assert not (step_dir(tmp_path / "run", 0, 0, "train") / WEIGHTS_FILE).exists()


KINDS = [
    (name, confirmation)
    for name, confirmation in [
        ("SNIa", "spectroscopic"),
        ("SNIa", "photometric"),
        ("SNOther", "photometric"),
        ("Variable", "spectroscopic"),
    ]
    for _ in range(6)
]


def test_a_class_without_objects_is_refused(dataset_writer, tmp_path: Path) -> None:
    sources = [kind for kind in KINDS if kind[0] != "SNIa"] + [("AGN", "spectroscopic")] * 6
    dataset = dataset_writer(tmp_path / "data", sources, n_images=(3, 4))
    with pytest.raises(DatasetError, match="no object of class SNIa"):
        train(dataset, tmp_path / "run", TINY)
    assert not (tmp_path / "run").exists()


def test_another_dataset_or_configuration_is_refused(
    dataset_writer, tiny_dataset: Path, finished: Path, tmp_path: Path
) -> None:
    other = dataset_writer(tmp_path / "data", KINDS + [("AGN", "spectroscopic")] * 6, n_images=(3, 4), seed=1)
    with pytest.raises(RunError, match="other content"):
        fine_tune(other, finished)
    with pytest.raises(RunError, match=r"another configuration \(train"):
        train(tiny_dataset, finished, TINY.updated(train={"lr": 0.1}, protocol={"members": 2}))


def test_steps_in_the_wrong_order_say_what_to_run(tiny_dataset: Path, finished: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="train first"):
        fine_tune(tiny_dataset, tmp_path)
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(step_dir(run, 3, 1, "fine-tune"))
    with pytest.raises(RunError, match="fold 3 has not finished fine-tune: run fine-tune again"):
        evaluate(tiny_dataset, run)
    for folder in run.glob("fold-*/member-*/fine-tune"):
        shutil.rmtree(folder)
    with pytest.raises(RunError, match="run fine-tune first"):
        evaluate(tiny_dataset, run)


def test_a_misspelt_setting_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ModelConfigError, match=r"train\.epoch: unknown key; known keys: .*epochs, "):
        TINY.updated(train={"epoch": 5})


def test_folds_that_do_not_exist_are_refused(tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelConfigError, match="folds 0 to 4"):
        train(tiny_dataset, tmp_path, TINY, folds=[5])


def test_a_damaged_checkpoint_says_what_to_do(tiny_dataset: Path, tmp_path: Path) -> None:
    folder = step_dir(tmp_path, 0, 0, "train")
    folder.mkdir(parents=True)
    (folder / CHECKPOINT_FILE).write_bytes(b"not safetensors")
    with pytest.raises(RunError, match="delete it to start this model again"):
        train(tiny_dataset, tmp_path, TINY, folds=[0])
    assert not (folder / METRICS_FILE).exists()


def test_configuration_of_a_run_is_whole(finished: Path, tiny_dataset: Path) -> None:
    session = open_session(tiny_dataset, finished)
    assert session.config == TINY.updated(protocol={"members": 2})
    assert isinstance(session.config, RunConfig)
    assert session.record.software["torch"] == torch.__version__
