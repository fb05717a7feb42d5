"""`s82 serve-archive`"""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.simulate.server import serve_forever


@click.command("serve-archive")
@click.argument("tree", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--port", default=8082, show_default=True, type=click.IntRange(0, 65535))
def command(tree: Path, port: int) -> None:
    """Serve the archive tree TREE on 127.0.0.1 at the real servers' paths, until Ctrl-C."""

    def ready(url: str) -> None:
        click.echo(f"Serving {tree} at {url} until Ctrl-C; build from it with --archive-root {url}")

    serve_forever(tree, port, ready)
