"""`s82 dataset`"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

import click

from pipeline.manifest import open_dataset, verify_dataset
from pipeline.pack import PixelType, Plane, verify_pack
from s82.output import as_json, show


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


@command.command("pack")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of the pack, for other software.")
@click.option("--dtype", type=click.Choice(get_args(PixelType)), default="float16", show_default=True)
@click.option("--plane", "planes", type=click.Choice(get_args(Plane)), multiple=True, help="Pack this too; repeatable.")
@click.option("--workers", type=click.IntRange(1), help="Threads; default one per core.")
@as_json
def pack(
    dataset: Path,
    out: Path | None,
    dtype: PixelType,
    planes: tuple[Plane, ...],
    workers: int | None,
    as_json: bool,
) -> None:
    """Put all images of DATASET into one file that training maps into memory; killed, the same command continues.

    Training finds the pack at its place beside the dataset, where it is written unless --out says otherwise.
    """
    from pipeline.packing import pack_dataset

    made = pack_dataset(dataset, out, dtype=dtype, planes=planes, workers=workers)
    show(made.info.model_dump(exclude={"blocks"}) | {"pack": str(made.path), "bytes": made.n_bytes}, as_json=as_json)


@command.command("verify-pack")
@click.argument("pack", type=click.Path(path_type=Path))
@as_json
def verify_packed(pack: Path, as_json: bool) -> None:
    """Check every byte of the pack at PACK; exit code 1 if anything is wrong."""
    problems = verify_pack(pack)
    show({"pack": str(pack), "problems": problems}, as_json=as_json)
    if problems:
        sys.exit(1)
