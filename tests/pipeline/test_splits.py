"""Folds are even in every stratum, and duplicates never fall on two sides."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.splits import assign_folds, assign_steps, duplicate_groups

ARCSEC = 1 / 3600


@dataclass(frozen=True)
class Item:
    ra_deg: float
    dec_deg: float
    class_name: str = "AGN"
    confirmation: str = "spectroscopic"


def deal(items: list[Item], folds: int = 5, seed: int = 0, kept: list[int] | None = None) -> list[int]:
    ra, dec = np.array([(item.ra_deg, item.dec_deg) for item in items]).T
    before = None if kept is None else np.array(kept, np.int16)
    return assign_folds(items, duplicate_groups(ra, dec, 2.0), folds=folds, seed=seed, kept=before).tolist()


def test_objects_keep_their_fold_when_others_come_and_go() -> None:
    """Half the objects are new: the old ones stay, the new ones make the folds even; a group moves together."""
    old = [Item(0.1 * i, 0) for i in range(40)]
    before = deal(old, seed=1)
    items = [Item(0.1 * i + 0.05, 0) for i in range(40)] + old[::-1] + [Item(0.1 + ARCSEC, 0)]
    after = deal(items, seed=2, kept=[-1] * 40 + before[::-1] + [-1])
    assert after[40:80] == before[::-1]
    assert after[80] == before[1]
    assert max(Counter(after).values()) - min(Counter(after).values()) <= 1


def test_duplicates_that_were_apart_come_together() -> None:
    items = [Item(10, 0), Item(10 + 3 * ARCSEC, 0), Item(10 + 1.5 * ARCSEC, 0)]
    assert deal(items, kept=[3, 1, 1]) == [1, 1, 1]
    assert deal(items, kept=[3, 1, -1]) == [1, 1, 1]


def test_the_papers_classes_are_dealt_evenly() -> None:
    """Table 1 over five folds: every (class, confirmation) to within one object per fold."""
    strata = [("AGN", "spectroscopic", 906), ("SNIa", "spectroscopic", 499), ("SNIa", "photometric", 1448)]
    strata += [("SNOther", "spectroscopic", 89), ("SNOther", "photometric", 2041), ("Variable", "spectroscopic", 3225)]
    kinds = [(name, confirmation) for name, confirmation, count in strata for _ in range(count)]
    items = [Item(0.01 * i, 0.0, *kind) for i, kind in enumerate(kinds)]
    held = Counter(zip(kinds, deal(items), strict=True))
    for name, confirmation, count in strata:
        per_fold = [held[(name, confirmation), fold] for fold in range(5)]
        assert sum(per_fold) == count
        assert max(per_fold) - min(per_fold) <= 1


def test_only_the_papers_classes_take_part() -> None:
    items = [Item(0, 0), Item(1, 0, "Unknown"), Item(2, 0, ""), Item(3, 0, "SNIa")]
    assert [fold >= 0 for fold in deal(items)] == [True, False, False, True]


def test_a_class_smaller_than_the_folds_is_spread() -> None:
    assert len(set(deal([Item(i, 0, "SNOther") for i in range(3)]))) == 3


def test_equal_seeds_give_equal_folds_and_others_do_not() -> None:
    items = [Item(0.1 * i, 0) for i in range(50)]
    assert deal(items, seed=1) == deal(items, seed=1) != deal(items, seed=2)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((359.9999, 0.0), (359.9999 + 1.9 * ARCSEC - 360, 0.0)),
        ((10.0, 0.0), (10.0, 1.9 * ARCSEC)),
        ((10.0, 60.0), (10.0 + 3.7 * ARCSEC, 60.0)),
        ((0.0, 90.0 - 0.9 * ARCSEC), (180.0, 90.0 - 0.9 * ARCSEC)),
    ],
    ids=["across RA 0", "in declination", "shrunk by cos(dec)", "across the pole"],
)
def test_neighbours_on_the_sky_are_one_group(first: tuple[float, float], second: tuple[float, float]) -> None:
    ra, dec = np.array([first, second, (200.0, -30.0)]).T
    groups = duplicate_groups(ra, dec, 2.0)
    assert groups[0] == groups[1] != groups[2]


def test_beyond_the_radius_is_apart_but_chains_hold_together() -> None:
    apart = duplicate_groups(np.array([0, 2.1 * ARCSEC]), np.zeros(2), 2.0)
    chain = duplicate_groups(np.array([0, 1.9 * ARCSEC, 3.8 * ARCSEC]), np.zeros(3), 2.0)
    assert apart[0] != apart[1]
    assert len(set(chain.tolist())) == 1


@settings(max_examples=40, deadline=None)
@given(
    places=st.lists(
        st.tuples(st.integers(0, 12), st.sampled_from(["AGN", "SNIa", "Variable", "SNOther"])), min_size=1, max_size=60
    ),
    seed=st.integers(0, 3),
)
def test_a_group_never_straddles_folds(places: list[tuple[int, str]], seed: int) -> None:
    """Objects thrown onto few positions, so that most have duplicates, of other classes too."""
    items = [Item(spot * 0.01, 0.0, name) for spot, name in places]
    fold_of: dict[int, int] = {}
    for (spot, _), fold in zip(places, deal(items, seed=seed), strict=True):
        assert 0 <= fold < 5
        assert fold_of.setdefault(spot, fold) == fold


def test_one_fold_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        deal([Item(0, 0)], folds=1)


def steps(items: list[Item], folds: list[int], seed: int = 0, kept: list[str] | None = None) -> list[str]:
    ra, dec = np.array([(item.ra_deg, item.dec_deg) for item in items]).T
    return assign_steps(items, duplicate_groups(ra, dec, 2.0), np.array(folds, np.int16), seed=seed, kept=kept)


def test_supernovae_train_or_fine_tune_by_how_they_are_known_and_duplicates_go_together() -> None:
    beside = ARCSEC
    items = [
        Item(1, 0, "SNIa", "photometric"),
        Item(2, 0, "SNOther", "spectroscopic"),
        Item(3, 0, "SNIa", "photometric"),
        Item(3 + beside, 0, "SNIa", "spectroscopic"),
        Item(4, 0, "SNOther", "photometric"),
        Item(4 + beside, 0, "AGN"),
        Item(5, 0, "", ""),
    ]
    assert steps(items, [0, 1, 2, 2, 3, 3, -1]) == ["train", "fine-tune", "aside", "fine-tune", "train", "train", ""]


def test_halves_are_even_in_every_class_and_fold_and_stay() -> None:
    """Old objects keep their half when others come; what any four folds leave is even, too."""
    items = [Item(0.1 * i, 0, name) for i, name in enumerate(["AGN"] * 906 + ["Variable"] * 3225)]
    folds = deal(items)
    step = steps(items, folds)
    for name in ("AGN", "Variable"):
        for test in range(5):
            halves = Counter(
                s for item, fold, s in zip(items, folds, step, strict=True) if item.class_name == name and fold != test
            )
            assert abs(halves["train"] - halves["fine-tune"]) <= 2
    newcomers = [Item(0.1 * i + 0.05, 0) for i in range(100)]
    after = steps(newcomers + items, [i % 5 for i in range(100)] + folds, seed=7, kept=[""] * 100 + step)
    assert after[100:] == step
    assert Counter(after[:100]) == {"train": 50, "fine-tune": 50}
