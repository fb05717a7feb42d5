"""The simulated schedule of benchmarks/scale_out.py, held against cases that can be worked out by hand or by force."""

from __future__ import annotations

import heapq
import math

import numpy as np
import pytest

from benchmarks.support.schedule import CellCost, Cluster, least_hours, simulate

BESIDE = {"connections": 0}


@pytest.mark.parametrize(("n_cells", "workers"), [(1, 1), (7, 3), (100, 100), (101, 100), (12, 40)])
def test_equal_cells_take_whole_rounds(n_cells: int, workers: int) -> None:
    cells = [CellCost(0, 36.0)] * n_cells
    rounds = math.ceil(n_cells / workers)
    assert simulate(cells, Cluster(workers, **BESIDE)).hours == pytest.approx(rounds * 0.01)


def test_an_archive_that_bounds_takes_bytes_over_rate() -> None:
    """Cutting the last cells follows after it."""
    cells = [CellCost(100.0, 1e-6)] * 40
    cluster = Cluster(workers=50, connections=8, mb_per_s=2.0, per_cell=4)
    outcome = simulate(cells, cluster)
    assert outcome.hours * 3600 == pytest.approx(40 * 100 / 16)
    assert least_hours(outcome, cluster)["archive"] * 3600 == pytest.approx(40 * 100 / 16)


def test_unequal_cells_go_to_whoever_is_free_first() -> None:
    """As a list scheduler of a few lines finds, whatever the number of workers."""
    seconds = np.random.default_rng(3).lognormal(3, 1, 200)
    for workers in (1, 2, 9, 64):
        free = [0.0] * workers
        for one in seconds:
            heapq.heappush(free, heapq.heappop(free) + one)
        simulated = simulate([CellCost(0, one) for one in seconds], Cluster(workers, **BESIDE))
        assert simulated.hours * 3600 == pytest.approx(max(free))
        assert simulated.busy_s == pytest.approx(seconds.sum())


def test_one_cell_is_cut_while_the_next_are_fetched() -> None:
    """With one worker and one turn at the archive: the first fetch, then the slower of the two, then the last."""
    cells = [CellCost(80.0, 15.0)] * 5  # 10 s to fetch
    cluster = Cluster(1, connections=4, mb_per_s=2.0)
    assert simulate(cells, cluster).hours * 3600 == pytest.approx(10 + 5 * 15)
    cells = [CellCost(160.0, 15.0)] * 5  # 20 s
    assert simulate(cells, cluster).hours * 3600 == pytest.approx(5 * 20 + 15)


def test_batches_bind_cells_together() -> None:
    """Eight cells in two batches keep two of eight workers busy."""
    cells = [CellCost(0, 1.0)] * 8
    assert simulate(cells, Cluster(8, **BESIDE), batch=1).hours * 3600 == pytest.approx(1)
    assert simulate(cells, Cluster(8, **BESIDE), batch=4).hours * 3600 == pytest.approx(4)


def test_what_a_dead_worker_was_at_is_done_again() -> None:
    """Deaths of a worker come at random: as many as the time of all workers has room for, and nothing is lost."""
    cells = [CellCost(10.0, 600.0)] * 600
    calm, rough = (simulate(cells, Cluster(20, connections=0, hours_between_deaths=h)) for h in (math.inf, 2.0))
    assert calm.redone == 0
    assert rough.redone == pytest.approx(rough.busy_s / 7200, rel=0.3)
    assert rough.hours > calm.hours
    assert rough.fetched_mb == pytest.approx((600 + rough.redone) * 10)
