"""Light curves and export of synthetic datasets of three sizes: what an image costs, memory, linear growth.

A dataset is random pixels with a star in the middle, 100 images of 32 × 32 px per object. Reading a sequence, with all
its checks, is timed by itself; what the photometry adds is compared with calling `sep.sum_circle` for each image, which
gives the aperture's flux alone. All times are CPU times of one process, as the machine may be shared; --full measures
10,000 objects too (9 GB on disk).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import sep

from benchmarks.support.memory import peak_mb
from pipeline.export import ExportOptions, export_dataset
from pipeline.forced import forced_photometry
from pipeline.lightcurvefile import write_light_curves
from pipeline.manifest import MANIFEST_SCHEMA, SKIPS_SCHEMA, Dataset, DatasetInfo, ObjectRow, write_table
from pipeline.naming import MANIFEST_FILE, SKIPS_FILE, sequence_path
from pipeline.photometry import psf_profile
from pipeline.sequences import COLUMNS, Sequence, write_sequence
from pipeline.survey import load_survey

N_IMAGES, SIZE, SCALE = 100, 32, 0.396


def synthetic(object_id: str, seed: int) -> Sequence:
    """A star of 100 nMgy in unit noise, in all bands, with a few masked pixels."""
    rng = np.random.default_rng(seed)
    arrays = {
        name: np.ones(
            (N_IMAGES,) + (SIZE, SIZE) * (column.ndim == 3), "S64" if column.dtype == "|S64" else column.dtype
        )
        for name, column in COLUMNS.items()
    }
    arrays["psf_fwhm_arcsec"] = rng.uniform(1, 2, N_IMAGES).astype(np.float32)
    star_MHW = 100 * psf_profile((SIZE, SIZE), arrays["psf_fwhm_arcsec"], pixel_scale_arcsec=SCALE)
    arrays["image"] = rng.normal(star_MHW).astype(np.float32)
    arrays["mask"] = (rng.random(star_MHW.shape) < 2e-4).astype(np.uint8)
    arrays["mjd_tai"] = np.sort(rng.uniform(53600, 54400, N_IMAGES))
    arrays["band_id"] = (np.arange(N_IMAGES) % 5 + 1).astype(np.uint8)
    model = {field.name: "" for field in dataclasses.fields(Sequence) if field.name not in arrays}
    numbers = {"ra_deg": 10.0, "dec_deg": 0.0, "pixel_scale_arcsec": SCALE, "pipeline_version": 0}
    return Sequence(**(model | numbers | {"object_id": object_id}), **arrays)  # type: ignore[arg-type]


def build(root: Path, n_objects: int) -> Dataset:
    """The object files of a dataset and its rows; fifty different contents, over and over."""
    rows = []
    for number in range(n_objects):
        sequence = synthetic(str(number), seed=number % 50)
        write_sequence(root / sequence_path(str(number)), sequence)
        file = sequence_path(str(number))
        rows.append(ObjectRow(**_row(str(number), file, number % 5)))
    info = DatasetInfo.model_construct(
        dataset_id="bench-0",
        survey=load_survey("benchmark").model_dump(mode="json"),
        content_hash="",
        counts={"objects": n_objects, "images": n_objects * N_IMAGES, "frames": 0, "frame_bytes": 0},
        size=SIZE,
        pixel_scale_arcsec=SCALE,
    )
    write_table(root / MANIFEST_FILE, [], MANIFEST_SCHEMA)  # for the export's card alone
    write_table(root / SKIPS_FILE, [], SKIPS_SCHEMA)
    return Dataset(path=root, info=info, objects=tuple(rows))


def _row(object_id: str, file: str, fold: int) -> dict[str, object]:
    known = {"object_id": object_id, "file": file, "fold": fold, "n_images": N_IMAGES, "ra_deg": 10.0, "dec_deg": 0.0}
    return dict.fromkeys(ObjectRow.__dataclass_fields__, "") | known


def by_sep(sequence: Sequence) -> None:
    """Aperture fluxes image by image."""
    variance_MHW = sequence.independent_variance
    middle, radius = [(SIZE - 1) / 2], 3.0 / SCALE
    for image_HW, variance_HW, mask_HW in zip(sequence.image, variance_MHW, sequence.mask, strict=True):
        sep.sum_circle(image_HW, middle, middle, radius, var=variance_HW, mask=mask_HW > 0, subpix=0)


def per_image_us(function: Callable[[], object], repeats: int = 20) -> float:
    """Median CPU time over repeats, for one object's images."""
    spent = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        spent.append(time.process_time() - start)
    return float(np.median(spent)) / N_IMAGES * 1e6


def measure(n_objects: int) -> dict[str, float]:
    """One dataset: built, light curves written, exported."""
    with TemporaryDirectory() as name:
        root = Path(name)
        dataset = build(root / "dataset", n_objects)
        start = time.process_time()
        n_rows = write_light_curves(dataset, root / "lightcurves.parquet")
        curves_s = time.process_time() - start
        start = time.process_time()
        export_dataset(dataset, root / "export", ExportOptions())
        export_s = time.process_time() - start
    assert n_rows == n_objects * N_IMAGES
    return {
        "lightcurves_us_per_image": curves_s / n_rows * 1e6,
        "export_us_per_image": export_s / n_rows * 1e6,
        "peak_memory_mb": peak_mb(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    results: dict[str, float] = {}
    with TemporaryDirectory() as name:
        dataset = build(Path(name), 1)
        sequence = dataset.sequence(dataset.objects[0])
        results["read_us_per_image"] = per_image_us(lambda: dataset.sequence(dataset.objects[0]))
        results["photometry_us_per_image"] = per_image_us(lambda: forced_photometry(sequence))
        results["sep_aperture_us_per_image"] = per_image_us(lambda: by_sep(sequence))
    for key, value in results.items():
        print(f"{key:<32} {value:8.1f}")
    print("\n  objects   images  light curves µs/image  export µs/image  peak MB  light curves of 10^6 images")
    sizes = (20, 40, 80) if options.quick else (250, 500, 1000)
    for n_objects in (*sizes, 10_000) if options.full else sizes:
        found = measure(n_objects)
        results |= {f"{key}_{n_objects}_objects": value for key, value in found.items()}
        curves, exported, peak = found.values()
        print(f"{n_objects:9,} {n_objects * N_IMAGES:8,} {curves:22.1f} {exported:16.1f} {peak:8.0f} {curves:20.0f} s")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
