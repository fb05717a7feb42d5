"""The dataset card: what a person finds beside the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template

from pipeline.manifest import DatasetInfo, Skip


def dataset_card(info: DatasetInfo, rows: Sequence[Mapping[str, object]], skips: Sequence[Skip]) -> str:
    """Fill the card's template (`data_manifest/dataset_card.md`) with the figures of one dataset."""
    template = (files("data_manifest") / "dataset_card.md").read_text(encoding="utf-8")
    classes = Counter((str(row["class_name"]) or "unlabelled", str(row["confirmation"])) for row in rows)
    return Template(template).substitute(
        dataset_id=info.dataset_id,
        title=info.survey["title"],
        n_objects=info.counts["objects"],
        n_images=info.counts["images"],
        n_frames=info.counts["frames"],
        gigabytes=f"{info.counts['frame_bytes'] / 1e9:.3f}",
        size=info.size,
        scale=info.pixel_scale_arcsec,
        n_partly=info.counts["partly_covered"],
        n_checked=info.counts["zeropoints_checked"],
        n_corrected=info.counts["zeropoints_corrected"],
        n_beyond=info.counts["zeropoints_beyond_limit"],
        content_hash=info.content_hash,
        classes=_table(("class", "confirmation", "objects"), ((*key, n) for key, n in sorted(classes.items()))),
        skips=_table(("reason", "count"), sorted(Counter(skip.reason for skip in skips).items())),
        software=_table(("package", "version"), info.software.items()),
    )


def _table(header: Sequence[str], rows: object) -> str:
    lines = [header, ["---"] * len(header), *rows]  # type: ignore[misc]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
