"""A time axis without the years in which nothing happened: long gaps between nights are cut short."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from pipeline.report.style import FAINT

Floats = NDArray[np.float64]

LONG_GAP_D: Final = 60.0
LATEST_MJD: Final = 100_000.0
"""The year 2132: what is later than this is no time of an image."""
_MJD_EPOCH: Final = date(1858, 11, 17)


def calendar_date(mjd: float) -> date:
    """Calendar day of a Modified Julian Date."""
    return _MJD_EPOCH + timedelta(days=int(np.floor(mjd)))


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """Maps MJD to a position in days in which every long gap is equally short. S stretches of nights."""

    start_S: Floats
    """First MJD of each stretch."""
    end_S: Floats
    position_S: Floats
    """Where each stretch begins on the axis."""

    @classmethod
    def over(cls, mjd: Floats) -> TimeAxis:
        """The axis for these times (at least one)."""
        times = np.unique(mjd)
        breaks = np.flatnonzero(np.diff(times) > LONG_GAP_D)
        start_S = times[np.concatenate(([0], breaks + 1))]
        end_S = times[np.concatenate((breaks, [len(times) - 1]))]
        length_S = end_S - start_S
        observed_d = max(float(length_S.sum()), 10.0)
        gap_d = min(0.06, 0.35 / max(len(breaks), 1)) * observed_d
        position_S = np.concatenate(([0.0], np.cumsum(length_S[:-1] + gap_d)))
        return cls(start_S, end_S, position_S)

    def position(self, mjd: Floats) -> Floats:
        """Position of times on the axis."""
        stretch = self._stretch(mjd)
        inside = np.minimum(mjd, self.end_S[stretch]) - self.start_S[stretch]
        return np.asarray(self.position_S[stretch] + inside)

    def broken_line(self, mjd: Floats, values: Floats) -> tuple[Floats, Floats]:
        """Positions and values in time order, with NaN between stretches so that no line crosses a gap."""
        order = np.argsort(mjd, kind="stable")
        times = mjd[order]
        cuts = np.flatnonzero(np.diff(self._stretch(times))) + 1
        return np.insert(self.position(times), cuts, np.nan), np.insert(values[order], cuts, np.nan)

    def _stretch(self, mjd: Floats) -> NDArray[np.intp]:
        return np.asarray(np.clip(np.searchsorted(self.start_S, mjd, side="right") - 1, 0, None))

    @property
    def length(self) -> float:
        """Position of the last time."""
        return float(self.position_S[-1] + self.end_S[-1] - self.start_S[-1])

    def dress(self, axes: Axes, *, max_labels: int) -> None:
        """Limits, dated ticks and a dotted line where time was cut short."""
        margin = 0.36 / max_labels * max(self.length, 1.0)  # room for half of the outermost labels
        axes.set_xlim(-margin, self.length + margin)
        ticks = self._ticks(1.1 * self.length / max_labels)
        axes.set_xticks([position for position, _ in ticks], [label for _, label in ticks])
        cut_from = self.position_S[:-1] + (self.end_S - self.start_S)[:-1]
        for cut in (cut_from + self.position_S[1:]) / 2:
            axes.axvline(cut, color=FAINT, linewidth=0.6, linestyle=(0, (1, 3)), zorder=0)

    def _ticks(self, spacing: float) -> list[tuple[float, str]]:
        """Starts of the longest stretches first, then whole months where there is room."""
        starts = np.argsort(self.start_S - self.end_S, kind="stable")
        wanted = [float(self.start_S[s]) for s in starts] + self._months()
        chosen: list[tuple[float, str]] = []
        for mjd in wanted:
            position = float(self.position(np.array(mjd)))
            if all(abs(position - other) >= spacing for other, _ in chosen):
                chosen.append((position, f"{calendar_date(mjd):%Y-%m-%d}"))
        return sorted(chosen)

    def _months(self) -> list[float]:
        firsts = []
        for start, end in zip(self.start_S, self.end_S, strict=True):
            days = (calendar_date(mjd) for mjd in np.arange(np.ceil(start), end))
            firsts += [float((day - _MJD_EPOCH).days) for day in days if day.day == 1]
        return firsts
