"""The object list: a master table or a user's own list → targets with class and confirmation.

Sources: SDSS-II SN Survey data release (Sako et al. 2018, `sdsssn_master.dat2`, `master_data.txt`, and its SNANA
HEAD table); the class names are those of the ConvEntion paper, Table 1.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pipeline.classmap import CLASS_NAMES, CONFIRMATIONS, ClassMap, read_class_map
from pipeline.errors import CatalogError, ConfigError
from pipeline.manifest import Skip
from pipeline.naming import check_object_id
from pipeline.objectlist import MAX_BYTES, ObjectList, read_object_list
from pipeline.selection import NOT_SELECTED, UNKNOWN, select, wrap_ra
from pipeline.survey import CatalogConfig, Season

SET_ASIDE: Final = "set-aside"
TABLE_1: Final = ("AGN", "SNIa", "SNOther", "Unknown", "Variable", "SNOther_PT", "SNIa_PT")
"""Columns of the paper's Table 1; PT: photometrically typed."""
_DECIMAL: Final = re.compile(r"[ \t]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?[ \t]*")
"""What other readers of such tables take for a number too; `float` also takes 1_0 and digits of every script."""
_SEXAGESIMAL: Final = re.compile(r"[ \t]*[+-]?[0-9]+[:hd ][ ]*[0-9].*")
_NULLS: Final = frozenset({"", r"\N", "NA", "NULL", "nan"})
_SNANA_NULLS: Final = frozenset({"-9", "-99", "-999", "999", "-9.0", "-99.0", "-999.0", "999.0"})
_FAINTEST_MAG: Final = 50.0
"""Magnitudes from 0 to here are magnitudes; -9, 99.99, 999 and their like are nulls."""


@dataclass(frozen=True, slots=True)
class Target:
    """One object to cut: where it is and what it is known to be."""

    object_id: str
    ra_deg: float
    dec_deg: float
    label: str
    """As the table spells it; '' where it gives none."""
    class_name: str
    """'' where unknown."""
    confirmation: str
    """'spectroscopic', 'photometric', or '' where the class is unknown."""
    peak_r_mag: float = field(default=math.nan, compare=False)
    """Brightest magnitude in r; NaN where unknown, which equals nothing, and so has no part in equality."""

    def table_1(self) -> str:
        """The column of the paper's Table 1 in which the object counts."""
        suffix = "_PT" if self.class_name.startswith("SN") and self.confirmation == "photometric" else ""
        return (self.class_name or UNKNOWN) + suffix


@dataclass(frozen=True, slots=True)
class Catalog:
    """All targets of an object list that are used, in its order, and what was left out of it."""

    targets: tuple[Target, ...]
    skips: tuple[Skip, ...]
    sha256: str
    """Of the file's bytes."""
    set_aside: tuple[Target, ...] = ()
    """The objects of the skips `set-aside`, as what they would be if they were included."""

    def counts(self) -> dict[tuple[str, str], int]:
        """Number of targets per (class, confirmation)."""
        return dict(Counter((target.class_name, target.confirmation) for target in self.targets))

    def bad_rows(self) -> tuple[Skip, ...]:
        """Rows that could not be used; what was left out by choice is not among them."""
        return tuple(skip for skip in self.skips if skip.reason not in (SET_ASIDE, NOT_SELECTED))

    def table_1(self) -> dict[str, int]:
        """Number of objects in each column of the paper's Table 1: it counts the unknown, though it uses them not."""
        unknown = [target for target in self.set_aside if not target.class_name]
        counts = Counter(target.table_1() for target in (*self.targets, *unknown))
        return {column: counts[column] for column in TABLE_1}


def read_catalog(path: Path, config: CatalogConfig, seasons: Sequence[Season] = ()) -> Catalog:
    """Read an object list and select from it; rows that cannot be used become skips.

    `seasons` are those that `config.select` may name.

    Raises
    ------
    CatalogError
        The file is not a table, lacks a column, or has more bad rows than `config.max_bad_fraction`; or the
        selection asks for an object that cannot be had, or leaves none.
    ConfigError
        The class map cannot be read, or settings contradict it, each other or the seasons.
    """
    class_map = read_class_map(config.class_map).including(config.include)
    content = _read_bytes(path)
    catalog = _interpret(read_object_list(path, content, config.format), class_map, hashlib.sha256(content).hexdigest())
    _refuse_bad_table(path, catalog, config.max_bad_fraction)
    _refuse_contradiction(catalog, config)
    if not catalog.targets:
        return catalog
    left_out = {skip.object_id: skip.reason for skip in catalog.skips}
    targets, cut = select(catalog.targets, config.select, seasons, left_out)
    return Catalog(targets, catalog.skips + cut, catalog.sha256, catalog.set_aside)


def _read_bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CatalogError(f"object list {path} is over {MAX_BYTES >> 20} MB: this is not an object list")
        return path.read_bytes()
    except OSError as error:
        raise CatalogError(f"cannot read object list {path}: {error.strerror}; check its path") from error


def _interpret(listed: ObjectList, class_map: ClassMap, sha256: str) -> Catalog:
    """All rows as targets, as targets that are set aside, or as skips; of equal ids the first counts."""
    reasons = {label: meaning.reason for label, meaning in class_map.set_aside.items()}
    if "class_name" in listed.columns:  # the list decides, not the map
        reasons = {}
    targets: dict[str, Target] = {}
    set_aside: dict[str, Target] = {}
    skips: list[Skip] = []
    for row in listed.rows:
        outcome = row if isinstance(row, Skip) else _read_row(row, class_map, coded=listed.format == "snana-head")
        if isinstance(outcome, Skip):
            skips.append(outcome)
        elif outcome.object_id in targets or outcome.object_id in set_aside:
            skips.append(Skip("duplicate-id", "a row above has the same id", outcome.object_id))
        elif outcome.label in reasons:
            set_aside[outcome.object_id] = outcome
            skips.append(Skip(SET_ASIDE, f"{outcome.label}: {reasons[outcome.label]}", outcome.object_id))
        else:
            targets[outcome.object_id] = outcome
    return Catalog(tuple(targets.values()), tuple(skips), sha256, tuple(set_aside.values()))


def _read_row(row: Mapping[str, str], class_map: ClassMap, *, coded: bool) -> Target | Skip:
    """One row as a target, or the reason why it is none; `coded`: its label is a type code of SNANA."""
    object_id = row["object_id"]
    try:
        check_object_id(object_id[:80])
    except ConfigError as error:
        return Skip("bad-id", str(error))
    try:
        if coded and row["ra"] in _SNANA_NULLS and row["dec"] in _SNANA_NULLS:
            raise ValueError("RA and Dec are SNANA's nulls")
        ra_deg, dec_deg = _coordinates(row["ra"], row["dec"])
    except ValueError as error:
        return Skip("bad-coordinates", str(error), object_id)
    try:
        peak_r_mag = _magnitude(row.get("peak_r_mag", ""))
    except ValueError as error:
        return Skip("bad-row", str(error), object_id)
    try:
        meaning = _own_class(row) if "class_name" in row else _mapped_class(row.get("label", ""), class_map, coded)
    except ValueError as error:
        return Skip("unknown-class", str(error), object_id)
    return Target(object_id, ra_deg, dec_deg, *meaning, peak_r_mag)


def _coordinates(ra: str, dec: str) -> tuple[float, float]:
    """Degrees, RA brought to [0, 360); ValueError says which one is no position."""
    if _SEXAGESIMAL.fullmatch(ra) or _SEXAGESIMAL.fullmatch(dec):
        raise ValueError(f"RA {ra[:20]!r}, Dec {dec[:20]!r} are sexagesimal: give decimal degrees")
    if not (_DECIMAL.fullmatch(ra) and _DECIMAL.fullmatch(dec)):
        raise ValueError(f"RA {ra[:20]!r}, Dec {dec[:20]!r} are not numbers")
    ra_deg, dec_deg = float(ra), float(dec)
    if not -360 <= ra_deg <= 360:
        raise ValueError(f"RA {ra[:20]} is not in [-360, 360] degrees")
    if not -90 <= dec_deg <= 90:
        raise ValueError(f"Dec {dec[:20]} is not in [-90, 90] degrees")
    return wrap_ra(ra_deg), dec_deg


def _magnitude(text: str) -> float:
    """NaN for every spelling of a null; ValueError for what is neither that nor a number."""
    if text in _NULLS:
        return math.nan
    if not _DECIMAL.fullmatch(text):
        raise ValueError(f"magnitude {text[:20]!r} is not a number")
    magnitude = float(text)
    return magnitude if 0 <= magnitude <= _FAINTEST_MAG else math.nan


def _own_class(row: Mapping[str, str]) -> tuple[str, str, str]:
    """Label, class and confirmation of a list that says them itself, as `s82 catalog select` writes it."""
    label, class_name, confirmation = (row.get(key, "") for key in ("label", "class_name", "confirmation"))
    if class_name in _NULLS or class_name == UNKNOWN:
        class_name = ""
    if class_name not in CLASS_NAMES:
        raise ValueError(f"class_name {class_name[:40]!r} is not one of {', '.join(filter(None, CLASS_NAMES))}")
    if confirmation in _NULLS:
        confirmation = ""
    if confirmation not in CONFIRMATIONS:
        raise ValueError(f"confirmation {confirmation[:40]!r} is not one of {', '.join(filter(None, CONFIRMATIONS))}")
    return "" if label in _NULLS else label[:64], class_name, confirmation


def _mapped_class(label: str, class_map: ClassMap, coded: bool) -> tuple[str, str, str]:
    """Label, class and confirmation by the class map; those of a label that is set aside as if it were included."""
    if label in _NULLS or (coded and label in _SNANA_NULLS):
        return "", "", ""
    if coded and label not in class_map.sntypes:
        raise ValueError(f"SNTYPE {label[:40]} is not in the class map")
    label = class_map.sntypes[label] if coded else label
    meaning = class_map.labels.get(label) or class_map.set_aside.get(label)
    if meaning is None:
        raise ValueError(f"label {label[:40]!r} is not in the class map")
    return label, meaning.class_name, meaning.confirmation


def _refuse_bad_table(path: Path, catalog: Catalog, max_bad_fraction: float) -> None:
    bad = catalog.bad_rows()
    n_rows = len(catalog.targets) + len(catalog.skips)
    if n_rows == 0:
        raise CatalogError(f"object list {path} has a header but no rows")
    if len(bad) > max_bad_fraction * n_rows:
        first = "; ".join(f"{skip.object_id or '?'}: {skip.reason} ({skip.detail})" for skip in bad[:3])
        raise CatalogError(
            f"object list {path}: {len(bad)} of {n_rows} rows cannot be used, more than max_bad_fraction = "
            f"{max_bad_fraction:g} allows; the first are {first}. Correct the list or its class map"
        )


def _refuse_contradiction(catalog: Catalog, config: CatalogConfig) -> None:
    """Objects without a class, asked for by class but set aside by label, would be missed without a word."""
    if UNKNOWN not in config.select.classes:
        return
    if labels := sorted({target.label for target in catalog.set_aside if not target.class_name}):
        raise ConfigError(
            f'catalog.select.classes asks for "{UNKNOWN}", but class map {config.class_map} sets the objects '
            f"labelled {', '.join(labels)} aside: add include = {labels!r}".replace("'", '"')
        )
