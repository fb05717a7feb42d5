"""prefect.yaml and the flows fit each other, and make forms that can be filled in."""

from __future__ import annotations

import importlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

FILE = Path(__file__).parents[2] / "prefect.yaml"
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))["deployments"]
NAMES = {deployment["name"] for deployment in DEPLOYMENTS}


def flow_of(deployment: dict[str, Any]) -> Any:
    file, name = deployment["entrypoint"].split(":")
    assert (FILE.parent / file).is_file()
    return getattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), name)


def test_prefect_takes_every_deployment() -> None:
    """One field that it does not know, and it would refuse them all."""
    from prefect.cli.deploy._models import PrefectYamlModel

    read = PrefectYamlModel.model_validate(yaml.safe_load(FILE.read_text(encoding="utf-8")))
    assert {one.name for one in read.deployments} == NAMES >= {
        "build-dataset", "refresh-dataset", "train-model", "fine-tune-model", "evaluate-model", "benchmark",
    }  # fmt: skip


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda one: str(one["name"]))
def test_a_deployment_has_the_name_and_the_parameters_of_its_flow(deployment: dict[str, Any]) -> None:
    """`prefect deployment run NAME/NAME` is what people type; every parameter explains itself in the form."""
    from prefect.utilities.callables import parameter_schema

    flow = flow_of(deployment)
    assert flow.name == deployment["name"]
    schema = parameter_schema(flow)
    required = dict.fromkeys(schema.required, "x")
    flow.validate_parameters(required | deployment.get("parameters", {}))
    assert set(deployment.get("parameters", {})) <= set(schema.properties)
    assert [name for name, about in schema.properties.items() if not about.get("description")] == []
    assert "Parameters\n" not in flow.description
    then = deployment.get("parameters", {}).get("then")
    assert then is None or then.split("/")[1] in NAMES


def test_deployments_have_the_version_of_the_package() -> None:
    assert {one["version"] for one in DEPLOYMENTS} == {version("stripe82-convention")}


def test_training_is_never_taken_by_a_worker_without_a_gpu() -> None:
    pools = {one["name"]: one["work_pool"]["name"] for one in DEPLOYMENTS}
    trains = {"train-model", "fine-tune-model", "evaluate-model", "benchmark"}
    assert {name for name, pool in pools.items() if pool == "gpu"} == trains


def test_a_refresh_at_most_once_and_only_one_build_at_a_time() -> None:
    limits = {one["name"]: one.get("concurrency_limit") for one in DEPLOYMENTS}
    assert (limits["refresh-dataset"]["limit"], limits["refresh-dataset"]["collision_strategy"]) == (1, "CANCEL_NEW")
    assert (limits["build-dataset"]["limit"], limits["build-dataset"]["collision_strategy"]) == (1, "ENQUEUE")


def test_an_event_gives_hand_over_what_it_takes() -> None:
    """The events that flows emit are those that the triggers wait for, and carry what the triggers pass on."""
    from typing import get_args

    from prefect.utilities.callables import parameter_schema

    from flows.handover import DATASET_PUBLISHED, Finished, hand_over

    (deployment,) = (one for one in DEPLOYMENTS if one["name"] == "hand-over")
    awaited = {event for trigger in deployment["triggers"] for event in trigger["expect"]}
    assert awaited <= {DATASET_PUBLISHED, *get_args(Finished)}
    for trigger in deployment["triggers"]:
        assert set(trigger["parameters"]) <= set(parameter_schema(hand_over).properties)
        fields = {value.split("event.payload.")[1].split()[0] for value in trigger["parameters"].values()}
        assert fields <= {"then", "dataset", "flow_run_id", "run"}
