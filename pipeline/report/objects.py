"""One object on the page: the facts, its thumbnails in time order, and the light curve measured on them.

Shapes: M images, E epochs shown, H × W pixels of a thumbnail; RGB colour of what is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.bands import BAND_ID, BANDS, Band
from pipeline.manifest import Dataset
from pipeline.report.lightcurve import light_curve_figure
from pipeline.report.measure import LightCurve
from pipeline.report.style import BAND_INK, FAINT, PAGE_WIDTH_IN, Picture, picture
from pipeline.report.timeaxis import calendar_date
from pipeline.report.truth import Truth
from pipeline.sequences import MaskBit, Sequence

Floats = NDArray[np.float64]

MAX_EPOCHS: Final = 20
MAX_TILE_IN: Final = 0.62
LABEL_IN: Final = 0.3
GAP_PX: Final = 2
GREYS: Final = 63
"""Shades on the page: no eye sees more, and the noise of the sky compresses better."""
UNCOVERED_COLOUR: Final = "#9db4c9"
FLAGGED_COLOUR: Final = "#d55e00"
INTERPOLATED_COLOUR: Final = "#56b4e9"
MASK_COLOURS: Final = {
    "not covered by the frame": UNCOVERED_COLOUR,
    "saturated, cosmic ray or ghost": FLAGGED_COLOUR,
    "interpolated": INTERPOLATED_COLOUR,
}
FLAGGED: Final = MaskBit.SATUR | MaskBit.CR | MaskBit.GHOST


@dataclass(frozen=True, slots=True)
class ObjectView:
    """What the page says of one object."""

    object_id: str
    class_name: str
    confirmation: str
    ra_deg: float
    dec_deg: float
    n_images: int
    n_epochs: int
    n_epochs_shown: int
    first_date: str
    last_date: str
    change: float
    strip: Picture
    light_curve: Picture


def object_view(dataset: Dataset, curve: LightCurve, truth: Truth | None) -> ObjectView:
    """Both figures of one object and the facts beside them."""
    sequence = dataset.sequence(curve.row)
    epochs = epochs_of(sequence)
    shown = epochs[np.unique(np.linspace(0, len(epochs) - 1, min(len(epochs), MAX_EPOCHS)).round().astype(int))]
    row = curve.row
    name = f"{row.class_name or 'object'} {row.object_id}"
    return ObjectView(
        object_id=row.object_id,
        class_name=row.class_name or "unlabelled",
        confirmation=row.confirmation,
        ra_deg=row.ra_deg,
        dec_deg=row.dec_deg,
        n_images=len(sequence),
        n_epochs=len(epochs),
        n_epochs_shown=len(shown),
        first_date=f"{calendar_date(sequence.mjd_tai[0]):%Y-%m-%d}",
        last_date=f"{calendar_date(sequence.mjd_tai[-1]):%Y-%m-%d}",
        change=curve.change(),
        strip=strip_figure(sequence, shown, name),
        light_curve=light_curve_figure(curve, truth, name),
    )


def epochs_of(sequence: Sequence) -> NDArray[np.int64]:
    """(run, camcol) of each epoch in time order, (E, 2)."""
    visits = np.stack((sequence.run, sequence.camcol), axis=1).astype(np.int64)
    epochs, first = np.unique(visits, axis=0, return_index=True)
    return np.asarray(epochs[np.argsort(first)])


def strip_figure(sequence: Sequence, epochs: NDArray[np.int64], name: str, *, n_columns: int = 0) -> Picture:
    """The picture of `strip_drawing` for a page."""
    bands = ", ".join(_bands(sequence))
    alt = f"Thumbnails of {name}: rows are bands {bands}, columns are epochs in time order"
    return picture(strip_drawing(sequence, epochs, n_columns=n_columns), alt)


def _bands(sequence: Sequence) -> list[Band]:
    return [band for band in BANDS if (sequence.band_id == BAND_ID[band]).any()]


def strip_drawing(sequence: Sequence, epochs: NDArray[np.int64], *, n_columns: int = 0) -> Figure:
    """Thumbnails of the epochs (E, 2): a row per band, a column per epoch, one stretch per row.

    With `n_columns` the tiles are as large as if there were so many of them.
    """
    bands = _bands(sequence)
    mosaic = np.concatenate([band_row(sequence, band, epochs) for band in bands], axis=0)[:-GAP_PX, :-GAP_PX]
    tile_in = min(MAX_TILE_IN, (PAGE_WIDTH_IN - LABEL_IN) / max(len(epochs), n_columns))
    width, height, top = tile_in * len(epochs), tile_in * len(bands), 0.34
    figure = Figure(figsize=(width + LABEL_IN, height + top))
    left, bottom = LABEL_IN / (width + LABEL_IN), 0.0
    axes = figure.add_axes((left, bottom, 1 - left, height / (height + top)))
    axes.imshow(mosaic, interpolation="none", aspect="auto")
    axes.set_axis_off()
    size = sequence.image.shape[1] + GAP_PX
    # Plain words instead of ticks: a third of the time, and a large report has hundreds of strips.
    for place, band in enumerate(bands):
        style: dict[str, Any] = {
            "color": BAND_INK[band],
            "fontsize": 9,
            "fontweight": "bold",
            "ha": "right",
            "va": "center",
        }
        axes.text(-0.12 * size, (place + 0.5) * size, band, **style)
    for place, day in enumerate(_dates(sequence, epochs)):
        axes.text((place + 0.5) * size, -0.06 * size, day, fontsize=6.5, ha="center", va="bottom")
    return figure


def _dates(sequence: Sequence, epochs: NDArray[np.int64]) -> list[str]:
    days = [calendar_date(sequence.mjd_tai[_visit(sequence, run, camcol)].min()) for run, camcol in epochs.tolist()]
    return [f"{day:%Y}\n{day:%m-%d}" for day in days]


def _visit(sequence: Sequence, run: int, camcol: int) -> NDArray[np.bool_]:
    return np.asarray((sequence.run == run) & (sequence.camcol == camcol))


def band_row(sequence: Sequence, band: Band, epochs: NDArray[np.int64]) -> Floats:
    """One row of tiles with white gaps, (H + gap, E × (W + gap), 3); white where there is no image."""
    in_band_M = sequence.band_id == BAND_ID[band]
    low, soft, high = stretch(sequence.image[in_band_M])
    _, height, width = sequence.image.shape
    row = np.ones((height + GAP_PX, len(epochs) * (width + GAP_PX), 3))
    for column, (run, camcol) in enumerate(epochs.tolist()):
        images = np.flatnonzero(in_band_M & _visit(sequence, run, camcol))
        left = column * (width + GAP_PX)
        if len(images):
            brightness = _asinh(sequence.image[images[0]], low, soft, high)
            # The sky is drawn North up, East left; images have North at the end.
            row[:height, left : left + width] = _colour(brightness, sequence.mask[images[0]])[::-1]
        else:
            row[height // 2 - 1 : height // 2, left + width // 2 - 3 : left + width // 2 + 3] = to_rgb(FAINT)
    return row


def stretch(image_MHW: NDArray[np.float32]) -> tuple[float, float, float]:
    """(black level, softening, white level) [nMgy] of one band: common to all its epochs, so that they compare.

    The white level is the brightest the middle of the images gets (99.8th percentile).
    """
    pixels = image_MHW[np.isfinite(image_MHW)].astype(np.float64)
    if not pixels.size:
        return 0.0, 1.0, 1.0
    sky = float(np.median(pixels))
    noise = float(1.4826 * np.median(np.abs(pixels - sky))) or 1.0
    height, width = image_MHW.shape[1:]
    middle = image_MHW[:, height // 4 : -(height // 4), width // 4 : -(width // 4)]
    middle = middle[np.isfinite(middle)]
    peak = float(np.percentile(middle, 99.8)) if middle.size else sky
    return sky - 1.5 * noise, 2 * noise, max(peak, sky + 8 * noise)


def _asinh(image_HW: NDArray[np.float32], low: float, soft: float, high: float) -> Floats:
    """Brightness from 0 to 1 with the stretch of Lupton et al. 2004 (PASP 116, 133)."""
    scaled = np.arcsinh((image_HW.astype(np.float64) - low) / soft) / np.arcsinh((high - low) / soft)
    return np.asarray(np.round(np.clip(np.nan_to_num(scaled), 0, 1) * GREYS) / GREYS)


def _colour(brightness_HW: Floats, mask_HW: NDArray[np.uint8]) -> Floats:
    """Grey, with masked pixels tinted and uncovered ones in a colour of their own."""
    shown = np.repeat(brightness_HW[..., None], 3, axis=2)
    for bits, colour, weight in (
        (MaskBit.INTERP, INTERPOLATED_COLOUR, 0.45),
        (FLAGGED, FLAGGED_COLOUR, 0.6),
        (MaskBit.UNCOVERED, UNCOVERED_COLOUR, 1.0),
    ):
        flagged = (mask_HW & int(bits)) > 0
        shown[flagged] = (1 - weight) * shown[flagged] + weight * np.array(to_rgb(colour))
    return shown
