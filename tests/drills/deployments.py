"""The deployments of prefect.yaml, made small enough for a drill, and what the server says of their runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from pipeline.survey import load_survey
from tests.drills.compose import PROJECT
from tests.drills.processes import Started, wait_for
from tests.drills.server import Server

SHORT: Final = {
    "model": {"images": 9},
    "train": {"epochs": 1, "batch": 4},
    "fine_tune": {"epochs": 1, "batch": 4},
    "protocol": {"validation_fraction": 0},
}
"""Training that takes seconds."""
FINAL: Final = ("COMPLETED", "FAILED", "CANCELLED")
"""Not CRASHED: such a run is taken up again."""


def small_cells(folder: Path) -> Path:
    """The survey `tiny` in twice as many cells, as a file."""
    shipped = (PROJECT / "data_manifest/surveys/tiny.toml").read_text(encoding="utf-8")
    text = shipped.replace("ra_width_deg = 0.06", "ra_width_deg = 0.03")
    assert text != shipped
    file = folder / "tiny.toml"
    file.write_text(text, encoding="utf-8")
    load_survey(str(file))
    return file


def small_deployments(folder: Path, survey: str, archive_root: str) -> Path:
    """prefect.yaml with other parameters: a small survey from a local archive, a model that is trained in seconds."""
    content = yaml.safe_load((PROJECT / "prefect.yaml").read_text(encoding="utf-8"))
    for deployment in content["deployments"]:
        parameters = deployment.get("parameters", {})
        if "survey" in parameters:
            parameters |= {"survey": survey, "archive_root": archive_root, "workers": 1}
        if "root" in parameters:
            parameters["root"] = str(folder / "work")
        if deployment["name"] == "train-model":
            parameters |= {"model": "small", "changes": SHORT}
    file = folder / "prefect.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


def deploy(server: Server, file: Path) -> None:
    """Make its deployments on the server, as `prefect deploy --all` does."""
    server.run("deploy", ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)])


def runs_of(server: Server, deployment: str) -> list[dict[str, Any]]:
    """All runs of a deployment, the oldest first."""
    found: list[dict[str, Any]] = server.ask(
        "flow_runs/filter", {"deployments": {"name": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_ASC"}
    )
    return found


def only_run_of(server: Server, deployment: str) -> dict[str, Any]:
    """The run of a deployment that has been started once."""
    found = runs_of(server, deployment)
    assert len(found) == 1, [(run["name"], run["state_name"], run["parameters"]) for run in found]
    return found[0]


def begin_run(server: Server, deployment: str, **parameters: str) -> str:
    """Start a run from the command line, as a person does; its id."""
    before = {run["id"] for run in runs_of(server, deployment)}
    command = ["prefect", "deployment", "run", f"{deployment}/{deployment}"]
    for name, value in parameters.items():
        command += ["--param", f"{name}={value}"]
    server.run("deployment run", command)
    (new,) = {run["id"] for run in runs_of(server, deployment)} - before
    return str(new)


def end_of(server: Server, run_id: str, seconds: float, *alive: Started) -> dict[str, Any]:
    """A run when it is over."""

    def over() -> dict[str, Any] | None:
        run: dict[str, Any] = server.ask(f"flow_runs/{run_id}")
        return run if run["state_type"] in FINAL else None

    found = wait_for(f"the end of run {run_id}", over, seconds, *alive)
    assert found is not None
    return found
