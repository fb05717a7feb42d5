"""Fields from the SQL interface of DR8 and later, asked through astroquery.

astroquery takes any answer for a table and hands on whatever came, so that its raw response is used:
the status, the size and the first bytes are looked at before anything is parsed.
"""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

from pipeline.archive import USER_AGENT
from pipeline.errors import ArchiveError, BadPayload, ExposureIndexError
from pipeline.indexing.parts import Part, Reading
from pipeline.indexing.sql import MAX_RUNS, Database, read_database
from pipeline.retrying import Transient, try_again
from pipeline.survey import CasIndex
from pipeline.transfer import MAX_REDIRECTS, SERVER_LIMIT, first_words, may_pass, no_web_page, retry_after_s

if TYPE_CHECKING:
    import requests
    from astroquery.sdss import SDSSClass

MAX_ROWS: Final = 500_000
"""The server stops here without a word."""
USUAL_ROWS: Final = 50_000
CHUNK_BYTES: Final = 256 * 1024
MAX_BYTES: Final = 256 * 2**20
"""Of an answer; 500,000 rows have less."""
MAX_ANSWER_S: Final = 660.0
"""The server itself gives a query 600 s."""
FIRST_BYTE_S: Final = 120.0
"""The least that the server is given to think, however impatient the archive's `timeout_s` is."""
WAIT_INITIAL_S: Final = 1.0
WAIT_MAX_S: Final = 60.0
"""Between attempts."""


def read_cas(source: CasIndex, reading: Reading) -> list[Part]:
    """Fields of the runs that `source` names; errors as `read_database` has them.

    Raises
    ------
    ExposureIndexError
        The database lacks one of the runs.
    """
    runs = sorted(set(source.runs))
    ranges = [
        f"run IN ({','.join(map(str, runs[start : start + MAX_RUNS]))})" for start in range(0, len(runs), MAX_RUNS)
    ]
    with closing(_Client(source, reading)) as client:
        database = Database(
            server=source.url,
            path=client.path,
            ask=client.ask,
            max_rows=MAX_ROWS,
            usual_rows=USUAL_ROWS,
            status=True,
            where=f"rerun = {source.rerun} AND",
        )
        parts = read_database(database, ranges, reading)
    found = {int(part.rows.run[0]) for part in parts}
    if lacking := [run for run in runs if run not in found]:
        raise ExposureIndexError(
            f"{source.url}: DR{source.data_release} has no field of runs {lacking[:10]} in rerun {source.rerun}; "
            "take them out of [[index]] runs"
        )
    return parts


class _Client:
    """astroquery's SDSS, with a bound on what it accepts."""

    def __init__(self, source: CasIndex, reading: Reading) -> None:
        from astroquery.sdss import SDSSClass

        self._source = source
        self._server = source.url.rstrip("/")
        self._reading = reading
        self._sdss: SDSSClass = SDSSClass()
        # First of the hooks: astroquery's own reads the whole body for its log.
        self._sdss._session.hooks["response"].insert(0, _read_bounded)
        self._sdss._session.max_redirects = MAX_REDIRECTS
        self._sdss._session.headers["User-Agent"] = f"{USER_AGENT} {self._sdss._session.headers['User-Agent']}"
        url = self._configured(lambda: self._sdss._get_query_url(source.data_release))
        self.path = str(url).removeprefix(self._server)

    def close(self) -> None:
        """Let go of the connections."""
        self._sdss._session.close()

    def ask(self, sql: str) -> bytes | None:
        """The answer as it came; None where it would be too long."""
        try:
            return try_again(
                lambda: self._ask_politely(sql),
                attempts=self._reading.config.attempts,
                wait_initial_s=WAIT_INITIAL_S,
                wait_max_s=WAIT_MAX_S,
            )
        except Transient as problem:
            raise problem.error from problem

    def _ask_politely(self, sql: str) -> bytes | None:
        """At the pace that the server allows, and not before it wants to be asked again."""
        self._reading.pace.wait()
        try:
            return self._ask_once(sql)
        except Transient as problem:
            if (problem.wait_s or 0) > WAIT_MAX_S:
                raise ArchiveError(f"{problem.error}; it asks to come back in {problem.wait_s:.0f} s") from problem
            time.sleep(problem.wait_s or 0)
            raise

    def _ask_once(self, sql: str) -> bytes | None:
        import requests

        try:
            response = self._configured(
                lambda: self._sdss.query_sql_async(
                    sql,
                    timeout=max(self._reading.config.timeout_s, FIRST_BYTE_S),
                    data_release=self._source.data_release,
                    cache=False,
                )
            )
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise Transient(ArchiveError(f"{self._server}{self.path}: {type(error).__name__} {error}")) from error
        except requests.RequestException as error:
            raise ArchiveError(f"{self._server}{self.path}: {error}; check the url of [[index]]") from error
        return _checked(response)

    def _configured(self, call: Any) -> Any:
        """astroquery takes the server's address from its configuration at the time of the call."""
        from astroquery.sdss import conf

        with conf.set_temp("skyserver_baseurl", self._server):
            return call()


def _read_bounded(response: requests.Response, **_: object) -> None:
    """Read the body, and stop at a size and time that no honest answer needs."""
    import requests
    import urllib3

    content, started = bytearray(), time.monotonic()
    try:
        # Whatever has come, at once: a chunk of fixed size would let a dripping server stop the clock.
        while chunk := response.raw.read1(CHUNK_BYTES, decode_content=True):
            content += chunk
            if len(content) > MAX_BYTES:
                raise BadPayload(f"{response.url} sends more than the {MAX_BYTES} bytes allowed")
            if time.monotonic() - started > MAX_ANSWER_S:
                raise requests.Timeout(f"no whole answer in {MAX_ANSWER_S:.0f} s")
    except urllib3.exceptions.HTTPError as error:  # what requests itself would make of it
        raise requests.ConnectionError(error) from error
    response._content = bytes(content)
    response.encoding = "utf-8"  # else it is guessed from all of the body, for the log


def _checked(response: requests.Response) -> bytes | None:
    """The body of an answer that is a table or may be one."""
    content, url = response.content, response.url.partition("?")[0]
    if SERVER_LIMIT.encode() in content:
        return None
    if response.status_code != 200:
        error = ArchiveError(f"{url} answered with status {response.status_code}: {first_words(content)}")
        raise Transient(error, retry_after_s(response.headers)) if may_pass(response.status_code) else error
    if wrong := no_web_page(content):
        raise Transient(BadPayload(f"{url} gave {wrong}"))
    if not content:
        raise Transient(BadPayload(f"{url} gave an empty answer"))
    return content
