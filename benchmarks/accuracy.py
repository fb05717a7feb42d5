"""Thumbnails against what they should hold: injected stars, the survey's catalogue, two nights, and reproject.

Simulated frames are written in both formats of SDSS and read by the pipeline's reader. Without noise, the errors are
those of the kernel and the formats (a frame's pixels have 10 binary digits, good to 0.2 mmag of a star); with noise,
they are to be compared with `expected`, the error of the same measurement on the frame's own pixels. Fluxes are
amplitudes of the known profile, centroids are Gaussian-windowed. Noise is measured in empty sky: of single pixels over
their variance, of sums in 3″ apertures (about the frame's mean) over the summed variance of independent pixels,
variance / noise factor; "sky" is what the frame's sky is off by, in units of the noise of a pixel.

Real frames (S82_REAL_DATA, else ../shared/sdss): isolated stars of run 94 against photoObj, in 3″ against APERFLUX and
corrected for the PSF's width against PSFFLUX, by magnitude; the field that runs 4192 and 6377 share, three years apart:
displacements, flux ratios from 3″ apertures and from the PSF-matching kernel, before and after the zero points of a
built dataset; and what is left of each isolated star when one night, matched by one constant kernel per band that was
fitted to the other half of the stars, is taken from the other. Stars with more noise than 1 % do not count, and those
whose 3″ touch a saturated pixel or a cosmic ray are left out. Proper motion and variability are set aside by rules:
moved over 0.15″ on the median of the bands; brighter or fainter by 3 % and 3 sigma, to the same side in three bands.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Final

from benchmarks.support.files import FORMATS, NO_REAL_FILES, real_data
from benchmarks.support.real import (
    LEFT_BAR,
    MAG_EDGES,
    measure_against_reproject,
    measure_built,
    measure_catalogue,
    measure_pair,
)
from benchmarks.support.simulated import KERNELS, SEEING_ARCSEC, measure_simulated
from pipeline.bands import BANDS
from pipeline.survey import ThumbnailConfig

DEFAULT: Final = ThumbnailConfig().kernel
FLUX_BAR_MMAG: Final = 1.0
CENTROID_BAR_PX: Final = 0.01
VARIANCE_BAR: Final = 0.05
REPROJECT_BAR: Final = 1e-4
RATIO_BAR: Final = {"u": 0.02, "g": 0.01, "r": 0.01, "i": 0.01, "z": 0.01}
ROTATIONS: Final = 8
QUICK_ROTATIONS: Final = 1


def verdict(value: float, bar: float, error: float = 0.0) -> str:
    """The bar beside a figure, and whether it is met; undecided where two sigmas of its error reach across."""
    if abs(abs(value) - bar) < 2 * error:
        return f"(≤ {bar:g} undecided)"
    return f"(≤ {bar:g} {'met' if abs(value) <= bar else 'MISSED'})"


def show_stars(result: Mapping[str, float], name: str) -> None:
    """Fluxes and places of injected stars in one format."""
    print(f"\n{name}, injected stars       without noise                            with noise")
    print(
        f"{'kernel':<10}{'seeing':>7}{'flux mmag':>18}{'centroid px':>18}{'flux mmag':>22}{'expected':>10}{'rms px':>9}"
    )
    for kernel in KERNELS:
        for fwhm in SEEING_ARCSEC:
            key = f"simulated_{name}_{fwhm}_arcsec_{kernel}"
            clean, noisy = ({what: result[f"{key}_{how}_{what}"] for what in FIGURES} for how in ("clean", "noisy"))
            expected = result[f"simulated_{name}_{fwhm}_arcsec_expected_scatter_mmag"]
            error = result[f"{key}_noisy_flux_bias_error_mmag"]
            print(
                f"{kernel:<10}{fwhm:>6}″"
                f"{clean['flux_bias_mmag']:>9.2f} ± {clean['flux_scatter_mmag']:>6.2f}"
                f"{clean['centroid_bias_px']:>9.4f} ± {clean['centroid_rms_px']:.4f}"
                f"{noisy['flux_bias_mmag']:>9.2f}({error:.2f}) ± {noisy['flux_scatter_mmag']:>5.2f}"
                f"{expected:>10.2f}{noisy['centroid_rms_px']:>9.4f}"
            )
    for what, bar in BARS.items():
        keys = (f"simulated_{name}_{fwhm}_arcsec_{DEFAULT}_clean_{what}" for fwhm in SEEING_ARCSEC)
        worst = max(abs(result[key]) for key in keys)
        print(f"  {DEFAULT}, worst {what}: {worst:.4f} {verdict(worst, bar)}")


FIGURES: Final = ("flux_bias_mmag", "flux_scatter_mmag", "centroid_bias_px", "centroid_rms_px")
BARS: Final = {
    "flux_bias_mmag": FLUX_BAR_MMAG,
    "flux_scatter_mmag": FLUX_BAR_MMAG,
    "centroid_bias_px": CENTROID_BAR_PX,
    "centroid_rms_px": CENTROID_BAR_PX,
}


def show_noise(result: Mapping[str, float], name: str) -> None:
    """Noise of empty sky in one format, and difference from reproject."""
    print(f"\n{name}, empty sky: measured / predicted variance; and largest difference from reproject")
    for kernel in KERNELS:
        parts = [f"  {kernel:<9}"]
        for what in ("pixel", "aperture"):
            key = f"simulated_{name}_{kernel}_{what}_variance_over_predicted"
            ratio, error = result[key], result[f"{key}_error"]
            parts.append(f"{what} {ratio:.3f} ± {error:.3f}")
            if kernel == DEFAULT:
                parts.append(verdict(ratio - 1, VARIANCE_BAR, error))
        sky = result[f"simulated_{name}_{kernel}_sky_rms_over_pixel_noise"]
        apart = result[f"simulated_{name}_{kernel}_from_reproject_peaks"]
        print(*parts, f" sky {sky:.3f}   {apart:.1e} of the peak {verdict(apart, REPROJECT_BAR)}")


def show_catalogue(result: Mapping[str, float]) -> None:
    """Run 94 against photoObj."""
    print(
        f"\nrun 94 over photoObj, {result['catalogue_stars']:.0f} isolated stars: median ± scatter of one star (stars)"
    )
    for other, label in (("aperflux", "3″ over APERFLUX"), ("psfflux", "whole over PSFFLUX")):
        print(f"{label:<20}" + "".join(f"{f'{low}-{high} mag':>24}" for low, high in pairwise(MAG_EDGES)))
        for band in BANDS:
            cells = []
            for low, high in pairwise(MAG_EDGES):
                key = f"catalogue_{band}_mag_{low}_{high}"
                if result[f"{key}_stars"]:
                    ratio, scatter = result[f"{key}_over_{other}"], result[f"{key}_over_{other}_scatter"]
                    cells.append(f"{ratio:.4f} ± {scatter:.4f} ({result[f'{key}_stars']:.0f})")
                else:
                    cells.append("-")
            print(f"{band:<20}" + "".join(f"{cell:>24}" for cell in cells))
    for band in BANDS:
        places = [
            f"{axis} {result[f'catalogue_{band}_offset_{axis}_median_arcsec']:+.3f} "
            f"± {result[f'catalogue_{band}_offset_{axis}_scatter_arcsec']:.3f}″"
            for axis in ("x", "y")
        ]
        print(f"  {band} place: {', '.join(places)} ({result[f'catalogue_{band}_offset_stars']:.0f})")


def show_pair(result: Mapping[str, float], lines: list[str]) -> None:
    """The two nights."""
    print(f"\nruns 4192 and 6377, {result['pair_stars']:.0f} isolated stars; 6377 from 4192, 6377 over 4192")
    print(f"{'':<4}{'moved East, North':>38}{'3″ before':>20}{'after':>18}", end="")
    print(f"{'kernel before':>16}{'after':>10}{'corrected by':>14}")
    for band in BANDS:
        at = {key: result[f"pair_{band}_{key}"] for key in PAIR_FIGURES}
        built = {key: result[f"built_{band}_{key}"] for key in ("correction", "ratio_after", "ratio_after_stars")}
        matched = at["matched_ratio"] * built["correction"]
        moved = " ".join(
            f"{at[f'displacement_{axis}_median_arcsec']:+.3f} ± {at[f'displacement_{axis}_scatter_arcsec']:.3f}″"
            for axis in ("east", "north")
        )
        print(
            f"{band:<4}{moved:>38}{at['ratio_before']:>10.4f} ± {at['ratio_before_scatter']:.4f}"
            f"{built['ratio_after']:>11.4f} ({built['ratio_after_stars']:.0f})"
            f"{at['matched_ratio']:>16.4f}{matched:>10.4f}{built['correction']:>14.4f}"
            f"  {verdict(built['ratio_after'] - 1, RATIO_BAR[band])}, kernel {verdict(matched - 1, RATIO_BAR[band])}"
        )
    print(f"  set aside: {result['pair_moved_stars']:.0f} moved, {result['pair_varied_stars']:.0f} varied")
    if all(result[f"built_{band}_correction"] == 1 for band in BANDS):
        print("  the built dataset's zero points are the survey's own: nothing was corrected")
    print("left after matching: stars fitted, counted (noise under 1 %), scatter, median noise, largest, above 3 %")
    for band in BANDS:
        at = {key: result[f"pair_{band}_{key}"] for key in PAIR_FIGURES}
        print(
            f"  {band} {at['matched_stars']:>5.0f} {at['matched_counted_stars']:>5.0f} {at['left_scatter']:>8.2%}"
            f" {at['left_noise_median']:>8.2%} {at['left_largest']:>8.2%} {at['left_above_3_percent']:>4.0f}"
        )
    above = sum(result[f"pair_{band}_left_above_3_percent"] for band in BANDS)
    print(f"  above {LEFT_BAR:.0%} in all bands: {above:.0f} {verdict(above, 0)}")
    for line in lines:
        print(f"    {line}")


PAIR_FIGURES: Final = (
    *(f"displacement_{axis}_{what}_arcsec" for axis in ("east", "north") for what in ("median", "scatter")),
    *("ratio_before", "ratio_before_scatter", "matched_ratio", "matched_stars", "matched_counted_stars"),
    *("left_scatter", "left_noise_median", "left_largest", "left_above_3_percent"),
)


def prefixed(prefix: str, found: Mapping[str, float]) -> dict[str, float]:
    """The same figures under longer names."""
    return {f"{prefix}{key}": value for key, value in found.items()}


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one rotation of the camera instead of eight")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    rotations = QUICK_ROTATIONS if options.quick else ROTATIONS
    result = prefixed("simulated_", measure_simulated(rotations))
    for name in FORMATS.values():
        show_stars(result, name)
        show_noise(result, name)
    real = real_data()
    if real is None:
        print(NO_REAL_FILES)
    else:
        result |= prefixed("catalogue_", measure_catalogue(real))
        show_catalogue(result)
        pair, lines = measure_pair(real)
        result |= prefixed("pair_", pair) | prefixed("built_", measure_built(real))
        show_pair(result, lines)
        result |= prefixed("real_", measure_against_reproject(real))
        worst = max(result[f"real_{kernel}_from_reproject_peaks"] for kernel in KERNELS)
        print(f"\n{result['real_compared']:.0f} stars of real frames without saturated pixels in reach,", end=" ")
        print(f"largest difference from reproject: {worst:.1e} of the peak {verdict(worst, REPROJECT_BAR)}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
