"""`s82 demo-real`"""

from __future__ import annotations

import time
from pathlib import Path

import click

from s82.output import root_option, times


@click.command("demo-real")
@click.option(
    "--data",
    envvar="S82_REAL_DATA",
    default="../shared/sdss",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder with archive/ and catalog/ of real SDSS files; also S82_REAL_DATA.",
)
@root_option("work/demo-real")
@click.option("--workers", type=click.IntRange(1), help="Processes; default one per core.")
def command(data: Path, root: str, workers: int | None) -> None:
    """Serve real SDSS files over HTTP, build a dataset of catalogued stars and galaxies, report."""
    started = time.monotonic()
    from flows.demo import demo_real
    from pipeline.errors import ConfigError

    if not (data / "archive").is_dir():
        raise ConfigError(f"{data} has no archive/: set S82_REAL_DATA or --data to a folder of real SDSS files")
    result = demo_real(data, root=Path(root), workers=workers)
    total = time.monotonic() - started
    times(result.seconds | {"start and stop": total - sum(result.seconds.values())}, total)
    click.echo(f"\nLook at {result.report.resolve()}")
