"""The exposure index: objects × all fields of Stripe 82, against two ways of doing it with astropy.

The fields are synthetic: 303 runs of six camera columns along the equator, in both strips, a fifth of them on great
circles of their own as legacy runs are. The objects are the 10,258 candidates of the SDSS-II Supernova Survey where
their table is at hand (S82_REAL_DATA, else ../shared/sdss), else as many drawn over the same sky.

The alternatives are what an astropy user writes first: for each object the `SkyCoord.separation` from every field's
centre (timed on a few objects), and `SkyCoord.search_around_sky`, its k-d tree; each with the exact test for the
fields that are near. All must give the same pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits

from benchmarks.support.memory import peak_mb
from pipeline.astrometry import from_great_circle, to_great_circle
from pipeline.cuts import in_own_season, judge, limit_epochs
from pipeline.exposures import ExposureIndex
from pipeline.footprint import FRAME_COLUMNS, FRAME_ROWS, choose_fields, covering
from pipeline.indexing.parts import Part, Provenance
from pipeline.indexing.store import read_parts, write_parts
from pipeline.survey import SelectionConfig

N_OBJECTS = 10_258
N_RUNS = 303
FIELD_STEP_DEG = 1361 * 1.1e-4
PIXEL_DEG = 1.1e-4
CAMCOL_STEP_DEG = 0.41963
STRIP_STEP_DEG = CAMCOL_STEP_DEG / 2
SEASONS_MJD = (53600, 53975, 54345)
MARGIN_PX = 16


def stripe82(n_runs: int, seed: int = 82) -> ExposureIndex:
    """Runs of 110 to 594 fields (Stripe 82 has 735), 352 on the average as in the DR7 database of 303 runs."""
    rng = np.random.default_rng(seed)
    n_fields = rng.integers(110, 595, n_runs)
    start_deg = -50 + rng.uniform(0, 1, n_runs) * (110 - n_fields * FIELD_STEP_DEG)
    own_circle = rng.random(n_runs) < 0.2
    node = np.where(own_circle, rng.uniform(0, 360, n_runs), 95.0)
    incl = np.where(own_circle, rng.uniform(0, 0.02, n_runs), 0.0)
    mjd = np.sort(rng.choice(SEASONS_MJD, n_runs) + rng.uniform(0, 90, n_runs))
    run = np.repeat(np.arange(n_runs), 6 * n_fields)
    camcol = np.concatenate([np.repeat(np.arange(6), n) for n in n_fields])
    field = np.concatenate([np.tile(np.arange(n), 6) for n in n_fields])
    count, zero = len(run), np.zeros(len(run))
    mu = (start_deg[run] + field * FIELD_STEP_DEG) % 360
    nu = -1.268 + camcol * CAMCOL_STEP_DEG + (run % 2) * STRIP_STEP_DEG
    return ExposureIndex(
        archive=np.full(count, "das"),
        run=(run + 5000).astype(np.int32),
        rerun=np.full(count, 40, np.int32),
        camcol=(camcol + 1).astype(np.int32),
        field=(field + 11).astype(np.int32),
        quality=rng.choice(np.array([1, 2, 3], np.int32), count, p=[0.05, 0.15, 0.8]),
        mjd_tai_N5=np.repeat((mjd[run] + field * 4.15e-4)[:, None], 5, axis=1),
        psf_fwhm_N5=rng.lognormal(np.log(1.35), 0.15, (count, 5)),
        sky_N5=rng.lognormal(np.log(5), 0.1, (count, 5)),
        image_status_N5=np.zeros((count, 5), np.int32),
        calib_status_N5=np.zeros((count, 5), np.int32),
        node_deg=node[run],
        incl_deg=incl[run],
        mu_N3=np.stack([mu, zero + PIXEL_DEG, zero], axis=1),
        nu_N3=np.stack([nu, zero, zero + PIXEL_DEG], axis=1),
    )


def objects() -> tuple[np.ndarray, np.ndarray, str]:
    """RA, Dec, and which they are."""
    folder = Path(os.environ.get("S82_REAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "sdss"))
    table = folder / "catalog" / "JLA2014_SDSS_DS17_HEAD.FITS.gz"
    if table.is_file():
        rows = fits.getdata(table, 1)
        ra, dec = (np.asarray(rows[name], dtype=float) for name in ("RA", "DECL"))
        return ra % 360, dec, "real candidates"
    rng = np.random.default_rng(1)
    return rng.uniform(-51.5, 60, N_OBJECTS) % 360, rng.uniform(-1.26, 1.26, N_OBJECTS), "drawn"


def centres_of(index: ExposureIndex) -> tuple[SkyCoord, u.Quantity]:
    """Middles of the fields, and how far from one an object on the field can be."""
    middle = PIXEL_DEG * np.array([FRAME_ROWS, FRAME_COLUMNS]) / 2
    mu, nu = index.mu_N3[:, 0] + middle[0], index.nu_N3[:, 0] + middle[1]
    at = from_great_circle(mu, nu, index.node_deg, index.incl_deg)
    return SkyCoord(*at, unit="deg"), (np.hypot(*middle) + MARGIN_PX * PIXEL_DEG) * u.deg


def exact(index: ExposureIndex, ra: np.ndarray | float, dec: np.ndarray | float, near: np.ndarray) -> np.ndarray:
    """Whether each object is on the exposure of `near` beside it."""
    mu, nu = to_great_circle(ra, dec, index.node_deg[near], index.incl_deg[near])
    row = ((mu - index.mu_N3[near, 0] + 180) % 360 - 180) / PIXEL_DEG
    column = (nu - index.nu_N3[near, 0]) / PIXEL_DEG
    return (row >= 0) & (row < FRAME_ROWS) & (column >= -MARGIN_PX) & (column < FRAME_COLUMNS + MARGIN_PX)


def one_by_one(index: ExposureIndex, ra: np.ndarray, dec: np.ndarray) -> tuple[set[tuple[int, int]], float]:
    """(object, exposure) pairs by a loop over objects, and the seconds per object."""
    centres, radius = centres_of(index)
    found, started = set(), time.perf_counter()
    for n in range(len(ra)):
        near = np.flatnonzero(SkyCoord(ra[n], dec[n], unit="deg").separation(centres) < radius)
        found |= {(n, exposure) for exposure in near[exact(index, ra[n], dec[n], near)].tolist()}
    return found, (time.perf_counter() - started) / len(ra)


def by_tree(index: ExposureIndex, ra: np.ndarray, dec: np.ndarray) -> tuple[int, float]:
    """The number of pairs by astropy's k-d tree, and seconds."""
    centres, radius = centres_of(index)
    started = time.perf_counter()
    target, near, _, _ = centres.search_around_sky(SkyCoord(ra, dec, unit="deg"), radius)
    n_pairs = int(exact(index, ra[target], dec[target], near).sum())
    return n_pairs, time.perf_counter() - started


@contextmanager
def clock(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Add what the body takes to `seconds`."""
    started = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - started


def store(index: ExposureIndex, seconds: dict[str, float]) -> float:
    """Write and read the index file; its size in MB."""
    provenance = Provenance(0, "skyserver", "all", (), "", (), (), "", len(index), "", "", "")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "index.parquet"
        with clock("write", seconds):
            write_parts(path, [Part(provenance, index)], "benchmark")
        with clock("read", seconds):
            read_parts(path, "benchmark")
        return path.stat().st_size / 1e6


def measure(n_runs: int, n_alone: int) -> dict[str, float | str]:
    """Everything the table shows, flat."""
    index = stripe82(n_runs)
    ra, dec, which = objects()
    selection = SelectionConfig(max_psf_fwhm_arcsec=1.8, max_sky_nmgy_arcsec2=8, max_epochs=40, epochs_by="spread")
    seconds: dict[str, float] = {}
    before_mb = peak_mb()
    with clock("covering", seconds):
        covered = covering(index, ra, dec, margin_px=MARGIN_PX)
    with clock("cuts", seconds):
        usable = judge(index, selection, ("u", "g", "r", "i", "z"))[covered.exposure_index] == ""
        usable &= in_own_season(covered, index, [None] * len(ra), selection)
    with clock("choose", seconds):
        chosen = choose_fields(covered.take(usable), index, ("das",))
    with clock("epochs", seconds):
        kept = limit_epochs(chosen, index, selection)
    after_mb = peak_mb()
    alone, alone_s = one_by_one(index, ra[:n_alone], dec[:n_alone])
    n_pairs, tree_s = by_tree(index, ra, dec)
    assert n_pairs == len(covered)
    mine = covered.take(covered.target_index < n_alone)
    assert set(zip(mine.target_index.tolist(), mine.exposure_index.tolist(), strict=True)) == alone
    join_s = sum(seconds.values())
    file_mb = store(index, seconds)
    return {
        "objects": len(ra),
        "objects_are": which,
        "exposures": len(index),
        "pairs": len(covered),
        "chosen": len(kept),
        **{f"{name}_s": value for name, value in seconds.items()},
        "join_s": join_s,
        "join_memory_mb": after_mb - before_mb,
        "astropy_tree_s": tree_s,
        "astropy_tree_over_covering": tree_s / seconds["covering"],
        "astropy_loop_s_per_object": alone_s,
        "astropy_loop_objects_timed": n_alone,
        "astropy_loop_s": alone_s * len(ra),
        "astropy_loop_over_covering": alone_s * len(ra) / seconds["covering"],
        "index_file_mb": file_mb,
    }


def show(result: dict[str, float | str], say: Callable[[str], None] = print) -> None:
    """The table."""
    say(f"{result['objects']} objects ({result['objects_are']}) × {result['exposures']} exposures")
    rows = [
        ("covering: which exposures cover which objects", "covering_s", f"{result['pairs']} pairs"),
        ("cuts: seeing, quality, sky, status, date, season", "cuts_s", ""),
        ("choose_fields: one per object, run and camcol", "choose_s", ""),
        ("limit_epochs: 40 of each, spread", "epochs_s", f"{result['chosen']} left"),
        ("together", "join_s", f"peak memory +{result['join_memory_mb']:.0f} MB"),
        ("cover by search_around_sky", "astropy_tree_s", f"× {result['astropy_tree_over_covering']:.1f}"),
        ("cover by separation, one by one", "astropy_loop_s", f"× {result['astropy_loop_over_covering']:.0f}"),
        ("write the index file", "write_s", f"{result['index_file_mb']:.0f} MB"),
        ("read and check it", "read_s", ""),
    ]
    for label, key, note in rows:
        say(f"  {label:50s} {result[key]:10.2f} s   {note}")
    timed = result["astropy_loop_objects_timed"]
    say(f"  one by one: {timed} objects timed, the rest in proportion. Both astropy ways give the same pairs.")


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer objects one by one, half a minute in all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    result = measure(N_RUNS, 10 if options.quick else 100)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
