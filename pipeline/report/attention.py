"""What the network looked at: weights over time, and the images that weigh most, of a few test objects.

Shapes: N blocks, K images of a block, L layers, T heads, h × w pixels of a feature map, H × W of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.bands import BANDS
from pipeline.errors import ReportError
from pipeline.report.style import ACCENT, BAND_INK, FAINT, PAGE_WIDTH_IN, fixed_layout

ATTENTION_FILE: Final = "attention.npz"
_SHOWN: Final = 8
"""Blocks that are shown as images: those with the most weight."""
_GAP: Final = 2
_KEYS: Final = ("object_id", "true", "predicted", "probability", "band_id", "day", "image", "weight")
_MAX_BYTES: Final = 2**28
Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Example:
    """One test object and the temporal weights of the model that had not seen it."""

    title: str
    band_M: Array
    day_M: Array
    image_MHW: Array
    """As the network sees it: in units of the band's scatter."""
    weight_NThw: Array
    """Of the last layer."""
    block: int

    @property
    def share(self) -> Array:
        """Weight of each block by head, mean over the pixels, (N, T)."""
        share_NT: Array = self.weight_NThw.mean(axis=(2, 3))
        return share_NT

    def images(self, block: int) -> slice:
        """Which images are a block's."""
        return slice(block * self.block, (block + 1) * self.block)

    def day(self, block: int) -> float:
        """Mean day of a block's images."""
        return float(self.day_M[self.images(block)].mean())


def read_examples(path: Path) -> list[Example]:
    """Read what `s82 evaluate` kept of its attention.

    Raises
    ------
    ReportError
        It is not what a run writes.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ReportError(f"{path} has more than the {_MAX_BYTES} bytes allowed")
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            block = int(file["block"])
            count = sum(name.endswith("_object_id") for name in file.files)
            return [_example({key: file[f"{n}_{key}"] for key in _KEYS}, block) for n in range(count)]
    except (OSError, KeyError, ValueError, EOFError, BadZipFile) as error:
        raise ReportError(f"{path} is not what a run writes ({error}): evaluate the run again") from error


def attention_drawing(examples: Sequence[Example]) -> Figure:
    """A row per object: weight of each block against time, and the images of those that weigh most."""
    figure = Figure(figsize=(PAGE_WIDTH_IN, 1.75 * len(examples) + 0.3))
    fixed_layout(figure, left=0.5, bottom=0.45, right=0.05, top=0.25, wspace=0.08, hspace=0.42)
    panels = figure.subplots(len(examples), 2, width_ratios=(1, 1.3), squeeze=False)
    for (weights, images), example in zip(panels, examples, strict=True):
        _weights(weights, example)
        _images(images, example)
    panels[-1][0].set_xlabel("days since the first image")
    return figure


def _example(arrays: dict[str, Array], block: int) -> Example:
    filled_M = arrays["band_id"] > 0
    n_blocks = -(-int(filled_M.sum()) // block)
    predicted, probability = arrays["predicted"], float(arrays["probability"])
    return Example(
        title=f"{arrays['object_id']}: {arrays['true']}, taken for {predicted} ({100 * probability:.0f} %)",
        band_M=arrays["band_id"][filled_M],
        day_M=arrays["day"][filled_M],
        image_MHW=arrays["image"][filled_M],
        weight_NThw=arrays["weight"][-1, :n_blocks],
        block=block,
    )


def _weights(axes: Axes, example: Example) -> None:
    share_NT = 100 * example.share
    day_N = [example.day(n) for n in range(len(share_NT))]
    axes.plot(day_N, share_NT, color=FAINT, linewidth=0.7, marker=".", markersize=2)
    axes.plot(day_N, share_NT.mean(axis=1), color=ACCENT, linewidth=1.4)
    axes.axhline(100 / len(share_NT), color=FAINT, linewidth=0.6, linestyle=(0, (4, 3)))
    axes.set_ylim(bottom=0)
    axes.set_ylabel("weight [%]")
    axes.set_title(example.title)


def _images(axes: Axes, example: Example) -> None:
    """Above, the middle image of each block; below, where in it the weight is."""
    share_N = example.share.mean(axis=1)
    blocks = sorted(np.argsort(-share_N)[:_SHOWN].tolist())
    size = example.image_MHW.shape[1]
    step = size + _GAP
    axes.set_xlim(-0.5, _SHOWN * step)
    axes.set_ylim(2.28 * step, -0.28 * size)
    axes.set_axis_off()
    most = float(example.weight_NThw.mean(axis=1)[blocks].max())
    for place, block in enumerate(blocks):
        of_block = range(len(example.band_M))[example.images(block)]
        image = of_block[len(of_block) // 2]
        left, right = place * step, place * step + size
        pixels_HW = example.image_MHW[image]
        low, high = np.percentile(pixels_HW, (1, 99.7))
        axes.imshow(
            pixels_HW, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), extent=(left, right, size, 0), origin="lower"
        )
        weight_hw = example.weight_NThw[block].mean(axis=0)
        axes.imshow(weight_hw, cmap="Blues", vmin=0, vmax=most, extent=(left, right, step + size, step), origin="lower")
        band = BANDS[int(example.band_M[image]) - 1]
        colour = BAND_INK[band]
        axes.text(left, -0.06 * size, f"{band}  {100 * share_N[block]:.0f} %", fontsize=6.5, color=colour, va="bottom")
        axes.text(left, 2 * step, f"day {example.day(block):.0f}", fontsize=6.5, color=colour, va="top")
    axes.set_aspect("equal")
