"""Pictures of Prefect's pages for the operator's guide: `python docs/screenshots.py`, with a server that has runs.

Needs Chromium. The runs that are shown are the last ones of `build-dataset` and `evaluate-model` on the server that
PREFECT_API_URL names, so that the pictures are of what happened, not of what was thought out.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateName,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort

OUT = Path(__file__).parent / "pictures"
SIZE = "1400,1000"
OFFLINE = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE_MS = 20_000
"""Of the browser's own clock, which runs ahead while nothing is loaded."""


COLOURS = 128
"""Enough for these pages, in a third of the bytes."""


def main() -> None:
    """Take every picture."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("no Chromium found: install it (Debian: apt-get install chromium)")
    OUT.mkdir(exist_ok=True)
    with get_client(sync_client=True) as client:
        base = str(client.api_url).removesuffix("/").removesuffix("/api")
        pages = dict(_pages(client))
    for name, page in pages.items():
        _take(browser, f"{base}{page}", OUT / f"{name}.png")
        print(OUT / f"{name}.png")  # noqa: T201


def _pages(client: SyncPrefectClient) -> Iterator[tuple[str, str]]:
    """Name of each picture, and the page that it shows."""
    build, evaluation = _last(client, "build-dataset"), _last(client, "evaluate-model")
    yield "build", f"/runs/flow-run/{build.id}"
    yield "evaluation", f"/runs/flow-run/{evaluation.id}"
    yield "thumbnails", _artifact(client, build, "thumbnails")
    yield "dataset", _artifact(client, build, "dataset")
    yield "confusion", _artifact(client, evaluation, "confusion")
    yield "deployments", "/deployments"


def _last(client: SyncPrefectClient, name: str) -> FlowRun:
    found = client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[name])),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(name=FlowRunFilterStateName(any_=["Completed"]))),
        sort=FlowRunSort.END_TIME_DESC,
        limit=1,
    )
    if not found:
        sys.exit(f"the server at {client.api_url} has no finished run of {name}")
    return found[0]


def _artifact(client: SyncPrefectClient, run: FlowRun, key: str) -> str:
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
    return next(
        f"/artifacts/artifact/{one.id}" for one in client.read_artifacts(artifact_filter=of_run) if one.key == key
    )


def _take(browser: str, url: str, picture: Path) -> None:
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                browser, *OFFLINE, f"--user-data-dir={profile}", f"--window-size={SIZE}",
                f"--virtual-time-budget={PATIENCE_MS}", f"--screenshot={picture}", url,
            ],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
    with Image.open(picture) as taken:
        taken.quantize(COLOURS).save(picture, optimize=True)


if __name__ == "__main__":
    main()
