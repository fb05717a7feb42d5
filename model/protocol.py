"""Which object does what in which fold (Sect. 4.1 and Table 3), without leaks.

The dataset says it, in the columns `fold`, `step` and `group` of its manifest (`pipeline.splits`), the same for every
model that is trained on it. In fold k, the objects of fold k test, except photometric supernovae; the others serve
their step: photometric supernovae train, spectroscopic ones fine-tune, AGN and Variables half and half. A part of each
list is kept for validation: it chooses the epoch; the test objects never do.

Objects nearer than the duplicate radius are one group, and a group has one role; a photometric supernova beside an
object that tests, or beside one with a spectrum, is set aside. What the dataset says is held against positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.config import FOUR_CLASSES, ProtocolConfig
from pipeline.errors import DatasetError
from pipeline.manifest import ObjectRow
from pipeline.splits import (
    ASIDE,
    FINE_TUNE,
    SUPERNOVAE,
    TRAIN,
    assign_steps,
    duplicate_groups,
    is_photometric,
)

Places = NDArray[np.intp]
"""Places of objects in the list that was given."""


def label_of(class_name: str, classes: Sequence[str]) -> int | None:
    """Index of the class an object counts as (a supernova as `SN` where that is a class), None if it takes no part."""
    if class_name not in FOUR_CLASSES:
        return None
    return classes.index("SN" if class_name in SUPERNOVAE and "SN" in classes else class_name)


@dataclass(frozen=True, slots=True)
class FoldLists:
    """Objects of one fold by role; no object, and no group of duplicates, is in two of them."""

    train: Places
    train_validation: Places
    fine_tune: Places
    fine_tune_validation: Places
    test: Places
    set_aside: Places
    """Cannot be used in this fold without a leak."""


def taking_part(objects: Sequence[ObjectRow]) -> tuple[ObjectRow, ...]:
    """Objects that have a class of the paper and a fold."""
    return tuple(row for row in objects if row.class_name in FOUR_CLASSES and row.fold >= 0)


def n_folds(objects: Sequence[ObjectRow]) -> int:
    """Number of folds the dataset was built with."""
    return max((row.fold for row in objects), default=-1) + 1


def fold_lists(objects: Sequence[ObjectRow], fold: int, config: ProtocolConfig) -> FoldLists:
    """Deal the objects (all of them `taking_part`) to the roles of `fold`, as the dataset's own splits say.

    Raises
    ------
    DatasetError
        Two objects within the duplicate radius are on two sides, so that a test object would be known from training.
    """
    group = _groups(objects, config.duplicate_radius_arcsec)
    step = np.array(_steps(objects, group, config))
    fold_O, class_name = np.array([row.fold for row in objects]), np.array([row.class_name for row in objects])
    photometric = np.array([is_photometric(row) for row in objects])
    beside_test = np.isin(group, group[(fold_O == fold) & ~photometric])
    train, fine_tune = ~beside_test & (step == TRAIN), ~beside_test & (step == FINE_TUNE)
    random = np.random.default_rng((config.seed, fold))
    train_validation = part_of(group, class_name, train, config.validation_fraction, random)
    fine_tune_validation = part_of(group, class_name, fine_tune, config.validation_fraction, random)
    lists = FoldLists(
        train=np.flatnonzero(train & ~train_validation),
        train_validation=np.flatnonzero(train_validation),
        fine_tune=np.flatnonzero(fine_tune & ~fine_tune_validation),
        fine_tune_validation=np.flatnonzero(fine_tune_validation),
        test=np.flatnonzero(beside_test & ~photometric),
        set_aside=np.flatnonzero((beside_test & photometric) | (~beside_test & (step == ASIDE))),
    )
    check_leaks(objects, lists, config.duplicate_radius_arcsec)
    return lists


def check_leaks(objects: Sequence[ObjectRow], lists: FoldLists, radius_arcsec: float) -> None:
    """Be sure that no object, and no two objects within the radius, are on two sides of a fold.

    Looks at positions alone, whatever groups the dataset says they are in.

    Raises
    ------
    DatasetError
        Two are; the message names them.
    """
    role_O = np.full(len(objects), ASIDE, dtype=object)
    for role in ("train", "train_validation", "fine_tune", "fine_tune_validation", "test"):
        places = getattr(lists, role)
        if twice := places[role_O[places] != ASIDE].tolist():
            raise DatasetError(f"object {objects[twice[0]].object_id} is in {role_O[twice[0]]} and in {role}")
        role_O[places] = role
    used = np.flatnonzero(role_O != ASIDE).tolist()
    ra_deg, dec_deg = _positions([objects[i] for i in used])
    group_U = duplicate_groups(ra_deg, dec_deg, radius_arcsec)
    first_of: dict[int, int] = {}
    for place, number in zip(used, group_U.tolist(), strict=True):
        first = first_of.setdefault(number, place)
        if role_O[first] != role_O[place]:
            raise DatasetError(
                f"objects {objects[first].object_id} and {objects[place].object_id} are within {radius_arcsec}″ of "
                f"each other or of a common neighbour, but one is in {role_O[first]}, the other in {role_O[place]}: "
                "build the dataset with a splits.duplicate_radius_arcsec not below protocol.duplicate_radius_arcsec"
            )


def _groups(objects: Sequence[ObjectRow], radius_arcsec: float) -> Places:
    """Number of each object's group of duplicates: the dataset's own; by position where it is from before version 3."""
    names = [row.group for row in objects]
    if all(names):
        return np.unique(names, return_inverse=True)[1].astype(np.intp)
    ra_deg, dec_deg = _positions(objects)
    return duplicate_groups(ra_deg, dec_deg, radius_arcsec)


def _positions(objects: Sequence[ObjectRow]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    ra_deg, dec_deg = np.array([(row.ra_deg, row.dec_deg) for row in objects]).reshape(-1, 2).T
    return ra_deg, dec_deg


def _steps(objects: Sequence[ObjectRow], group: Places, config: ProtocolConfig) -> list[str]:
    """The dataset's own; dealt anew for one from before schema version 3."""
    steps = [row.step for row in objects]
    if all(steps):
        return steps
    fold_O = np.array([row.fold for row in objects], dtype=np.int16)
    return assign_steps(objects, group, fold_O, seed=config.seed)


def part_of(
    group: NDArray[np.intp],
    class_name: NDArray[np.str_],
    among: NDArray[np.bool_],
    fraction: float,
    random: np.random.Generator,
) -> NDArray[np.bool_]:
    """Draw `fraction` of each class among the marked objects, in whole groups."""
    names, counts = np.unique(class_name[among], return_counts=True)
    wanted = dict(zip(names.tolist(), np.floor(fraction * counts + 0.5).tolist(), strict=True))
    drawn = np.zeros(len(group), dtype=bool)
    members: dict[int, list[int]] = {}
    for place in np.flatnonzero(among).tolist():
        members.setdefault(int(group[place]), []).append(place)
    order = random.permutation(np.array(list(members), dtype=np.intp))
    for number in order.tolist():
        places = members[number]
        need = [str(class_name[place]) for place in places]
        if all(wanted[name] >= need.count(name) for name in need):
            drawn[places] = True
            for name in need:
                wanted[name] -= 1
    return drawn
