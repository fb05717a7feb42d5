"""`s82 dataset`"""

from __future__ import annotations

import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import click

from pipeline.differences import Changes, compare
from pipeline.errors import DatasetError
from pipeline.manifest import Dataset, open_dataset
from pipeline.naming import DATASET_FILE, datasets_dir, survey_dir
from pipeline.pack import REMEDY, PixelType, Plane, verify_pack
from pipeline.runs import datasets_of_runs
from pipeline.verify import verify, verify_all
from pipeline.versions import Version, collect, read_record, versions
from s82.output import as_json, root_option, show, table
from s82.words import sharing

SHOWN = 20
SURVEY_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")


def _survey_name(context: click.Context, parameter: click.Parameter, value: str) -> str:  # noqa: ARG001  (click's)
    """Which could name a folder anywhere otherwise."""
    if not SURVEY_NAME.fullmatch(value):
        raise click.BadParameter(f"{value!r} is not the name of a survey: name it as in `s82 build --survey`")
    return value


survey_argument = click.argument("survey", callback=_survey_name)
path_argument = click.argument("path", type=click.Path(path_type=Path))


@click.group("dataset")
def command() -> None:
    """Look at published datasets, compare them, check them, and clear old ones away."""


@command.command("show")
@path_argument
@as_json
def show_dataset(path: Path, as_json: bool) -> None:
    """Print id, counts and hashes of the dataset at PATH (a version, or the folder of all versions: the latest)."""
    dataset = open_dataset(path)
    info, record = dataset.info, read_record(dataset.path)
    history = {"parent": record.parent, "published_at": str(record.published_at)} if record else {}
    facts = info.model_dump(
        include={"dataset_id", "schema_version", "counts", "content_hash", "sources_sha256", "size"}
    )
    show(facts | history | {"seconds": record.seconds if record else {}}, as_json=as_json)


@command.command("list")
@survey_argument
@root_option()
@as_json
def list_versions(survey: str, root: str, as_json: bool) -> None:
    """List the versions of SURVEY's dataset, the newest last."""
    rows = [_row(version) for version in versions(survey_dir(Path(root), survey))]
    if as_json:
        show({"survey": survey, "versions": rows}, as_json=True)
        return
    table(rows)


def _row(version: Version) -> dict[str, Any]:
    record, counts = version.record, version.info.counts if version.info else {}
    return {
        "version": version.name,
        "number": record.number if record else None,
        "published": f"{record.published_at:%Y-%m-%d %H:%M}" if record else None,
        "objects": counts.get("objects"),
        "images": counts.get("images"),
        "is": ", ".join(word for word in ("latest" if version.latest else "", version.problem) if word),
    }


@command.command("diff")
@click.argument("old")
@click.argument("new")
@root_option()
@as_json
def diff(old: str, new: str, root: str, as_json: bool) -> None:
    """Print what is different in the dataset NEW from the dataset OLD: objects, their images, and why.

    Each is a path, or the name of a version below ROOT, as `s82 dataset list` has it.
    """
    before, after = (open_dataset(_found(Path(root), named)) for named in (old, new))
    changes = compare(before, after)
    if as_json:
        show(changes.model_dump(mode="json"), as_json=True)
    else:
        _print_changes(changes, before, after)


def _found(root: Path, named: str) -> Path:
    """The path of a dataset that is named by its path, its version or its id."""
    path = Path(named)
    if path.exists() or path.name != named:
        return path
    found = [
        version
        for version in sorted(datasets_dir(root).glob("*/*"))
        if named in (version.name, f"{version.parent.name}-{version.name}") and (version / DATASET_FILE).exists()
    ]
    if len(found) != 1:
        known = f"{len(found)} versions below {root} are called so" if found else f"nor a version below {root}"
        raise DatasetError(f"{named} is not a path, {known}: give its path, or --root")
    return found[0]


def _print_changes(changes: Changes, old: Dataset, new: Dataset) -> None:
    n_images = {
        "added": {row.object_id: row.n_images for row in new.objects},
        "removed": {row.object_id: row.n_images for row in old.objects},
    }
    click.echo(f"{changes.old} → {changes.new}")
    show(changes.counts, as_json=False)
    if changes.why:
        click.echo("\nwhy")
        show(changes.why, as_json=False)
    if changes.objects:
        click.echo("")
        table(
            [
                {
                    "object": one.object_id,
                    "": one.kind,
                    "images +": n_images["added"][one.object_id] if one.kind == "added" else len(one.images_added),
                    "−": n_images["removed"][one.object_id] if one.kind == "removed" else len(one.images_removed),
                    "≠": len(one.images_changed),
                    "why": ", ".join(one.why),
                }
                for one in changes.objects[:SHOWN]
            ]
        )
    if len(changes.objects) > SHOWN:
        click.echo(f"… and {len(changes.objects) - SHOWN:,} more: --json has all, with their images")


@command.command("gc")
@survey_argument
@root_option()
@click.option("--keep", type=click.IntRange(1), required=True, help="How many of the newest versions stay.")
@click.option("--damaged", is_flag=True, help="Remove damaged and half deleted versions, too.")
@click.option("--unfinished", is_flag=True, help="Remove what broken-off builds have left, too.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@as_json
def gc(survey: str, root: str, keep: int, as_json: bool, damaged: bool, unfinished: bool, dry_run: bool) -> None:
    """Remove SURVEY's versions before the newest KEEP. The latest stays, and what a run below ROOT was trained on."""
    used = {dataset.removeprefix(f"{survey}-") for dataset in datasets_of_runs(Path(root))}
    done = collect(
        survey_dir(Path(root), survey),
        keep,
        protected=used,
        damaged=damaged,
        unfinished=0 if unfinished else None,
        dry_run=dry_run,
    )
    show({"dry_run": dry_run, **asdict(done)}, as_json=as_json)


@command.command("verify")
@path_argument
@click.option("--all", "every", is_flag=True, help="PATH is the folder of a survey's versions: read each of them.")
@as_json
def verify_path(path: Path, every: bool, as_json: bool) -> None:
    """Read every file of the dataset at PATH, or the one file PATH, whole; exit code 1 if anything is wrong.

    Of the folder of a survey's versions it is the latest that is read.
    """
    done = verify_all(path) if every else [verify(path)]
    problems = [asdict(problem) for one in done for problem in one.problems]
    if as_json:
        show({"path": str(path), "read": [one.name for one in done], "problems": problems}, as_json=True)
    else:
        for one in done:
            click.echo(f"{one.name}: {'not ' if one.problems else ''}what was written")
            if one.problems:
                table([{"file": each.file, "problem": each.what, "what to do": each.remedy} for each in one.problems])
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
    what_to_do = {"what to do": REMEDY} if problems else {}
    show({"pack": str(pack), "problems": problems, **what_to_do}, as_json=as_json)
    if problems:
        sys.exit(1)


command.add_command(sharing.export)
command.add_command(sharing.lightcurves)
command.add_command(sharing.standards)
