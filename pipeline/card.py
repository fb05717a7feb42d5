"""The cards: what a person finds beside a dataset, and beside an export of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import date, timedelta
from importlib.resources import files
from string import Template
from typing import Any, Final

from pipeline.bands import BANDS
from pipeline.croissant import LICENCE_URL, SIMULATED_LICENCE
from pipeline.manifest import Dataset, DatasetInfo, Skip

Rows = Sequence[Mapping[str, Any]]

_MJD_0: Final = date(1858, 11, 17)
_SIZES: Final = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K"}
"""Words of Hugging Face for how many rows there are."""


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
        dataset_id=info.dataset_id,
        about=_about(info),
        n_frames=info.counts["frames"],
        gigabytes=f"{info.counts['frame_bytes'] / 1e9:.3f}",
        kernel=info.survey["thumbnails"]["kernel"],
        n_partly=info.counts["partly_covered"],
        n_checked=info.counts["zeropoints_checked"],
        n_corrected=info.counts["zeropoints_corrected"],
        n_beyond=info.counts["zeropoints_beyond_limit"],
        radius=info.survey["splits"]["duplicate_radius_arcsec"],
        content_hash=info.content_hash,
        classes=_table(("class", "confirmation", "objects"), ((*key, n) for key, n in sorted(classes.items()))),
        bands=_table(("band", "images", "objects with any"), (_band(band, rows) for band in BANDS)),
        first=f"{first:.1f}",
        last=f"{last:.1f}",
        first_day=_day(first),
        last_day=_day(last),
        splits=_splits(rows),
        skips=_table(("reason", "count"), sorted(Counter(skip.reason for skip in skips).items())),
        software=_table(("package", "version"), info.software.items()),
        licence=_licence(info),
        acknowledgement=_text("acknowledgement.md").rstrip(),
    )


def export_card(dataset: Dataset, shards: Sequence[str]) -> str:
    """The card of an export (`data_manifest/export_card.md`), with the front matter that Hugging Face reads.

    Parameters
    ----------
    shards
        Paths of the Parquet files below the export's folder: `data/<split>-….parquet`.
    """
    info, simulated = dataset.info, _simulated(dataset.info)
    splits = list(dict.fromkeys(shard.removeprefix("data/").partition("-")[0] for shard in shards))
    n_rows = len(dataset.objects)
    return _filled(
        "export_card.md",
        pretty_name=json.dumps(str(info.survey.get("title", info.dataset_id)), ensure_ascii=False),
        licence="bsd-3-clause" if simulated else "sdss-public-data",
        licence_url=SIMULATED_LICENCE if simulated else LICENCE_URL,
        size_category=next((word for most, word in _SIZES.items() if n_rows < most), "100K<n<1M"),
        data_files="\n".join(f"  - split: {split}\n    path: data/{split}-*.parquet" for split in splits),
        dataset_id=info.dataset_id,
        about=_about(info),
        size=info.size,
        example=splits[0] if len(splits) < 3 else "+".join(splits[:2]),
        splits=_splits([asdict(row) for row in dataset.objects]),
        content_hash=info.content_hash,
        acknowledgement=_text("acknowledgement.md").rstrip(),
    )


def _text(name: str) -> str:
    return (files("data_manifest") / name).read_text(encoding="utf-8")


def _filled(template: str, **values: object) -> str:
    return Template(_text(template)).substitute(values)


def _simulated(info: DatasetInfo) -> bool:
    return bool(info.survey.get("simulation"))


def _about(info: DatasetInfo) -> str:
    text = (
        f"{info.survey['title']}: {info.counts['objects']} objects, {info.counts['images']} aligned single-band images "
        f"of {info.size} × {info.size} px at {info.pixel_scale_arcsec}″/px."
    )
    return text + " The frames are simulated: nothing here was seen in the sky." if _simulated(info) else text


def _licence(info: DatasetInfo) -> str:
    if _simulated(info):
        return f"Simulated images, as the software that made them: BSD-3-Clause ({SIMULATED_LICENCE})."
    return f"SDSS's public data releases are in the public domain ({LICENCE_URL}); please keep the acknowledgement."


def _class(row: Mapping[str, Any]) -> str:
    return str(row["class_name"]) or "unlabelled"


def _band(band: str, rows: Rows) -> tuple[str, int, int]:
    counts = [int(row[f"n_{band}"]) for row in rows]
    return band, sum(counts), sum(count > 0 for count in counts)


def _day(mjd: float) -> str:
    return (_MJD_0 + timedelta(days=int(mjd))).isoformat()


def _splits(rows: Rows) -> str:
    """Objects per fold and class."""
    classes = sorted({_class(row) for row in rows})
    counts = Counter((int(row["fold"]), _class(row)) for row in rows)
    folds = sorted({fold for fold, _ in counts})
    return _table(("fold", *classes), ((fold, *(counts[fold, name] for name in classes)) for fold in folds))


def _table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
