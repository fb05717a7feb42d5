"""What changed between two versions of a dataset: objects that came, went or changed, in which images, and why.

Shapes: M images of an object.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.bands import BANDS
from pipeline.errors import DatasetError, SequenceError
from pipeline.manifest import Dataset, ObjectRow
from pipeline.naming import CHANGES_FILE, SKIPS_FILE
from pipeline.sequences import Sequence
from pipeline.validation import explain

Kind = Literal["added", "changed", "removed"]
ImageKey = tuple[int, int, int, int, int]
"""run, rerun, camcol, field, band id: which frame an image is from."""
_PIXELS: Final = ("image", "variance", "mask")
_ZEROPOINT: Final = ("zeropoint", "zp_offset_mag")


class ObjectChange(BaseModel):
    """One object that is not the same in both versions. Images are named run/rerun/camcol/field/band."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    object_id: str
    kind: Kind
    why: tuple[str, ...]
    images_added: tuple[str, ...] = ()
    images_removed: tuple[str, ...] = ()
    images_changed: tuple[str, ...] = ()


class Changes(BaseModel):
    """Content of changes.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    old: str | None
    """Dataset ids; None before the first version."""
    new: str
    counts: dict[str, int]
    """Objects `added`, `changed`, `removed`, `unchanged`; of those in both, how many `moved_fold`."""
    why: dict[str, int]
    """How many objects each reason holds for."""
    objects: tuple[ObjectChange, ...]


def read_changes(dataset: Dataset) -> Changes:
    """What a version says of the one before it.

    Raises
    ------
    DatasetError
        It does not say, or what it says is damaged.
    """
    path = dataset.path / CHANGES_FILE
    try:
        return Changes.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}; copy the version from where it is whole") from error
    except ValidationError as error:
        raise DatasetError(f"{path} is damaged: {explain(error)}; copy the version from where it is whole") from error


def compare(old: Dataset | None, new: Dataset) -> Changes:
    """What is in `new` that was not, or not so, in `old`; of changed objects both files are read.

    Raises
    ------
    SequenceError, DatasetError
        A new file of a changed object, or a table, cannot be read.
    """
    before = {row.object_id: row for row in old.objects} if old else {}
    after = {row.object_id: row for row in new.objects}
    reasons = {"old": _reasons(old), "new": _reasons(new)}
    objects = []
    for object_id in sorted({*before, *after}):
        was, now = before.get(object_id), after.get(object_id)
        if was is None:
            objects.append(ObjectChange(object_id=object_id, kind="added", why=(_why_added(object_id, old, reasons),)))
        elif now is None:
            why = reasons["new"].get(object_id, "not in the object list any more")
            objects.append(ObjectChange(object_id=object_id, kind="removed", why=(why,)))
        elif old and was.sha256 != now.sha256:
            objects.append(_changed_or_unreadable(old, was, new, now))
    return _summary(old, new, before, after, tuple(objects))


def n_lost_images(changes: Changes, old: Dataset, new: Dataset) -> int:
    """How many images of `old` are not in `new`, whatever came instead; those of objects that are gone, too."""
    before, after = ({row.object_id: row.n_images for row in one.objects} for one in (old, new))
    lost = 0
    for one in changes.objects:
        if one.kind == "removed":
            lost += before[one.object_id]
        elif one.kind == "changed":
            unknown = max(0, before[one.object_id] - after[one.object_id])  # where the old file is damaged
            lost += max(len(one.images_removed), unknown)
    return lost


def _summary(
    old: Dataset | None,
    new: Dataset,
    before: dict[str, ObjectRow],
    after: dict[str, ObjectRow],
    objects: tuple[ObjectChange, ...],
) -> Changes:
    kinds = Counter(change.kind for change in objects)
    both = before.keys() & after.keys()
    counts: dict[str, int] = {kind: kinds[kind] for kind in get_args(Kind)}
    counts["unchanged"] = len(both) - kinds["changed"]
    counts["moved_fold"] = sum(before[object_id].fold != after[object_id].fold for object_id in both)
    why = Counter(reason for change in objects for reason in change.why)
    return Changes(
        old=old.info.dataset_id if old else None,
        new=new.info.dataset_id,
        counts=counts,
        why=dict(sorted(why.items(), key=lambda item: (-item[1], item[0]))),
        objects=objects,
    )


def _reasons(dataset: Dataset | None) -> dict[str, str]:
    """Why objects that are not in a dataset were left out of it."""
    if dataset is None:
        return {}
    present = {row.object_id for row in dataset.objects}
    skips = dataset.table(SKIPS_FILE).select(["object_id", "reason"]).to_pylist()
    return {skip["object_id"]: skip["reason"] for skip in skips if skip["object_id"] not in present}


def _why_added(object_id: str, old: Dataset | None, reasons: dict[str, dict[str, str]]) -> str:
    if old is None:
        return "first version"
    was = reasons["old"].get(object_id)
    return f"was left out: {was}" if was else "new in the object list"


def _changed_or_unreadable(old: Dataset, was: ObjectRow, new: Dataset, now: ObjectRow) -> ObjectChange:
    """What rotted in the old version must not stop the new one, which does not rest on it."""
    try:
        before = old.sequence(was)
    except (SequenceError, DatasetError):
        return ObjectChange(object_id=was.object_id, kind="changed", why=("old file is damaged",))
    return _changed(before, new.sequence(now))


def _changed(old: Sequence, new: Sequence) -> ObjectChange:
    was, now = _images(old), _images(new)
    common = was.keys() & now.keys()
    other = {key for key in common if _differs(old, was[key], new, now[key], ("frame_sha256", *_PIXELS, *_ZEROPOINT))}
    added, removed = now.keys() - was.keys(), was.keys() - now.keys()
    why = [
        reason
        for reason, holds in (
            ("new images", added),
            ("images gone", removed),
            *_why_images(old, new, [(was[key], now[key]) for key in other]),
            ("label", (old.class_name, old.confirmation) != (new.class_name, new.confirmation)),
            ("position", (old.ra_deg, old.dec_deg) != (new.ra_deg, new.dec_deg)),
            ("software", old.pipeline_version != new.pipeline_version),
        )
        if holds
    ]
    return ObjectChange(
        object_id=new.object_id,
        kind="changed",
        why=tuple(why) or ("facts about images",),
        images_added=_names(added),
        images_removed=_names(removed),
        images_changed=_names(other),
    )


def _why_images(old: Sequence, new: Sequence, pairs: list[tuple[int, int]]) -> Iterator[tuple[str, bool]]:
    """What became different of images that are in both: their frames, their zero points, or how they were cut."""
    frames = {pair for pair in pairs if _differs(old, pair[0], new, pair[1], ("frame_sha256",))}
    same_frame = [pair for pair in pairs if pair not in frames]
    zeropoints = [pair for pair in same_frame if _differs(old, pair[0], new, pair[1], _ZEROPOINT)]
    masks = [pair for pair in same_frame if _differs(old, pair[0], new, pair[1], ("mask",))]
    yield "frames changed upstream", bool(frames)
    yield "zero points", bool(zeropoints)
    yield "masks", bool(masks)
    yield "cut differently", bool({*same_frame} - {*zeropoints, *masks})


def _differs(old: Sequence, was: int, new: Sequence, now: int, names: Iterable[str]) -> bool:
    return any(not _same(getattr(old, name)[was], getattr(new, name)[now]) for name in names)


def _same(first: Any, second: Any) -> bool:
    """Bit for bit, so that NaN equals itself."""
    return np.asarray(first).tobytes() == np.asarray(second).tobytes()


def _images(sequence: Sequence) -> dict[ImageKey, int]:
    columns = (sequence.run, sequence.rerun, sequence.camcol, sequence.field, sequence.band_id)
    return {key: m for m, key in enumerate(zip(*(column.tolist() for column in columns), strict=True))}


def _names(keys: Iterable[ImageKey]) -> tuple[str, ...]:
    return tuple("/".join(map(str, (*key[:4], BANDS[key[4] - 1]))) for key in sorted(keys))
