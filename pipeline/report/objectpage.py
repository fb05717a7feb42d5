"""The page of one object: every epoch, its light curve over the circumstances, and a table of its images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.compute as pc

from pipeline.bands import BAND_ID, BANDS
from pipeline.manifest import ObjectRow
from pipeline.naming import check_object_id
from pipeline.photometry import RADIUS_ARCSEC
from pipeline.report.framelist import FrameList
from pipeline.report.history import history_figure
from pipeline.report.inspection import SHA_DIGITS, Inspection
from pipeline.report.measure import LightCurve, measure
from pipeline.report.objects import MASK_COLOURS, MAX_EPOCHS, epochs_of, strip_figure
from pipeline.report.outliers import Outlier, magnitude
from pipeline.report.style import BAND_INK, Picture, house_style
from pipeline.report.template import write_page
from pipeline.report.timeaxis import calendar_date
from pipeline.report.truth import Truth
from pipeline.sequences import MaskBit, Sequence
from pipeline.version import software_version

MAX_STRIPS: Final = 20
"""Of MAX_EPOCHS each; an object with more epochs shows these, evenly drawn."""
MAX_ROWS: Final = 5000
QUALITY: Final = {0: "unknown", 1: "bad", 2: "acceptable", 3: "good", 4: "missing", 5: "hole"}
ZEROPOINT_FLAGS: Final = {2: "corrected", 4: "beyond limit", 8: "too few stars"}
_BAND: Final = {number: band for band, number in BAND_ID.items()}


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image in the table."""

    date: str
    mjd_tai: float
    exposure: str
    """run/camcol/field"""
    band: str
    flux_nmgy: float
    error_nmgy: float
    usable: bool
    psf_fwhm_arcsec: float
    sky_mag_arcsec2: float
    zp_offset_mag: float
    coverage: float
    masked_fraction: float
    quality: str
    flags: str
    sha256: str
    file: str
    url: str


def object_path(object_id: str) -> str:
    """Where the page is below the folder of the dataset's page.

    Raises
    ------
    ConfigError
        The id could leave the folder.
    """
    return f"objects/{check_object_id(object_id)}.html"


def write_object_page(
    folder: Path,
    row: ObjectRow,
    *,
    inspection: Inspection,
    frames: FrameList,
    truth: Truth | None = None,
    back: str = "",
) -> Path:
    """Write one object's page below `folder`; `back` is the way from it to the dataset's page, where there is one.

    Raises
    ------
    SequenceError, DatasetError
        The object's file is missing, damaged, or another's.
    """
    path = folder / object_path(row.object_id)
    sequence = inspection.dataset.sequence(row)
    curve = measure(row, sequence)
    with house_style():
        content = _content(sequence, curve, frames, truth, inspection.stands_out(row.object_id))
    facts = inspection.manifest.filter(pc.equal(inspection.manifest["object_id"], row.object_id)).to_pylist()[0]
    info = inspection.dataset.info
    write_page(path, "object.html", {**content, "row": row, "facts": facts, "info": info, "back": back})
    return path


def _content(
    sequence: Sequence, curve: LightCurve, frames: FrameList, truth: Truth | None, stands_out: Outlier | None
) -> dict[str, Any]:
    epochs = epochs_of(sequence)
    name = f"{sequence.class_name or 'object'} {sequence.object_id}"
    return {
        "dates": [f"{calendar_date(mjd):%Y-%m-%d}" for mjd in sequence.mjd_tai[[0, -1]]] if len(sequence) else [],
        "n_images": len(sequence),
        "n_usable": int(curve.ok_M.sum()),
        "n_epochs": len(epochs),
        "n_epochs_shown": min(len(epochs), MAX_EPOCHS * MAX_STRIPS),
        "counts": {band: int((sequence.band_id == BAND_ID[band]).sum()) for band in BANDS},
        "change": curve.change(),
        "side_arcsec": sequence.image.shape[1] * sequence.pixel_scale_arcsec,
        "radius_arcsec": RADIUS_ARCSEC,
        "has_truth": truth is not None,
        "strips": list(_strips(sequence, epochs, name)),
        "history": history_figure(curve, truth, name) if len(sequence) else None,
        "images": list(_images(sequence, curve, frames)),
        "stands_out": stands_out,
        "median_seeing_arcsec": _median(curve.psf_fwhm_arcsec_M),
        "median_masked": _median(curve.masked_fraction_M),
        "mean_coverage": float(sequence.coverage.mean()) if len(sequence) else float("nan"),
        "band_ink": BAND_INK,
        "mask_colours": MASK_COLOURS,
        "written_by": software_version(),
    }


def _median(values: Any) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else float("nan")


def _strips(sequence: Sequence, epochs: Any, name: str) -> Iterator[Picture]:
    most = MAX_EPOCHS * MAX_STRIPS
    shown = epochs[np.unique(np.linspace(0, len(epochs) - 1, min(len(epochs), most)).round().astype(int))]
    columns = min(len(shown), MAX_EPOCHS)
    for first in range(0, len(shown), MAX_EPOCHS):
        yield strip_figure(sequence, shown[first : first + MAX_EPOCHS], name, n_columns=columns)


def _images(sequence: Sequence, curve: LightCurve, frames: FrameList) -> Iterator[ImageRow]:
    sources = frames.sources(sequence.frame_sha256[:MAX_ROWS])
    sky_M = magnitude(sequence.sky_nmgy_arcsec2)
    for m, (file, url) in enumerate(sources):
        yield ImageRow(
            date=f"{calendar_date(sequence.mjd_tai[m]):%Y-%m-%d}",
            mjd_tai=float(sequence.mjd_tai[m]),
            exposure=f"{sequence.run[m]}/{sequence.camcol[m]}/{sequence.field[m]}",
            band=_BAND[int(sequence.band_id[m])],
            flux_nmgy=float(curve.flux_nmgy_M[m]),
            error_nmgy=float(curve.error_nmgy_M[m]),
            usable=bool(curve.ok_M[m]),
            psf_fwhm_arcsec=float(sequence.psf_fwhm_arcsec[m]),
            sky_mag_arcsec2=float(sky_M[m]),
            zp_offset_mag=float(sequence.zp_offset_mag[m]),
            coverage=float(sequence.coverage[m]),
            masked_fraction=float(curve.masked_fraction_M[m]),
            quality=QUALITY.get(int(sequence.quality[m]), str(sequence.quality[m])),
            flags=_flags(sequence, m),
            sha256=sequence.frame_sha256[m].decode("ascii", "replace")[:SHA_DIGITS],
            file=file,
            url=url,
        )


def _flags(sequence: Sequence, m: int) -> str:
    """Names of the mask bits that any pixel of the image has, and what the zero point's check says."""
    bits = int(np.bitwise_or.reduce(sequence.mask[m], axis=None))
    named = [str(bit.name) for bit in MaskBit if bits & bit and bit != MaskBit.UNCOVERED]
    return ", ".join([*named, *(words for bit, words in ZEROPOINT_FLAGS.items() if int(sequence.zp_flags[m]) & bit)])
