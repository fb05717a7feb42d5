"""What an exposure index does with its rows."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.exposures import ExposureIndex, concatenate
from pipeline.indexing.columns import index_of

KEYS = st.tuples(st.integers(0, 2), st.integers(40, 41), st.integers(1, 2), st.integers(11, 13))


def index(archive: str, keys: list[tuple[int, int, int, int]], psf_fwhm: float) -> ExposureIndex:
    columns = {name: np.array([key[n] for key in keys]) for n, name in enumerate(("run", "rerun", "camcol", "field"))}
    rest = {name: np.full(len(keys), psf_fwhm) for name in [f"psf_fwhm_{band}" for band in "ugriz"]}
    rest |= {name: np.zeros(len(keys)) for name in [*"abcdef", *(f"mjd_{band}" for band in "ugriz")]}
    return index_of(np.full(len(keys), archive), columns | rest)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["das", "sas2"]), st.lists(KEYS, max_size=6)), min_size=1, max_size=5))
def test_of_equal_exposures_the_first_stays_and_the_order_with_it(parts):
    """So that an earlier `[[index]]` rules over a later one, row by row."""
    whole = concatenate([index(archive, keys, 1.0 + n) for n, (archive, keys) in enumerate(parts)])
    expected: dict[tuple[object, ...], float] = {}
    for n, (archive, keys) in enumerate(parts):
        for key in keys:
            expected.setdefault((archive, *key), 1.0 + n)
    names = (whole.archive, whole.run, whole.rerun, whole.camcol, whole.field)
    found = list(zip(*(column.tolist() for column in names), strict=True))
    assert found == list(expected)
    assert whole.psf_fwhm_N5[:, 2].tolist() == list(expected.values())
    assert len({len(getattr(whole, column.name)) for column in fields(ExposureIndex)}) == 1
