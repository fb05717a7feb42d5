"""The object list: a master table or a user's own list → targets with class and confirmation.

Sources: SDSS-II SN Survey data release (Sako et al. 2018, `sdsssn_master.dat2`, `master_data.txt`);
the class names are those of the ConvEntion paper, Table 1.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import re
import tomllib
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, ValidationError, model_validator

from pipeline.errors import CatalogError, ConfigError
from pipeline.manifest import Skip
from pipeline.naming import check_object_id
from pipeline.survey import CatalogConfig, Config
from pipeline.validation import explain

MAX_BYTES: Final = 256 * 2**20
"""The real master table has 15 MB; anything near this is not an object list."""
SET_ASIDE: Final = "set-aside"
_DECIMAL: Final = re.compile(r"[ \t]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?[ \t]*")
"""What other readers of such tables take for a number too; `float` also takes 1_0 and digits of every script."""
_NULLS: Final = frozenset({"", r"\N", "NA", "NULL", "nan"})
_ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "object id": ("cid", "object_id", "id", "snid"),
    "right ascension": ("ra_deg", "ra", "ra_1"),
    "declination": ("dec_deg", "dec", "decl", "dec_1"),
    "label": ("classification", "label", "class"),
}
"""Column names in order of preference, lower case; RA_1 and DEC_1 are what TOPCAT makes of a matched master table."""


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


@dataclass(frozen=True, slots=True)
class Catalog:
    """All targets of an object list, in its order, and what was left out of it."""

    targets: tuple[Target, ...]
    skips: tuple[Skip, ...]
    sha256: str
    """Of the file's bytes."""

    def counts(self) -> dict[tuple[str, str], int]:
        """Number of targets per (class, confirmation): the paper's Table 1."""
        return dict(Counter((target.class_name, target.confirmation) for target in self.targets))


class ClassLabel(Config):
    """What one label of a table means."""

    class_name: Literal["AGN", "SNIa", "Variable", "SNOther", ""]
    confirmation: Literal["spectroscopic", "photometric", ""] = ""


class ClassMap(Config):
    """Labels → classes, and the labels that are left out on purpose, with the reason."""

    title: str
    labels: dict[str, ClassLabel]
    set_aside: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_meaning(self) -> ClassMap:
        if both := self.labels.keys() & self.set_aside.keys():
            raise ValueError(f"labels {sorted(both)} have a class and are set aside")
        return self


def read_class_map(name_or_path: str) -> ClassMap:
    """Read a class map that ships with the package (`sako2018`) or lies at a path ending in .toml.

    Raises
    ------
    ConfigError
        No such map, or a key is missing, unknown or wrong; the message names it.
    """
    shipped = files("data_manifest") / "class_maps" / f"{name_or_path}.toml"
    source = Path(name_or_path) if name_or_path.endswith(".toml") else shipped
    try:
        return ClassMap.model_validate(tomllib.loads(source.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"no class map {name_or_path!r}: give a path to a .toml file, or 'sako2018'") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"class map {name_or_path} is not TOML: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"class map {name_or_path}: {explain(error, ClassMap)}") from error


def read_catalog(path: Path, config: CatalogConfig) -> Catalog:
    """Read an object list; rows that cannot be used become skips.

    Raises
    ------
    CatalogError
        The file is not a table, lacks a column, or has more bad rows than `config.max_bad_fraction`.
    ConfigError
        The class map cannot be read.
    """
    class_map = read_class_map(config.class_map)
    content = _read_bytes(path)
    rows = _table(content, path, whitespace=config.format == "sako-master")
    columns = _find_columns(next(rows, []), path, label_required=config.format == "sako-master")

    targets: dict[str, Target] = {}
    skips: list[Skip] = []
    for row in rows:
        outcome = _read_row(row, columns, class_map, taken=targets.keys())
        if isinstance(outcome, Target):
            targets[outcome.object_id] = outcome
        else:
            skips.append(outcome)
    _refuse_bad_table(path, len(targets), skips, config.max_bad_fraction)
    return Catalog(tuple(targets.values()), tuple(skips), hashlib.sha256(content).hexdigest())


def _read_bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CatalogError(f"object list {path} is over {MAX_BYTES >> 20} MB: this is not an object list")
        return path.read_bytes()
    except OSError as error:
        raise CatalogError(f"cannot read object list {path}: {error.strerror}; check its path") from error


def _table(content: bytes, path: Path, *, whitespace: bool) -> Iterator[list[str]]:
    """Rows of cells, the header first; blank lines and comments left out."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CatalogError(f"object list {path} is not text (byte {error.start}): unpack or export it first") from error
    if "\0" in text:
        raise CatalogError(f"object list {path} is not text: unpack or export it first")
    if text.lstrip()[:1] == "<":
        raise CatalogError(f"object list {path} is a web page, not a table: the server was out; fetch it again")
    lines = (line for line in io.StringIO(text) if line.strip())
    header = next(lines, "").lstrip("# \t")  # some exports comment the header line out
    body = itertools.chain([header], (line for line in lines if not line.startswith("#")))
    try:
        yield from (line.split() for line in body) if whitespace else csv.reader(body)
    except csv.Error as error:
        raise CatalogError(f"object list {path} is not CSV: {error}") from error


@dataclass(frozen=True, slots=True)
class _Columns:
    object_id: int
    ra: int
    dec: int
    label: int | None
    count: int


def _find_columns(header: list[str], path: Path, *, label_required: bool) -> _Columns:
    if not header:
        raise CatalogError(f"object list {path} is empty")
    names = [name.strip().lower() for name in header]
    found = {
        key: names.index(next(name for name in options if name in names))
        for key, options in _ALIASES.items()
        if any(name in names for name in options)
    }
    missing = _ALIASES.keys() - found.keys() - (set() if label_required else {"label"})
    if missing:
        wanted = "; ".join(f"{key} ({' or '.join(_ALIASES[key])})" for key in sorted(missing))
        shown = ", ".join(header[:8])[:200]
        raise CatalogError(f"object list {path} has no column for {wanted}; its columns are: {shown}")
    return _Columns(found["object id"], found["right ascension"], found["declination"], found.get("label"), len(header))


def _read_row(row: list[str], columns: _Columns, class_map: ClassMap, taken: Container[str]) -> Target | Skip:
    """One row as a target, or the reason why it is none."""
    if len(row) != columns.count:
        return Skip("bad-row", f"{len(row)} cells under {columns.count} columns: {' '.join(row)[:80]}")
    object_id = row[columns.object_id].strip()
    label = "" if columns.label is None else row[columns.label].strip()
    try:
        check_object_id(object_id)
        ra_deg, dec_deg = _coordinates(row[columns.ra], row[columns.dec])
    except ConfigError as error:
        return Skip("bad-id", str(error))
    except ValueError as error:
        return Skip("bad-coordinates", str(error), object_id)
    if object_id in taken:
        return Skip("duplicate-id", "a row above has the same id", object_id)
    if reason := class_map.set_aside.get(label):
        return Skip(SET_ASIDE, f"{label}: {reason}", object_id)
    if label in _NULLS:
        return Target(object_id, ra_deg, dec_deg, "", "", "")
    if label not in class_map.labels:
        return Skip("unknown-class", f"label {label[:40]!r} is not in the class map", object_id)
    meaning = class_map.labels[label]
    return Target(object_id, ra_deg, dec_deg, label, meaning.class_name, meaning.confirmation)


def _coordinates(ra: str, dec: str) -> tuple[float, float]:
    """Degrees, RA brought to [0, 360); ValueError says which one is no position."""
    if not (_DECIMAL.fullmatch(ra) and _DECIMAL.fullmatch(dec)):
        raise ValueError(f"RA {ra[:20]!r}, Dec {dec[:20]!r} are not numbers")
    ra_deg, dec_deg = float(ra), float(dec)
    if not -360 <= ra_deg <= 360:
        raise ValueError(f"RA {ra[:20]} is not in [-360, 360] degrees")
    if not -90 <= dec_deg <= 90:
        raise ValueError(f"Dec {dec[:20]} is not in [-90, 90] degrees")
    wrapped = ra_deg % 360
    return (0.0 if wrapped == 360 else wrapped), dec_deg  # -1e-17 % 360 rounds to 360


def _refuse_bad_table(path: Path, n_targets: int, skips: list[Skip], max_bad_fraction: float) -> None:
    bad = [skip for skip in skips if skip.reason != SET_ASIDE]
    n_rows = n_targets + len(skips)
    if n_rows == 0:
        raise CatalogError(f"object list {path} has a header but no rows")
    if len(bad) > max_bad_fraction * n_rows:
        first = "; ".join(f"{skip.object_id or '?'}: {skip.reason} ({skip.detail})" for skip in bad[:3])
        raise CatalogError(
            f"object list {path}: {len(bad)} of {n_rows} rows cannot be used, more than max_bad_fraction = "
            f"{max_bad_fraction:g} allows; the first are {first}. Correct the list or its class map"
        )
