"""A file that is not here whole yet: the bytes that came, and what says whether the rest still fits them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from io import BufferedRandom
from pathlib import Path

from pipeline.ledger import Origin


@dataclass(frozen=True, slots=True)
class Begun:
    """What a server said of a file when it began to send it, and how much of it is here."""

    url: str
    etag: str
    last_modified: str
    total: int | None
    """Bytes of the whole file; None where the server did not say."""
    validator: str
    """For If-Range: a strong tag, else a date that names one version; '' where the server gave neither."""
    n_bytes: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether all bytes are here: it remains to look at them."""
        return self.total is not None and self.n_bytes == self.total

    def range_headers(self) -> dict[str, str]:
        """Ask for the rest, and for the whole if the file is another one by now."""
        return {"Range": f"bytes={self.n_bytes}-", "If-Range": self.validator}

    def origin(self, sha256: str, n_bytes: int) -> Origin:
        """Of the whole file, once it is here."""
        return Origin(self.url, sha256, n_bytes, self.etag, self.last_modified)


class Part:
    """The file at `path` and its description beside it. One process and thread at a time may use it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._description = path.with_suffix(".json")

    def begin(self, begun: Begun) -> Begun:
        """Start anew."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        # Not synced: what a power cut leaves of it is no JSON, and then the file is fetched from its beginning.
        self._description.write_text(json.dumps(asdict(begun)), encoding="utf-8")
        return begun

    @property
    def url(self) -> str:
        """Where what is here came from; '' where nothing is that could be gone on with."""
        begun = self._read()
        return begun.url if begun else ""

    def begun(self, url: str) -> Begun | None:
        """What is here of the file at `url`; None where nothing is, or nothing that could be gone on with."""
        begun = self._read()
        return begun if begun and begun.url == url else None

    def _read(self) -> Begun | None:
        try:
            begun = Begun(**json.loads(self._description.read_bytes()))
            begun = replace(begun, n_bytes=self.path.stat().st_size)
        except (OSError, ValueError, TypeError):
            return None
        return begun if begun.validator and begun.n_bytes > 0 else None

    @contextmanager
    def open(self, begun: Begun) -> Iterator[BufferedRandom]:
        """For reading what is here, then appending. Where that is interrupted, only what can be gone on with stays."""
        try:
            with self.path.open("r+b" if begun.n_bytes else "w+b") as file:
                yield file
        except BaseException:
            if not begun.validator:
                self.discard()
            raise

    def sha256(self) -> str:
        """Of what is here."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def discard(self) -> None:
        """Forget it."""
        self.path.unlink(missing_ok=True)
        self._description.unlink(missing_ok=True)
