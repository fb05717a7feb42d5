"""Trainings in processes of their own: killed, or sharing work; imported once by the server that forks them."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from model.config import RunConfig
from model.convention import ConvEntion
from model.distributed import ALONE, Parallel, Team, joined, share_statistics
from model.loader import Batch
from model.runs import train
from model.stepping import Stepper


def train_fold(dataset: Path, run_dir: Path, config: RunConfig, parallel: Parallel) -> None:
    train(dataset, run_dir, config, folds=[1], parallel=parallel)


def train_in_double_precision(config: RunConfig, sizes: list[int], out: Path) -> None:
    """Make a plain gradient step per size with this process' part of random batches, and save the network."""
    with joined("cpu", "batch") as team:
        network = double_precision_steps(config, sizes, team)
        if team.is_first:
            save_file(network, out)


def double_precision_steps(config: RunConfig, sizes: list[int], team: Team = ALONE) -> dict[str, Tensor]:
    """The weights after these steps."""
    torch.manual_seed(0)
    network = ConvEntion(config.model).double().train()
    if team.size > 1:
        share_statistics(network)
    stepper = Stepper(network, torch.optim.SGD(network.parameters(), 0.1), config.train, team)
    M, size = config.model.images, config.model.size
    for B in sizes:
        band_BM = torch.randint(1, 6, (B, M))
        band_BM *= torch.arange(M) < torch.randint(1, M + 1, (B, 1))
        whole = Batch(torch.randn(B, M, 1, size, size).double(), band_BM, torch.rand(B, M).double())
        part = Batch(*(tensor[team.rank :: team.size] for tensor in whole))
        stepper.step(part, torch.randint(4, (B,))[team.rank :: team.size], B)
    return network.state_dict()


def start(target: Callable[..., None], *arguments: Any, environment: dict[str, str] | None = None) -> BaseProcess:
    """Call a function of this module in a new process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.model.processes", "torch._dynamo", "sklearn.cluster"])
    process = context.Process(target=_call, args=(target, arguments, environment or {}))
    process.start()
    return process


def _call(target: Callable[..., None], arguments: tuple[Any, ...], environment: dict[str, str]) -> None:
    torch.set_num_threads(1)
    os.environ.update(environment)
    target(*arguments)


def start_team(size: int, target: Callable[..., None], *arguments: Any) -> list[BaseProcess]:
    """The same in `size` processes that are told of each other as torchrun does."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
    common |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    ranks = ({"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size))
    return [start(target, *arguments, environment=common | rank) for rank in ranks]


def kill_at(process: BaseProcess, metrics: Path, epochs: int, delay: float) -> None:
    """SIGKILL, `delay` seconds after so many epochs are written down."""
    while process.is_alive() and not (metrics.is_file() and len(metrics.read_text().splitlines()) >= epochs):
        time.sleep(0.005)
    time.sleep(delay)
    process.kill()
    process.join()


def finish(processes: list[BaseProcess]) -> float:
    """Wait for processes that must end well; how long that took [s]."""
    started = time.monotonic()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    return time.monotonic() - started
