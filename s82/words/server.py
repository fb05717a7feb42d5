"""`s82 server`"""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from s82.output import as_json, root_option, show, stderr_line

if TYPE_CHECKING:
    from flows.operation.serving import Workers


@click.group("server")
def command() -> None:
    """Run a Prefect server with workers on this machine, or set up one that runs elsewhere."""


@command.command("start")
@root_option()
@click.option("--port", default=4200, show_default=True, type=click.IntRange(1, 65535), help="Of the UI and the API.")
@click.option(
    "--reports-port", default=4280, show_default=True, type=click.IntRange(0, 65535), help="Of the HTML reports."
)
@click.option(
    "--workers",
    type=click.Choice(["both", "cpu", "gpu", "none"]),
    default="both",
    show_default=True,
    help="Work pools that this machine works for.",
)
def start(root: str, port: int, reports_port: int, workers: Workers) -> None:
    """Start server, workers and the pages of reports on 127.0.0.1, until Ctrl-C.

    A Prefect server that answers at the port already is used. Set PREFECT_API_DATABASE_CONNECTION_URL for PostgreSQL
    in place of SQLite, S82_ALERT_URL or S82_ALERT_URL_FILE for a webhook that is told of failed and late runs.
    """
    from flows.operation.serving import Site, serve

    stop, at_once = _signals()
    serve(Site(Path(root), port, reports_port, workers), click.echo, stop, at_once=at_once)


@command.command("setup")
@click.option(
    "--archive-slots", type=click.IntRange(1), help="Connections to the archive that all workers share; at first 8."
)
@click.option(
    "--refresh-within",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    metavar="HOURS",
    help="Tell when no refresh has completed for so long; 0: never.",
)
@as_json
def setup(archive_slots: int | None, refresh_within: float, as_json: bool) -> None:
    """Make work pools, the archive's limit and automations on the server that PREFECT_API_URL names.

    Doing it again brings them up to date. S82_ALERT_URL, or the file that S82_ALERT_URL_FILE names, is the webhook
    that is told of failed, crashed and late runs.
    """
    from flows.operation.setup import set_up

    done = set_up(archive_slots=archive_slots, refresh_within_h=refresh_within)
    if as_json:
        show(done.model_dump(mode="json"), as_json=True)
        return
    show({"server": done.server, **done.done}, as_json=False)
    for note in done.notes:
        stderr_line(f"note: {note}")


@command.command("watch")
@click.option(
    "--every", type=click.FloatRange(1), default=15.0, show_default=True, metavar="SECONDS", help="Between two looks."
)
def watch_runs(every: float) -> None:
    """Put runs whose process was killed back on the schedule of the server that PREFECT_API_URL names, until Ctrl-C.

    `s82 server start` does that itself; this is for a server that was started otherwise.
    """
    from flows.operation.recovery import watch
    from flows.operation.setup import server_url

    stop, _ = _signals()
    click.echo(f"watching the runs of {server_url()}")
    watch(click.echo, stop, every_s=every)


def _signals() -> tuple[threading.Event, threading.Event]:
    """Two events: the first Ctrl-C, SIGTERM or closed terminal sets one, the second the other as well."""
    first, second = threading.Event(), threading.Event()

    def asked(_number: int, _frame: FrameType | None) -> None:
        if first.is_set():
            second.set()
        first.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # else `nohup` was asked for
            signal.signal(number, asked)
    return first, second
