"""Thumbnails the usual way, through astropy and reproject: what ours are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray
from reproject import reproject_interp

from pipeline.compressed import read_bytes
from pipeline.hdus import split_hdus
from pipeline.survey import ThumbnailConfig
from pipeline.thumbnails import target_wcs

REACH_PX: Final = 20
"""Memory of the quintic prefilter: what is farther out than this counts less than 1e-7."""
ORDER: Final = {"nearest": 0, "bilinear": 1, "cubic": 3, "quintic": 5}


CARDS: Final = ("CTYPE1", "CTYPE2", "CRPIX1", "CRPIX2", "CRVAL1", "CRVAL2", "CD1_1", "CD1_2", "CD2_1", "CD2_2")


def header_wcs(image: Path) -> WCS:
    """The TAN solution in an image file's header, without the deprecated cards beside it."""
    header = split_hdus(read_bytes(image))[0].header
    return WCS(fits.Header([(card, header[card]) for card in CARDS]))


def reproject_crop(
    image_YX: NDArray[Any], wcs: WCS, ra_deg: float, dec_deg: float, config: ThumbnailConfig
) -> NDArray[np.float64]:
    """One thumbnail of flux per pixel: the part of the image that it feels, through `reproject_interp`."""
    grid = target_wcs(ra_deg, dec_deg, size=config.size, pixel_scale_arcsec=config.pixel_scale_arcsec)
    half = int(np.ceil(config.size / np.sqrt(2))) + REACH_PX
    world = (ra_deg, dec_deg) if wcs.wcs.lng == 0 else (dec_deg, ra_deg)
    x_pix, y_pix = wcs.wcs_world2pix(*world, 0)
    rows, columns = (slice(max(round(float(at)) - half, 0), round(float(at)) + half + 1) for at in (y_pix, x_pix))
    patch_YX = image_YX[rows, columns].astype(np.float64)
    resampled_HW, _ = reproject_interp(
        (patch_YX, wcs[rows, columns]),
        grid,
        shape_out=(config.size, config.size),
        order=ORDER[config.kernel],
        roundtrip_coords=False,
    )
    return np.asarray(resampled_HW * float(grid.proj_plane_pixel_area() / wcs.proj_plane_pixel_area()))
