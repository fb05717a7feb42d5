"""One server of each kind for all drills that need it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.drills.server import drill_folder
from tests.drills.topology import Topology, what_is_missing


@pytest.fixture(scope="session")
def topology() -> Iterator[Topology]:
    """Server and services on PostgreSQL and Redis, without workers yet."""
    if reason := what_is_missing():
        pytest.skip(reason)
    with drill_folder() as folder, Topology(folder) as running:
        yield running
