"""`s82 dataset`"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pipeline.manifest import open_dataset, verify_dataset
from s82.output import as_json, show
from s82.words import sharing


@click.group("dataset")
def command() -> None:
    """Look at published datasets."""


@command.command("show")
@click.argument("path", type=click.Path(path_type=Path))
@as_json
def show_dataset(path: Path, as_json: bool) -> None:
    """Print id, counts and hashes of the dataset at PATH."""
    info = open_dataset(path).info
    show(info.model_dump(include={"dataset_id", "counts", "content_hash", "size", "seconds"}), as_json=as_json)


@command.command("verify")
@click.argument("path", type=click.Path(path_type=Path))
@as_json
def verify(path: Path, as_json: bool) -> None:
    """Check every file of the dataset at PATH against its manifest; exit code 1 if anything is wrong."""
    problems = verify_dataset(path)
    show({"dataset": str(path), "problems": problems}, as_json=as_json)
    if problems:
        sys.exit(1)


command.add_command(sharing.export)
command.add_command(sharing.lightcurves)
