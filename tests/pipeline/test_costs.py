"""The costs of a plan: every file counted once, what is held not again, and nobody surprises SDSS with a terabyte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.catalog import Target
from pipeline.costs import (
    FRAME_MB,
    MASK_MB,
    TABLE_MB,
    TRANSFER_MB_PER_S,
    Known,
    PlanSummary,
    check_transfer,
    large_transfer_advice,
    summarise,
)
from pipeline.errors import LargeTransfer
from pipeline.ledger import Rate
from pipeline.naming import Layout, calibration_path, frame_path, mask_path
from pipeline.plan import Cell, Plan, Visit
from pipeline.sequences import COLUMNS, Sequence, write_sequence
from pipeline.survey import CacheConfig, ThumbnailConfig
from tests.pipeline.plans import PLAN, cell, das, sas, survey


def gigabytes(layout: Layout, frames: int, masks: int, tables: int) -> float:
    return pytest.approx((frames * FRAME_MB[layout] + masks * MASK_MB[layout] + tables * TABLE_MB[layout]) / 1000)


def test_every_file_is_counted_once_whoever_needs_it() -> None:
    """tsField per field, photoField per run and camcol, fpM per band; the frames that two cells share once."""
    costs = summarise(survey(), PLAN)
    of_das, of_sas = costs.archives["das"], costs.archives["sas"]
    assert (of_das.objects, of_das.exposures, of_das.frames, of_das.thumbnails) == (3, 2, 4, 10)
    assert (of_sas.objects, of_sas.exposures, of_sas.frames, of_sas.thumbnails) == (3, 3, 6, 12)
    assert of_das.sidecars == 4 + 2
    assert of_sas.sidecars == 6 + 2, "runs 94 and 125 have one photoField each"
    assert of_das.gigabytes == gigabytes("das-dr7", 4, 4, 2)
    assert of_sas.gigabytes == gigabytes("sas-dr8", 6, 6, 2)
    assert (costs.objects, costs.exposures, costs.frames, costs.thumbnails) == (3, 5, 10, 22)
    assert (costs.cells, costs.frame_reads) == (2, 14)
    assert costs.fetch_gb == pytest.approx(of_das.gigabytes + of_sas.gigabytes)
    assert costs.transfer_hours == pytest.approx(costs.fetch_gb * 1000 / TRANSFER_MB_PER_S / 3600)


def test_what_is_in_the_cache_is_not_fetched_again() -> None:
    """Files of the plan count, by their paths; strangers in the cache do not."""
    frame = sas(94, 12).frame("r")
    held = {
        "sas": {frame_path(frame), mask_path(frame), calibration_path(frame), frame_path(sas(7, 7).frame("r"))},
        "das": [frame_path(das(2, 11).frame("g"))],
        "elsewhere": {"a"},
    }
    costs, before = summarise(survey(), PLAN, Known(held)), summarise(survey(), PLAN)
    assert (costs.archives["sas"].held_files, costs.archives["das"].held_files) == (3, 1)
    assert costs.archives["sas"].held_gb == gigabytes("sas-dr8", 1, 1, 1)
    assert costs.fetch_gb == pytest.approx(
        before.fetch_gb - costs.archives["sas"].held_gb - costs.archives["das"].held_gb
    )
    assert costs.disk_gb == pytest.approx(before.disk_gb - before.fetch_gb + costs.fetch_gb)
    assert costs.archives["das"].gigabytes == before.archives["das"].gigabytes


def test_what_is_built_is_neither_fetched_nor_cut_again() -> None:
    """A resumed build announces what is left of it; the files that a finished and an unfinished cell share are."""
    first, second = PLAN.cells
    whole, rest = summarise(survey(), PLAN), summarise(survey(), PLAN, Known(done_cells={first.cell_id}))
    alone = summarise(survey(), Plan((second,), (), {}))
    assert (rest.cells, rest.cells_done, rest.objects) == (2, 1, whole.objects)
    assert rest.fetch_gb == pytest.approx(alone.fetch_gb)
    assert rest.core_hours == pytest.approx(alone.core_hours)
    done = summarise(survey(), PLAN, Known(done_cells={cell.cell_id for cell in PLAN.cells}))
    assert (done.fetch_gb, done.core_hours, done.transfer_hours) == (0, 0, 0)


def test_hours_are_those_of_the_rate_that_was_measured() -> None:
    assumed = summarise(survey(), PLAN).archives["das"]
    assert (assumed.mb_per_s, assumed.measured_files) == (TRANSFER_MB_PER_S, 0)
    measured = summarise(survey(), PLAN, Known(rates={"das": Rate(1.0, 40)})).archives["das"]
    assert (measured.mb_per_s, measured.measured_files) == (4.0, 40), "four connections"
    assert measured.transfer_hours == pytest.approx(2 * assumed.transfer_hours)


def test_the_cache_needs_no_more_than_its_bound_but_room_for_the_cells_that_run() -> None:
    """Unbounded it holds everything; bounded that; with 0 or a small bound what two cells need, each its own."""
    total = summarise(survey(), PLAN).cache_gb
    assert total == pytest.approx(summarise(survey(), PLAN).fetch_gb)
    many = Plan(tuple(cell(f"{n:02d}", (str(n),), das(n, 11)) for n in range(10)), (), {})
    one = gigabytes("das-dr7", 2, 2, 1).expected
    for max_gb, expected in ((None, 10 * one), (5 * one, 5 * one), (0.0, 2 * one), (100.0, 10 * one)):
        assert summarise(survey(cache=CacheConfig(max_gb=max_gb)), many).cache_gb == pytest.approx(expected)


def test_checking_at_fetch_costs_core_time() -> None:
    checked = survey(
        archives=tuple(one.model_copy(update={"verify": "at-fetch"}) for one in survey().archives),
    )
    assert summarise(checked, PLAN).core_hours > 1.5 * summarise(survey(), PLAN).core_hours


@pytest.mark.parametrize(("size", "n_images"), [(32, 100), (32, 7), (48, 20)])
def test_the_size_of_a_dataset_is_that_of_its_files(size: int, n_images: int, tmp_path: Path) -> None:
    """Files as builds write them, full and short, within 6 %."""
    rng = np.random.default_rng(1)
    arrays = {
        name: rng.integers(1, 5, (n_images, *[size] * (column.ndim - 1))).astype(column.dtype)
        for name, column in COLUMNS.items()
    }
    arrays |= {"mjd_tai": np.sort(rng.uniform(53600, 53700, n_images)), "coverage": np.ones(n_images, np.float32)}
    arrays["mask"][:] = 0
    sequence = Sequence(
        object_id="1",
        survey="test",
        ra_deg=10.0,
        dec_deg=0.0,
        class_name="AGN",
        confirmation="spectroscopic",
        pixel_scale_arcsec=0.396,
        wcs_header="X" * 800,
        pipeline_version=2,
        **arrays,
    )
    write_sequence(tmp_path / "1.h5", sequence)
    visits = tuple(Visit(das(run, 11), ("1",)) for run in range(n_images))
    plan = Plan((Cell("a", "all", (Target("1", 10.0, 0.0, "", "", ""),), visits),), (), {})
    costs = summarise(survey(thumbnails=ThumbnailConfig(size=size, bands=("r",))), plan)
    assert costs.dataset_gb * 1e9 == pytest.approx((tmp_path / "1.h5").stat().st_size, rel=0.06)


def fetching(gigabytes: float) -> PlanSummary:
    return replace(summarise(survey(), PLAN), fetch_gb=gigabytes)


def test_above_a_terabyte_it_says_whom_to_write_to_and_stops_unless_told() -> None:
    assert large_transfer_advice(fetching(1000)) == ""
    check_transfer(fetching(1000), allowed=False)
    check_transfer(fetching(2300), allowed=True)
    with pytest.raises(LargeTransfer, match=r"2,300 GB.*above 1,000 GB.*helpdesk@sdss\.org.*--large-transfer"):
        check_transfer(fetching(2300), allowed=False)
