"""What is wrong with a configuration, in words: pydantic's errors for people. Light: training imports it too."""

from __future__ import annotations

from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails


def explain(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """One clause per wrong key of a pydantic error; with `model`, an unknown key is answered with the known ones."""
    return "; ".join(_clause(item, model) for item in error.errors())


def _clause(item: ErrorDetails, model: type[BaseModel] | None) -> str:
    place = ".".join(map(str, item["loc"]))
    return f"{place}: {_what_is_wrong(item, model)}" if place else _words(item)


def _what_is_wrong(item: ErrorDetails, model: type[BaseModel] | None) -> str:
    if item["type"] == "missing":
        return "is missing"
    if item["type"] == "extra_forbidden":
        known = ", ".join(_known_keys(model, item["loc"])) if model else ""
        return f"unknown key; known keys: {known}" if known else "unknown key"
    return _words(item)


def _words(item: ErrorDetails) -> str:
    return item["msg"].removeprefix("Value error, ")


def _known_keys(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """Keys of the table in which `place`, a path of keys, list indices and union tags, ends."""
    tables = [model]
    for step in place[:-1]:
        below = [table.model_fields[step].annotation for table in tables if step in table.model_fields]
        if below:
            tables = [found for annotation in below for found in _tables_of(annotation)]
        elif isinstance(step, str):  # the tag that says which member of a union is meant
            tables = [t for t in tables if any(step in get_args(field.annotation) for field in t.model_fields.values())]
    return list(dict.fromkeys(key for table in tables for key in table.model_fields))


def _tables_of(annotation: object) -> list[type[BaseModel]]:
    """The models that a field's type mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _tables_of(part)]
