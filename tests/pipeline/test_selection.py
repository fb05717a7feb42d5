"""Selections: each cut keeps what it says, the draw is fair to row order, and mistakes are named."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalog import Target
from pipeline.errors import CatalogError, ConfigError
from pipeline.selection import season_of, select
from pipeline.survey import CatalogSelection, Season

SEASONS = (
    Season(name="2005", mjd_start=53600, mjd_end=53710, first_cid=679, last_cid=12727),
    Season(name="2006", mjd_start=53960, mjd_end=54080, first_cid=12778, last_cid=17141),
    Season(name="any", mjd_start=50000, mjd_end=53000),
)
OBJECTS = (
    Target("700", 350.0, -0.5, "AGN", "AGN", "spectroscopic", 18.0),
    Target("800", 10.0, 0.5, "pSNIa", "SNIa", "photometric", 21.0),
    Target("13000", 0.0, 1.0, "SNII", "SNOther", "spectroscopic", 20.0),
    Target("99999", 180.0, 0.0, "", "", "", math.nan),
    Target("star-1", 20.0, 0.0, "Variable", "Variable", "spectroscopic", 19.0),
)


def chosen(**cuts) -> list[str]:
    return [target.object_id for target in select(OBJECTS, CatalogSelection(**cuts), SEASONS, {})[0]]


@pytest.mark.parametrize(
    ("cuts", "ids"),
    [
        ({}, ["700", "800", "13000", "99999", "star-1"]),
        ({"classes": ("AGN", "SNOther")}, ["700", "13000"]),
        ({"classes": ("Unknown",)}, ["99999"]),
        ({"confirmations": ("photometric",)}, ["800"]),
        ({"ra_deg": (350, 10)}, ["700", "800", "13000"]),
        ({"ra_deg": (-10, 10)}, ["700", "800", "13000"]),
        ({"ra_deg": (10, 350)}, ["700", "800", "99999", "star-1"]),
        ({"ra_deg": (0, 360)}, ["700", "800", "13000", "99999", "star-1"]),
        ({"ra_deg": (-180, 180)}, ["700", "800", "13000", "99999", "star-1"]),
        ({"dec_deg": (0, 0.5)}, ["800", "99999", "star-1"]),
        ({"seasons": ("2005",)}, ["700", "800"]),
        ({"seasons": ("2005", "2006")}, ["700", "800", "13000"]),
        ({"peak_r_mag": (18, 20)}, ["700", "13000", "star-1"]),
        ({"object_ids": ("star-1", "700")}, ["700", "star-1"]),
        ({"classes": ("AGN", "SNIa"), "ra_deg": (0, 20)}, ["800"]),
    ],
)
def test_a_cut_keeps_what_it_says(cuts, ids):
    assert chosen(**cuts) == ids


def test_what_is_left_out_says_by_which_cut():
    _, skips = select(OBJECTS, CatalogSelection(seasons=("2006", "2005"), peak_r_mag=(0, 19)), SEASONS, {})
    assert [(skip.object_id, skip.detail) for skip in skips] == [
        ("99999", "seasons: none"),
        ("star-1", "seasons: none"),
        ("800", "peak_r_mag: 21.0"),
        ("13000", "peak_r_mag: 20.0"),
    ]
    assert {skip.reason for skip in skips} == {"not-selected"}


@pytest.mark.parametrize(
    ("cuts", "kind", "message"),
    [
        ({"seasons": ("2005", "2009")}, ConfigError, "no season '2009'; known are 2005, 2006, any"),
        ({"object_ids": ("700", "1", "5")}, CatalogError, r"2 objects .* 1 \(not in the list\), 5 \(set-aside\)"),
        ({"classes": ("AGN",), "ra_deg": (1, 9)}, CatalogError, r"select\.ra_deg leaves no object: all 1 .* as 350\.0"),
        ({"peak_r_mag": (1, 2)}, CatalogError, r"select\.peak_r_mag leaves no object"),
    ],
)
def test_a_selection_that_cannot_be_had_says_why(cuts, kind, message):
    with pytest.raises(kind, match=message):
        select(OBJECTS, CatalogSelection(**cuts), SEASONS, {"5": "set-aside"})


def test_without_seasons_none_can_be_named():
    with pytest.raises(ConfigError, match="the survey describes no"):
        select(OBJECTS, CatalogSelection(seasons=("2005",)), (), {})


@pytest.mark.parametrize("cuts", [{"dec_deg": (1, -1)}, {"peak_r_mag": (20, 18)}, {"peak_r_mag": (math.nan, 18)}])
def test_a_range_the_wrong_way_round_is_refused(cuts):
    with pytest.raises(ValueError, match="the smaller number comes first"):
        CatalogSelection(**cuts)


def test_an_object_is_of_the_season_that_holds_its_id():
    assert [getattr(season_of(target.object_id, SEASONS), "name", None) for target in OBJECTS] == [
        "2005",
        "2005",
        "2006",
        None,
        None,
    ]


kinds = st.sampled_from([("AGN", "spectroscopic"), ("SNIa", "spectroscopic"), ("SNIa", "photometric"), ("", "")])
crowds = st.dictionaries(st.integers(1, 10**6).map(str), kinds, min_size=1, max_size=40).map(
    lambda content: [Target(key, 10.0, 0.0, "", *kind) for key, kind in content.items()]
)


@given(crowds, st.integers(1, 8), st.integers(0, 5), st.randoms(use_true_random=False))
def test_the_draw_does_not_depend_on_row_order_and_grows_by_adding(crowd, at_most, seed, random):
    """At most n per class and confirmation, all where there are fewer; n + 1 adds to n, and takes none away."""

    def drawn(targets, number):
        kept, skips = select(targets, CatalogSelection(max_per_class=number, seed=seed), (), {})
        assert len(kept) + len(skips) == len(crowd)
        assert [target for target in targets if target in set(kept)] == list(kept), "in the order of the list"
        return {target.object_id for target in kept}

    shuffled = crowd.copy()
    random.shuffle(shuffled)
    winners = drawn(crowd, at_most)
    assert drawn(shuffled, at_most) == winners
    assert winners <= drawn(crowd, at_most + 1)
    for kind in {(target.class_name, target.confirmation) for target in crowd}:
        group = {target.object_id for target in crowd if (target.class_name, target.confirmation) == kind}
        assert len(group & winners) == min(len(group), at_most)


def test_another_seed_draws_others():
    crowd = [Target(str(number), 10.0, 0.0, "", "AGN", "spectroscopic") for number in range(200)]
    draws = [select(crowd, CatalogSelection(max_per_class=20, seed=seed), (), {})[0] for seed in range(5)]
    assert len(set(draws)) == 5
