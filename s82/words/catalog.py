"""`s82 catalog`"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from pipeline.catalog import Catalog, read_catalog
from pipeline.classmap import read_class_map
from pipeline.errors import ConfigError
from pipeline.listfile import list_writer, write_list
from pipeline.outputs import check_output
from pipeline.selection import NOT_SELECTED, UNKNOWN
from pipeline.survey import CatalogConfig, CatalogSelection, load_survey
from pipeline.validation import explain
from s82.output import as_json, show

MAX_IDS_BYTES = 16 * 2**20


@click.group("catalog")
def command() -> None:
    """Count and select the objects of a list.

    PATH is the SDSS-II SN Survey's master table (sdsssn_master.dat2, master_data.txt), its SNANA HEAD table, or a list
    of your own: CSV, ECSV, Parquet or FITS with cid, ra_deg, dec_deg and optional label.
    """


def _reading(function: Callable[..., None]) -> Callable[..., None]:
    """The options that say how a list is read."""
    for option in (
        click.option("--include", multiple=True, metavar="LABEL", help="Use this set-aside label; may be repeated."),
        click.option(
            "--format",
            "list_format",
            type=click.Choice(["auto", "sako-master", "snana-head", "list"]),
            default="auto",
            show_default=True,
            help="What the columns mean; auto looks at the file.",
        ),
        click.option("--class-map", default="sako2018", show_default=True, help="Name, or path of a .toml file."),
        click.argument("path", type=click.Path(path_type=Path)),
    ):
        function = option(function)
    return function


@command.command("summary")
@_reading
@as_json
def summary(path: Path, class_map: str, list_format: str, include: tuple[str, ...], as_json: bool) -> None:
    """Count the objects of PATH by the columns of the ConvEntion paper's Table 1; PT: photometrically typed.

    Rows that cannot be used are counted, never refused.
    """
    config = _config(path, class_map, list_format, include, max_bad_fraction=1)
    catalog = read_catalog(path, config)
    set_aside = Counter(target.label for target in catalog.set_aside if target.class_name)
    skips = Counter(skip.reason for skip in catalog.bad_rows())
    rows = len(catalog.targets) + len(catalog.skips)
    if as_json:
        content = {"table1": catalog.table_1(), "set_aside": set_aside, "rows": rows, "used": len(catalog.targets)}
        show({**content, "skips": skips}, as_json=True)
        return
    unused = {target.label for target in catalog.set_aside}
    reasons = {label: why.reason for label, why in read_class_map(class_map).set_aside.items() if label in unused}
    if unlabelled := sum(not (target.label or target.class_name) for target in catalog.targets):
        reasons[UNKNOWN] = f"{unlabelled:,} of them without a label"
    lines = [*catalog.table_1().items(), *set_aside.items()]
    for name, number in lines:
        click.echo(f"{name:<16} {number:>9,}  {reasons.get(name, '')}".rstrip())
    click.echo(f"{'rows':<16} {rows:>9,}  {len(catalog.targets):,} of them used")
    for reason, number in skips.items():
        example = next(skip for skip in catalog.skips if skip.reason == reason)
        click.echo(f"{reason:<16} {number:>9,}  as {example.object_id or 'a row'}: {example.detail}")


@command.command("select")
@_reading
@click.option("--out", required=True, type=click.Path(path_type=Path), help="List to write: .csv, .ecsv or .parquet.")
@click.option("--class", "classes", multiple=True, metavar="NAME", help="AGN, SNIa, Variable, SNOther or Unknown.")
@click.option("--confirmation", "confirmations", multiple=True, metavar="NAME", help="spectroscopic or photometric.")
@click.option("--ra", type=float, nargs=2, metavar="FROM TO", help="Degrees, eastwards: 350 10 goes through 0.")
@click.option("--dec", type=float, nargs=2, metavar="FROM TO", help="Degrees.")
@click.option("--mag", type=float, nargs=2, metavar="FROM TO", help="Magnitude in r at peak.")
@click.option("--season", "seasons", multiple=True, metavar="NAME", help="A season of --survey; may be repeated.")
@click.option("--survey", help="Survey description whose seasons --season names.")
@click.option("--ids", type=click.Path(path_type=Path), help="Text file of object ids, one per line: these alone.")
@click.option("--max-per-class", type=int, metavar="N", help="At most N of each class and confirmation.")
@click.option("--seed", type=int, default=0, show_default=True, help="Which N are drawn.")
@as_json
def select(
    path: Path,
    class_map: str,
    list_format: str,
    include: tuple[str, ...],
    out: Path,
    survey: str | None,
    ids: Path | None,
    as_json: bool,
    **cuts: Any,
) -> None:
    """Write the objects of PATH that pass every cut to a list that `s82 build` and `s82 catalog` read."""
    list_writer(out)  # say what is wrong with the name before reading anything
    check_output(out)
    seasons = load_survey(survey).selection.seasons if survey else ()
    if cuts["seasons"] and not survey:
        raise ConfigError("--season needs --survey NAME: the survey says which objects are of which season")
    config = _config(path, class_map, list_format, include, select=_selection(ids, cuts))
    catalog = read_catalog(path, config, seasons)
    if not catalog.targets:
        raise ConfigError(f"{path}: all {len(catalog.skips)} objects are set aside or bad; see `s82 catalog summary`")
    write_list(out, catalog.targets)
    _show_selected(catalog, out, as_json=as_json)


def _config(path: Path, class_map: str, list_format: str, include: tuple[str, ...], **more: Any) -> CatalogConfig:
    content = {"source": str(path), "format": list_format, "class_map": class_map, "include": include, **more}
    return CatalogConfig.model_validate(content)


def _selection(ids: Path | None, cuts: dict[str, Any]) -> CatalogSelection:
    cuts = {{"ra": "ra_deg", "dec": "dec_deg", "mag": "peak_r_mag"}.get(key, key): cuts[key] for key in cuts}
    try:
        return CatalogSelection(**cuts, object_ids=_read_ids(ids) if ids else ())
    except ValidationError as error:
        raise ConfigError(explain(error, CatalogSelection)) from error


def _read_ids(path: Path) -> tuple[str, ...]:
    """Ids of a text file, one per line; blank lines and those that start with # do not count."""
    try:
        if path.stat().st_size > MAX_IDS_BYTES:
            raise ConfigError(f"{path} is over {MAX_IDS_BYTES >> 20} MB: this is not a list of ids")
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except OSError as error:
        raise ConfigError(f"cannot read ids {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"ids {path} is not UTF-8 text (byte {error.start})") from error
    ids = tuple(line for line in lines if line and not line.startswith("#"))
    if not ids:
        raise ConfigError(f"ids {path} names no object")
    return ids


def _show_selected(catalog: Catalog, out: Path, *, as_json: bool) -> None:
    table_1 = Counter(target.table_1() for target in catalog.targets)
    cuts = Counter(skip.detail.partition(":")[0] for skip in catalog.skips if skip.reason == NOT_SELECTED)
    skips = Counter(skip.reason for skip in catalog.skips if skip.reason != NOT_SELECTED)
    content = {"out": str(out), "objects": len(catalog.targets), "table1": table_1, "cut_by": cuts, "skips": skips}
    show(content, as_json=as_json)
