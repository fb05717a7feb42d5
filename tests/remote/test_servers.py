"""What the real servers say, against what this software is built on; off unless asked for: `make test-remote`.

Each test is one statement of fact and a few small requests; a failure says which statement does not hold (any more).
Identities and figures are those of the real files that the rest of the suite is tested on.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.archive import Archive, Patience
from pipeline.doctor.asking import NoAnswer, ask
from pipeline.doctor.releases import REAL_RELEASES, release_checks
from pipeline.errors import PipelineError
from pipeline.frame import Frame
from pipeline.frames import read_frame
from pipeline.naming import FrameId, calibration_path, frame_path, mask_path
from pipeline.survey import SkyServerIndex, load_survey

pytestmark = pytest.mark.remote_data

ONCE = Patience(attempts=1, timeout_s=10)
SUPERNOVA_SEASON = FrameId("das-dr7", 6377, 40, 4, 399, "r")
LEGACY = FrameId("sas-dr8", 94, 301, 1, 12, "r")
MIDDLE_MJD = {SUPERNOVA_SEASON: 53998.247555, LEGACY: 51075.233543}
"""MJD (TAI) of the middle of the exposure at row 744."""
FIELD = {
    "mjd_r": pytest.approx(53998.24764, abs=1e-4),
    "psfWidth_r": pytest.approx(1.091, abs=0.05),
    "a_r": pytest.approx(351.563975, abs=1e-5),
    "b_r": pytest.approx(1.100003e-4, abs=1e-9),
    "c_r": pytest.approx(9.7e-9, abs=1e-9),
    "d_r": pytest.approx(-0.008546, abs=1e-5),
    "e_r": pytest.approx(3.5e-10, abs=1e-9),
    "f_r": pytest.approx(1.100136e-4, abs=1e-9),
}
"""The supernova season's frame in table Field, as its tsField has it."""


@contextmanager
def fact(statement: str) -> Iterator[None]:
    """Turn whatever goes wrong into the statement that it contradicts."""
    try:
        yield
    except (PipelineError, NoAnswer, AssertionError) as error:
        raise AssertionError(f"not confirmed: {statement}\n{error}") from None


def fetch(survey_name: str, frame: FrameId, cache: Path) -> Frame:
    """A frame with its table and mask planes, from the servers of a survey that ships, tried once."""
    (config,) = load_survey(survey_name).archives
    with Archive(
        [config.model_copy(update={"attempts": 1, "timeout_s": 10, "max_outage_h": 0})], cache, ONCE
    ) as archive:
        image, table, planes = (
            archive.fetch(config.name, path(frame, sas_root=config.sas_root)).path
            for path in (frame_path, calibration_path, mask_path)
        )
        return read_frame(image, table, planes, rerun=frame.rerun)


def test_the_das_has_the_supernova_seasons(tmp_path: Path) -> None:
    with fact("das.sdss.org serves fpC, tsField and fpM of supernova run 6377, rerun 40, at the DR7 paths"):
        frame = fetch("sdss-sn", SUPERNOVA_SEASON, tmp_path)
        assert frame.id == SUPERNOVA_SEASON
        assert float(frame.mjd_tai(744)) == pytest.approx(MIDDLE_MJD[SUPERNOVA_SEASON], abs=1e-4)
        assert frame.calibration.quality == 2


def test_the_sas_has_the_legacy_runs(tmp_path: Path) -> None:
    with fact("data.sdss.org serves frame, photoField and fpM of run 94 below sas/dr17/eboss"):
        frame = fetch("sdss-legacy", LEGACY, tmp_path)
        assert frame.id == LEGACY
        assert float(frame.mjd_tai(744)) == pytest.approx(MIDDLE_MJD[LEGACY], abs=1e-4)


def test_the_sql_page_has_the_columns_of_the_index() -> None:
    """The astrometry of one field, as its tsField has it."""
    with fact("SkyServer's Stripe 82 page answers SQL with CSV, and its table Field has the astrometry of run 6377"):
        (index,) = load_survey("sdss-sn").index
        assert isinstance(index, SkyServerIndex)
        sql = f"SELECT rerun,quality,{','.join(FIELD)} FROM Field WHERE run = 6377 AND camcol = 4 AND field = 399"  # noqa: S608
        answer = ask(index.url, {"cmd": sql, "format": "csv"})
        assert answer.complaint == ""
        lines = [line for line in answer.body.decode().splitlines() if line and not line.startswith("#")]
        (row,) = csv.DictReader(lines)
        assert (row["rerun"], row["quality"]) == ("40", "2")
        assert {name: float(row[name]) for name in FIELD} == FIELD


def test_the_master_table_begins_with_its_columns() -> None:
    with fact("data.sdss.org serves sdsssn_master.dat2, whitespace-separated, a line of column names first"):
        answer = ask(load_survey("sdss-sn").catalog.source)
        assert answer.complaint == ""
        header, *rows = (line.split() for line in answer.body.decode("ascii").splitlines()[:20])
        assert {"CID", "RA", "DEC", "Classification"} <= set(header)
        assert all(len(row) == len(header) for row in rows)
        assert all(row[header.index("CID")].isdecimal() for row in rows)


@pytest.mark.parametrize("name", [name for name, _ in release_checks(REAL_RELEASES)])
def test_the_releases_have_the_runs_that_are_said(name: str) -> None:
    with fact("240 supernova runs in DR7's Stripe 82 database, one (7183) and no frames of the others in DR17"):
        found = dict(release_checks(REAL_RELEASES))[name]()
        assert found.status == "ok", found.found
