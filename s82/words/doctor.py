"""`s82 doctor`"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import click

from pipeline.doctor import Check, examine
from pipeline.survey import load_survey
from s82.output import as_json, root_option, show


@click.command("doctor")
@click.option(
    "--survey", default="sdss-sn", show_default=True, help="Name of a shipped survey, or path of a .toml file."
)
@root_option()
@click.option("--archive-root", help="Address of a local archive, for surveys that do not fix one.")
@click.option("--offline", is_flag=True, help="Look at this machine alone.")
@as_json
def command(survey: str, root: str, archive_root: str | None, offline: bool, as_json: bool) -> None:
    """Look at this machine and ask the survey's servers, within half a minute; exit code 1 if anything fails."""
    checks = examine(load_survey(survey).with_root(archive_root), Path(root), offline=offline)
    if as_json:
        show({"checks": [asdict(check) for check in checks]}, as_json=True)
    else:
        _lines(checks)
    if any(check.status == "fail" for check in checks):
        sys.exit(1)


def _lines(checks: Iterable[Check]) -> None:
    for check in checks:
        advice = f" → {check.advice}" if check.advice else ""
        click.echo(f"{check.status:<5} {check.name:<24} {check.found}{advice}")
