"""`s82 plan`"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from pipeline.build import Build, open_archive, prepare
from pipeline.costs import PlanSummary, large_transfer_advice
from pipeline.outputs import check_output
from pipeline.planfile import objects_left_out, write_plan
from pipeline.survey import load_survey
from s82.output import as_json, root_option, show


@click.command("plan")
@click.option("--survey", default="demo", show_default=True, help="Name of a shipped survey, or path of a .toml file.")
@root_option()
@click.option("--archive-root", help="Address of a local archive, for surveys that do not fix one.")
@click.option("--refresh-index", is_flag=True, help="Ask the servers again which exposures there are.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of the plan; default below root.")
@as_json
def command(
    survey: str,
    root: str,
    archive_root: str | None,
    refresh_index: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Say and write what a build would fetch and need; nothing is fetched but the object list and the index."""
    if out:
        check_output(out)
    resolved = load_survey(survey).with_root(archive_root)
    with open_archive(resolved, Path(root)) as archive:
        build = prepare(resolved, Path(root), archive, refresh_index=refresh_index)
        folder = write_plan(build, out, held=archive.held())
    advice = large_transfer_advice(build.summary)
    if as_json:
        show(
            {
                "build_id": build.build_id,
                "plan": str(folder),
                "summary": asdict(build.summary),
                "exposures_left_out": build.plan.left_out,
                "objects_left_out": objects_left_out(build),
                "advice": advice,
            },
            as_json=True,
        )
        return
    click.echo(f"{build.build_id}: {resolved.title}\n")
    _archives(build.summary)
    click.echo()
    show(_totals(build) | {"written": str(folder)}, as_json=False)
    if advice:
        click.echo(f"\n{advice[0].upper()}{advice[1:]}.")


def _archives(summary: PlanSummary) -> None:
    """One line per archive."""
    click.echo(
        f"{'archive':<12} objects exposures   frames sidecars thumbnails       GB in cache to fetch    hours  at MB/s"
    )
    for name, costs in summary.archives.items():
        measured = f"measured on {costs.measured_files}" if costs.measured_files else "assumed"
        click.echo(
            f"{name:<12} {costs.objects:>7} {costs.exposures:>9} {costs.frames:>8} {costs.sidecars:>8} "
            f"{costs.thumbnails:>10} {costs.gigabytes:>8.2f} {costs.held_gb:>8.2f} {costs.fetch_gb:>8.2f} "
            f"{costs.transfer_hours:>8.2f} {costs.mb_per_s:>8.1f} {measured}"
        )


def _totals(build: Build) -> dict[str, str]:
    summary = build.summary
    return {
        "cells": f"{summary.cells}, of {summary.objects} objects; frames are read {summary.frame_reads} times",
        "done already": f"{summary.cells_done} cells",
        "fetch": f"{summary.fetch_gb:.2f} GB, {summary.transfer_hours:.2f} h",
        "cut": f"{summary.core_hours:.2f} core hours",
        "free disk": f"{summary.disk_gb:.2f} GB: cache up to {summary.cache_gb:.2f}, dataset {summary.dataset_gb:.2f}",
        "exposures cut": _counted(build.plan.left_out),
        "objects left out": _counted(objects_left_out(build)),
    }


def _counted(numbers: dict[str, int]) -> str:
    return ", ".join(f"{number:,} by {reason}" for reason, number in numbers.items()) or "none"
