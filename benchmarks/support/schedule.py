"""How long a build takes with many workers, by a simulation of its schedule: the same queues, with clocks for cells.

As in `flows.crews.cells`: as many batches are at work as the crew has room for; each goes through its cells one
by one, and each cell waits for its turn at the archive, is fetched, waits for a worker, and is cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import simpy

from flows.crews.cluster import room_for


@dataclass(frozen=True, slots=True)
class CellCost:
    """What one cell takes."""

    megabytes: float
    core_s: float
    """To cut it, on a worker that behaves."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Workers of one core each, and the archive that they share.

    Parameters
    ----------
    mb_per_s
        What one connection gives.
    connections
        Of all workers together; 0: the archive is beside the workers, and fetching takes no time.
    per_cell
        Connections of a cell that is fetched.
    log_spread
        Of the time that cells take, as a factor, in its logarithm; its mean is 1.
    stragglers, slower
        Part of the cells that take so many times as long.
    hours_between_deaths
        Of one worker. Its cell is fetched and cut again by another; it is back after `restart_s`.
    """

    workers: int
    connections: int = 8
    mb_per_s: float = 2.0
    per_cell: int = 4
    log_spread: float = 0.0
    stragglers: float = 0.0
    slower: float = 10.0
    hours_between_deaths: float = float("inf")
    restart_s: float = 120.0


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    hours: float = 0.0
    redone: int = 0
    """Cells that were begun again after a death."""
    busy_s: float = 0.0
    """Of all workers."""
    fetched_mb: float = 0.0
    longest_s: float = 0.0
    """Of the cell that took longest to cut."""


def simulate(cells: Sequence[CellCost], cluster: Cluster, *, batch: int = 1, seed: int = 0) -> Outcome:
    """Run the schedule of one build."""
    clock, outcome, rng = simpy.Environment(), Outcome(), np.random.default_rng(seed)
    turns = simpy.Resource(clock, max(1, cluster.connections // cluster.per_cell))
    workers = simpy.Resource(clock, cluster.workers)
    factors = rng.lognormal(-(cluster.log_spread**2) / 2, cluster.log_spread, len(cells)) * np.where(
        rng.random(len(cells)) < cluster.stragglers, cluster.slower, 1.0
    )
    costs = [CellCost(cell.megabytes, cell.core_s * factor) for cell, factor in zip(cells, factors, strict=True)]
    outcome.longest_s = max((cell.core_s for cell in costs), default=0.0)
    waiting = deque(costs[start : start + batch] for start in range(0, len(costs), batch))

    def task() -> Iterator[simpy.Event]:
        while waiting:
            for cell in waiting.popleft():
                while not (yield from attempt(cell)):
                    outcome.redone += 1
                outcome.hours = clock.now / 3600

    def attempt(cell: CellCost) -> Iterator[simpy.Event]:
        """Whether the worker survived it."""
        if cluster.connections:
            with turns.request() as turn:
                yield turn
                yield clock.timeout(cell.megabytes / (cluster.mb_per_s * min(cluster.per_cell, cluster.connections)))
        outcome.fetched_mb += cell.megabytes
        worker = workers.request()
        yield worker
        life_s = rng.exponential(cluster.hours_between_deaths * 3600)
        yield clock.timeout(min(life_s, cell.core_s))
        outcome.busy_s += min(life_s, cell.core_s)
        survived = bool(life_s >= cell.core_s)
        clock.process(leave(worker, 0.0 if survived else cluster.restart_s))
        return survived

    def leave(worker: simpy.resources.resource.Request, after_s: float) -> Iterator[simpy.Event]:
        yield clock.timeout(after_s)
        workers.release(worker)

    for _ in range(room_for(cluster.workers)):
        clock.process(task())
    clock.run()
    return outcome


def least_hours(outcome: Outcome, cluster: Cluster) -> dict[str, float]:
    """What no order of the same cells could have beaten: the archive's rate, the cores, the longest cell."""
    rate_mb_per_s = cluster.mb_per_s * cluster.connections
    return {
        "archive": outcome.fetched_mb / rate_mb_per_s / 3600 if rate_mb_per_s else 0.0,
        "cores": outcome.busy_s / cluster.workers / 3600,
        "longest cell": outcome.longest_s / 3600,
    }
