"""Ways of cutting the thumbnails of some objects from one frame: ours, others', and what none can do without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import sep
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS
from numpy.typing import NDArray
from reproject import reproject_interp

from benchmarks.support.files import FrameFiles
from benchmarks.support.reference import reproject_crop
from pipeline.compressed import read_bytes
from pipeline.cutting import FrameJob, cut_frame
from pipeline.hdus import Hdu, split_hdus
from pipeline.sky import sky_counts
from pipeline.survey import ThumbnailConfig
from pipeline.thumbnails import target_wcs

CONFIG: Final = ThumbnailConfig()
MESH_PX: Final = 256
LABELS: Final = {
    "floor": "floor: decode, sky",
    "floor_sep": "floor, sep's one pass",
    "ours": "ours",
    "reproject": "frame by frame, reproject",
    "naive": "naive script",
    "astrocut": "astrocut, decompressed",
}


def decode(files: FrameFiles) -> tuple[NDArray[Any], Hdu]:
    """The image, of fpC in counts as the sky needs them, and the HDU that it is from."""
    hdu = split_hdus(read_bytes(files.image))[0]
    if files.format == "frame":
        return hdu.image, hdu
    return hdu.image + np.float32(32768 - float(hdu.header["SOFTBIAS"])), hdu


@dataclass(frozen=True, slots=True)
class Task:
    """Some objects of one frame, for each way of cutting them."""

    files: FrameFiles
    job: FrameJob
    opened: Path
    """The image as float32, not compressed; astrocut does not take the unsigned counts of an fpC."""
    folder: Path
    """For what the scripts write."""

    @property
    def places(self) -> list[tuple[float, float]]:
        """RA and Dec of the objects [deg]."""
        return [(target.ra_deg, target.dec_deg) for target in self.job.targets]


def ours(task: Task) -> None:
    """The pipeline."""
    cut_frame(task.job)


def floor(task: Task) -> None:
    """What cannot be saved."""
    image_YX, _ = decode(task.files)
    if task.files.format == "fpC":
        sky_counts(image_YX)


def floor_sep(task: Task) -> None:
    """The same with less of a sky."""
    counts_YX, _ = decode(task.files)
    sep.Background(counts_YX, bw=MESH_PX, bh=MESH_PX).back(dtype=np.float32)


def with_reproject(task: Task) -> None:
    """Frame by frame, but everything from libraries."""
    image_YX, hdu = decode(task.files)
    if task.files.format == "fpC":
        image_YX = image_YX - sky_counts(image_YX)
    wcs = WCS(hdu.header)
    for ra_deg, dec_deg in task.places:
        reproject_crop(image_YX, wcs, ra_deg, dec_deg, CONFIG)


def naive(task: Task) -> None:
    """What is written first: a loop over objects that opens the frame for each."""
    size = CONFIG.size
    reach = int(np.ceil(size * np.sqrt(2))) + 16
    for number, (ra_deg, dec_deg) in enumerate(task.places):
        with fits.open(task.files.image) as hdus:
            cutout = Cutout2D(
                hdus[0].data, SkyCoord(ra_deg, dec_deg, unit="deg"), reach, WCS(hdus[0].header), mode="partial"
            )
        grid = target_wcs(ra_deg, dec_deg, size=size, pixel_scale_arcsec=CONFIG.pixel_scale_arcsec)
        image_HW, _ = reproject_interp((cutout.data, cutout.wcs), grid, shape_out=(size, size))
        append(task.folder / f"{number}.h5", image_HW)


def append(path: Path, image_HW: NDArray[Any]) -> None:
    """Add an image to the object's file."""
    with h5py.File(path, "a") as file:
        if "image" not in file:
            file.create_dataset("image", (0, *image_HW.shape), "f4", maxshape=(None, *image_HW.shape))
        file["image"].resize(len(file["image"]) + 1, axis=0)
        file["image"][-1] = image_HW


def with_astrocut(task: Task) -> None:
    """A cutout service's library, on a file opened for it before."""
    from astrocut import FITSCutout  # type: ignore[import-not-found]

    for ra_deg, dec_deg in task.places:
        FITSCutout([str(task.opened)], SkyCoord(ra_deg, dec_deg, unit=u.deg), CONFIG.size, extension=0).fits_cutouts  # noqa: B018


def ways(image_format: str) -> dict[str, Callable[[Task], None]]:
    """All that can be timed here on files of that format."""
    found: dict[str, Callable[[Task], None]] = {
        "floor": floor,
        "ours": ours,
        "reproject": with_reproject,
        "naive": naive,
    }
    if image_format == "fpC":
        found["floor_sep"] = floor_sep
    if find_spec("astrocut"):
        found["astrocut"] = with_astrocut
    return found
