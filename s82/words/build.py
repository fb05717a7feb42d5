"""`s82 build`"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.survey import load_survey
from s82.options import building
from s82.output import as_json, show


@click.command("build")
@building
@click.option("--refresh-index", is_flag=True, help="Ask the servers again which exposures there are.")
@click.option("--retry-missing", is_flag=True, help="Ask once more for files that their archives said not to have.")
@as_json
def command(survey: str, root: str, archive_root: str | None, as_json: bool, **options: Any) -> None:
    """Build every object's image sequence and publish them as one dataset version."""
    load_survey(survey).with_root(archive_root)  # say what is wrong with it before Prefect takes its ten seconds
    from flows.build import build_dataset

    published = build_dataset(survey=survey, root=Path(root), archive_root=archive_root, **options)
    show(published.model_dump(mode="json"), as_json=as_json)
