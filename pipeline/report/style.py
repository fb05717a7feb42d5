"""One look for all figures, and how they get into the page."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from pipeline.bands import Band

BAND_COLOUR: Final[dict[Band, str]] = {"u": "#0c71ff", "g": "#49be61", "r": "#c61c00", "i": "#ffc200", "z": "#f341a2"}
BAND_MARKER: Final[dict[Band, str]] = {"u": "o", "g": "^", "r": "v", "i": "s", "z": "*"}
"""Rubin Observatory's colour-blind-safe colours, with the symbols that go with them (https://rtn-045.lsst.io)."""

BAND_INK: Final[dict[Band, str]] = {"u": "#0a63e0", "g": "#217a38", "r": "#c61c00", "i": "#876500", "z": "#c9217f"}
"""The same hues dark enough to be read as text on white: 4.5 : 1 and more, as WCAG 2 asks."""

INK: Final = "#1d2733"
FAINT: Final = "#8794a3"
GRID: Final = "#e4e8ed"
ACCENT: Final = "#0b5c8a"
CONTRAST: Final = "#d55e00"
"""Okabe & Ito's vermilion: stands out against ACCENT for every kind of colour vision."""
PAGE_WIDTH_IN: Final = 10.0
"""A figure this wide fills the page; 1 pt is then about 1.5 px."""

_RC: Final[Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "text.parse_math": False,  # names from a dataset may hold anything, `$` included
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "savefig.facecolor": "white",
    "svg.fonttype": "path",  # looks the same wherever the page is opened
    "svg.hashsalt": "stripe82-convention",  # the same bytes for the same figure
}


@contextmanager
def house_style() -> Iterator[None]:
    """Draw and save in the house style; matplotlib's own settings are as before afterwards."""
    with mpl.rc_context(_RC):
        yield


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure as the page embeds it."""

    uri: str
    """data: URI of an SVG file."""
    alt: str
    """What it shows, for those who do not see it."""
    width_part: float
    """Of the page, up to 1."""


def fixed_layout(
    figure: Figure, *, left: float, bottom: float, right: float, top: float, wspace: float = 0.2, hspace: float = 0.2
) -> None:
    """Margins [inch] by hand: many times faster than constrained layout, and the same in every figure of a kind."""
    width, height = figure.get_size_inches()
    figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height, wspace, hspace)


def picture(figure: Figure, alt: str) -> Picture:
    """Draw `figure` as SVG: sharp on every screen and on paper."""
    buffer = BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    uri = "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(uri=uri, alt=alt, width_part=min(1.0, figure.get_figwidth() / PAGE_WIDTH_IN))
