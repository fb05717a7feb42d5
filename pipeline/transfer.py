"""One download: a URL's bytes to a file, bounded, counted and hashed on the way; no retries, no cache.

What came before a connection broke is kept and only the rest is asked for, if the server can say that the file is
still the same (RFC 9110, 13.1.5 and 14). What went wrong is told apart by who can mend it: `Transient` may be gone at
the next attempt, `NotInArchive` and other `ArchiveError`s stay.
"""

from __future__ import annotations

import email.utils
import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import quote

import httpx

from pipeline.errors import ArchiveError, BadPayload, NotInArchive
from pipeline.ledger import Origin
from pipeline.partial import Begun, Part
from pipeline.retrying import Transient

HEAD_BYTES: Final = 2048
"""Enough to tell what a body is."""
MAGIC: Final[Mapping[str, bytes]] = {".bz2": b"BZh", ".gz": b"\x1f\x8b", ".fit": b"SIMPLE  =", ".fits": b"SIMPLE  ="}
"""First bytes of a file, by the end of its name."""
SERVER_LIMIT: Final = "Response Buffer Limit Exceeded"
"""What SkyServer's web server says of a query with too many rows: asking again gives the same."""
_NOT_SERVED: Final = frozenset({501, 505})
"""Of 5xx: what the server will not do tomorrow either."""
MAX_REDIRECTS: Final = 4
PROBE_TIMEOUT_S: Final = 30.0

_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_CONTENT_RANGE: Final = re.compile(r"bytes (?P<first>[0-9]{1,18})-[0-9]{1,18}/(?P<total>[0-9]{1,18}|\*)")
_SECONDS: Final = re.compile(r"\d{1,9}(\.\d{1,9})?")  # a fraction is against the RFC, and harmless

_LEADS_NOWHERE: Final = (httpx.TooManyRedirects, httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError)
"""UnicodeError: a host name that cannot be one."""

Check = Callable[[bytes], str]
"""Says from a file's first bytes what it is instead of what was asked for; '' if nothing is wrong."""


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


class NotModified(Exception):
    """The server says that the copy at hand is still the file."""

    def __init__(self, url: str, known: Origin) -> None:
        super().__init__(url)
        self.url = url
        self.known = known


def full_url(url: str, params: Mapping[str, str] | None = None) -> str:
    """`url` with `params` as its query, as it is sent."""
    return str(httpx.URL(url, params=dict(params)) if params else httpx.URL(url))


def file_url(base_url: str, path: str) -> str:
    """URL of the file at `path` below a base URL; whatever the path holds, it stays a path."""
    return full_url(base_url + quote(path))


def download(client: httpx.Client, url: str, part: Part, terms: Terms) -> Origin:
    """Write what `url` gives to the file of `part`, or the rest of it if the beginning is there.

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
    begun = part.begun(url)
    if begun and begun.is_whole:
        return begun.origin(part.sha256(), begun.n_bytes)
    headers = begun.range_headers() if begun else _conditions(url, terms.known)
    started = time.monotonic()
    try:
        with opened(client, url, headers, terms.timeout_s) as response:
            if response.status_code == httpx.codes.NOT_MODIFIED and terms.known and not begun:
                raise NotModified(url, terms.known)
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and begun:
                return _end_of_range(response, begun, part)
            _check_status(response, url, terms, expect_range=begun is not None)
            begun = _continued(response, begun, part) or _begin(response, url, part)
            origin = begun.origin(*_save_body(response, begun, part, terms))
            return origin if begun.n_bytes else replace(origin, seconds=time.monotonic() - started)
    except _LEADS_NOWHERE as error:
        raise ArchiveError(f"{url} leads nowhere: {error}; check the archive's base URL") from error
    except httpx.TransportError as error:
        raise Transient(ArchiveError(f"{url}: {type(error).__name__} {error}".rstrip()), of_host=True) from error


def _end_of_range(response: httpx.Response, begun: Begun, part: Part) -> Origin:
    """416: nothing is left to send, so that what is here is the whole file, or of another one."""
    if response.headers.get("content-range", "").replace(" ", "") == f"bytes*/{begun.n_bytes}":
        return begun.origin(part.sha256(), begun.n_bytes)
    part.discard()
    raise Transient(ArchiveError(f"{begun.url} changed while it was fetched: it is shorter now"))


def _continued(response: httpx.Response, begun: Begun | None, part: Part) -> Begun | None:
    """What is here already, if this answer goes on where it ends; None for an answer that starts at the beginning."""
    if begun is None or response.status_code != httpx.codes.PARTIAL_CONTENT:
        return None
    match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", "").strip())
    etag, date = response.headers.get("etag", begun.etag), response.headers.get("last-modified", begun.last_modified)
    same = (etag, date) == (begun.etag, begun.last_modified)
    if not match or int(match["first"]) != begun.n_bytes or not same or begun.total not in (None, _total(match)):
        part.discard()
        raise Transient(ArchiveError(f"{begun.url} did not go on where it broke off: it is fetched from its beginning"))
    return replace(begun, total=_total(match))


def _total(match: re.Match[str]) -> int | None:
    return None if match["total"] == "*" else int(match["total"])


def _begin(response: httpx.Response, url: str, part: Part) -> Begun:
    etag, last_modified = (_plain(response.headers.get(name, "")) for name in ("etag", "last-modified"))
    strong = etag if etag.startswith('"') else last_modified if _is_strong_date(response) else ""
    return part.begin(Begun(url, etag, last_modified, _announced(response), validator=strong))


def _plain(validator: str) -> str:
    """What can be sent back in a header; '' for what could not."""
    return validator if validator.isascii() and validator.isprintable() else ""


def _is_strong_date(response: httpx.Response) -> bool:
    """Whether Last-Modified names one version: only if it was not just then modified (RFC 9110, 8.8.2.2)."""
    sent_s, modified_s = (_timestamp_s(response.headers.get(name, "")) for name in ("date", "last-modified"))
    return sent_s is not None and modified_s is not None and sent_s - modified_s >= 1


def _timestamp_s(value: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError, OSError):  # the last two: a date that no clock can show
        return None


@contextmanager
def opened(
    client: httpx.Client, url: str, headers: Mapping[str, str], timeout_s: float, *, method: str = "GET"
) -> Iterator[httpx.Response]:
    """The answer at the end of a few redirects, whose own bodies are left unread: they may be anything."""
    request = client.build_request(method, url, headers=headers, timeout=timeout_s)
    for _ in range(MAX_REDIRECTS + 1):
        response = client.send(request, stream=True, follow_redirects=False)
        try:
            if response.next_request is None:
                yield response
                return
            request = response.next_request
        finally:
            response.close()
    raise httpx.TooManyRedirects(f"more than {MAX_REDIRECTS} redirects", request=request)


def is_alive(client: httpx.Client, url: str) -> bool:
    """Whether a file that was to be had is to be had: asks for its first bytes.

    Raises
    ------
    Transient
        The server says how long to wait, or only that it is out of order.
    """
    terms = Terms(1024, PROBE_TIMEOUT_S, check_magic(httpx.URL(url).path))
    try:
        with opened(client, url, {"Range": "bytes=0-1023"}, terms.timeout_s) as response:
            _check_status(response, url, terms, expect_range=True)
            head = next(_pieces(response, url, terms.timeout_s))
    except (ArchiveError, httpx.TransportError, *_LEADS_NOWHERE):
        return False
    return not (terms.check(head) or no_web_page(head))


def _conditions(url: str, known: Origin | None) -> dict[str, str]:
    """Headers that let the server answer 304 instead of sending the file again."""
    if known is None:
        return {}
    conditions = {"If-None-Match": known.etag}
    if url == known.url:  # a date says nothing about another file
        conditions["If-Modified-Since"] = known.last_modified
    return {name: value for name, value in conditions.items() if value}


def _check_status(response: httpx.Response, url: str, terms: Terms, *, expect_range: bool) -> None:
    status = response.status_code
    if status in (404, 410):
        raise NotInArchive(f"{url} does not exist (status {status})")
    if status == httpx.codes.OK or (expect_range and status == httpx.codes.PARTIAL_CONTENT):
        return
    body = next(_pieces(response, url, terms.patience_s))
    words = SERVER_LIMIT if SERVER_LIMIT.encode() in body else first_words(body)
    error = ArchiveError(f"{url} answered with status {status}: {words}")
    if may_pass(status) and words != SERVER_LIMIT:
        raise Transient(error, retry_after_s(response.headers) or None, of_host=True)
    raise error


def may_pass(status: int) -> bool:
    """Whether a refusal says that the server is not well, or busy, and not that the request is wrong."""
    return status in (408, 425, 429) or (status >= 500 and status not in _NOT_SERVED)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or an HTTP date (RFC 9110 §10.2.3); None without one."""
    value = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(value):
        return float(value)
    until_s = _timestamp_s(value)
    return None if until_s is None else max(0.0, until_s - time.time())


def _save_body(response: httpx.Response, begun: Begun, part: Part, terms: Terms) -> tuple[str, int]:
    """Append the body as it lies in the archive (no transport decoding); give sha256 and size of the whole."""
    url, n_bytes, announced = begun.url, begun.n_bytes, _announced(response)
    if announced is not None and n_bytes + announced > terms.max_bytes:
        part.discard()
        raise BadPayload(f"{url} announces {n_bytes + announced} bytes, more than the {terms.max_bytes} allowed")
    limit_s = terms.time_limit_s(terms.max_bytes if announced is None else announced)
    try:
        with part.open(begun) as file:
            digest = hashlib.file_digest(file, "sha256")
            for piece in _pieces(response, url, limit_s):
                if piece and n_bytes == 0 and (wrong := terms.check(piece)):
                    error = BadPayload(f"{url} gave {wrong}")
                    raise error if SERVER_LIMIT in wrong else Transient(error, of_host=True)
                n_bytes += len(piece)
                if n_bytes > terms.max_bytes:
                    raise BadPayload(f"{url} sends more than the {terms.max_bytes} bytes allowed")
                digest.update(piece)
                file.write(piece)
                file.flush()  # a killed process leaves what it got
    except httpx.RemoteProtocolError as error:
        raise Transient(BadPayload(f"{url} is truncated: the connection closed after {n_bytes} bytes")) from error
    except (BadPayload, Transient) as problem:
        if not isinstance(problem, Transient) or isinstance(problem.error, BadPayload):
            part.discard()  # what came is not the file; after a mere stop it is the beginning of it
        raise
    if n_bytes == 0:
        part.discard()
        raise Transient(BadPayload(f"{url} gave an empty file"))
    if begun.total not in (None, n_bytes):  # a server may send less of a range than it was asked for
        raise Transient(BadPayload(f"{url} is truncated: {n_bytes} of {begun.total} bytes came"))
    return digest.hexdigest(), n_bytes


def _announced(response: httpx.Response) -> int | None:
    """Content-Length; None where the server does not say."""
    value = response.headers.get("content-length", "")
    return int(value) if _LENGTH.fullmatch(value) else None


def _pieces(response: httpx.Response, url: str, limit_s: float) -> Iterator[bytes]:
    """The body as it lies on the server, in pieces as they come; the first has enough to tell what it is."""
    head, n_seen, started = bytearray(), 0, time.monotonic()
    for piece in response.iter_raw():
        n_seen += len(piece)
        if time.monotonic() - started > limit_s:
            raise Transient(ArchiveError(f"{url} is too slow: {n_seen} bytes in {limit_s:.0f} s"), of_host=True)
        if n_seen - len(piece) >= HEAD_BYTES:
            yield piece
            continue
        head += piece
        if len(head) >= HEAD_BYTES:
            yield bytes(head)
    if n_seen < HEAD_BYTES:
        yield bytes(head)


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


def no_web_page(head: bytes) -> str:
    """A check that lets everything pass but a page of HTML: what a server that is out sends instead of a table."""
    return f"a web page: {first_words(head)!r}" if head.lstrip()[:1] == b"<" else ""


def first_words(body: bytes, length: int = 120) -> str:
    """The beginning of a body as one printable line, to be quoted in a message."""
    text = " ".join(body[:2048].decode("utf-8", "replace").split())
    printable = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return printable[:length]
