"""What `s82 status` says of a server and a root, and when it asks for a person."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.naming import survey_dir
from pipeline.sums import write_sums
from pipeline.versions import point_latest, write_record
from tests.pipeline.small import small_dataset


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = survey_dir(tmp_path, "tiny")
    small_dataset(folder / "v1")
    write_sums(folder / "v1", {})
    write_record(folder, "v1", None, {})
    point_latest(folder, "v1")
    run = tmp_path / "runs" / "light-tiny-v1"
    run.mkdir(parents=True)
    (run / "config.json").write_text('{"dataset_id": "tiny-v1"}')
    (run / "evaluation.json").write_text('{"macro_f1": {"value": 0.81234, "low": 0.7, "high": 0.9}, "accuracy": null}')
    return tmp_path


def test_a_server_with_work_and_no_worker_needs_a_person(bare_server: None, root: Path) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import State, StateType
    from prefect.states import Failed

    from flows.operation.setup import set_up
    from flows.operation.status import look

    set_up()
    first = look(root)
    assert first.version
    assert {pool.name: pool.workers for pool in first.pools if pool.name in ("cpu", "gpu")} == {"cpu": (), "gpu": ()}
    assert first.limits["sdss-archive"] == (0, 8)
    assert first.automations["s82: silent run"]
    assert [(one.name, one.latest, one.objects) for one in first.surveys] == [("tiny", "v1", 5)]
    assert [(one.dataset, one.scores) for one in first.models] == [("tiny-v1", {"macro_f1": 0.8123})]

    @flow(name="looked-at")
    def looked_at() -> None: ...

    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(
            flow_id=client.create_flow(looked_at), name="looked-at", work_pool_name="cpu"
        )
        failed = client.create_flow_run_from_deployment(deployment)
        client.set_flow_run_state(failed.id, Failed(message="no\nspace"), force=True)
        waits = client.create_flow_run_from_deployment(deployment)
        client.set_flow_run_state(waits.id, State(type=StateType.SCHEDULED, name="Late"), force=True)
        status = look(root)
        (deployed,) = [one for one in status.deployments if one.name == "looked-at"]
        assert deployed.last is not None
        assert (deployed.last.state, deployed.last.message) == ("Failed", "no space")
        said = " ".join(trouble.what for trouble in status.troubles)
        assert "nobody works for the work pool cpu, and runs of it are late: 1" in said
        assert f"the run {failed.name} of looked-at failed: no space" in said
        for run in (failed, waits):
            client.delete_flow_run(run.id)
        client.delete_deployment(deployment)
    assert "looked-at" not in " ".join(trouble.what for trouble in look(root).troubles)


def test_the_word_prints_it_and_its_exit_code_says_whether_all_is_well(prefect_server: None, root: Path) -> None:
    from s82.words.status import command

    told = CliRunner().invoke(command, ["--root", str(root)])
    machine = CliRunner().invoke(command, ["--root", str(root), "--json"])
    content = json.loads(machine.stdout)
    assert machine.exit_code == told.exit_code == (1 if content["troubles"] else 0)
    assert content["surveys"][0]["latest"] == "v1"
    for shown in ("light-tiny-v1", "0.8123", "Prefect 3."):
        assert shown in told.stdout


def test_without_a_server_it_says_how_to_start_one_and_still_shows_datasets(root: Path) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from s82.words.status import command

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        told = CliRunner().invoke(command, ["--root", str(root)])
    assert told.exit_code == 1
    assert "no Prefect server answers at http://127.0.0.1:9/api" in told.stdout
    assert "`make server`" in told.stdout
    assert "tiny" in told.stdout
