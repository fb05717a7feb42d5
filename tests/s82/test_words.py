"""The command line: every word has help, machines get JSON, errors are one line and a non-zero exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.simulate.server import ArchiveServer, Fault
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


def test_plan_says_and_writes_what_a_build_would_fetch_and_fetches_no_frame(
    tiny_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ArchiveServer(tiny_archive) as server:
        arguments = ("plan", "--survey", "tiny", "--archive-root", server.url, "--root", str(tmp_path))
        code, out, _ = run(*arguments, "--json", capsys=capsys)
        assert (code, run(*arguments, "--out", str(tmp_path / "out"), capsys=capsys)[0]) == (0, 0)
        fetched = [request.path for request in server.requests if "frame-" in request.path or "fpC-" in request.path]
    plan = json.loads(out)
    assert fetched == []
    assert plan["summary"]["frames"] == sum(costs["frames"] for costs in plan["summary"]["archives"].values()) == 12
    assert plan["objects_left_out"] == {"set-aside": 1}
    assert plan["advice"] == ""
    written = Path(plan["plan"])
    assert written == tmp_path / "plans" / plan["build_id"]
    for file in ("plan.json", "frames.parquet"):
        assert (written / file).read_bytes() == (tmp_path / "out" / file).read_bytes()


def test_plan_of_a_terabyte_tells_people_whom_to_write_to(
    tiny_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.costs.LARGE_TRANSFER_GB", 0.001)
    with ArchiveServer(tiny_archive) as server:
        arguments = ("plan", "--survey", "tiny", "--archive-root", server.url, "--root", str(tmp_path))
        code, out, _ = run(*arguments, capsys=capsys)
    assert code == 0
    assert "write to helpdesk@sdss.org first" in out
    assert out.rstrip().endswith("of the survey.")
    assert "--large-transfer" in out


def test_doctor_succeeds_only_where_nothing_fails(
    tiny_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with ArchiveServer(tiny_archive, faults=[Fault("*/fpC-*", "server_error", times=1)]) as server:
        arguments = ("doctor", "--survey", "tiny", "--archive-root", server.url, "--root", str(tmp_path))
        code, out, _ = run(*arguments, capsys=capsys)
        assert code == 1
        assert [line.split()[:3] for line in out.splitlines() if line.startswith("fail")] == [
            ["fail", "archive", "das"]
        ]
        assert " → ask again later" in out
        code, out, _ = run(*arguments, "--json", capsys=capsys)
        assert code == 0
        assert {check["status"] for check in json.loads(out)["checks"]} <= {"ok", "warn"}
        code, out, _ = run(*arguments, "--offline", capsys=capsys)
        assert (code, "not asked" in out) == (0, True)
