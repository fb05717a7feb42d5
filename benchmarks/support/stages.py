"""Where the time of a job goes, by the module that is at work."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

HEADERS: Final = "FITS headers, WCS"
REST: Final = "rest"
STAGES: Final = {
    "pipeline/compressed.py": "read and decompress",
    "pipeline/bzip2.py": "read and decompress",
    "pipeline/fitsfile.py": HEADERS,
    "pipeline/hdus.py": HEADERS,
    "pipeline/identity.py": HEADERS,
    "pipeline/astrometry.py": HEADERS,
    "astropy/": HEADERS,
    "pipeline/sky.py": "sky",
    "pipeline/masks.py": "mask",
    "pipeline/calibrate.py": "calibration table",
    "pipeline/starphot.py": "star check",
    "pipeline/standards.py": "star check",
    "pipeline/zeropoints.py": "star check",
    "pipeline/thumbnails.py": "cut",
}
"""Which module's work counts as what; work of other modules counts where they were called from."""
STAGE_NAMES: Final = (*dict.fromkeys(STAGES.values()), REST)
LEAVES_TO_OTHERS: Final = (REST, HEADERS)
"""What these call can be another stage. In all others what is called counts to them: headers of a mask are mask."""


@dataclass(slots=True)
class StageClock:
    """A context manager that adds up the time of each stage.

    Python tells it of every call of a function written in Python, and, of those that begin a stage, when they return.
    That costs a job of many small calls some milliseconds, mostly in the headers.
    """

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _known: dict[CodeType, str | None] = field(default_factory=dict)
    _now: str = REST
    _since: float = 0.0

    def __enter__(self) -> StageClock:
        self._since = time.perf_counter()
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        self._switch(REST)
        self.seconds[REST] += time.perf_counter() - self._since

    def _called(self, frame: FrameType, _event: str, _argument: Any) -> Callable[[FrameType, str, Any], Any] | None:
        if self._now not in LEAVES_TO_OTHERS:
            return None
        stage = self._stage(frame.f_code)
        if stage is None or stage == self._now:
            return None
        before = self._now

        def returned(_frame: FrameType, event: str, _argument: Any) -> Any:
            if event == "return":  # of a generator, each time that it gives something
                self._switch(before)
            return returned

        frame.f_trace_lines = False
        self._switch(stage)
        return returned

    def _stage(self, code: CodeType) -> str | None:
        if code not in self._known:
            path = Path(code.co_filename).as_posix()
            self._known[code] = next((stage for part, stage in STAGES.items() if f"/{part}" in path), None)
        return self._known[code]

    def _switch(self, stage: str) -> None:
        if stage != self._now:
            now = time.perf_counter()
            self.seconds[self._now] += now - self._since
            self._now, self._since = stage, now
