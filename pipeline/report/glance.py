"""A dataset at a glance: the thumbnails of one object of each class, as PNG pictures."""

from __future__ import annotations

from io import BytesIO
from typing import Final

import numpy as np

from pipeline.manifest import Dataset, ObjectRow
from pipeline.report.objects import epochs_of, strip_drawing
from pipeline.report.style import house_style

EPOCHS_AT_A_GLANCE: Final = 12
_DPI: Final = 100


def glance(dataset: Dataset, *, max_objects: int = 4) -> dict[str, bytes]:
    """Strips of the objects with most images, one of each class.

    Returns
    -------
    dict of str to bytes
        PNG by class and id, a row per band and a column per epoch.

    Raises
    ------
    SequenceError
        The file of an object cannot be read.
    """
    richest: dict[str, ObjectRow] = {}
    for row in sorted(dataset.objects, key=lambda row: (-row.n_images, row.object_id)):
        if row.n_images:
            richest.setdefault(row.class_name, row)
    rows = [richest[name] for name in sorted(richest)][:max_objects]
    return {f"{row.class_name or 'object'} {row.object_id}": _strip(dataset, row) for row in rows}


def _strip(dataset: Dataset, row: ObjectRow) -> bytes:
    sequence = dataset.sequence(row)
    epochs = epochs_of(sequence)
    shown = np.unique(np.linspace(0, len(epochs) - 1, min(len(epochs), EPOCHS_AT_A_GLANCE)).round().astype(int))
    buffer = BytesIO()
    with house_style():
        figure = strip_drawing(sequence, epochs[shown], n_columns=EPOCHS_AT_A_GLANCE)
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()
