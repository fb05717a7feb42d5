"""`s82 demo`"""

from __future__ import annotations

import time
from pathlib import Path

import click

from s82.output import root_option, times


@click.command("demo")
@root_option("work/demo")
@click.option("--workers", type=click.IntRange(1), help="Processes; default one per core.")
def command(root: str, workers: int | None) -> None:
    """The whole way once: simulated archive → dataset over HTTP → train → fine-tune → evaluate → report."""
    started = time.monotonic()
    from flows.demo import demo
    from flows.train import headline

    loaded = time.monotonic()
    result = demo(root=Path(root), workers=workers)
    total = time.monotonic() - started
    spent = {"start Python": loaded - started, **result.seconds}
    spent["start and stop Prefect"] = total - sum(spent.values())
    if result.evaluation is not None:
        click.echo("\nscore              value   95 % interval   majority class")
        for row in headline(result.evaluation):
            interval = f"{row['low']:.2f} … {row['high']:.2f}"
            click.echo(f"{row['score']:<18} {row['value']:.3f}   {interval:<15} {row['majority class']:.3f}")
    times(spent, total)
    click.echo(f"\nLook at {result.report.resolve()}")
