"""The cuts: each takes out what it names and nothing else, and no result depends on the order of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bands import BANDS
from pipeline.catalog import Catalog, Target
from pipeline.cuts import judge, limit_epochs
from pipeline.exposures import ExposureIndex
from pipeline.footprint import Footprint
from pipeline.indexing.columns import index_of
from pipeline.plan import make_plan
from pipeline.survey import (
    ArchiveConfig,
    CatalogConfig,
    SelectionConfig,
    SurveyConfig,
    ThumbnailConfig,
    TsFieldIndex,
)


def index(count: int, **columns: Any) -> ExposureIndex:
    """Good exposures over RA 10, Dec 0, one per run, but for what `columns` says."""
    plain: dict[str, Any] = {
        "run": np.arange(count),
        "rerun": np.full(count, 301),
        "camcol": np.full(count, 1),
        "field": np.full(count, 11),
        "quality": np.full(count, 3),
        **{f"psf_fwhm_{band}": np.full(count, 1.3) for band in BANDS},
        **{f"sky_{band}": np.full(count, 5.0) for band in BANDS},
        **{f"{name}_status_{band}": np.full(count, 1) for name in ("image", "calib") for band in BANDS},
        **{f"mjd_{band}": 53600.0 + np.arange(count) for band in BANDS},
        **{
            term: np.full(count, value) for term, value in zip("abcdef", (9.9, 1.1e-4, 0, -0.1, 0, 1.1e-4), strict=True)
        },
    }
    return index_of(np.full(count, "sas"), plain | {name: np.asarray(value) for name, value in columns.items()})


CUTS = [
    ("psf", {"psf_fwhm_r": [1.3, 1.81, 0.0, np.nan]}, {"max_psf_fwhm_arcsec": 1.8}, [0]),
    ("quality", {"quality": [3, 2, 1, 4]}, {}, [0, 1]),
    ("quality", {"quality": [3, 2, 0, 5]}, {"min_quality": "good"}, [0, 2]),
    ("sky", {"sky_r": [5.0, 8.1, np.nan, -9999]}, {"max_sky_nmgy_arcsec2": 8}, [0, 2, 3]),
    ("image-status", {"image_status_g": [1, 2, 3, 1 << 9]}, {"forbidden_image_status": ("CLOUDY",)}, [0, 3]),
    (
        "image-status",
        {"image_status_i": [1 << 9, 0, -9999, 1 << 8]},
        {"forbidden_image_status": ("NOISY_CCD",)},
        [1, 2, 3],
    ),
    (
        "calib-status",
        {"calib_status_r": [1, 2, 1 << 5, 0]},
        {"forbidden_calib_status": ("INCREMENT_CALIB",)},
        [0, 1, 3],
    ),
    ("date", {}, {"mjd_range": (53601, 53602)}, [1, 2]),
    ("season", {}, {"seasons": ({"name": "a", "mjd_start": 53600, "mjd_end": 53601},)}, [0, 1]),
]


@pytest.mark.parametrize(("name", "columns", "selection", "stay"), CUTS)
def test_a_cut_takes_out_what_it_names_and_is_counted(name, columns, selection, stay):
    """In the verdict, in the plan's summary, and in the reason of an object that has nothing left."""
    exposures, config = index(4, **columns), SelectionConfig(**selection)
    verdict = judge(exposures, config, ("g", "r", "i"))
    assert verdict.tolist() == ["" if n in stay else name for n in range(4)]
    lost = [n for n in range(4) if n not in stay]
    assert plan(exposures, config).left_out == {name: len(lost)}
    (skip,) = plan(exposures.take(np.array(lost)), config).skips
    assert skip.detail == f"every exposure that covers it is cut: {len(lost)} by {name}"


def test_a_status_counts_only_in_bands_that_are_cut():
    exposures = index(2, image_status_u=[2, 1], image_status_z=[1, 2])
    config = SelectionConfig(forbidden_image_status=("CLOUDY",))
    assert judge(exposures, config, ("g", "r")).tolist() == ["", ""]
    assert judge(exposures, config, ("u", "g")).tolist() == ["image-status", ""]


def plan(exposures: ExposureIndex, selection: SelectionConfig) -> Any:
    survey = SurveyConfig(
        name="test",
        title="test",
        catalog=CatalogConfig(source=""),
        archives=(ArchiveConfig(name="sas", layout="sas-dr8", base_urls=("http://sas/",)),),
        index=(TsFieldIndex(kind="tsfield", archive="sas", fields=()),),
        selection=selection,
        thumbnails=ThumbnailConfig(bands=("g", "r", "i")),
    )
    return make_plan(survey, Catalog((Target("1", 9.95, -0.05, "", "", ""),), (), ""), exposures)


def test_epochs_that_are_left_out_are_counted():
    """An exposure that no object keeps is not fetched, and the summary says why."""
    exposures = index(10, psf_fwhm_r=1.0 + 0.05 * np.arange(10))
    result = plan(exposures, SelectionConfig(max_epochs=3))
    assert [visit.exposure.run for cell in result.cells for visit in cell.visits] == [0, 1, 2]
    assert result.left_out == {"epochs": 7}
    spread = plan(exposures, SelectionConfig(max_epochs=4, epochs_by="spread"))
    assert [visit.exposure.run for cell in spread.cells for visit in cell.visits] == [0, 3, 6, 9]
    assert plan(exposures, SelectionConfig(max_epochs=10)).left_out == {}


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    counts=st.lists(st.integers(0, 25), min_size=1, max_size=4),
    most=st.integers(1, 12),
    rule=st.sampled_from(["seeing", "spread"]),
)
def test_each_object_keeps_the_epochs_that_the_rule_names(seed, counts, most, rule):
    """Against the rule in plain Python; equal seeing and equal times are frequent."""
    rng = np.random.default_rng(seed)
    exposures = index(25, psf_fwhm_r=rng.choice([1.0, 1.1, 1.2], 25), mjd_r=rng.choice([53600.0, 53610, 53620], 25))
    target = np.repeat(np.arange(len(counts)), counts)
    exposure = np.concatenate([rng.permutation(25)[:count] for count in counts])
    pairs = Footprint(target, exposure, np.zeros(len(target)), np.zeros(len(target)))
    selection = SelectionConfig(max_epochs=most, epochs_by=rule)

    def names(footprint: Footprint) -> list[tuple[int, int]]:
        return sorted(zip(footprint.target_index.tolist(), footprint.exposure_index.tolist(), strict=True))

    expected = []
    for number, count in enumerate(counts):
        mine = exposure[target == number].tolist()
        time = {n: (float(exposures.mjd_tai_N5[n, 2]), int(exposures.run[n])) for n in mine}
        if rule == "seeing":
            stay = sorted(mine, key=lambda n: (float(exposures.psf_fwhm_N5[n, 2]), time[n]))[:most]
        else:
            ordered, steps = sorted(mine, key=lambda n: time[n]), max(most - 1, 1)
            places = range(count) if count <= most else [int(k * (count - 1) / steps + 0.5) for k in range(most)]
            stay = [ordered[place] for place in places]
            assert count <= most or len(set(stay)) == most
        expected += [(number, n) for n in stay]
    assert names(limit_epochs(pairs, exposures, selection)) == sorted(expected)

    shuffle, rename = rng.permutation(len(target)), rng.permutation(25)
    place = np.argsort(rename)
    moved = Footprint(target[shuffle], place[exposure[shuffle]], np.zeros(len(target)), np.zeros(len(target)))
    again = limit_epochs(moved, exposures.take(rename), selection)
    assert sorted((t, int(rename[n])) for t, n in names(again)) == sorted(expected)
