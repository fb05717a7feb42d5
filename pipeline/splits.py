"""Object-level splits: folds for cross-validation and the two steps of training; balanced, duplicates kept together.

Free of torch and of scikit-learn (an extra of training machines); its StratifiedGroupKFold also
refuses classes with fewer objects than folds, which a small survey has.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError

CLASSES: Final = ("AGN", "SNIa", "Variable", "SNOther")
"""Classes of the paper; objects of no other class take part in splits."""
SUPERNOVAE: Final = ("SNIa", "SNOther")
NO_FOLD: Final = -1
TRAIN: Final = "train"
FINE_TUNE: Final = "fine-tune"
ASIDE: Final = "aside"
NO_STEP: Final = ""


class Located(Protocol):
    """What a fold is decided from; catalogue objects and manifest rows have it."""

    @property
    def ra_deg(self) -> float: ...
    @property
    def dec_deg(self) -> float: ...
    @property
    def class_name(self) -> str: ...
    @property
    def confirmation(self) -> str: ...


def assign_folds(
    objects: Sequence[Located],
    groups: NDArray[np.intp],
    *,
    folds: int,
    seed: int,
    kept: NDArray[np.int16] | None = None,
) -> NDArray[np.int16]:
    """Fold of each object, 0 … folds-1, or -1 where its class is none of the paper's.

    Groups of duplicates (`duplicate_groups`) are dealt whole, those of rare strata
    (class, confirmation) first, each to the fold that has the fewest of its rarest stratum, so that
    single objects end evenly to ±1 per stratum. Equal objects in equal order and an equal seed give equal folds.

    Parameters
    ----------
    kept
        Fold that each object has had, -1 where none: a group stays where most of its members were, so that a model
        tested on an object today is not trained on it tomorrow. New groups even out what that leaves uneven.

    Raises
    ------
    ConfigError
        Fewer than two folds.
    """
    if folds < 2:
        raise ConfigError(f"{folds} fold(s): cross-validation needs at least 2")
    fold = np.full(len(objects), NO_FOLD, dtype=np.int16)
    places = [place for place, item in enumerate(objects) if item.class_name in CLASSES]
    if not places:
        return fold
    strata = [(objects[place].class_name, objects[place].confirmation) for place in places]
    before = [NO_FOLD if kept is None else int(kept[place]) for place in places]
    fold[places] = _deal(groups[places], strata, before, folds, np.random.default_rng(seed))
    return fold


def assign_steps(
    objects: Sequence[Located],
    groups: NDArray[np.intp],
    fold_O: NDArray[np.int16],
    *,
    seed: int,
    kept: Sequence[str] | None = None,
) -> list[str]:
    """The step of training that each object serves in the folds that do not test it (Sect. 4.1 of the paper, Table 3).

    Photometric supernovae train, spectroscopic ones fine-tune; of AGN and Variables one half of each fold trains and
    the other fine-tunes. A group of duplicates serves one step: a photometric supernova beside a spectroscopic one
    is set aside (`aside`), and an AGN or Variable does what the supernova beside it does.

    Parameters
    ----------
    kept
        Step that each object has had, '' where none: groups of AGN and Variables keep theirs.

    Returns
    -------
    `train`, `fine-tune`, `aside`, or '' where the object's class is none of the paper's.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for place in np.random.default_rng(seed).permutation(len(objects)).tolist():
        if fold_O[place] != NO_FOLD:
            members[int(groups[place])].append(place)
    step = [NO_STEP] * len(objects)
    free: list[list[int]] = []
    for places in members.values():
        supernovae = {objects[place].confirmation for place in places if objects[place].class_name in SUPERNOVAE}
        if not supernovae:
            free.append(places)
            continue
        whole = TRAIN if supernovae == {"photometric"} else FINE_TUNE
        for place in places:
            step[place] = ASIDE if whole == FINE_TUNE and is_photometric(objects[place]) else whole
    _halve(objects, fold_O, free, kept or step, step)
    return step


def is_photometric(item: Located) -> bool:
    """A supernova without a spectrum: it never tests or fine-tunes."""
    return item.class_name in SUPERNOVAE and item.confirmation == "photometric"


def _halve(
    objects: Sequence[Located],
    fold_O: NDArray[np.int16],
    free: Sequence[list[int]],
    kept: Sequence[str],
    step: list[str],
) -> None:
    """Give half of each class in each fold to either step, whole groups; those that have had one first."""
    held: Counter[tuple[str, int, str]] = Counter()
    total: Counter[tuple[str, str]] = Counter()

    def had(places: list[int]) -> str:
        return next((kept[place] for place in places if kept[place] in (TRAIN, FINE_TUNE)), NO_STEP)

    # Larger groups before single objects, which then even out what they left uneven.
    for places in sorted(free, key=lambda places: (had(places) == NO_STEP, -len(places))):
        name, fold = objects[places[0]].class_name, int(fold_O[places[0]])
        chosen = had(places) or min((TRAIN, FINE_TUNE), key=lambda s: (held[name, fold, s], total[name, s]))
        for place in places:
            step[place] = chosen
            held[objects[place].class_name, fold, chosen] += 1
            total[objects[place].class_name, chosen] += 1


def duplicate_groups(
    ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64], radius_arcsec: float
) -> NDArray[np.intp]:
    """Group number of each position: friends of friends within the radius, right across RA 0 and at the poles."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    ra, dec = np.radians(ra_deg), np.radians(dec_deg)
    unit_O3 = np.stack((np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)), axis=1)
    chord = 2 * np.sin(np.radians(radius_arcsec / 3600) / 2)
    first, second = cKDTree(unit_O3).query_pairs(chord, output_type="ndarray").T
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(len(unit_O3), len(unit_O3)))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.intp)


def _deal(
    groups: NDArray[np.intp],
    strata: Sequence[tuple[str, str]],
    before: Sequence[int],
    folds: int,
    random: np.random.Generator,
) -> NDArray[np.int16]:
    size = Counter(strata)
    members: dict[int, list[int]] = defaultdict(list)
    for place in random.permutation(len(groups)).tolist():
        members[int(groups[place])].append(place)

    def rarest(places: list[int]) -> tuple[int, tuple[str, str]]:
        return min((size[strata[place]], strata[place]) for place in places)

    fold = np.empty(len(groups), dtype=np.int16)
    held: list[Counter[tuple[str, str]]] = [Counter() for _ in range(folds)]
    stay = {number: _where_most_were([before[place] for place in places]) for number, places in members.items()}
    # Those that stay first. Larger groups first within a stratum: single objects then even out what they left uneven.
    order = sorted(members.items(), key=lambda item: (stay[item[0]] == NO_FOLD, rarest(item[1]), -len(item[1])))
    for number, places in order:
        stratum, chosen = rarest(places)[1], stay[number]
        if chosen == NO_FOLD:
            chosen = min(range(folds), key=lambda k: (held[k][stratum], held[k].total(), k))
        fold[places] = chosen
        held[chosen].update(strata[place] for place in places)
    return fold


def _where_most_were(before: Sequence[int]) -> int:
    counts = Counter(fold for fold in before if fold != NO_FOLD)
    return min(counts, key=lambda fold: (-counts[fold], fold), default=NO_FOLD)
