"""One short question to a server, and many of them at once: bounded in bytes and in time, never tried again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import httpx

from pipeline.archive import USER_AGENT
from pipeline.transfer import first_words, full_url, no_web_page, opened

T = TypeVar("T")

WAIT_S: Final = 5.0
"""For a connection, and for the next bytes."""
LIMIT_S: Final = 8.0
"""For a whole answer; what came until then is looked at."""
TABLE_BYTES: Final = 64 * 1024


class NoAnswer(Exception):
    """The server cannot be reached, does not answer in time, or does not speak HTTP."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said."""

    status: int
    body: bytes
    """Its beginning, at most as long as was asked for."""
    latency_s: float
    """Until the status came, connection included."""
    body_s: float
    """From then until the last of these bytes."""

    @property
    def complaint(self) -> str:
        """What is wrong where a table or file was expected; '' for one that may be it."""
        if self.status != httpx.codes.OK:
            return f"status {self.status}: {first_words(self.body)}".rstrip(": ")
        if not self.body:
            return "an empty answer"
        return no_web_page(self.body)


def ask(
    url: str, params: Mapping[str, str] | None = None, *, method: str = "GET", max_bytes: int = TABLE_BYTES
) -> Answer:
    """Ask once and read at most `max_bytes`.

    Raises
    ------
    NoAnswer
        See there.
    """
    started = time.monotonic()
    body = bytearray()
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
    try:
        with (
            httpx.Client(headers=headers) as client,
            opened(client, full_url(url, params), {}, WAIT_S, method=method) as response,
        ):
            answered = time.monotonic()
            for piece in response.iter_raw():
                body += piece
                if len(body) >= max_bytes or time.monotonic() - started > LIMIT_S:
                    break
    except httpx.TimeoutException as error:
        raise NoAnswer(f"no answer within {WAIT_S:g} s") from error
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        raise NoAnswer(f"{type(error).__name__} {error}".rstrip()) from error
    return Answer(response.status_code, bytes(body[:max_bytes]), answered - started, time.monotonic() - answered)


def in_parallel(calls: Sequence[Callable[[], T]], limit_s: float) -> list[T | None]:
    """Results of all calls, made at the same time; None for those that are not done after `limit_s`.

    Daemon threads, not an executor: nobody can interrupt the look-up of a name, and Python would wait for it at exit.
    """
    results: list[T | None] = [None] * len(calls)

    def run(number: int) -> None:
        results[number] = calls[number]()

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(calls))]
    end = time.monotonic() + limit_s
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return list(results)
