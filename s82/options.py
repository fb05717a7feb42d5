"""Options that several words have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from s82.output import root_option

Command = Callable[..., Any]


def building(command: Command) -> Command:
    """What `build` and `refresh` are told alike."""
    for option in (
        click.option(
            "--large-transfer", is_flag=True, help="Fetch even more than 1 TB: helpdesk@sdss.org has been told."
        ),
        click.option("--workers", type=click.IntRange(1), help="Decoding processes; default one per core."),
        click.option("--archive-root", help="Address of a local archive, for surveys that do not fix one."),
        root_option(),
        click.option(
            "--survey", default="demo", show_default=True, help="Name of a shipped survey, or path of a .toml file."
        ),
    ):
        command = option(command)
    return command
