"""`s82 refresh`"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.survey import load_survey
from s82.options import building
from s82.output import as_json, show


@click.command("refresh")
@building
@click.option("--recheck-files", is_flag=True, help="Ask the archives for every file whether it has changed.")
@click.option(
    "--max-removed",
    type=click.FloatRange(0, 1),
    default=0.05,
    show_default=True,
    help="Part of the objects, or of the images, that may disappear; more is taken for an accident.",
)
@as_json
def command(survey: str, root: str, archive_root: str | None, as_json: bool, **options: Any) -> None:
    """Build what is new or changed since the latest version and publish the next; nothing, if nothing is."""
    load_survey(survey).with_root(archive_root)  # say what is wrong with it before Prefect takes its ten seconds
    from flows.refresh import refresh_dataset

    published = refresh_dataset(survey=survey, root=Path(root), archive_root=archive_root, **options)
    show(published.model_dump(mode="json"), as_json=as_json)
