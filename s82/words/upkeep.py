"""`s82 upkeep`"""

from __future__ import annotations

from pathlib import Path

import click

from s82.output import as_json, root_option, show


@click.command("upkeep")
@root_option()
@click.option("--keep-versions", type=click.IntRange(1), default=5, show_default=True, help="Versions of each survey.")
@click.option("--run-days", type=click.FloatRange(0), default=60, show_default=True, help="Age of Prefect's runs.")
@click.option("--log-days", type=click.FloatRange(0), default=60, show_default=True, help="Age of structured logs.")
@click.option("--cache-gb", type=click.FloatRange(0), help="Bound of the downloads; default: none.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@as_json
def command(
    root: str,
    keep_versions: int,
    run_days: float,
    log_days: float,
    cache_gb: float | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Clear away old versions, runs of Prefect, logs, downloads over their bound, and reports of what is gone."""
    from flows.upkeep import upkeep

    done = upkeep(
        root=Path(root),
        keep_versions=keep_versions,
        run_days=run_days,
        log_days=log_days,
        cache_gb=cache_gb,
        dry_run=dry_run,
    )
    show(done.model_dump(mode="json"), as_json=as_json)
