"""The search proposes only what fits together, learns nothing from test objects, and continues when killed."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

import model.search
from model.config import PRESETS, preset
from model.errors import ModelConfigError, RunError
from model.loader import Loader
from model.search import blocks_of, propose, search
from pipeline.manifest import open_dataset
from s82.words.train import parse_settings

TINY = preset("small").updated(
    train={"epochs": 2, "samples_per_epoch": 4}, protocol={"validation_fraction": 0.3}, device="cpu"
)


@pytest.mark.parametrize("name", PRESETS)
def test_every_proposal_is_a_network_that_can_be_built(name: str) -> None:
    """60 random trials: M a multiple of K, one time step per block; the settings make the same configuration again."""
    base = preset(name)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    blocks = set()
    for _ in range(60):
        config = propose(study.ask(), base, longest=99)
        assert config.model.images % config.model.block == 0
        assert 20 < config.model.images <= 99
        blocks.add(config.model.block)
        assert base.updated(**parse_settings(model.search.settings_of(config, base))) == config
    assert blocks == set(blocks_of(base.model)) > {base.model.block}


def test_a_killed_search_continues_to_the_same_result(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the second epoch of the second trial: nothing but the numbers of the trials tells."""
    used: set[int] = set()
    original = Loader._batches

    def spy(self: Loader, choices):  # type: ignore[no-untyped-def]
        def each():  # type: ignore[no-untyped-def]
            for choice in choices:
                used.update(choice.object_B.tolist())
                yield choice

        return original(self, each())

    monkeypatch.setattr(Loader, "_batches", spy)
    whole = search(tiny_dataset, tmp_path / "whole", TINY, trials=3, seed=5)

    class Killed(BaseException):
        pass

    real, calls = model.search.fit, []

    def dying(*arguments):  # type: ignore[no-untyped-def]
        *others, judge = arguments
        calls.append(1)

        def watch(progress):  # type: ignore[no-untyped-def]
            judge(progress)
            if len(calls) == 2:
                raise Killed

        return real(*others, watch)

    monkeypatch.setattr(model.search, "fit", dying)
    with pytest.raises(Killed):
        search(tiny_dataset, tmp_path / "broken", TINY, trials=3, seed=5)
    told = []
    broken = search(tiny_dataset, tmp_path / "broken", TINY, trials=3, seed=5, progress=told.append)
    assert len(told) == 2
    assert [t.model_copy(update={"number": 0}) for t in broken.trials] == [
        t.model_copy(update={"number": 0}) for t in whole.trials
    ]
    assert broken.best.macro_f1 == max(t.macro_f1 for t in whole.trials)
    assert not list((tmp_path / "broken").rglob("*.safetensors"))

    session = model.search.session_of(tmp_path, model.search.RunRecord(
        config=TINY, dataset_id="", dataset_content_hash="", software={}), open_dataset(tiny_dataset))  # fmt: skip
    lists = session.lists(0)
    assert used <= {*lists.train.tolist(), *lists.train_validation.tolist()}
    assert used >= set(lists.train_validation.tolist())

    with pytest.raises(RunError, match=r"another search \(seed\)"):
        search(tiny_dataset, tmp_path / "broken", TINY, trials=3, seed=6)


def test_a_trial_that_cannot_be_trained_is_told_and_passed_over(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = model.search.fit, []

    def failing(*arguments):  # type: ignore[no-untyped-def]
        calls.append(1)
        if len(calls) == 1:
            raise model.search.TrainingError("the loss is nan")
        return real(*arguments)

    monkeypatch.setattr(model.search, "fit", failing)
    result = search(tiny_dataset, tmp_path, TINY.updated(train={"epochs": 1}), trials=2)
    assert [trial.state for trial in result.trials] == ["failed", "complete"]
    assert result.trials[0].reason == "the loss is nan"
    assert result.best == result.trials[1]


def test_a_search_without_validation_is_refused(tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelConfigError, match=r"set protocol\.validation_fraction to more than 0"):
        search(tiny_dataset, tmp_path / "out", TINY.updated(protocol={"validation_fraction": 0}), trials=1)
    assert not (tmp_path / "out").exists()
