"""Outliers: what is injected is found and blamed for the right reason, and units and origins do not matter."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bands import BANDS
from pipeline.manifest import FRAMES_SCHEMA, MANIFEST_SCHEMA
from pipeline.report.outliers import (
    BEYOND,
    FRAME_BRIGHT,
    FRAME_LEVEL,
    FRAME_MASKED,
    FRAME_NOISE,
    FRAME_OFFSET,
    FRAME_QUALITY,
    FRAME_SCATTER,
    FRAME_SEEING,
    FRAME_SKY,
    FRAME_STARS,
    N_WORST,
    OBJECT_COVERAGE,
    OBJECT_MASKED,
    OBJECT_SEEING,
    Column,
    Quantity,
    deviations,
    images_in,
    rank,
    rank_frames,
    rank_objects,
)

ONE_GROUP = st.lists(st.integers(-1000, 1000), min_size=1, max_size=40)


def table(columns: dict[str, np.ndarray], schema: pa.Schema) -> pa.Table:
    """A table of the schema; what is not given is 0 or empty."""
    n_rows = len(next(iter(columns.values())))
    arrays = {
        field.name: np.full(n_rows, "") if pa.types.is_string(field.type) else np.zeros(n_rows) for field in schema
    } | columns
    return pa.table({name: pa.array(values) for name, values in arrays.items()})


def frames(n_per_band: int = 200) -> dict[str, np.ndarray]:
    """Frames in five bands, whose seeing and sky differ as they do on the sky."""
    rng = np.random.default_rng(82)
    place = np.tile(np.arange(5), n_per_band)
    n = len(place)
    return {
        "run": np.arange(n),
        "band": np.array(BANDS)[place],
        "psf_fwhm_arcsec": 1.2 + 0.1 * place + 0.1 * rng.standard_normal(n),
        "sky_nmgy_arcsec2": np.array([1.4, 1.7, 3.8, 7.0, 20.0])[place] * rng.lognormal(0, 0.1, n),
        "zp_offset_mag": 0.02 + 0.01 * rng.standard_normal(n),
        "zp_scatter_mag": 0.02 + 0.002 * rng.standard_normal(n),
        "quality": np.full(n, 3),
        "zp_flags": np.ones(n, dtype=int),
        "n_thumbnails": np.full(n, 50),
        "noise_ratio": rng.lognormal(0, 0.006, n),
        "sky_offset": 0.01 * rng.standard_normal(n),
    }


@pytest.mark.parametrize(
    ("column", "value", "blamed"),
    [
        ("psf_fwhm_arcsec", 3.5, FRAME_SEEING),
        ("sky_nmgy_arcsec2", 90.0, FRAME_SKY),
        ("zp_offset_mag", 0.4, FRAME_OFFSET),
        ("zp_offset_mag", -0.4, FRAME_OFFSET),
        ("zp_scatter_mag", 0.2, FRAME_SCATTER),
    ],
)
def test_an_injected_frame_comes_first_and_the_right_quantity_is_blamed(column, value, blamed):
    columns = frames()
    columns[column][123] = value
    found = rank_frames(table(columns, FRAMES_SCHEMA))
    assert (found.worst[0].row, found.worst[0].quantity) == (123, blamed)
    assert found.n_beyond == 1
    assert len(found.worst) == N_WORST


PIXELS = [
    ("noise_ratio", 0.001, FRAME_NOISE),
    ("noise_ratio", 2.0, FRAME_NOISE),
    ("sky_offset", -0.5, FRAME_LEVEL),
    ("bright_excess", 0.2, FRAME_BRIGHT),
    ("masked_excess", 0.9, FRAME_MASKED),
    ("quality", 1, FRAME_QUALITY),
    ("zp_flags", 8, FRAME_STARS),
]


@pytest.mark.parametrize(("column", "value", "blamed"), PIXELS)
def test_a_frame_that_is_bad_in_its_pixels_comes_first(column, value, blamed):
    columns = frames()
    columns.setdefault(column, np.zeros(len(columns["band"])))[123] = value
    found = rank_frames(table(columns, FRAMES_SCHEMA))
    assert (found.worst[0].row, found.worst[0].quantity, found.n_beyond) == (123, blamed, 1)


def test_what_rests_on_one_image_is_believed_less_than_what_rests_on_fifty():
    columns = frames()
    columns["n_thumbnails"][:500] = 1
    columns["noise_ratio"][[7, 507]] = 0.8
    found = rank_frames(table(columns, FRAMES_SCHEMA))
    assert (found.worst[0].row, found.n_beyond) == (507, 1)


def test_what_many_frames_have_is_no_reason_to_look():
    columns = frames()
    columns["quality"][::4], columns["zp_flags"][::3] = 1, 8
    assert rank_frames(table(columns, FRAMES_SCHEMA)).n_beyond == 0


def test_a_bad_stretch_of_one_run_is_one_line_and_hides_no_other_frame():
    """Sixty frames in clouds, and one frame of another run out of focus, less than they are out of place."""
    columns = frames()
    columns["run"] = np.repeat(np.arange(10), 100)
    columns["zp_offset_mag"][100:160] = np.linspace(0.5, 3.0, 60)
    columns["psf_fwhm_arcsec"][123] = 2.6
    columns["psf_fwhm_arcsec"][777] = 2.4
    found = rank_frames(table(columns, FRAMES_SCHEMA))
    first, second = found.worst[:2]
    assert (first.row in range(155, 160), first.quantity, first.n_beyond) == (True, FRAME_OFFSET, 60)
    assert (second.row, second.quantity, second.n_beyond) == (777, FRAME_SEEING, 1)
    assert found.n_beyond == 61
    lines = [(columns["run"][one.row], one.quantity) for one in found.worst]
    assert len(lines) == len(set(lines))


def test_what_is_bad_has_a_side():
    """The best seeing and the darkest sky of the survey are no reason to look."""
    columns = frames()
    columns["psf_fwhm_arcsec"][7], columns["sky_nmgy_arcsec2"][11] = 0.5, 0.2
    assert rank_frames(table(columns, FRAMES_SCHEMA)).n_beyond == 0


def test_a_frame_is_compared_with_its_own_band():
    """1.4 nMgy/arcsec² is a dark sky in z, and so is 20; in u the latter is dawn."""
    columns = frames()
    u = np.flatnonzero(columns["band"] == "u")[3]
    columns["sky_nmgy_arcsec2"][u] = 20.0
    worst = rank_frames(table(columns, FRAMES_SCHEMA)).worst[0]
    assert worst.row == u
    assert worst.value == pytest.approx(22.5 - 2.5 * np.log10(20.0))
    assert worst.median == pytest.approx(22.5 - 2.5 * np.log10(1.4), abs=0.05)


def test_injected_objects_are_found_each_for_its_reason():
    rng = np.random.default_rng(5)
    n = 300
    columns = {
        "psf_fwhm_arcsec": 1.3 + 0.02 * rng.standard_normal(n),
        "masked_fraction": rng.uniform(0, 0.01, n),
        "coverage": np.ones(n),
        **{f"n_{band}": rng.integers(18, 23, n) for band in BANDS},
    }
    columns["psf_fwhm_arcsec"][1], columns["masked_fraction"][2], columns["coverage"][3] = 2.5, 0.3, 0.5
    columns["n_z"][4] = 0
    found = rank_objects(table(columns, MANIFEST_SCHEMA))
    blamed = {outlier.row: outlier.quantity for outlier in found.worst[:4]}
    assert blamed == {1: OBJECT_SEEING, 2: OBJECT_MASKED, 3: OBJECT_COVERAGE, 4: images_in("z")}
    assert found.n_beyond == 4


def test_what_was_not_measured_is_no_outlier_and_hides_none():
    columns = frames()
    for name in ("psf_fwhm_arcsec", "zp_offset_mag"):
        columns[name][::2] = np.nan
    columns["zp_scatter_mag"][:] = np.nan
    columns["zp_offset_mag"][41] = 1.0
    columns["psf_fwhm_arcsec"][43], columns["sky_nmgy_arcsec2"][45] = np.inf, -1.0
    found = rank_frames(table(columns, FRAMES_SCHEMA))
    assert [outlier.row for outlier in found.worst if outlier.score >= BEYOND] == [41]
    assert all(np.isfinite([outlier.score, outlier.value, outlier.median]).all() for outlier in found.worst)


def test_a_table_of_an_older_schema_is_ranked_by_what_it_has():
    columns = frames()
    for name in ("zp_scatter_mag", "noise_ratio", "sky_offset"):
        del columns[name]
    columns["psf_fwhm_arcsec"][9] = 4.0
    older = pa.table({name: pa.array(values) for name, values in columns.items()})
    assert rank_frames(older).worst[0].row == 9
    assert rank_objects(pa.table({"object_id": ["1", "2"]})).worst == ()


def test_rows_of_a_version_that_could_not_say_it_yet_are_null_and_no_outliers():
    columns = frames()
    whole = table(columns, FRAMES_SCHEMA)
    for name in ("noise_ratio", "sky_offset", "bright_excess", "masked_excess"):
        place = whole.column_names.index(name)
        values = [None if row % 2 else 1.0 for row in range(whole.num_rows)]
        whole = whole.set_column(place, name, pa.array(values, pa.float32()))
    assert rank_frames(whole).n_beyond == 0


def test_zero_has_no_sign():
    assert FRAME_OFFSET.written(-0.0001) == "+0.000 mag"


def test_no_rows_have_no_outliers():
    assert rank_frames(FRAMES_SCHEMA.empty_table()).worst == ()
    assert rank_objects(MANIFEST_SCHEMA.empty_table()).n_rows == 0


@given(ONE_GROUP, st.integers(-1000, 1000), st.sampled_from([0.25, 0.5, 2.0, 1024.0]))
def test_neither_origin_nor_unit_matters(values, shift, scale):
    """Exactly: the numbers here are sums and powers of two."""
    array, group = np.array(values, dtype=np.float64), np.zeros(len(values), dtype=int)
    before, median = deviations(array, group, 0.5)
    after, moved = deviations((array + shift) * scale, group, 0.5 * scale)
    np.testing.assert_array_equal(after, before)
    np.testing.assert_array_equal(moved, (median + shift) * scale)


@given(ONE_GROUP, st.randoms(use_true_random=False))
def test_order_does_not_matter_and_other_groups_do_not_either(values, random):
    array = np.array(values, dtype=np.float64)
    order = np.array(random.sample(range(len(values)), len(values)))
    alone, _ = deviations(array, np.zeros(len(values), dtype=int), 0.5)
    beside = np.concatenate((array[order], 7 * array + 1e6))
    both, _ = deviations(beside, np.repeat([3, -1], len(values)), 0.5)
    np.testing.assert_array_equal(both[: len(values)], alone[order])


@given(st.integers(-1000, 1000), st.integers(3, 60), st.floats(-1e6, 1e6))
def test_one_that_differs_from_equals_scores_its_distance(equal, n_equal, outlier):
    """A median absolute deviation of 0 divides nothing: the least spread that is believed does."""
    values = np.append(np.full(n_equal, float(equal)), outlier)
    deviation, _ = deviations(values, np.zeros(len(values), dtype=int), 2.0)
    assert (deviation[:-1] == 0).all()
    assert deviation[-1] == (outlier - equal) / 2.0


@given(ONE_GROUP, st.integers(1, 10))
def test_the_ranking_is_sorted_and_holds_the_worst(values, count):
    array = np.array(values, dtype=np.float64)
    quantity = Quantity("thing", "both", 0.5, "{:.1f}")
    found = rank({quantity: Column(array, np.zeros(len(array), dtype=int))}, count=count)
    scores = [outlier.score for outlier in found.worst]
    every = np.abs(deviations(array, np.zeros(len(array), dtype=int), 0.5)[0])
    np.testing.assert_array_equal(scores, [score for score in np.sort(every)[::-1][:count] if score > 0])
    assert found.n_beyond == (every >= BEYOND).sum()
