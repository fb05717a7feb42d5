"""`s82 dataset export`, `s82 dataset lightcurves` and `s82 dataset standards`"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from pipeline.manifest import open_dataset
from s82.output import as_json, show


@click.command("export")
@click.argument("path", metavar="DATASET", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "layout",
    type=click.Choice(["hf-parquet"]),
    default="hf-parquet",
    show_default=True,
    help="hf-parquet: a folder for datasets.load_dataset, pandas, polars and pyarrow.",
)
@click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True)
@click.option("--variance/--no-variance", default=False, show_default=True, help="With the variance of each pixel.")
@click.option("--mask/--no-mask", default=True, show_default=True, help="With the mask of each pixel.")
@as_json
def export(path: Path, out: Path, layout: str, dtype: str, variance: bool, mask: bool, as_json: bool) -> None:
    """Write DATASET to the new folder OUT in a form that others read without this software."""
    from pipeline.export import ExportOptions, export_dataset

    dataset = open_dataset(path)
    precision: Literal["float32", "float16"] = "float16" if dtype == "float16" else "float32"
    shards = export_dataset(dataset, out, ExportOptions(dtype=precision, variance=variance, mask=mask))
    content = {"out": str(out), "format": layout, "objects": len(dataset.objects), "files": len(shards)}
    show(content, as_json=as_json)


@click.command("lightcurves")
@click.argument("path", metavar="DATASET", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), default="lightcurves.parquet", show_default=True
)
@click.option(
    "--background",
    type=click.Choice(["none", "annulus"]),
    default="none",
    show_default=True,
    help="annulus: take off the level 5 to 6.3 arcsec from the object.",
)
@as_json
def lightcurves(path: Path, out: Path, background: str, as_json: bool) -> None:
    """Measure the flux at the object's place in every image of DATASET, and write one row per image.

    Fluxes are total: the host galaxy is in them. In matched fluxes it is the same constant in any seeing; PSF fluxes
    follow the seeing where `flags` say EXTENDED.
    """
    from pipeline.lightcurvefile import write_light_curves

    n_rows = write_light_curves(open_dataset(path), out, subtract_background=background == "annulus")
    show({"out": str(out), "rows": n_rows, "background": background}, as_json=as_json)


@click.command("standards")
@click.argument("path", metavar="DATASET", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default="standards.csv", show_default=True)
@as_json
def standards(path: Path, out: Path, as_json: bool) -> None:
    """Write the standard stars that the cells of DATASET have made as one catalogue.

    As the survey's `[calibration] reference` it makes zero points independent of later nights: what a refresh has no
    new frames for stays as it is, and is not cut again.
    """
    from pipeline.starcatalog import write_catalogue

    n_stars = write_catalogue(open_dataset(path), out)
    show({"out": str(out), "stars": n_stars}, as_json=as_json)
