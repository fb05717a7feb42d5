"""Weights travel as data: whole, checked against their description, and never executed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model.config import preset
from model.convention import ConvEntion
from model.data import Normalisation
from model.errors import WeightsError
from model.export import ModelFile, load_model, save_model
from model.rundir import MODEL_FILE, WEIGHTS_FILE

FILE = ModelFile(
    model=preset("small").model,
    normalisation=Normalisation(mean_nmgy=(0,) * 5, std_nmgy=(1,) * 5),
    dataset_id="synthetic",
    fold=0,
    member=0,
    step="train",
    epoch=1,
)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, ConvEntion]:
    network = ConvEntion(FILE.model).eval()
    save_model(tmp_path, network.state_dict(), FILE)
    return tmp_path, network


def test_a_loaded_model_answers_as_the_saved_one(saved: tuple[Path, ConvEntion]) -> None:
    folder, network = saved
    state = torch.get_rng_state()
    loaded = load_model(folder)
    assert torch.get_rng_state().equal(state)
    assert loaded.file == FILE
    batch = torch.randn(2, 9, 1, 32, 32), torch.randint(1, 6, (2, 9)), torch.zeros(2, 9)
    torch.testing.assert_close(loaded.network(*batch), network(*batch), rtol=0, atol=0)


def test_weights_of_another_network_are_one_clear_error(saved: tuple[Path, ConvEntion]) -> None:
    folder, _ = saved
    other = ConvEntion(preset("small").updated(model={"head_features": 32}).model)
    save_file(other.state_dict(), folder / WEIGHTS_FILE)
    with pytest.raises(WeightsError, match=r"head\.2\.bias is \(32,\), expected \(64,\)"):
        load_model(folder)


def test_oversized_weights_are_not_read(saved: tuple[Path, ConvEntion]) -> None:
    folder, _ = saved
    with (folder / WEIGHTS_FILE).open("r+b") as handle:
        handle.truncate(10**12)  # sparse
    with pytest.raises(WeightsError, match="needs fewer than"):
        load_model(folder)


def test_a_description_of_a_monster_allocates_nothing(saved: tuple[Path, ConvEntion]) -> None:
    folder, _ = saved
    content = json.loads((folder / MODEL_FILE).read_text())
    content["model"]["images"], content["model"]["layers"] = 9999, 100
    content["model"]["convolutions"][-1]["channels"] = 4096
    (folder / MODEL_FILE).write_text(json.dumps(content))
    with pytest.raises(WeightsError, match="at most 500,000,000"):
        load_model(folder)


@pytest.mark.parametrize("content", [b"", b"\x80\x04\x95pickle", b"\xff" * 64])
def test_what_is_not_safetensors_is_refused(saved: tuple[Path, ConvEntion], content: bytes) -> None:
    folder, _ = saved
    (folder / WEIGHTS_FILE).write_bytes(content)
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        load_model(folder)


def test_missing_and_broken_descriptions_are_named(saved: tuple[Path, ConvEntion], tmp_path: Path) -> None:
    folder, _ = saved
    with pytest.raises(WeightsError, match="was the training finished"):
        load_model(tmp_path / "nothing")
    (folder / MODEL_FILE).write_text('{"model": 1}')
    with pytest.raises(WeightsError, match="not a model description"):
        load_model(folder)
