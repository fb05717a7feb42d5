"""Which object does what in which fold (Sect. 4.1 and Table 3), without leaks.

In fold k, the objects of fold k test, except photometric supernovae. Of the other folds' AGN and
Variables one half trains and the other fine-tunes; photometric supernovae only ever train,
spectroscopic ones only fine-tune and test. A part of each list is kept for validation: it chooses
the epoch; the test objects never do.

Objects nearer than the duplicate radius are one group, and a group has one role. Where its members'
roles would differ, the stricter one (test, then fine-tune, then train) is the group's, and members
that may not have it are set aside in that fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.config import FOUR_CLASSES, ProtocolConfig
from pipeline.errors import DatasetError
from pipeline.manifest import ObjectRow

SUPERNOVAE: Final = ("SNIa", "SNOther")
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


def duplicate_groups(objects: Sequence[ObjectRow], radius_arcsec: float) -> NDArray[np.intp]:
    """Group number of each object: friends of friends within the radius."""
    from sklearn.cluster import DBSCAN

    if not objects or radius_arcsec == 0:
        return np.arange(len(objects))
    position_rad = np.radians([(row.dec_deg, row.ra_deg) for row in objects])
    radius_rad = np.radians(radius_arcsec / 3600)
    friends = DBSCAN(eps=radius_rad, min_samples=1, metric="haversine", algorithm="ball_tree")
    return np.asarray(friends.fit_predict(position_rad), dtype=np.intp)


def n_folds(objects: Sequence[ObjectRow]) -> int:
    """Number of folds the dataset was built with."""
    return max((row.fold for row in objects), default=-1) + 1


def fold_lists(objects: Sequence[ObjectRow], fold: int, config: ProtocolConfig) -> FoldLists:
    """Deal the objects (all of them `taking_part`) to the roles of `fold`.

    Raises
    ------
    DatasetError
        The dataset's folds split a group of duplicates, so its test objects would leak.
    """
    group = duplicate_groups(objects, config.duplicate_radius_arcsec)
    _check_groups(objects, group, config.duplicate_radius_arcsec)
    random = np.random.default_rng((config.seed, fold))
    class_name = np.array([row.class_name for row in objects])
    supernova = np.isin(class_name, SUPERNOVAE)
    photometric = supernova & np.array([row.confirmation == "photometric" for row in objects])

    test = _touches(group, np.array([row.fold == fold for row in objects]) & ~photometric)
    fine_tune = ~test & _touches(group, supernova & ~photometric)
    train = ~test & ~fine_tune & _touches(group, photometric)
    free = ~test & ~fine_tune & ~train  # groups of AGN and Variables alone
    half = part_of(group, class_name, free, 0.5, random)
    train, fine_tune = train | half, fine_tune | (free & ~half)

    train_validation = part_of(group, class_name, train, config.validation_fraction, random)
    tuned = fine_tune & ~photometric
    fine_tune_validation = part_of(group, class_name, tuned, config.validation_fraction, random)
    return FoldLists(
        train=np.flatnonzero(train & ~train_validation),
        train_validation=np.flatnonzero(train_validation),
        fine_tune=np.flatnonzero(tuned & ~fine_tune_validation),
        fine_tune_validation=np.flatnonzero(fine_tune_validation),
        test=np.flatnonzero(test & ~photometric),
        set_aside=np.flatnonzero((test | fine_tune) & photometric),
    )


def _check_groups(objects: Sequence[ObjectRow], group: NDArray[np.intp], radius_arcsec: float) -> None:
    fold_of: dict[int, ObjectRow] = {}
    for row, number in zip(objects, group.tolist(), strict=True):
        first = fold_of.setdefault(number, row)
        if first.fold != row.fold:
            raise DatasetError(
                f"objects {first.object_id} and {row.object_id} are within {radius_arcsec}″ of each other or "
                f"of a common neighbour, but in folds {first.fold} and {row.fold}: assign folds again with this radius"
            )


def _touches(group: NDArray[np.intp], member: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Objects whose group holds a marked member."""
    return np.isin(group, group[member])


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
