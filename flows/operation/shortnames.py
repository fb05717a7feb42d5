"""Plugin of Prefect's command: `prefect deployment run build-dataset` means build-dataset/build-dataset.

Our deployments bear the name of their flow. Prefect loads this by the entry point `prefect.plugins`, where the
`prefect.toml` of the folder enables plugins: from the project's folder alone. Nothing of Prefect's inside is touched:
the name is written out on the command line before the command reads it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from prefect.plugins import HookContext, register_hook

PREFECT_PLUGIN_API_REQUIRES: Final = ">=0.1,<1"
"""Read by Prefect: with another interface it does not call us, and says so."""
WORDS: Final = frozenset({"run", "inspect"})
FLAGS: Final = frozenset({"--watch", "--help", "-h"})
"""Options after which a name may follow; after any other comes its value."""
_SHORT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_. -]*")
TESTED: Final = "3.8"


@register_hook
def setup_environment(*, ctx: HookContext) -> None:
    """Write out a short name, if this process is Prefect's command and was given one."""
    if not _is_the_command(sys.argv, sys.orig_argv):
        return
    written_out = expanded(sys.argv)
    if written_out == sys.argv:
        return
    if not ctx.prefect_version.startswith(f"{TESTED}."):
        ctx.logger_factory("prefect.s82").warning(
            "short names of deployments were tested with Prefect %s, this is %s: if the name is refused, write "
            "NAME/NAME, such as build-dataset/build-dataset", TESTED, ctx.prefect_version,
        )  # fmt: skip
    sys.argv[:] = written_out


def expanded(arguments: Sequence[str]) -> list[str]:
    """The command line with the name of the deployment written out, if it has one without a slash."""
    found = list(arguments)
    place = _place_of_name(found)
    if place is not None and _SHORT.fullmatch(found[place]):
        found[place] = f"{found[place]}/{found[place]}"
    return found


def _place_of_name(arguments: list[str]) -> int | None:
    """Where the name is; None if this is another command or has none."""
    for start in range(1, len(arguments) - 2):
        if arguments[start] == "deployment" and arguments[start + 1] in WORDS:
            break
    else:
        return None
    place = start + 2
    while place < len(arguments):
        word = arguments[place]
        if word == "--":
            return place + 1 if place + 1 < len(arguments) else None
        if not word.startswith("-"):
            return place
        place += 1 if word in FLAGS or "=" in word else 2
    return None


def _is_the_command(arguments: Sequence[str], original: Sequence[str]) -> bool:
    """Whether this process is `prefect …` or `python -m prefect …`."""
    if not arguments:
        return False
    program = re.split(r"[/\\]", arguments[0])[-1].removesuffix(".exe")
    return program == "prefect" or any(pair == ("-m", "prefect") for pair in pairwise(original))
