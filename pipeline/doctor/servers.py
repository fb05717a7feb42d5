"""What the servers of a survey say: object list, index sources, every mirror of every archive, Prefect."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from pipeline.doctor.asking import Answer, NoAnswer, ask, in_parallel
from pipeline.doctor.check import Check, Status
from pipeline.doctor.releases import Releases, release_checks
from pipeline.doctor.sqlpage import NotATable, read_page
from pipeline.naming import FrameId, cas_page, frame_path, photofield_path
from pipeline.survey import (
    ArchiveConfig,
    CasIndex,
    FileIndex,
    IndexConfig,
    PhotoFieldIndex,
    SkyServerIndex,
    SurveyConfig,
    TsFieldIndex,
    WindowFlistIndex,
)
from pipeline.transfer import check_magic

ROUND_S: Final = 10.0
"""Longest wait for all answers of a round: first tables and indexes, then files of the archives."""
FILE_BYTES: Final = 4_000_000
"""Enough of a frame to tell the rate."""
RATE_BYTES: Final = 100_000
"""A smaller file tells nothing about it."""
AT_SDSS: Final = re.compile(r"https?://([^/@:]+\.)?sdss\.org[:/]", re.IGNORECASE)
KEY: Final = ("run", "rerun", "camcol", "field")
LATER: Final = "ask again later, or correct its address in the survey's description"
MIRROR: Final = "ask again later, or name a mirror in base_urls"


@dataclass(frozen=True, slots=True)
class Finding:
    """A check, and what it told about the archive's files."""

    check: Check
    sample: str = ""
    """Path of a file that the archive must have."""


@dataclass(frozen=True, slots=True)
class Question:
    """A check to be made, and what it comes to where no answer comes in time."""

    name: str
    ask: Callable[[], Finding]
    when_late: Status = "fail"


def check_servers(survey: SurveyConfig, releases: Releases) -> list[Check]:
    """Ask all of them, in two rounds of which each is done after `ROUND_S`."""
    first = [Question("object list", lambda: Finding(_table("object list", survey.catalog.source)))]
    first += [Question(f"index {source.archive} ({source.kind})", _asker(source, survey)) for source in survey.index]
    if url := os.environ.get("PREFECT_API_URL"):
        first.append(Question("prefect server", lambda: Finding(_prefect_server(url))))
    if _is_at_sdss(survey):
        first += [Question(name, _finding(check), "warn") for name, check in release_checks(releases)]
    findings = _round(first)
    samples: dict[str, str] = {}
    for source, finding in zip(survey.index, findings[1:], strict=False):
        samples[source.archive] = samples.get(source.archive) or finding.sample
    return [finding.check for finding in findings] + _archives(survey.archives, samples)


def _asker(source: IndexConfig, survey: SurveyConfig) -> Callable[[], Finding]:
    return lambda: _index(source, survey)


def _finding(check: Callable[[], Check]) -> Callable[[], Finding]:
    return lambda: Finding(check())


def _round(questions: Sequence[Question]) -> list[Finding]:
    """Everything at once, and no longer than `ROUND_S`."""
    findings = in_parallel([question.ask for question in questions], ROUND_S)
    late = [
        Finding(Check(question.name, question.when_late, f"no answer within {ROUND_S:g} s", LATER))
        for question in questions
    ]
    return [finding or too_late for finding, too_late in zip(findings, late, strict=True)]


def _is_at_sdss(survey: SurveyConfig) -> bool:
    urls = [url for archive in survey.archives for url in archive.base_urls]
    return any(AT_SDSS.match(url) for url in urls)


# ── tables ───────────────────────────────────────────────────────────────────────────────────────


def _table(name: str, source: str) -> Check:
    """A file on this machine or a URL, of which the beginning is read."""
    if "://" not in source or source.startswith("file://"):
        path = Path(unquote(source.removeprefix("file://")) if "://" in source else source)
        if path.is_file():
            return Check(name, "ok", str(path))
        return Check(name, "fail", f"there is no file {path}", "give its path or URL in the survey's description")
    try:
        answer = ask(source)
    except NoAnswer as problem:
        return Check(name, "fail", f"{source}: {problem}", LATER)
    if answer.complaint:
        return Check(name, "fail", f"{source} gives {answer.complaint}", LATER)
    return Check(name, "ok", f"{source} answers in {answer.latency_s:.2f} s")


def _prefect_server(url: str) -> Check:
    advice = "start it (`prefect server start`), or unset PREFECT_API_URL to use an embedded one"
    try:
        answer = ask(f"{url.rstrip('/')}/health")
    except NoAnswer as problem:
        return Check("prefect server", "fail", f"{url}: {problem}", advice)
    if answer.complaint or answer.body.strip() != b"true":
        return Check("prefect server", "fail", f"{url} is not healthy: {answer.complaint or answer.body!r}", advice)
    return Check("prefect server", "ok", f"{url} answers in {answer.latency_s:.2f} s")


def _index(source: IndexConfig, survey: SurveyConfig) -> Finding:
    """Ask one index source for as little as possible, and learn of a file that its archive must have."""
    name = f"index {source.archive} ({source.kind})"
    archive = survey.archive(source.archive)
    match source:
        case SkyServerIndex():
            where = f"run BETWEEN {source.first_run} AND {source.last_run}"
            return _sql(name, source.url, where, {}, survey, archive)
        case CasIndex():
            url = source.url.rstrip("/") + cas_page(source.data_release)
            where = f"run = {source.runs[0] if source.runs else -1} AND rerun = {source.rerun}"
            return _sql(name, url, where, {"searchtool": "SQL"}, survey, archive)
        case TsFieldIndex():
            check = Check(name, "ok", f"{len(source.fields)} fields, listed in the survey")
            return Finding(check, _frame_of(source.fields[0], survey, archive) if source.fields else "")
        case PhotoFieldIndex() | WindowFlistIndex():
            camcol = source.camcols[0] if isinstance(source, PhotoFieldIndex) and source.camcols else 1
            sample = ""
            if source.runs:
                sample = photofield_path(source.runs[0], source.rerun, camcol, sas_root=archive.sas_root)
            if isinstance(source, WindowFlistIndex):
                return Finding(_table(name, source.source), sample)
            return Finding(Check(name, "ok", f"tables of {len(source.runs)} runs in the archive itself"), sample)
        case FileIndex():
            return Finding(_table(name, source.source))


def _sql(
    name: str, url: str, where: str, more: dict[str, str], survey: SurveyConfig, archive: ArchiveConfig
) -> Finding:
    """One field of a SQL page."""
    sql = f"SELECT TOP 1 {','.join(KEY)} FROM Field WHERE {where}"  # noqa: S608 (integers of the configuration)
    try:
        answer = ask(url, {"cmd": sql, "format": "csv"} | more)
        if answer.complaint:
            raise NotATable(answer.complaint)
        rows = read_page(answer.body, KEY)
    except (NoAnswer, NotATable) as problem:
        return Finding(Check(name, "fail", f"{url}: {problem}", f"{LATER}, or use another kind of [[index]]"))
    if not rows:
        return Finding(Check(name, "fail", f"{url} has no field with {where}", "correct the runs in [[index]]"))
    return Finding(Check(name, "ok", f"{url} answers in {answer.latency_s:.2f} s"), _frame_of(rows[0], survey, archive))


def _frame_of(key: Sequence[int], survey: SurveyConfig, archive: ArchiveConfig) -> str:
    """Path of a frame of the field (run, rerun, camcol, field), in r where that is cut."""
    bands = survey.thumbnails.bands
    run, rerun, camcol, field = key
    frame = FrameId(archive.layout, run, rerun, camcol, field, "r" if "r" in bands else bands[0])
    return frame_path(frame, sas_root=archive.sas_root)


# ── archives ─────────────────────────────────────────────────────────────────────────────────────


def _archives(archives: Sequence[ArchiveConfig], samples: dict[str, str]) -> list[Check]:
    """Every mirror, at once. One that fails beside one that works is a warning."""
    questions = [
        Question(f"archive {archive.name}", _file_asker(archive, url, samples.get(archive.name, "")))
        for archive in archives
        for url in archive.base_urls
    ]
    checks = iter([finding.check for finding in _round(questions)])
    found = []
    for archive in archives:
        mirrors = [next(checks) for _ in archive.base_urls]
        if any(check.status != "fail" for check in mirrors):
            mirrors = [replace(check, status="warn") if check.status == "fail" else check for check in mirrors]
        found += mirrors
    return found


def _file_asker(archive: ArchiveConfig, url: str, sample: str) -> Callable[[], Finding]:
    return lambda: Finding(_mirror(archive, url, sample))


def _mirror(archive: ArchiveConfig, base_url: str, sample: str) -> Check:
    """Fetch one file, or the beginning of it."""
    name = f"archive {archive.name}"
    path = sample or _known_file(archive)
    try:
        answer = ask(base_url + quote(path), max_bytes=FILE_BYTES)
    except NoAnswer as problem:
        return Check(name, "fail", f"{base_url}: {problem}", MIRROR)
    if answer.status in (404, 410):
        found = f"{base_url} answers in {answer.latency_s:.2f} s, but has no {path}"
        return Check(name, "fail" if sample else "warn", found, "see whether base_urls, layout and sas_root are right")
    if wrong := answer.complaint or check_magic(path)(answer.body):
        return Check(name, "fail", f"{base_url} gives {wrong} for {path}", MIRROR)
    return _rate(name, base_url, answer, archive)


def _known_file(archive: ArchiveConfig) -> str:
    """A frame that the real archives have, where the index does not tell of one."""
    if archive.layout == "das-dr7":
        return frame_path(FrameId("das-dr7", 6377, 40, 4, 399, "r"))
    return frame_path(FrameId("sas-dr8", 94, 301, 1, 12, "r"), sas_root=archive.sas_root)


def _rate(name: str, base_url: str, answer: Answer, archive: ArchiveConfig) -> Check:
    found = f"{base_url} answers in {answer.latency_s:.2f} s"
    if len(answer.body) < RATE_BYTES:
        return Check(name, "ok", found)
    mb_per_s = len(answer.body) / 1e6 / max(answer.body_s, 1e-6)
    found += f", {mb_per_s:.1f} MB/s over {len(answer.body) / 1e6:.1f} MB on one connection"
    if mb_per_s * 1e3 < archive.min_kb_per_s:
        return Check(name, "warn", found, "slower than min_kb_per_s of the archive: it would be given up on")
    return Check(name, "ok", found)
