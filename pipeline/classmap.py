"""Class maps: what the labels of an object list mean, as data.

The one that ships, `sako2018`, turns the labels of the SDSS-II SN Survey (Sako et al. 2018) into the classes of the
ConvEntion paper, Table 1.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, ValidationError, model_validator

from pipeline.errors import ConfigError
from pipeline.survey import Config
from pipeline.validation import explain

ClassName = Literal["AGN", "SNIa", "Variable", "SNOther", ""]
"""'' where unknown."""
Confirmation = Literal["spectroscopic", "photometric", ""]
CLASS_NAMES: tuple[str, ...] = get_args(ClassName)
CONFIRMATIONS: tuple[str, ...] = get_args(Confirmation)


class ClassLabel(Config):
    """What one label of a table means."""

    class_name: ClassName
    confirmation: Confirmation = ""


class SetAside(ClassLabel):
    """What a label that is left out on purpose means where a survey includes it, and why it is left out."""

    reason: str


class ClassMap(Config):
    """Labels → classes, the labels that are left out on purpose, and the type codes that stand for labels."""

    title: str
    labels: dict[str, ClassLabel]
    set_aside: dict[str, SetAside] = Field(default_factory=dict)
    sntypes: dict[str, str] = Field(default_factory=dict)
    """Codes of SNANA's column SNTYPE → labels."""

    @model_validator(mode="after")
    def _one_meaning(self) -> ClassMap:
        if both := self.labels.keys() & self.set_aside.keys():
            raise ValueError(f"labels {sorted(both)} have a class and are set aside")
        if strange := set(self.sntypes.values()) - self.labels.keys() - self.set_aside.keys():
            raise ValueError(f"sntypes name labels that are neither in labels nor in set_aside: {sorted(strange)}")
        return self

    def including(self, labels: Iterable[str]) -> ClassMap:
        """The map with these of its set-aside labels used as all others.

        Raises
        ------
        ConfigError
            One of them is not set aside; the message names those that are.
        """
        wanted = frozenset(labels)
        if strange := sorted(wanted - self.set_aside.keys()):
            known = ", ".join(sorted(self.set_aside)) or "none"
            raise ConfigError(
                f"catalog.include: {', '.join(map(repr, strange))} is not set aside by class map {self.title!r}, "
                f"so there is nothing to include; set aside are: {known}"
            )
        rest = {label: meaning for label, meaning in self.set_aside.items() if label not in wanted}
        used: dict[str, ClassLabel] = {label: self.set_aside[label] for label in self.set_aside if label in wanted}
        return self.model_copy(update={"labels": self.labels | used, "set_aside": rest})


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
