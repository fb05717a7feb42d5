"""What evaluation leaves in a run: calibration by validation objects alone, early scores, attention, card, pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from model.ensemble import log_mean
from model.errors import RunError
from model.evaluate import _ensemble, _said, evaluate
from model.evaluation.attention import temporal_weights
from model.evaluation.calibration import fit_temperature, read_calibration
from model.evaluation.card import read_card
from model.evaluation.results import read_evaluation
from model.rundir import CALIBRATION_FILE, CARD_FILE, fold_dir, step_dir
from model.runs import open_session
from pipeline.errors import ReportError
from pipeline.report.pictures import write_pictures
from tests.model.untrained import TINY, write_run


@pytest.fixture(scope="module")
def evaluated(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluated run of two folds, two members each."""
    run = write_run(tmp_path_factory.mktemp("run"), tiny_dataset, TINY)
    evaluate(tiny_dataset, run)
    return run


def test_temperatures_come_from_the_validation_objects_alone(tiny_dataset: Path, evaluated: Path) -> None:
    """Recomputed from the objects that fine-tuning kept for validation; no test object is among them."""
    session = open_session(tiny_dataset, evaluated)
    for fold in (0, 1):
        lists = session.lists(fold)
        places = lists.fine_tune_validation
        assert len(places) > 0
        assert not set(places.tolist()) & set(lists.test.tolist())
        said = _said(session, _ensemble(session, fold), places)
        assert read_calibration(fold_dir(evaluated, fold)) == fit_temperature(log_mean(said), session.label_O[places])
        alone = read_calibration(step_dir(evaluated, fold, 1, "fine-tune"))
        assert alone == fit_temperature(said[1], session.label_O[places])
    folds = read_evaluation(evaluated).folds
    assert [fold.temperature for fold in folds] == [
        read_calibration(fold_dir(evaluated, fold.fold)).temperature for fold in folds
    ]


def test_without_validation_objects_or_with_one_fold_a_run_is_evaluated_all_the_same(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    config = TINY.updated(protocol={"validation_fraction": 0, "members": 1})
    evaluation = evaluate(tiny_dataset, write_run(tmp_path, tiny_dataset, config, (3,)), early=False)
    assert [(fold.fold, fold.temperature, fold.n_calibrated) for fold in evaluation.folds] == [(3, 1.0, 0)]
    assert evaluation.ece == evaluation.ece_uncalibrated
    assert evaluation.confusion_over_folds.std_percent == ((None,) * 4,) * 4


def test_all_nights_are_all_images(tiny_dataset: Path, evaluated: Path) -> None:
    """And one night is the first night's images: cutting the rest off changes nothing."""
    session = open_session(tiny_dataset, evaluated)
    places, ensemble = session.lists(0).test, _ensemble(session, 0)
    np.testing.assert_array_equal(_said(session, ensemble, places, 10_000), _said(session, ensemble, places))
    assert np.abs(_said(session, ensemble, places, 1) - _said(session, ensemble, places)).max() > 1e-4
    early = read_evaluation(evaluated).early
    assert early[0].nights == 1
    assert early[0].n_objects == read_evaluation(evaluated).n_objects >= early[-1].n_objects > 0


def test_attention_is_shared_among_the_blocks_that_hold_images(tiny_dataset: Path, evaluated: Path) -> None:
    """Adds up to 1 over them in every head and pixel, and looking leaves the network as it was."""
    session = open_session(tiny_dataset, evaluated)
    model = _ensemble(session, 0).models[0]
    loader = session.loader(model.file.normalisation)
    (batch,) = loader.batches(session.places(np.arange(len(session.objects))), 100)
    before = model.network(*batch)
    weight_LBNThw = temporal_weights(model.network, batch)
    assert weight_LBNThw.shape[:2] == (1, len(session.objects))
    torch.testing.assert_close(weight_LBNThw.sum(dim=2), torch.ones_like(weight_LBNThw[:, :, 0]))
    empty_BN = (batch.band_BM == 0).unflatten(1, (-1, 3)).all(dim=2)
    assert empty_BN.any()
    assert (weight_LBNThw[0][empty_BN] == 0).all()
    assert model.network(*batch).equal(before)


def test_the_card_names_data_scores_and_calibration(evaluated: Path) -> None:
    evaluation, card = read_evaluation(evaluated), read_card(evaluated)
    assert card == (evaluated / CARD_FILE).read_text()
    assert "$" not in card
    counts = next(one for one in evaluation.split if one.name == "SNIa")
    assert f"| SNIa | {counts.train} | {counts.train_validation} | {counts.fine_tune} |" in card
    assert f"{100 * evaluation.macro_f1.value:.1f} [" in card
    assert all(f"{fold.temperature:.2f} ({fold.n_calibrated} objects)" in card for fold in evaluation.folds)


def test_pictures_are_drawn_from_what_the_run_holds(evaluated: Path, tmp_path: Path) -> None:
    """A run without metrics has no training curves; one without evaluation, or with a spoilt file, says so."""
    run = shutil.copytree(evaluated, tmp_path / "run")
    drawn = write_pictures(run)
    assert [path.name for path in drawn] == ["confusion.png", "reliability.png", "early.png", "attention.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    (run / "attention.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(ReportError, match=r"attention\.npz is not what a run writes"):
        write_pictures(run)
    (run / "evaluation.json").unlink()
    with pytest.raises(ReportError, match="is not evaluated"):
        write_pictures(run)
    with pytest.raises(RunError, match="evaluate the run first"):
        read_card(run)


def test_a_calibration_that_is_none_is_refused(evaluated: Path, tmp_path: Path) -> None:
    """A temperature that would freeze or melt every answer did not come from here."""
    (tmp_path / CALIBRATION_FILE).write_text(json.dumps({"temperature": 0}))
    with pytest.raises(RunError, match=r"calibration\.json is not a calibration: temperature"):
        read_calibration(tmp_path)
