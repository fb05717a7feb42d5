"""`s82 status`"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from s82.output import as_json, root_option, show, table

if TYPE_CHECKING:
    from flows.operation.status import Deployed, Status


@click.command("status")
@root_option()
@as_json
def command(root: str, as_json: bool) -> None:
    """How things stand: server, workers, runs, datasets, scores; exit code 1 if something needs a person.

    PREFECT_API_URL names the server; without it, the one that `s82 server start` starts is asked.
    """
    from flows.operation.status import look

    status = look(Path(root))
    if as_json:
        show(status.model_dump(mode="json"), as_json=True)
    else:
        _print(status)
    if status.troubles:
        sys.exit(1)


def _print(status: Status) -> None:
    answers = f"Prefect {status.version}" if status.version else "does not answer"
    click.echo(f"server {status.server}: {answers}")
    _section(
        [{"pool": p.name, "workers online": ", ".join(p.workers) or "none", "late runs": p.late} for p in status.pools]
    )
    _section([_deployed(one) for one in status.deployments])
    _section(
        [{"limit": name, "in use": used, "of": slots} for name, (used, slots) in status.limits.items()],
    )
    _section([{"automation": name, "is": "on" if on else "off"} for name, on in status.automations.items()])
    _section(
        [
            {
                "survey": one.name,
                "versions": one.versions,
                "latest": one.latest,
                "published": _when(one.published_at),
                "objects": one.objects,
                "images": one.images,
            }
            for one in status.surveys
        ]
    )
    _section(
        [
            {
                "training run": one.run,
                "dataset": one.dataset,
                "began": _when(one.at),
                **{name.replace("_", " "): one.scores.get(name) for name in ("balanced_accuracy", "macro_f1")},
            }
            for one in status.models
        ]
    )
    click.echo()
    for trouble in status.troubles:
        click.echo(f"! {trouble.what}\n  → {trouble.do}")
    if not status.troubles:
        click.echo("nothing needs a person")


def _deployed(one: Deployed) -> dict[str, object]:
    last = one.last
    return {
        "deployment": one.name + (" (paused)" if one.paused else ""),
        "running": one.running,
        "last run": last.state if last else "",
        "began": _when(last.at) if last else "",
        "took": str(timedelta(seconds=round(last.seconds))) if last else "",
        "next": _when(one.next),
        "message": last.message[:60] if last else "",
    }


def _section(rows: list[dict[str, object]]) -> None:
    if rows:
        click.echo()
        table(rows)


def _when(moment: datetime | None) -> str:
    """In the time zone of whoever asks."""
    return f"{moment.astimezone(UTC).astimezone():%Y-%m-%d %H:%M}" if moment else ""
