"""What a run shows in Prefect's pages: tables, pictures, links."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, cast
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from prefect.utilities.urls import url_for

from pipeline.naming import reports_dir

REPORTS_URL: Final = "S82_REPORTS_URL"
"""Environment variable: where a web server shows the folder of reports. Without it, a link is the path of the file."""
LARGEST_PICTURE_BYTES: Final = 700_000
SECONDS_BETWEEN_UPDATES: Final = 10.0


def show_counts(key: str, counts: Mapping[str, Any], description: str) -> None:
    """A table of names and numbers."""
    rows = [{"what": name.replace("_", " "), "count": value} for name, value in counts.items()]
    create_table_artifact(key=key, table=rows, description=description)


def show_rows(key: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
    """A table with columns of its own."""
    create_table_artifact(key=key, table=[dict(row) for row in rows], description=description)


def show_pictures(key: str, pictures: Mapping[str, bytes], description: str) -> None:
    """PNG pictures below their titles, inside the artifact, so that they need no server of their own."""
    parts = []
    for title, png in pictures.items():
        if len(png) <= LARGEST_PICTURE_BYTES:
            parts.append(f"### {title}\n\n![{title}](data:image/png;base64,{base64.b64encode(png).decode()})\n")
    create_markdown_artifact(key=key, markdown="\n".join(parts), description=description)


def link_page(key: str, page: Path, root: Path, text: str) -> None:
    """Lead to an HTML page in the reports of `root`."""
    base = os.environ.get(REPORTS_URL, "").rstrip("/")
    link = f"{base}/{page.relative_to(reports_dir(root)).as_posix()}" if base else page.resolve().as_uri()
    create_link_artifact(key=key, link=link, link_text=text, description=f"{text}: {page}")


def link_run(key: str, run_id: UUID | str | None, text: str) -> None:
    """Lead to another flow run; nothing where none is known."""
    if run_id and (link := url_for("flow-run", obj_id=run_id)):
        create_link_artifact(key=key, link=link, link_text=text, description=text)


DATASET_TAG: Final = "dataset:"


def tag_dataset(dataset_id: str) -> str:
    """The tag of all runs that made, or were made from, a dataset version: Prefect's list of runs can be cut to it."""
    return f"{DATASET_TAG}{dataset_id}"


def tag_this_run(tag: str) -> None:
    """Add a tag that was not known when the run began."""
    if run_id := flow_run.id:
        with get_client(sync_client=True) as client:
            tags = client.read_flow_run(UUID(run_id)).tags
            client.update_flow_run(UUID(run_id), tags=sorted({*tags, tag}))


def can_draw() -> bool:
    """Whether there is matplotlib, which a machine that only cuts or trains needs not have; the log says if not."""
    if find_spec("matplotlib") is not None:
        return True
    get_run_logger().info("no pictures without matplotlib: pip install 'stripe82-convention[report]'")
    return False


class ProgressBar:
    """Progress of the present run, updated now and then."""

    def __init__(self, key: str, description: str) -> None:
        self._description = description
        self._id = cast(UUID, create_progress_artifact(0.0, key=key, description=description))
        self._last = time.monotonic()

    def show(self, part: float) -> None:
        """Show how large a part is done: 1 for all of it."""
        now = time.monotonic()
        if part >= 1 or now - self._last >= SECONDS_BETWEEN_UPDATES:
            self._last = now
            with suppress(httpx.HTTPError):  # the work goes on without the server
                update_progress_artifact(self._id, 100 * part, description=self._description)
