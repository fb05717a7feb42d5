"""Which objects of a list are used: cuts in class, place, season and brightness, and a seeded draw.

An object that a cut leaves out is a skip `not-selected` that names the cut; it is nobody's fault and never counts
as a bad row.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from pipeline.errors import CatalogError, ConfigError
from pipeline.manifest import Skip
from pipeline.survey import CatalogSelection, Season

if TYPE_CHECKING:
    from pipeline.catalog import Target

NOT_SELECTED: Final = "not-selected"
UNKNOWN: Final = "Unknown"
"""How a selection calls the class '' of an object without one."""
SHOWN: Final = 5
"""Ids that an error names."""

Cut = tuple[str, "Callable[[Target], Any]", Callable[[Any], bool]]
"""Key of the selection, what it looks at, and whether that may stay."""


def wrap_ra(ra_deg: float) -> float:
    """The same right ascension in [0, 360)."""
    wrapped = ra_deg % 360
    return 0.0 if wrapped == 360 else wrapped  # -1e-17 % 360 rounds to 360


def season_of(object_id: str, seasons: Iterable[Season]) -> Season | None:
    """The season whose range of ids holds the object; None if it belongs to no one season."""
    if not object_id.isdecimal():
        return None
    number = int(object_id)
    for season in seasons:
        if season.first_cid is None and season.last_cid is None:
            continue
        if (season.first_cid or 0) <= number and (season.last_cid is None or number <= season.last_cid):
            return season
    return None


def select(
    targets: Sequence[Target], selection: CatalogSelection, seasons: Sequence[Season], left_out: Mapping[str, str]
) -> tuple[tuple[Target, ...], tuple[Skip, ...]]:
    """Targets that pass every cut, in their order, and a skip for each that does not.

    Which objects stay does not depend on the order of `targets`. `left_out` gives the reasons why
    objects, by id, are not among them.

    Raises
    ------
    ConfigError
        A season is not one of `seasons`.
    CatalogError
        An object asked for by id is not among the targets, or a cut leaves none; the message names the cut.
    """
    _check_ids(targets, selection.object_ids, left_out)
    kept, skips = tuple(targets), list[Skip]()
    for key, value, passes in _cuts(selection, seasons):
        verdict = [passes(value(target)) for target in kept]
        out = [target for target, good in zip(kept, verdict, strict=True) if not good]
        skips += [Skip(NOT_SELECTED, f"{key}: {value(target)}", target.object_id) for target in out]
        if out and not any(verdict):
            raise CatalogError(
                f"catalog.select.{key} leaves no object: all {len(kept)} that passed the cuts before it have others, "
                f"as {', '.join(sorted({str(value(target)) for target in out})[:SHOWN])}"
            )
        kept = tuple(target for target, good in zip(kept, verdict, strict=True) if good)
    if selection.max_per_class is None:
        return kept, tuple(skips)
    drawn = _draw(kept, selection.max_per_class, selection.seed)
    skips += [
        Skip(NOT_SELECTED, f"max_per_class: {selection.max_per_class} others were drawn", target.object_id)
        for target in kept
        if target.object_id not in drawn
    ]
    return tuple(target for target in kept if target.object_id in drawn), tuple(skips)


def _check_ids(targets: Sequence[Target], object_ids: Sequence[str], left_out: Mapping[str, str]) -> None:
    present = {target.object_id for target in targets}
    missing = [object_id for object_id in dict.fromkeys(object_ids) if object_id not in present]
    if missing:
        first = ", ".join(f"{name[:64]} ({left_out.get(name, 'not in the list')})" for name in missing[:SHOWN])
        raise CatalogError(
            f"catalog.select.object_ids asks for {len(missing)} objects that cannot be had: {first}"
            f"{', …' if len(missing) > SHOWN else ''}; take them out, or correct the list"
        )


def _cuts(selection: CatalogSelection, seasons: Sequence[Season]) -> Iterator[Cut]:
    """The cuts that are set, in the order in which they are made."""
    if selection.object_ids:
        yield "object_ids", lambda target: target.object_id, frozenset(selection.object_ids).__contains__
    if selection.classes:
        yield "classes", lambda target: target.class_name or UNKNOWN, selection.classes.__contains__
    if selection.confirmations:
        yield "confirmations", lambda target: target.confirmation or "none", selection.confirmations.__contains__
    if selection.ra_deg:
        yield "ra_deg", lambda target: target.ra_deg, _eastwards(*selection.ra_deg)
    if selection.dec_deg:
        yield "dec_deg", lambda target: target.dec_deg, _between(*selection.dec_deg)
    if selection.seasons:
        _check_seasons(selection.seasons, seasons)
        yield "seasons", lambda target: _season_name(target, seasons), selection.seasons.__contains__
    if selection.peak_r_mag:
        yield "peak_r_mag", lambda target: target.peak_r_mag, _between(*selection.peak_r_mag)


def _check_seasons(names: Iterable[str], seasons: Sequence[Season]) -> None:
    known = [season.name for season in seasons]
    if strange := [name for name in names if name not in known]:
        described = ", ".join(known) if known else "none: the survey describes no [[selection.seasons]]"
        raise ConfigError(f"catalog.select.seasons: no season {', '.join(map(repr, strange))}; known are {described}")


def _season_name(target: Target, seasons: Sequence[Season]) -> str:
    season = season_of(target.object_id, seasons)
    return season.name if season else "none"


def _between(low: float, high: float) -> Callable[[float], bool]:
    return lambda value: low <= value <= high  # NaN: no


def _eastwards(start_deg: float, end_deg: float) -> Callable[[float], bool]:
    if end_deg - start_deg >= 360:
        return lambda _: True
    start, end = wrap_ra(start_deg), wrap_ra(end_deg)
    if start <= end:
        return _between(start, end)
    return lambda ra_deg: ra_deg >= start or ra_deg <= end


def _draw(targets: Iterable[Target], at_most: int, seed: int) -> frozenset[str]:
    """Ids of at most so many of each class and confirmation.

    Each id has its lot, a hash with the seed, and the lowest lots win. So the draw does not depend on the order of
    rows, a larger one holds a smaller one, and a list that grows by one object changes it by one at most.
    """
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for target in targets:
        groups[target.class_name, target.confirmation].append(target.object_id)

    def lot(object_id: str) -> bytes:
        return hashlib.sha256(f"{seed} {object_id}".encode()).digest()

    return frozenset(winner for ids in groups.values() for winner in sorted(ids, key=lot)[:at_most])
