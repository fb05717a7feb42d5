"""The whole preflight: machine first, then all servers at once, under half a minute whatever they do."""

from __future__ import annotations

from pathlib import Path

from pipeline.doctor.check import Check
from pipeline.doctor.machine import check_machine
from pipeline.doctor.releases import REAL_RELEASES, Releases
from pipeline.doctor.servers import check_servers
from pipeline.survey import SurveyConfig


def examine(
    survey: SurveyConfig, root: Path, *, offline: bool = False, releases: Releases = REAL_RELEASES
) -> tuple[Check, ...]:
    """Look at everything that a build of `survey` below `root` needs; never raises for what it finds.

    Parameters
    ----------
    offline
        Ask no server.
    releases
        Where the real survey's databases are; asked only for surveys whose frames come from sdss.org.
    """
    checks = check_machine(survey, root)
    if offline:
        return (*checks, Check("servers", "warn", "not asked", "leave out --offline to ask them"))
    return (*checks, *check_servers(survey, releases))
