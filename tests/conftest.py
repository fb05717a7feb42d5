"""Fixtures that all rooms share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pipeline.simulate.archive import SimulationResult

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real SDSS files: S82_REAL_DATA, else ../shared/sdss from the project's root."""
    named = os.environ.get("S82_REAL_DATA")
    folder = Path(named) if named else PROJECT.parent / "shared" / "sdss"
    if not (folder / "archive").is_dir():
        pytest.skip(f"no real SDSS files at {folder}; set S82_REAL_DATA to a folder that has archive/ and catalog/")
    return folder


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A throw-away Prefect database and server for tests that run flows."""
    from prefect.testing.utilities import prefect_test_harness

    import flows  # noqa: F401  (sets Prefect's environment before Prefect is imported)

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> SimulationResult:
    """The survey `tiny`, simulated once for all rooms: five nights in two bands, both formats, a dozen objects."""
    from pipeline.simulate.archive import simulate_archive
    from pipeline.survey import load_survey

    return simulate_archive(load_survey("tiny"), tmp_path_factory.mktemp("archive") / "tiny", workers=2)


@pytest.fixture(scope="session")
def tiny_archive(tiny: SimulationResult) -> Path:
    """Its archive tree."""
    return tiny.root
