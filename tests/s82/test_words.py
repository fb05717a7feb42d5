"""The command line: every word has help, machines get JSON, errors are one line and a non-zero exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from s82.main import WORDS, main


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one call."""
    try:
        main(list(arguments))
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("word", WORDS)
def test_every_word_explains_itself(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(word, "--help", capsys=capsys)
    assert code == 0
    assert "Usage: " in out


def test_model_describe_gives_the_papers_parameter_count(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("model", "describe", "--preset", "paper", "--json", capsys=capsys)
    description = json.loads(out)
    assert code == 0
    assert description["parameters"] == 1_253_108
    assert sum(layer["parameters"] for layer in description["layers"]) == 1_253_108


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("model", "describe", "--preset", "huge"), "no preset 'huge'"),
        (("dataset", "verify", "nowhere"), "nowhere is not a dataset"),
        (("simulate", "out", "--survey", "mars"), "no survey 'mars'"),
        (("report", "nowhere"), "nowhere is not a dataset"),
        (("fly",), "No such command"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(
    arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str], monkeypatch, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments, capsys=capsys)
    assert code != 0
    assert out == ""
    assert complaint in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_settings_of_a_preset_nest() -> None:
    from s82.words.train import parse_settings

    assert parse_settings(("train.epochs=5", "device=cpu", "train.lr=1e-4")) == {
        "train": {"epochs": 5, "lr": 1e-4},
        "device": "cpu",
    }
