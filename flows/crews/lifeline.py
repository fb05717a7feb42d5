"""`python -m flows.crews.lifeline COMMAND …`: run a command that ends with whoever started it, even if that is killed.

Whoever starts it keeps the other end of its standard input. When that closes, by a call or by a death of any kind, the
command's whole process group is ended: first asked, then killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

GRACE_S: Final = 5.0
"""Between asking and killing."""


def main(command: list[str]) -> int:
    """Run `command` until it ends or the lifeline breaks; its exit code."""
    # A session of its own: Ctrl-C at a terminal reaches whoever holds the lifeline, who lets go.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    when_let_go(lambda: _end(process.pid))
    code = process.wait()
    _signal(process.pid, signal.SIGKILL)  # what the command has left behind
    return code


def when_let_go(end: Callable[[], None]) -> None:
    """Call `end`, from a thread of its own, once whoever started this process has closed its standard input or died."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        end()

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def _end(group: int) -> None:
    _signal(group, signal.SIGTERM)
    time.sleep(GRACE_S)
    _signal(group, signal.SIGKILL)


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(main(sys.argv[1:]))
