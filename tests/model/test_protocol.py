"""Which object does what: the paper's Table 3 from its Table 1, and no leaks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model.config import FOUR_CLASSES, THREE_CLASSES, ProtocolConfig
from model.protocol import check_leaks, fold_lists, label_of, taking_part
from pipeline.catalog import read_catalog
from pipeline.errors import DatasetError
from pipeline.manifest import ObjectRow
from pipeline.splits import assign_folds, assign_steps, duplicate_groups
from pipeline.survey import load_survey

TABLE_1 = [
    ("AGN", "spectroscopic", 906),
    ("SNIa", "spectroscopic", 499),
    ("SNIa", "photometric", 1448),
    ("Variable", "spectroscopic", 3225),
    ("SNOther", "spectroscopic", 89),
    ("SNOther", "photometric", 2041),
]
TABLE_3 = {"AGN": (362, 362, 182), "SNIa": (1448, 400, 99), "Variable": (1290, 1290, 645), "SNOther": (2041, 72, 17)}
NO_VALIDATION = ProtocolConfig(validation_fraction=0)


@pytest.fixture(scope="module")
def survey(row_maker):
    return row_maker([(name, confirmation) for name, confirmation, count in TABLE_1 for _ in range(count)])


def roles(lists) -> dict[str, np.ndarray]:
    return {name: getattr(lists, name) for name in lists.__slots__}


@pytest.mark.parametrize("fold", range(5))
def test_counts_are_those_of_table_3(survey, fold: int) -> None:
    lists = fold_lists(survey, fold, NO_VALIDATION)
    for name, expected in TABLE_3.items():
        found = [sum(survey[i].class_name == name for i in part) for part in (lists.train, lists.fine_tune, lists.test)]
        assert found == pytest.approx(expected, abs=1), name


@pytest.mark.real
def test_the_real_candidates_come_to_table_3_without_a_leak(real_data) -> None:
    """All 8,208 classified candidates at their real positions, dealt as a build deals them."""
    table = real_data / "catalog" / "derived_candidates_labels.csv"
    targets = [t for t in read_catalog(table, load_survey("sdss-sn").catalog).targets if t.class_name in FOUR_CLASSES]
    ra, dec = np.array([(target.ra_deg, target.dec_deg) for target in targets]).T
    groups = duplicate_groups(ra, dec, 2.0)
    folds = assign_folds(targets, groups, folds=5, seed=0)
    steps = assign_steps(targets, groups, folds, seed=0)
    rows = [
        ObjectRow(
            t.object_id, t.class_name, t.confirmation, t.ra_deg, t.dec_deg, int(fold), "", "", 1, str(group), step
        )
        for t, fold, group, step in zip(targets, folds, groups, steps, strict=True)
    ]
    assert len(rows) == 8208
    for fold in range(5):
        lists = fold_lists(rows, fold, NO_VALIDATION)  # which looks for leaks: 41 pairs and a triple are within 2″
        for name, expected in TABLE_3.items():
            parts = (lists.train, lists.fine_tune, lists.test)
            found = [sum(rows[i].class_name == name for i in part) for part in parts]
            assert found == pytest.approx(expected, abs=2), (fold, name)


def test_every_spectroscopic_object_is_tested_once(survey) -> None:
    tested = np.concatenate([fold_lists(survey, fold, ProtocolConfig()).test for fold in range(5)])
    expected = [i for i, row in enumerate(survey) if row.confirmation == "spectroscopic"]
    assert sorted(tested.tolist()) == expected


def test_validation_is_its_part_of_each_class_and_of_no_other_list(survey) -> None:
    lists = fold_lists(survey, 0, ProtocolConfig(validation_fraction=0.1))
    everything = np.concatenate(list(roles(lists).values()))
    assert len(everything) == len(set(everything.tolist())) == len(survey)
    photometric = sum(survey[i].class_name == "SNOther" for i in lists.train_validation)
    spectroscopic = sum(survey[i].class_name == "SNOther" for i in lists.fine_tune_validation)
    assert (photometric, spectroscopic) == (204, 7)


def duplicated(row_maker):
    """600 objects on 200 places, of random classes, with folds dealt by the build."""
    random = np.random.default_rng(0)
    kinds = [(name, confirmation) for name, confirmation, _ in TABLE_1]
    rows = row_maker([kinds[k] for k in random.integers(len(kinds), size=600)])
    fold_of_place = random.integers(5, size=200)
    return [
        replace(row, ra_deg=(360 + 0.01 * (place - 100)) % 360, fold=int(fold_of_place[place]))
        for row, place in zip(rows, random.integers(200, size=600), strict=True)
    ]


def test_no_group_of_duplicates_has_two_roles(row_maker) -> None:
    rows = duplicated(row_maker)
    for fold in range(5):
        lists = fold_lists(rows, fold, ProtocolConfig(validation_fraction=0.3))
        role_of: dict[float, str] = {}
        for role, members in roles(lists).items():
            for i in members if role != "set_aside" else ():
                assert role_of.setdefault(rows[i].ra_deg, role) == role
        for i in np.concatenate((lists.fine_tune, lists.fine_tune_validation, lists.test)):
            assert rows[i].confirmation == "spectroscopic"
        for i in np.concatenate((lists.train, lists.train_validation)):
            assert rows[i].class_name in ("AGN", "Variable") or rows[i].confirmation == "photometric"
        assert sum(map(len, roles(lists).values())) == len(rows)


def test_folds_that_split_duplicates_are_refused(row_maker) -> None:
    """By position, whatever groups the dataset claims."""
    rows = [replace(row, group=row.object_id) for row in row_maker([("AGN", "spectroscopic")] * 10)]
    moved = replace(rows[0], ra_deg=rows[1].ra_deg + 1.9 / 3600, fold=(rows[1].fold + 1) % 5)
    with pytest.raises(DatasetError, match=r"objects 1000 and 1001 are within 2\.0″ of each other"):
        fold_lists([moved, *rows[1:]], moved.fold, ProtocolConfig())


def test_an_object_on_two_sides_is_a_leak(row_maker) -> None:
    rows = row_maker([("AGN", "spectroscopic")] * 10)
    lists = fold_lists(rows, 0, ProtocolConfig())
    with pytest.raises(DatasetError, match="is in train and in test"):
        check_leaks(rows, replace(lists, test=np.append(lists.test, lists.train[0])), 2.0)


def test_three_classes_join_the_supernovae() -> None:
    assert [label_of(name, THREE_CLASSES) for name in FOUR_CLASSES] == [0, 1, 2, 1]
    assert [label_of(name, FOUR_CLASSES) for name in FOUR_CLASSES] == [0, 1, 2, 3]


def test_unlabelled_objects_take_no_part(row_maker) -> None:
    rows = row_maker([("AGN", "spectroscopic"), ("Unknown", ""), ("", "")])
    assert [row.class_name for row in taking_part(rows)] == ["AGN"]
