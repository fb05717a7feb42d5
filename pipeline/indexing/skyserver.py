"""Fields from a SkyServer SQL page over DR7's Stripe 82 database (https://skyserver.sdss.org/stripe82/)."""

from __future__ import annotations

import hashlib
from typing import Final

from pipeline.archive import Archive
from pipeline.errors import ArchiveError
from pipeline.indexing.columns import NMGY_PER_MAGGY
from pipeline.indexing.parts import Part, Reading
from pipeline.indexing.sql import Database, read_database
from pipeline.survey import SkyServerIndex
from pipeline.transfer import SERVER_LIMIT, no_web_page

MAX_ROWS: Final = 100_000
"""SkyServer stops here without a word (DR7 limit)."""
USUAL_ROWS: Final = 8_000
"""About 3 MB of CSV: a web server of its kind buffers 4 MB unless told otherwise."""
COADDS: Final = (106, 206)
"""Not runs but the co-added images of many, which the database has beside them."""
THINK_S: Final = 120.0
"""The server itself gives a query 90 s."""


def read_skyserver(source: SkyServerIndex, reading: Reading) -> list[Part]:
    """Fields of the runs that `source` names; errors as `read_database` has them."""

    def ask(sql: str) -> bytes | None:
        reading.pace.wait()
        return _ask(source, reading.archive, sql)

    database = Database(
        server=source.url,
        path="",
        ask=ask,
        max_rows=MAX_ROWS,
        usual_rows=USUAL_ROWS,
        sky_unit_nmgy=NMGY_PER_MAGGY,  # DR7's `Field` has the sky in maggies/arcsec²
        where=f"run NOT IN ({','.join(map(str, COADDS))}) AND",
    )
    return read_database(database, [f"run BETWEEN {source.first_run} AND {source.last_run}"], reading)


def _ask(source: SkyServerIndex, archive: Archive, sql: str) -> bytes | None:
    """One answer as it came; None where the server says that it would be too long."""
    name = f"index/{source.archive}/{hashlib.sha256(sql.encode()).hexdigest()[:16]}.csv"
    try:
        query = {"cmd": sql, "format": "csv"}
        page = archive.fetch_url(source.url, name, query, refresh=True, think_s=THINK_S, check=_not_a_table)
    except ArchiveError as error:
        if SERVER_LIMIT in str(error):
            return None
        raise
    content = page.path.read_bytes()
    archive.discard("", name)  # the index keeps what is in it
    return None if SERVER_LIMIT.encode() in content else content


def _not_a_table(head: bytes) -> str:
    """Check of a download: an outage or error page instead of a table."""
    if SERVER_LIMIT.encode() in head:
        return SERVER_LIMIT
    return no_web_page(head)
