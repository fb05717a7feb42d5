"""How often one run may be taken up again after its process was lost."""

from __future__ import annotations

from typing import Final

from prefect.runtime import flow_run

from pipeline.errors import PipelineError

MOST_ATTEMPTS: Final = 3


class TooManyAttempts(PipelineError):
    """A run has lost its process so often that the run itself may be what kills it."""


def check_attempts() -> None:
    """Refuse to begin a run once more that has been lost again and again.

    A run whose process was lost is put back on the schedule (`flows.operation.recovery`), and a worker takes it up
    again. One that has its process killed for want of memory would go on like that for ever.

    Raises
    ------
    TooManyAttempts
        This would be one attempt more than `MOST_ATTEMPTS`.
    """
    if (attempt := flow_run.run_count or 0) > MOST_ATTEMPTS:
        raise TooManyAttempts(
            f"this run has lost its process {attempt - 1} times: see what killed it (memory? `journalctl -k`), "
            "then start a new run; it goes on where this one was"
        )
