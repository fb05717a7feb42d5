"""The form that Prefect's pages show before a run: every parameter with its description.

Prefect takes descriptions from docstrings in Google's style; ours are numpydoc.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from griffe import Docstring, DocstringSectionKind, Parser, parse

P = ParamSpec("P")
R = TypeVar("R")


def described(like: Callable[..., object] | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Put a function's docstring into the form that Prefect reads. Stands below `@flow`.

    Parameters
    ----------
    like
        Another described function or flow, which says what the parameters mean that the docstring leaves out.
    """

    def describe(function: Callable[P, R]) -> Callable[P, R]:
        text, own = _split(inspect.getdoc(function) or "", Parser.numpy)
        others = _split(inspect.getdoc(like) or "", Parser.google)[1] if like else {}
        known = others | own
        names = [name for name in inspect.signature(function).parameters if name in known]
        arguments = "\n".join(f"    {name}: {known[name]}" for name in names)
        function.__doc__ = f"{text}\n\nArgs:\n{arguments}" if names else text
        return function

    return describe


def _split(docstring: str, style: Parser) -> tuple[str, dict[str, str]]:
    """A docstring's text, and the descriptions of its parameters, each on one line."""
    text, descriptions = "", {}
    for section in parse(Docstring(docstring), style, warnings=False):
        if section.kind is DocstringSectionKind.text:
            text += section.value
        elif section.kind is DocstringSectionKind.parameters:
            descriptions = {one.name: " ".join(one.description.split()) for one in section.value}
    return text, descriptions
