"""The house rule of who may import whom, held by reading the imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
LIGHT_FOR_MODEL = {
    f"pipeline.{name}"
    for name in ("sequences", "manifest", "outputs", "pack", "splits", "atomic", "bands", "errors", "validation")
}


def imports(file: Path) -> set[str]:
    """Every module that a file imports, at any depth."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def room(name: str) -> list[Path]:
    return sorted((PROJECT / name).rglob("*.py"))


def tops(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(file)}


@pytest.mark.parametrize("file", room("pipeline"), ids=str)
def test_pipeline_is_a_plain_library(file: Path) -> None:
    assert not tops(file) & {"prefect", "torch", "flows", "model", "s82"}


@pytest.mark.parametrize("file", room("model"), ids=str)
def test_model_sees_only_finished_datasets(file: Path) -> None:
    assert not tops(file) & {"prefect", "astropy", "flows", "s82"}
    ours = {name for name in imports(file) if name.split(".")[0] == "pipeline"}
    assert ours <= LIGHT_FOR_MODEL


@pytest.mark.parametrize("file", [*room("pipeline"), *room("model"), *room("flows")], ids=str)
def test_nothing_imports_the_command_line_and_only_it_imports_flows(file: Path) -> None:
    assert "s82" not in tops(file)
    assert file.is_relative_to(PROJECT / "flows") or "flows" not in tops(file)


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    return set(done.stdout.split())


def test_reading_a_dataset_loads_neither_astropy_nor_torch() -> None:
    """A training machine needs only the light half of the pipeline; `import pipeline` costs nothing."""
    assert not loaded_by("import pipeline.manifest, pipeline.packing") & {
        "astropy",
        "torch",
        "prefect",
        "scipy",
        "httpx",
    }


def test_planning_loads_astroquery_only_where_a_database_is_asked() -> None:
    """It takes as long to import as all the rest, and reads the user's configuration."""
    assert not loaded_by("import pipeline.build") & {"astroquery", "requests"}


def test_the_command_line_starts_without_heavy_imports() -> None:
    assert not loaded_by("import s82.main") & {"astropy", "torch", "prefect", "numpy"}
