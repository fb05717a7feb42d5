"""A written list reads back as the same targets, in every form."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.catalog import Target, read_catalog
from pipeline.classmap import read_class_map
from pipeline.errors import ConfigError
from pipeline.listfile import write_list
from pipeline.survey import CatalogConfig

SAKO = read_class_map("sako2018")
MEANINGS = [("", "", "")] + [
    (label, meaning.class_name, meaning.confirmation) for label, meaning in (SAKO.labels | SAKO.set_aside).items()
]
targets = st.builds(
    lambda object_id, ra_deg, dec_deg, meaning, mag: Target(object_id, ra_deg, dec_deg, *meaning, mag),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}", fullmatch=True),
    st.floats(0, 360, exclude_max=True),
    st.floats(-90, 90),
    st.sampled_from(MEANINGS),
    st.floats(0, 50) | st.just(math.nan),
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(targets, min_size=1, max_size=8, unique_by=lambda target: target.object_id),
    st.sampled_from([".csv", ".ecsv", ".parquet"]),
    st.sampled_from(["auto", "list"]),
)
def test_a_list_round_trips_exactly(tmp_path, written, suffix, list_format):
    """Labels that a class map sets aside too: what was chosen once stays chosen."""
    path = tmp_path / f"objects{suffix}"
    write_list(path, written)
    catalog = read_catalog(path, CatalogConfig(source="", format=list_format, max_bad_fraction=0))
    assert catalog.targets == tuple(written)
    assert catalog.skips == ()
    assert [repr(target.peak_r_mag) for target in catalog.targets] == [repr(target.peak_r_mag) for target in written]


def test_what_a_list_cannot_be_written_to_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"written as \.csv, \.ecsv, \.parquet"):
        write_list(tmp_path / "objects.txt", [])
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write the list"):
        write_list(tmp_path / "file" / "objects.csv", [])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
