"""Which releases of SDSS have the supernova seasons: the facts that this software is built on, asked of the servers.

The runs of 2005 to 2007 are in the Stripe 82 database of DR7 and on its DAS, and not among the frames of DR8
and later (all DR8 to DR10 statistics exclude them; nobody has asked every later release run by run).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipeline.doctor.asking import NoAnswer, ask
from pipeline.doctor.check import Check
from pipeline.doctor.sqlpage import NotATable, read_page
from pipeline.naming import FrameId, frame_path

FIRST_RUN, LAST_RUN = 5566, 7202
"""Of the supernova seasons."""
RUNS_SQL: Final = f"SELECT run, count(*) AS fields FROM Field WHERE run BETWEEN {FIRST_RUN} AND {LAST_RUN} GROUP BY run"  # noqa: S608
RUNS_IN_DR7: Final = 240
RUNS_IN_DR17: Final = 1
"""7183 alone."""
CHANGED: Final = "this contradicts what docs/survey.md says of the releases: please open an issue"


@dataclass(frozen=True, slots=True)
class Releases:
    """Where to ask."""

    dr7_sql: str = "https://skyserver.sdss.org/stripe82/en/tools/search/x_sql.asp"
    dr17_sql: str = "https://skyserver.sdss.org/dr17/en/tools/search/x_results.aspx"
    dr17_archive: str = "https://data.sdss.org/"


REAL_RELEASES: Final = Releases()


def release_checks(releases: Releases) -> list[tuple[str, Callable[[], Check]]]:
    """Name and check of each release; none of them fails a preflight, for a survey may need but one of them."""
    return [
        ("supernova runs in DR7", lambda: _dr7(releases)),
        ("supernova runs in DR17", lambda: _dr17(releases)),
        ("supernova frames in DR17", lambda: _dr17_frame(releases)),
    ]


def _dr7(releases: Releases) -> Check:
    name = "supernova runs in DR7"
    try:
        runs = _runs(releases.dr7_sql, {"cmd": RUNS_SQL, "format": "csv"})
    except (NoAnswer, NotATable) as problem:
        return _unknown(name, problem)
    found = f"{len(runs)} of {RUNS_IN_DR7} in the Stripe 82 database"
    return Check(name, "ok", found) if len(runs) >= RUNS_IN_DR7 else Check(name, "warn", found, CHANGED)


def _dr17(releases: Releases) -> Check:
    name = "supernova runs in DR17"
    try:
        runs = _runs(releases.dr17_sql, {"cmd": RUNS_SQL, "format": "csv", "searchtool": "SQL"})
    except (NoAnswer, NotATable) as problem:
        return _unknown(name, problem)
    found = f"{len(runs)}, {RUNS_IN_DR17} expected"
    return Check(name, "ok", found) if len(runs) <= RUNS_IN_DR17 else Check(name, "warn", found, CHANGED)


def _dr17_frame(releases: Releases) -> Check:
    name = "supernova frames in DR17"
    try:
        url = releases.dr17_archive + frame_path(FrameId("sas-dr8", 6377, 301, 4, 399, "r"))
        status = ask(url, method="HEAD").status
    except NoAnswer as problem:
        return _unknown(name, problem)
    if status == 404:
        return Check(name, "ok", "none, as expected (run 6377)")
    found = f"status {status} instead of 404 for run 6377"
    return Check(name, "warn", found, CHANGED if status == 200 else "ask again later")


def _unknown(name: str, problem: Exception) -> Check:
    return Check(name, "warn", str(problem), "ask again later; a build does not need this answer")


def _runs(url: str, params: dict[str, str]) -> set[int]:
    answer = ask(url, params)
    if answer.complaint:
        raise NotATable(answer.complaint)
    return {run for run, _ in read_page(answer.body, ("run", "fields"))}
