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
        click.option(
            "--cell-hours",
            type=click.FloatRange(0, min_open=True),
            default=48,
            show_default=True,
            help="Longest that a cell may be fetched, and longest that it may be cut, outages of servers included.",
        ),
        click.option("--incomplete", is_flag=True, help="Publish even if cells failed, without their objects."),
        click.option(
            "--max-failed",
            type=click.FloatRange(0, 1),
            default=0.25,
            show_default=True,
            help="Part of the cells that may fail before the others are given up.",
        ),
        click.option(
            "--wait-minutes", type=click.FloatRange(0), default=0, help="Wait for another build of the survey."
        ),
        click.option("--dask", metavar="ADDRESS", help="Scheduler of a Dask cluster that builds the cells."),
        click.option("--workers", type=click.IntRange(1), help="Decoding processes; default one per core."),
        click.option("--archive-root", help="Address of a local archive, for surveys that do not fix one."),
        root_option(),
        click.option(
            "--survey", default="demo", show_default=True, help="Name of a shipped survey, or path of a .toml file."
        ),
    ):
        command = option(command)
    return command
