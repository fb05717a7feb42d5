"""Both archives, one Frame: DR8+ `frame-*` and DR7 `fpC` files read into the same calibrated image.

Sources: frame data model (https://data.sdss.org/datamodel/files/BOSS_PHOTOOBJ/frames/RERUN/RUN/CAMCOL/frame.html),
fpC data model (https://classic.sdss.org/dr7/dm/flatFiles/fpC.html).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from pipeline.astrometry import AsTrans, HeaderSolution, Solution
from pipeline.calibrate import FieldCalibration, ZeropointSource, read_calibration, sky_counts, variance_nmgy2
from pipeline.errors import FrameError
from pipeline.fitsfile import open_fits
from pipeline.identity import SHAPE, check_identity
from pipeline.masks import read_mask
from pipeline.naming import FrameId, parse_frame_file

SECONDS_PER_DAY: Final = 86400.0
MAX_DISAGREEMENT_PX: Final = 3.0
"""Between header and full astrometry; up to 0.5 px is real."""
MAX_CLOCK_DIFFERENCE_S: Final = 60.0
"""Between the header's TAI and the calibration table's; 0.3 s is real."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One calibrated, sky-subtracted image with all that a thumbnail must carry along. Y rows × X columns."""

    id: FrameId
    image_YX: NDArray[np.float32]
    """Flux per pixel [nMgy]."""
    variance_YX: NDArray[np.float32]
    """[nMgy²]."""
    mask_YX: NDArray[np.uint8]
    """Bits of `MaskBit`; all zero where there are no mask planes."""
    solution: Solution
    tai_row0_s: float
    """TAI of the read-out of row 0 [s since MJD 0]."""
    row_clock_s: float
    exposure_s: float
    zeropoint_nmgy: float
    """Flux of one count at the middle column."""
    zeropoint_source: ZeropointSource
    calibration: FieldCalibration

    def mjd_tai(self, y_pix: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """MJD (TAI) of the middle of the exposure of row `y_pix`.

        A pixel collects light during the `exposure_s` before its row is read.
        """
        tai_s = self.tai_row0_s + y_pix * self.row_clock_s - self.exposure_s / 2
        return np.asarray(tai_s / SECONDS_PER_DAY)

    def world_to_pixel(
        self, ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """0-based (x, y) of sky positions by the frame's astrometric solution."""
        return self.solution.world_to_pixel(ra_deg, dec_deg)


def read_frame(
    path: Path,
    calibration_path: Path,
    mask_path: Path | None,
    *,
    rerun: int,
    astrometry: Literal["full", "header"] = "full",
) -> Frame:
    """Read an image file with its calibration table and, where there is one, its mask planes.

    `astrometry` chooses between the survey's full solution and the header's TAN approximation to it.

    Raises
    ------
    FrameError
        A file is corrupt or incomplete, or what it says of itself contradicts its name.
    """
    frame = parse_frame_file(path.name, rerun=rerun)
    calibration = read_calibration(calibration_path, frame)
    mask_YX = np.zeros(SHAPE, dtype=np.uint8) if mask_path is None else read_mask(mask_path, frame, SHAPE)
    with open_fits(path, "a readable SDSS frame") as hdus:
        check_identity(hdus, path.name, rerun=rerun)
        counts = _frame_counts if frame.layout == "sas-dr8" else _fpc_counts
        image_YX, variance_YX, zeropoint_nmgy = counts(hdus, calibration)
        header = hdus[0].header
        if not (np.isfinite(image_YX).all() and np.isfinite(variance_YX).all()):
            raise FrameError(f"{path.name} holds pixels whose flux or variance is not finite")
        return Frame(
            id=frame,
            image_YX=image_YX,
            variance_YX=variance_YX,
            mask_YX=mask_YX,
            solution=_solution(hdus, calibration, path, astrometry),
            tai_row0_s=_row0_tai_s(header, calibration, path),
            row_clock_s=_positive(header, "C_OBS", path) * 1e-6,
            exposure_s=_positive(header, "EXPTIME", path),
            zeropoint_nmgy=zeropoint_nmgy,
            zeropoint_source=ZeropointSource.FRAME if frame.layout == "sas-dr8" else ZeropointSource.TSFIELD,
            calibration=calibration,
        )


def _frame_counts(
    hdus: fits.HDUList, calibration: FieldCalibration
) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """DR8+: the image is calibrated; counts are recovered for the noise by inverting calibration and sky."""
    image_YX = hdus[0].data.astype(np.float32)
    nmgy_per_count_X = hdus[1].data.astype(np.float32)
    sky_YX = _frame_sky(hdus[2].data[0])
    if nmgy_per_count_X.shape != (SHAPE[1],) or sky_YX.shape != SHAPE:
        raise ValueError(f"calibration {nmgy_per_count_X.shape} and sky {sky_YX.shape} do not fit {SHAPE}")
    if not (nmgy_per_count_X > 0).all():
        raise ValueError("calibration vector is not positive everywhere")
    sky_YX += image_YX / nmgy_per_count_X
    variance_YX = variance_nmgy2(sky_YX, nmgy_per_count_X, calibration)
    return image_YX, variance_YX, float(nmgy_per_count_X[SHAPE[1] // 2])


def _frame_sky(row: fits.FITS_record) -> NDArray[np.float32]:
    """Sky [counts] at every pixel: bilinear in the low-resolution map, clamped at its edges."""
    allsky = np.asarray(row["ALLSKY"], dtype=np.float32)
    y0, wy = _clamped(np.asarray(row["YINTERP"]), allsky.shape[0])
    x0, wx = _clamped(np.asarray(row["XINTERP"]), allsky.shape[1])
    rows = allsky[y0] * (1 - wy)[:, None] + allsky[y0 + 1] * wy[:, None]
    return np.asarray(rows[:, x0] * (1 - wx) + rows[:, x0 + 1] * wx, dtype=np.float32)


def _clamped(position: NDArray[np.float32], size: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    inside = np.clip(position, 0, size - 1)
    lower = np.minimum(inside.astype(np.intp), size - 2)
    return lower, np.asarray(inside - lower, dtype=np.float32)


def _fpc_counts(
    hdus: fits.HDUList, calibration: FieldCalibration
) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """DR7: raw counts above a soft bias, sky still in."""
    counts_YX = hdus[0].data.astype(np.float32) - np.float32(hdus[0].header["SOFTBIAS"])
    variance_YX = variance_nmgy2(counts_YX, calibration.nmgy_per_count, calibration)
    image_YX = (counts_YX - sky_counts(counts_YX)) * np.float32(calibration.nmgy_per_count)
    return image_YX, variance_YX, calibration.nmgy_per_count


def _solution(
    hdus: fits.HDUList, calibration: FieldCalibration, path: Path, astrometry: Literal["full", "header"]
) -> Solution:
    """The solution asked for. Both are read, and refused if they put the frame's middle in different places."""
    header = HeaderSolution(_wcs(hdus[0].header))
    full = calibration.astrometry
    if full is None:
        row = hdus[3].data[0]
        full = AsTrans.of_table(float(row["NODE"]), float(row["INCL"]), lambda name: float(row[name.upper()]))
    middle = SHAPE[1] / 2, SHAPE[0] / 2
    world = full.pixel_to_world(*np.array(middle))
    for solution in (header, full):  # a table whose terms are degenerate does not even lead back to where it began
        apart = np.hypot(*np.subtract(solution.world_to_pixel(*world), middle))
        if not apart < MAX_DISAGREEMENT_PX:
            raise FrameError(f"{path.name}: header and astrometric table disagree by {apart:.1f} px")
    return full if astrometry == "full" else header


def _row0_tai_s(header: fits.Header, calibration: FieldCalibration, path: Path) -> float:
    """TAI of row 0, from the header, held against the calibration table (they agree to 0.3 s in real files)."""
    tai_s = float(header["TAI"])
    if not abs(tai_s - calibration.mjd_tai_row0 * SECONDS_PER_DAY) <= MAX_CLOCK_DIFFERENCE_S:  # NaN is refused too
        raise FrameError(
            f"{path.name}: header TAI is MJD {tai_s / SECONDS_PER_DAY:.5f}, "
            f"its calibration table says {calibration.mjd_tai_row0:.5f}"
        )
    return tai_s


def _positive(header: fits.Header, card: str, path: Path) -> float:
    value = float(header[card])
    if not 0 < value < np.inf:
        raise FrameError(f"{path.name}: its header card {card} is {value}, expected a positive number")
    return value


def _wcs(header: fits.Header) -> WCS:
    """The TAN solution of the header, without the deprecated cards that make astropy guess."""
    cards = ("CTYPE1", "CTYPE2", "CRPIX1", "CRPIX2", "CRVAL1", "CRVAL2", "CD1_1", "CD1_2", "CD2_1", "CD2_2")
    clean = fits.Header([(card, header[card]) for card in cards])
    clean["RADESYS"] = "ICRS"
    clean["CUNIT1"] = clean["CUNIT2"] = "deg"
    return WCS(clean, naxis=2)
