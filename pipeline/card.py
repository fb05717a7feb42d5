"""The cards: what a person finds beside a dataset, and beside an export of it."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath
from string import Template
from typing import Any, Final

from pipeline.bands import BAND_ID, BANDS
from pipeline.columns import MEANINGS
from pipeline.manifest import NO_MASK, NOTES, VANISHED, Dataset, DatasetInfo, Skip
from pipeline.naming import MANIFEST_FILE, SKIPS_FILE
from pipeline.origin import origin_of
from pipeline.sequences import MaskBit

Rows = Sequence[Mapping[str, Any]]

_MJD_0: Final = date(1858, 11, 17)
_SIZES: Final = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K"}
"""Words of Hugging Face for how many rows there are."""
"""Reason of a skip for which nothing is left out, as `pipeline.sources` has it, which needs all that fetching needs."""


def dataset_card(info: DatasetInfo, rows: Rows, skips: Sequence[Skip]) -> str:
    """Fill the card's template (`data_manifest/dataset_card.md`) with the figures of one dataset.

    Parameters
    ----------
    rows
        Of the manifest.
    """
    first = min((row["mjd_first"] for row in rows), default=0.0)
    last = max((row["mjd_last"] for row in rows), default=0.0)
    classes = Counter((_class(row), str(row["confirmation"])) for row in rows)
    return _filled(
        "dataset_card.md",
        **_said(info, rows, [skip.reason for skip in skips]),
        classes=_table(("class", "confirmation", "objects"), ((*key, n) for key, n in sorted(classes.items()))),
        bands=_table(("band", "images", "objects with any"), (_band(band, rows) for band in BANDS)),
        first=f"{first:.1f}",
        last=f"{last:.1f}",
        first_day=_day(first),
        last_day=_day(last),
        software=_table(("package", "version"), info.software.items()),
    )


def export_card(dataset: Dataset, shards: Sequence[str]) -> str:
    """The card of an export (`data_manifest/export_card.md`), with the front matter that Hugging Face reads.

    Parameters
    ----------
    shards
        Paths of the Parquet files below the export's folder: `data/<split>-….parquet`.
    """
    info, origin = dataset.info, origin_of(dataset.info)
    splits = list(dict.fromkeys(shard.removeprefix("data/").partition("-")[0] for shard in shards))
    n_rows = len(dataset.objects)
    return _filled(
        "export_card.md",
        **_said(info, dataset.table(MANIFEST_FILE).to_pylist(), dataset.table(SKIPS_FILE)["reason"].to_pylist()),
        pretty_name=json.dumps(str(info.survey.get("title", info.dataset_id)), ensure_ascii=False),
        source_tag="simulated" if origin.simulated else "sdss",
        licence_name="bsd-3-clause" if origin.simulated else "sdss-public-data",
        size_category=next((word for most, word in _SIZES.items() if n_rows < most), "100K<n<1M"),
        data_files="\n".join(f"  - split: {split}\n    path: data/{split}-*.parquet" for split in splits),
        size=info.size,
        example=splits[0] if len(splits) < 3 else "+".join(splits[:2]),
    )


def _said(info: DatasetInfo, rows: Rows, reasons: Sequence[str]) -> dict[str, object]:
    """What both cards say, by the names in their templates."""
    texts, origin = _texts()[origin_of(info).value], origin_of(info)
    known = _figures(info, rows) | {
        "masks": texts["masks"] + _without_masks(reasons),
        "licence_url": origin.licence_url,
    }
    said = {name: Template(texts[name].strip()).substitute(known) for name in texts.keys() - {"masks"}}
    return {
        **known,
        **said,
        "about": _about(info, said["about"]),
        "warnings": _filled("card_warnings.md", **known, **said, band_ids=_band_ids(), bits=_bits()).rstrip(),
        "splits": _splits("fold", rows),
        "step": f"`step`: {MEANINGS[MANIFEST_FILE]['step']}.",
        "steps": _splits("step", rows),
        "skips": _left_out(reasons),
        "acknowledgement": "" if origin.simulated else _text("acknowledgement.md").rstrip(),
    }


def _figures(info: DatasetInfo, rows: Rows) -> dict[str, object]:
    """Counts and names that the texts have in them; datasets of earlier schema versions do not have all."""
    survey, counts = info.survey, info.counts
    return {
        "dataset_id": info.dataset_id,
        "content_hash": info.content_hash,
        "n_frames": counts["frames"],
        "gigabytes": f"{counts['frame_bytes'] / 1e9:.3f}",
        "kernel": survey["thumbnails"]["kernel"],
        "n_checked": counts.get("zeropoints_checked", 0),
        "n_corrected": counts.get("zeropoints_corrected", 0),
        "n_beyond": counts.get("zeropoints_beyond_limit", 0),
        "n_partly": sum(row.get("coverage", 1) < 1 for row in rows),
        "radius": survey["splits"]["duplicate_radius_arcsec"],
        "list": PurePosixPath(survey["catalog"]["source"]).name,
        "class_map": PurePosixPath(survey["catalog"]["class_map"]).name,
    }


@cache
def _texts() -> dict[str, dict[str, str]]:
    return tomllib.loads(_text("card_texts.toml"))


def _text(name: str) -> str:
    return (files("data_manifest") / name).read_text(encoding="utf-8")


def _filled(template: str, **values: object) -> str:
    return Template(_text(template)).substitute(values).rstrip() + "\n"


def _about(info: DatasetInfo, of_origin: str) -> str:
    text = (
        f"{info.survey['title']}: {info.counts['objects']} objects, {info.counts['images']} aligned single-band images "
        f"of {info.size} × {info.size} px at {info.pixel_scale_arcsec}″/px."
    )
    return f"{text} {of_origin}".rstrip()


def _band_ids() -> str:
    return ", ".join(f"{number} {band}" for band, number in BAND_ID.items())


def _bits() -> str:
    return ", ".join(f"{bit.value} {bit.name}" for bit in MaskBit)


def _without_masks(reasons: Sequence[str]) -> str:
    """What is to be said where the archive lacks mask planes."""
    n = reasons.count(NO_MASK)
    return f", which {n} frames were cut without, so that their bad pixels are not marked" if n else ""


def _left_out(reasons: Sequence[str]) -> str:
    """How often each reason was met, and what it means; below it, of what nothing was left out."""
    counted = Counter(reason for reason in reasons if reason not in NOTES)
    meanings = _texts()["reasons"]
    rows = ((f"`{reason}`", n, meanings.get(reason, "")) for reason, n in sorted(counted.items()))
    text = _table(("reason", "count", "what was left out"), rows) if counted else "Nothing."
    notes = {
        NO_MASK: "Frames that were cut all the same, without the survey's mask planes",
        VANISHED: "Frames that the archive has lost since, or their masks, and that are as they were cut then",
    }
    said = [f"{words} (`{reason}`): {n}." for reason, words in notes.items() if (n := reasons.count(reason))]
    return "\n\n".join([text, *said])


def _class(row: Mapping[str, Any]) -> str:
    return str(row["class_name"]) or "unlabelled"


def _band(band: str, rows: Rows) -> tuple[str, int, int]:
    counts = [int(row[f"n_{band}"]) for row in rows]
    return band, sum(counts), sum(count > 0 for count in counts)


def _day(mjd: float) -> str:
    return (_MJD_0 + timedelta(days=int(mjd))).isoformat()


def _splits(column: str, rows: Rows) -> str:
    """Objects by fold or step, and by class and confirmation."""
    kinds = [(f"{_class(row)}, {row['confirmation']}" if row["class_name"] else _class(row)) for row in rows]
    counts = Counter(zip((row.get(column, "") for row in rows), kinds, strict=True))
    values = sorted({value for value, _ in counts})
    names = sorted(set(kinds))
    lines = ((f"{value}" or "none", *(counts[value, name] for name in names)) for value in values)
    return _table((column, *names), lines)


def _table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
