"""`prefect deployment run build-dataset`: the name without a slash, through Prefect's own command."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3]
RUN = ["prefect", "deployment", "run"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["build-dataset"], ["build-dataset/build-dataset"]),
        (["-p", "root=x", "build-dataset"], ["-p", "root=x", "build-dataset/build-dataset"]),
        (["--watch", "build-dataset"], ["--watch", "build-dataset/build-dataset"]),
        (["--param=a=b", "upkeep", "--tag", "x"], ["--param=a=b", "upkeep/upkeep", "--tag", "x"]),
        (["a/b"], ["a/b"]),
        (["--id", "6f1a"], ["--id", "6f1a"]),
        (["-p", "a=b"], ["-p", "a=b"]),
        (["--help"], ["--help"]),
        (["--", "upkeep"], ["--", "upkeep/upkeep"]),
        (["../etc"], ["../etc"]),
        ([], []),
    ],
)
def test_only_a_name_without_a_slash_is_written_out(given: list[str], meant: list[str]) -> None:
    from flows.operation.shortnames import expanded

    assert expanded([*RUN, *given]) == [*RUN, *meant]


@pytest.mark.parametrize(
    "other",
    [["prefect", "deploy", "--all"], ["prefect", "deployment", "ls"], ["prefect", "work-pool", "inspect", "cpu"], []],
)
def test_other_commands_stay_as_they_are(other: list[str]) -> None:
    from flows.operation.shortnames import expanded

    assert expanded(other) == other


def test_another_prefect_is_told_of_and_served_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from prefect.plugins import HookContext

    from flows.operation.shortnames import setup_environment

    context = HookContext(prefect_version="4.0.0", api_url=None, logger_factory=logging.getLogger)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/prefect", "deployment", "run", "upkeep"])
    with caplog.at_level(logging.WARNING, "prefect.s82"):
        setup_environment(ctx=context)
    assert sys.argv[-1] == "upkeep/upkeep"
    assert "this is 4.0.0: if the name is refused, write NAME/NAME" in caplog.text
    caplog.clear()
    monkeypatch.setattr(sys, "argv", ["/usr/bin/other", "deployment", "run", "upkeep"])
    setup_environment(ctx=context)
    assert sys.argv[-1] == "upkeep"
    assert caplog.text == ""


def test_prefects_own_command_runs_the_deployment(prefect_server: None) -> None:
    """From the project's folder, with the Prefect that is installed; in another folder Prefect says what it expects."""
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    @flow(name="called-briefly")
    def called_briefly() -> None: ...

    with get_client(sync_client=True) as client:
        client.create_deployment(flow_id=client.create_flow(called_briefly), name="called-briefly")
    environment = {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value()), "PYTHONPATH": str(PROJECT)}
    command = [str(Path(sys.executable).with_name("prefect")), "deployment", "run", "called-briefly"]
    answers = [
        subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
        for folder in (PROJECT, PROJECT.parent)
    ]
    assert answers[0].returncode == 0, answers[0].stderr
    assert "Created flow run" in answers[0].stdout
    assert answers[1].returncode != 0
    assert "<FLOW_NAME>/<DEPLOYMENT_NAME>" in answers[1].stdout + answers[1].stderr
