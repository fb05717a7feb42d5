"""Training on several processes of this machine, from inside a flow: `s82 train` under torchrun, as by hand."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Final, Literal

import torch
from prefect import get_run_logger

from flows.crews.lifeline import GRACE_S
from model.distributed import STORE_VARIABLE
from model.errors import TrainingError
from pipeline.errors import WorkerDied

Say = Callable[[str], None]
ERROR: Final = "error: "
"""How the one line begins that `s82` ends with where it fails on purpose."""
LAST_LINES: Final = 8
"""Of a training that failed, in the error."""
REMEMBERED_LINES: Final = 200
"""Among which the error is looked for: torchrun has much to say after it."""


def gpus_here() -> int:
    """How many CUDA devices this process sees; CUDA_VISIBLE_DEVICES leaves a worker fewer than the machine has."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def run_torchrun(
    word: Literal["train", "fine-tune"], arguments: Sequence[str], processes: int, *, say: Say | None = None
) -> str:
    """Run `s82 WORD ARGUMENTS` in so many processes that work together; what the first of them printed.

    Their other lines go to the log of the flow's run as they come, or to `say`. The processes end when this call does:
    when the flow is cancelled, fails or is killed, too.

    Raises
    ------
    TrainingError
        One of them failed with an error of ours; this one says what it said.
    WorkerDied
        One of them ended otherwise, for want of memory, say; it may be tried again.
    """
    say = say or get_run_logger().info
    last: deque[str] = deque(maxlen=REMEMBERED_LINES)
    with (
        TemporaryDirectory(prefix="s82-") as folder,
        _holding(
            [*_torchrun(processes, Path(folder)), "-m", "s82", word, *arguments], _in_private(Path(folder))
        ) as process,
    ):
        told = threading.Thread(target=_pass_on, args=(process.stderr, say, last), daemon=True)
        told.start()
        printed = process.stdout.read() if process.stdout else ""
        code = process.wait()
        told.join()
    if code != 0:
        said = [line for line in last if line.startswith(ERROR)]
        what = f"{processes} processes of `s82 {word}` ended with exit code {code}"
        if said:
            raise TrainingError(f"{what}: {said[0].removeprefix(ERROR)}")
        raise WorkerDied("\n".join([f"{what}:", *list(last)[-LAST_LINES:]]))
    return printed.strip()


def _torchrun(processes: int, folder: Path) -> list[str]:
    """As `--standalone`, but its processes meet in a file of `folder` and not at a port."""
    meeting = ["--rdzv-backend=c10d", "--rdzv-conf=store_type=file", f"--rdzv-endpoint={folder / 'meeting'}"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", f"--nproc-per-node={processes}"]
    return [*torchrun, *meeting, f"--rdzv-id={folder.name}"]


def _in_private(folder: Path) -> dict[str, str]:
    """Variables with which nothing of `torch.distributed` listens beyond this machine; it would on all interfaces."""
    loopback = "lo" if sys.platform == "linux" else "lo0"
    return {
        STORE_VARIABLE: str(folder / "store"),
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
    }


@contextmanager
def _holding(command: list[str], variables: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with this block, or with this process."""
    pipe = subprocess.PIPE
    lifeline = [sys.executable, "-m", "flows.crews.lifeline", *command]
    process = subprocess.Popen(
        lifeline, stdin=pipe, stdout=pipe, stderr=pipe, text=True, errors="replace", env=os.environ | variables
    )
    try:
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(2 * GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def _pass_on(lines: IO[str] | None, say: Say, last: deque[str]) -> None:
    for line in lines or ():
        if text := line.rstrip():
            last.append(text)
            say(text)
