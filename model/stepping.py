"""One step of the optimiser: forward, backward, gradients of all processes, clipping, update.

Nothing here waits for the GPU, so that it is never idle between two steps.

Shapes: B sequences of this process, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from model.arithmetic import arithmetic
from model.config import TrainConfig
from model.distributed import Team
from model.errors import TrainingError
from model.loader import Batch
from model.objective import loss_of

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Stepper:
    """Makes steps, and remembers how many sequences fit into memory at a time.

    A step in several pieces has the loss and, up to rounding, the gradients of one in a single piece, except for batch
    normalisation: its statistics are then those of each piece.
    """

    forward: Callable[..., Tensor]
    optimizer: Optimizer
    config: TrainConfig
    team: Team
    micro_batch: int | None = None

    def step(self, batch: Batch, label_B: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Learn from a batch; its summed loss and number of right answers, on the device.

        Parameters
        ----------
        size
            Sequences of the whole batch, in all processes; this one's part may be empty.

        Raises
        ------
        TrainingError
            Not even one sequence fits into memory; or processes that share batches ran out of it, of which none can
            begin again without the others.
        """
        loss, n_right = self._gradients(batch, label_B, size)
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.team.add_up_gradients(trained)
        if self.config.clip_norm is not None:
            clip_grad_norm_(trained, self.config.clip_norm)
        self.optimizer.step()
        return loss, n_right

    def _gradients(self, batch: Batch, label_B: Tensor, size: int) -> tuple[Tensor, Tensor]:
        while True:
            self.optimizer.zero_grad()
            try:
                return self._accumulated(batch, label_B, size)
            except torch.OutOfMemoryError as error:
                self._take_less(len(label_B), str(error))
            torch.cuda.empty_cache()  # after the except clause, which holds on to what was computed

    def _accumulated(self, batch: Batch, label_B: Tensor, size: int) -> tuple[Tensor, Tensor]:
        largest = -(-size // self.team.size)  # the largest part of any process: all make as many pieces
        pieces = -(-largest // (self.micro_batch or largest))
        loss = torch.zeros((), device=label_B.device)
        n_right = torch.zeros((), device=label_B.device)
        columns = (tensor.tensor_split(pieces) for tensor in (*batch, label_B))
        for *inputs, label_b in zip(*columns, strict=True):
            with arithmetic(self.config, label_b.device):
                logit_bC = self.forward(*inputs)
            logit_bC = logit_bC.to(torch.promote_types(logit_bC.dtype, torch.float32))
            loss_b = loss_of(logit_bC, label_b, self.config)
            (loss_b.sum() / size).backward()
            loss += loss_b.detach().sum()
            n_right += (logit_bC.detach().argmax(dim=1) == label_b).sum()
        return loss, n_right

    def _take_less(self, n: int, reason: str) -> None:
        """Halve what is computed at a time."""
        if self.team.size > 1:
            raise TrainingError(
                f"memory ran out for {n} sequences of a process ({reason}): set micro_batch of this step to fewer, "
                "or train with --parallel models"
            )
        tried = min(self.micro_batch or n, n)
        if tried == 1:
            raise TrainingError(
                f"memory does not suffice for a single sequence ({reason}): set model.images to fewer, "
                "or free the memory that other programs hold"
            )
        self.micro_batch = tried // 2
        log.warning(
            "memory ran out for %d sequences at a time: gradients are added up over %d at a time", tried, tried // 2
        )
