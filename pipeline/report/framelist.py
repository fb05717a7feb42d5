"""From an image to the frame it was cut from: frames.parquet looked up by sha256.

Shapes: F frames, M images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_DIGITS = 16
"""Of each sha256: half a gigabyte less than all of them for a million frames, and none like another."""


@dataclass(frozen=True, slots=True)
class FrameList:
    """Where each frame was fetched."""

    key_F: NDArray[np.bytes_]
    """First digits of the sha256, sorted."""
    row_F: NDArray[np.int64]
    table: pa.Table

    @classmethod
    def of(cls, frames: pa.Table) -> FrameList:
        """Sort the table once."""
        digits = pc.utf8_slice_codeunits(frames["sha256"], 0, _DIGITS)
        key_F = np.asarray(digits.to_numpy()).astype(f"S{_DIGITS}")
        row_F = np.argsort(key_F, kind="stable")
        return cls(key_F[row_F], row_F, frames)

    def sources(self, sha256_M: NDArray[np.bytes_]) -> list[tuple[str, str]]:
        """(Name of the file, URL) of each image's frame; empty where the table does not say."""
        if not len(self.key_F):
            return [("", "")] * len(sha256_M)
        key_M = sha256_M.astype(f"S{_DIGITS}")
        place_M = np.minimum(np.searchsorted(self.key_F, key_M), len(self.key_F) - 1)
        found_M = self.key_F[place_M] == key_M
        rows = self.table.take(pa.array(self.row_F[place_M]))
        paths = pc.fill_null(rows["path"], "").to_pylist()
        urls = rows["url"].to_pylist() if "url" in rows.column_names else [""] * len(paths)
        return [
            (path.rpartition("/")[2], web_address(url)) if found else ("", "")
            for found, path, url in zip(found_M.tolist(), paths, urls, strict=True)
        ]


def web_address(url: str | None) -> str:
    """The address if a browser may open it from a page: no `javascript:`, no `file:`."""
    return url if url and url.startswith(("http://", "https://")) else ""
