"""`s82 cache`"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from pipeline.cachecheck import cache_problems, describe_cache
from pipeline.naming import cache_dir
from s82.output import as_json, root_option, show

SHOWN = 10


@click.group("cache")
def command() -> None:
    """Look at the downloads of a root and at what is remembered of them."""


@command.command("show")
@root_option()
@as_json
def show_cache(root: str, as_json: bool) -> None:
    """Print what lies in the cache, what archives said not to have and when, and which files changed upstream."""
    contents = describe_cache(cache_dir(Path(root)))
    if as_json:
        show(asdict(contents), as_json=True)
        return
    for name, number in contents.files.items():
        click.echo(f"{name or 'tables and pages':<20} {number:>8,} files {contents.gigabytes[name]:>10.3f} GB")
    click.echo(f"{'broken off':<20} {contents.unfinished:>8,} files, to be gone on with")
    click.echo(f"{'missing':<20} {len(contents.missing):>8,} files; s82 build --retry-missing asks for them again")
    _some([f"{missing['asked_at']}  {missing['archive']}  {missing['path']}" for missing in contents.missing])
    click.echo(f"{'changed upstream':<20} {len(contents.changes):>8,} files")
    for change in contents.changes:
        change["fate"] = "taken" if change["accepted"] else "refused"
    _some([f"{c['noticed_at']}  {c['archive']}  {c['path']}  {c['fate']}" for c in contents.changes])


def _some(lines: list[str]) -> None:
    """The first of many."""
    for line in lines[:SHOWN]:
        click.echo(f"  {line}")
    if len(lines) > SHOWN:
        click.echo(f"  … and {len(lines) - SHOWN:,} more: --json has all")


@command.command("verify")
@root_option()
@as_json
def verify(root: str, as_json: bool) -> None:
    """Read every cached file whole; exit code 1 if one is not what was fetched, or not what its name says."""
    folder = cache_dir(Path(root))
    problems = cache_problems(folder)
    if as_json:
        show({"cache": str(folder), "problems": problems}, as_json=True)
    else:
        click.echo("\n".join(problems) or f"{folder}: every file is what was fetched, and what its name says")
    if problems:
        sys.exit(1)
