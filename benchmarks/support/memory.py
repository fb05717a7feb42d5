"""How much memory a process has needed."""

from __future__ import annotations

import re
from pathlib import Path


def peak_mb() -> float:
    """Largest resident memory of this process so far, from Linux.

    `getrusage` would not do: a program that is started there begins with the peak of the process that started it.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024
