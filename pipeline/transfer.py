"""One download: a URL's bytes to a file, bounded, counted and hashed on the way; no retries, no cache.

What went wrong is told apart by who can mend it: `Transient` may be gone at the next attempt,
`NotInArchive` and other `ArchiveError`s stay.
"""

from __future__ import annotations

import email.utils
import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from pipeline.errors import ArchiveError, BadPayload, NotInArchive

CHUNK_BYTES: Final = 256 * 1024
MAGIC: Final[Mapping[str, bytes]] = {".bz2": b"BZh", ".gz": b"\x1f\x8b", ".fit": b"SIMPLE  =", ".fits": b"SIMPLE  ="}
"""First bytes of a file, by the end of its name."""
SERVER_LIMIT: Final = "Response Buffer Limit Exceeded"
"""What SkyServer's web server says of a query with too many rows: asking again gives the same."""
_MAY_PASS: Final = frozenset({408, 425, 429, 500, 502, 503, 504})

_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_SECONDS: Final = re.compile(r"\d{1,9}(\.\d{1,9})?")  # a fraction is against the RFC, and harmless

Check = Callable[[bytes], str]
"""Says from a file's first bytes what it is instead of what was asked for; '' if nothing is wrong."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a file came from, and how to ask whether it changed."""

    url: str
    sha256: str
    n_bytes: int
    etag: str = ""
    last_modified: str = ""


@dataclass(frozen=True, slots=True)
class Terms:
    """What is accepted from a server."""

    max_bytes: int
    """More, announced or sent, is refused."""
    timeout_s: float
    """Longest wait for a connection or for the next bytes."""
    check: Check
    """Looks at the first bytes."""
    min_bytes_per_s: float = 5e3
    """A server that sends less on the average is given up on, lest a drip hold a build for ever."""
    patience_s: float = 60
    """Every download may take that long, however small it is."""
    known: Origin | None = None
    """The copy at hand, if any: only a newer one is asked for."""

    def time_limit_s(self, n_bytes: int) -> float:
        """Longest time for a whole body of that size."""
        return max(self.patience_s, n_bytes / self.min_bytes_per_s)


class Transient(Exception):
    """Carries an error that may be gone next time, and how long the server asks to wait (None: it does not say)."""

    def __init__(self, error: ArchiveError, wait_s: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait_s = wait_s


class NotModified(Exception):
    """The server says that the copy at hand is still the file."""

    def __init__(self, url: str, known: Origin) -> None:
        super().__init__(url)
        self.url = url
        self.known = known


def full_url(url: str, params: Mapping[str, str] | None = None) -> str:
    """`url` with `params` as its query, as it is sent."""
    return str(httpx.URL(url, params=dict(params)) if params else httpx.URL(url))


def download(client: httpx.Client, url: str, target: Path, terms: Terms) -> Origin:
    """Write what `url` gives to `target`.

    Raises
    ------
    NotModified
        304: the server says that `terms.known` is still the file.
    Transient
        Connection trouble, 429 or 5xx, a truncated or too slow body, or a file of another kind (an outage page).
    NotInArchive
        404 or 410.
    BadPayload
        The body is, or claims to be, larger than `terms.max_bytes`.
    ArchiveError
        Any other refusal: 4xx, a redirect loop, a redirect out of http.
    """
    try:
        with client.stream("GET", url, headers=_conditions(url, terms.known), timeout=terms.timeout_s) as response:
            if response.status_code == httpx.codes.NOT_MODIFIED and terms.known:
                raise NotModified(url, terms.known)
            _check_status(response, url, terms)
            sha256, n_bytes = _save_body(response, url, target, terms)
    except (httpx.TooManyRedirects, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise ArchiveError(f"{url} leads nowhere: {error}; check the archive's base URL") from error
    except httpx.TransportError as error:
        raise Transient(ArchiveError(f"{url}: {type(error).__name__} {error}".rstrip())) from error
    headers = response.headers
    return Origin(url, sha256, n_bytes, headers.get("etag", ""), headers.get("last-modified", ""))


def _conditions(url: str, known: Origin | None) -> dict[str, str]:
    """Headers that let the server answer 304 instead of sending the file again."""
    if known is None:
        return {}
    conditions = {"If-None-Match": known.etag}
    if httpx.URL(url).netloc == httpx.URL(known.url).netloc:  # a date says nothing about another server's file
        conditions["If-Modified-Since"] = known.last_modified
    return {name: value for name, value in conditions.items() if value}


def _check_status(response: httpx.Response, url: str, terms: Terms) -> None:
    status = response.status_code
    if status in (404, 410):
        raise NotInArchive(f"{url} does not exist (status {status})")
    if status == httpx.codes.OK:
        return
    body = next(_blocks(response, url, 2048, terms.patience_s), b"")
    words = SERVER_LIMIT if SERVER_LIMIT.encode() in body else first_words(body)
    error = ArchiveError(f"{url} answered with status {status}: {words}")
    if status in _MAY_PASS and words != SERVER_LIMIT:
        raise Transient(error, _retry_after_s(response))
    raise error


def _retry_after_s(response: httpx.Response) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or an HTTP date (RFC 9110 §10.2.3); None without one."""
    value = response.headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError, OSError):  # the last two: a date that no clock can show
        return None


def _save_body(response: httpx.Response, url: str, target: Path, terms: Terms) -> tuple[str, int]:
    """Write the body as it lies in the archive (no transport decoding); give its sha256 and size."""
    announced = _announced_bytes(response)
    if announced is not None and announced > terms.max_bytes:
        raise BadPayload(f"{url} announces {announced} bytes, more than the {terms.max_bytes} allowed")
    limit_s = terms.time_limit_s(terms.max_bytes if announced is None else announced)
    digest, n_bytes = hashlib.sha256(), 0
    try:
        with target.open("wb") as file:
            for chunk in _blocks(response, url, CHUNK_BYTES, limit_s):
                if n_bytes == 0 and (wrong := terms.check(chunk)):
                    error = BadPayload(f"{url} gave {wrong}")
                    raise error if SERVER_LIMIT in wrong else Transient(error)
                n_bytes += len(chunk)
                if n_bytes > terms.max_bytes:
                    raise BadPayload(f"{url} sends more than the {terms.max_bytes} bytes allowed")
                digest.update(chunk)
                file.write(chunk)
    except httpx.RemoteProtocolError as error:
        raise Transient(BadPayload(f"{url} is truncated: the connection closed after {n_bytes} bytes")) from error
    if n_bytes == 0:
        raise Transient(BadPayload(f"{url} gave an empty file"))
    return digest.hexdigest(), n_bytes


def _announced_bytes(response: httpx.Response) -> int | None:
    """Content-Length; None where the server does not say."""
    value = response.headers.get("content-length", "")
    return int(value) if _LENGTH.fullmatch(value) else None


def _blocks(response: httpx.Response, url: str, n_bytes: int, limit_s: float) -> Iterator[bytes]:
    """The body in blocks of at least `n_bytes` (the last has the rest), as it lies on the server.

    `iter_raw(n_bytes)` would wait for a whole block before anybody could look at the clock.
    """
    block, n_seen, started = bytearray(), 0, time.monotonic()
    for piece in response.iter_raw():
        block += piece
        n_seen += len(piece)
        if time.monotonic() - started > limit_s:
            raise Transient(ArchiveError(f"{url} is too slow: {n_seen} bytes in {limit_s:.0f} s"))
        if len(block) >= n_bytes:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)


def check_magic(name: str) -> Check:
    """A check that a file called `name` starts as its type must."""
    magic = MAGIC.get(Path(name).suffix, b"")

    def check(head: bytes) -> str:
        if head.startswith(magic):
            return ""
        return f"no {Path(name).suffix} file but {first_words(head)!r}"

    return check


def anything(_head: bytes) -> str:
    """A check that lets every file pass."""
    return ""


def first_words(body: bytes, length: int = 120) -> str:
    """The beginning of a body as one printable line, to be quoted in a message."""
    text = " ".join(body[:2048].decode("utf-8", "replace").split())
    printable = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return printable[:length]
