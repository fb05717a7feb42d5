"""Configuration says what is wrong, by name."""

import re
from pathlib import Path

import pytest

from model.config import (
    PRESETS,
    THREE_CLASSES,
    ModelConfig,
    ProtocolConfig,
    RunConfig,
    TrainConfig,
    preset,
)
from model.errors import ModelConfigError


def test_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(ModelConfigError, match="paper, light, small"):
        preset("huge")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    config = preset(name)
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"images": 100}}, "multiple of block"),
        ({"model": {"imagse": 99}}, "imagse"),
        ({"model": {"heads": 3}}, "multiple of heads"),
        ({"model": {"size": 8}}, "shrink the image"),
        ({"model": {"classes": ["AGN", "SN"]}}, "classes must be"),
        ({"model": {"block": 9, "images": 90}}, "one time step"),
        ({"train": {"epochs": 0}}, "train.epochs"),
    ],
)
def test_an_impossible_configuration_is_one_clear_error(changes: dict, message: str) -> None:
    with pytest.raises(ModelConfigError, match=message):
        preset("paper").updated(**changes)


def test_nested_changes_keep_the_rest() -> None:
    config = preset("paper").updated(model={"classes": THREE_CLASSES}, protocol={"members": 1})
    assert config.model.classes == THREE_CLASSES
    assert config.protocol.members == 1
    assert config.model.convolutions == preset("paper").model.convolutions
    assert isinstance(config.model, ModelConfig)


def test_the_guide_of_training_has_a_row_for_every_key_with_its_default() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    settings = text[text.index("## Settings of a step") :]
    rows = dict(re.findall(r"^\| `(\w+)` \| ?`?([^|`]*?)`? ?\|", settings, re.MULTILINE))
    kinds = (TrainConfig, ModelConfig, ProtocolConfig)
    assert list(rows) == [key for kind in kinds for key in kind.model_fields]
    for kind in kinds:
        defaults = {key: field.default for key, field in kind.model_fields.items() if not field.is_required()}
        assert {key: rows[key] for key in defaults} == {key: _shown(value) for key, value in defaults.items()}


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(value).lower()
    return "" if value is None else str(value).lower().removesuffix(".0")
