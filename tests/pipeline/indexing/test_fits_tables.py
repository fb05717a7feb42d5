"""The exposure index: the three sources give what they hold, or one clear error."""

from __future__ import annotations

import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import exposures
from pipeline.archive import Archive, Patience
from pipeline.errors import ExposureIndexError
from pipeline.exposures import build_index, concatenate
from pipeline.footprint import covering
from pipeline.naming import photofield_path, tsfield_path
from pipeline.survey import ArchiveConfig, CatalogConfig, PhotoFieldIndex, SkyServerIndex, SurveyConfig, TsFieldIndex
from pipeline.transfer import SERVER_LIMIT

HEADER = ",".join(exposures._SQL_COLUMNS)


def survey(url: str, *sources: object) -> SurveyConfig:
    archives = (
        ArchiveConfig(name="das", layout="das-dr7", base_urls=(url + "das/",), attempts=1),
        ArchiveConfig(name="sas", layout="sas-dr8", base_urls=(url,), attempts=1),
    )
    return SurveyConfig(
        name="test", title="test", catalog=CatalogConfig(source=""), archives=archives, index=tuple(sources)
    )


def build(url: str, cache, *sources: object) -> exposures.ExposureIndex:
    config = survey(url, *sources)
    with Archive(config.archives, cache, Patience(attempts=1, wait_initial_s=0)) as archive:
        return build_index(config, archive)


def skyserver(url: str, first_run: int = 0, last_run: int = 9999) -> SkyServerIndex:
    return SkyServerIndex(kind="skyserver", archive="das", url=url + "sql", first_run=first_run, last_run=last_run)


def sql_row(run: int, field: int, quality: int = 3) -> str:
    mjd = ",".join(f"{53000.5 + run + 1e-3 * band}" for band in range(5))
    return f"{run},40,4,{field},{quality},{mjd},1.5,1.4,1.3,1.2,1.1,{350 + field / 7},1.1e-4,1e-8,-0.5,2e-8,1.1e-4"


def sql_server(reply, rows: dict[int, list[str]], max_rows: int, refuse):
    """A `Field` table: answers `run BETWEEN a AND b`, and refuses what is over `max_rows` as SkyServer does."""

    def answer(path, headers):
        query = parse_qs(urlsplit(path).query)
        words = query["cmd"][0].split()
        first, last = int(words[-3]), int(words[-1])
        assert query["format"] == ["csv"]
        found = [row for run in sorted(rows) if first <= run <= last for row in rows[run]]
        if len(found) > max_rows:
            return refuse
        return reply("\n".join(["#Table1", HEADER, *found, ""]).encode())

    return answer


@pytest.mark.parametrize("status", [200, 500])
def test_an_answer_over_the_limit_is_asked_for_in_halves(server, reply, tmp_path, status):
    rows = {run: [sql_row(run, field) for field in range(10, 13)] for run in (94, 4192, 6377, 7202)}
    refuse = reply(b"<html> error 'ASP 0251' " + SERVER_LIMIT.encode(), status)
    server.script["/sql"] = sql_server(reply, rows, 4, refuse)
    index = build(server.url, tmp_path, skyserver(server.url))
    assert index.run.tolist() == sorted([94, 4192, 6377, 7202] * 3)
    assert index.field.tolist() == [10, 11, 12] * 4
    np.testing.assert_allclose(index.mjd_tai_N5[0], 53094.5 + 1e-3 * np.arange(5), rtol=0, atol=1e-9)
    assert index.psf_fwhm_N5[0].tolist() == [1.5, 1.4, 1.3, 1.2, 1.1]
    np.testing.assert_array_equal(index.mu_N3[0], [350 + 10 / 7, 1.1e-4, 1e-8])
    np.testing.assert_array_equal(index.nu_N3[0], [-0.5, 2e-8, 1.1e-4])
    assert (set(index.node_deg), set(index.incl_deg), set(index.archive)) == ({95.0}, {0.0}, {"das"})


def test_a_page_at_the_row_limit_is_taken_as_cut_off(server, reply, tmp_path, monkeypatch):
    """DR7 SkyServer stops at 100,000 rows without a word."""
    monkeypatch.setattr(exposures, "MAX_SQL_ROWS", 3)
    rows = {run: [sql_row(run, field) for field in (1, 2)] for run in (5, 6)}
    server.script["/sql"] = sql_server(reply, rows, 100, None)
    assert len(build(server.url, tmp_path, skyserver(server.url, 0, 9))) == 4
    rows[6].append(sql_row(6, 3))
    with pytest.raises(ExposureIndexError, match="run 6 only in part"):
        build(server.url, tmp_path, skyserver(server.url, 0, 9))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html><body>SkyServer is down for maintenance", "down for maintenance"),
        (b"ERROR: Invalid column name 'mjd_u'", "is not the table that was asked for"),
        (f"{HEADER}\n{sql_row(1, 2)},9\n".encode(), "is not the table that was asked for"),
        (f"{HEADER}\n,{sql_row(1, 2).partition(',')[2]}\n".encode(), "no run, camcol"),
        (f"#Table1\n{HEADER}\n".encode(), "index is empty"),
        (b"No objects have been found", "index is empty"),
    ],
)
def test_an_answer_that_is_no_table_is_refused(server, reply, tmp_path, body, message):
    server.script["/sql"] = [reply(body)]
    with pytest.raises(ExposureIndexError, match=message):
        build(server.url, tmp_path, skyserver(server.url))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.booleans())
def test_no_page_breaks_the_reader(body, with_header):
    page = f"#Table1\n{HEADER}\n".encode() + body if with_header else body
    try:
        table = exposures._read_sql_page(page, "page")
    except ExposureIndexError:
        return
    assert table.column_names == list(exposures._SQL_COLUMNS)


def test_an_exposure_that_two_sources_give_is_there_once(server, reply, tmp_path):
    server.script["/sql"] = [reply(f"{HEADER}\n{sql_row(94, 11)}\n{sql_row(94, 12)}\n".encode())]
    index = build(server.url, tmp_path, skyserver(server.url), skyserver(server.url, 94, 94))
    assert index.field.tolist() == [11, 12]
    assert len(concatenate([index, index])) == 2


@pytest.fixture(scope="module")
def real_archive(real_data):
    """URL of the real SDSS tree."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(real_data / "archive"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


PHOTOFIELD = PhotoFieldIndex(kind="photofield", archive="sas", runs=(94,), camcols=(1,))
TSFIELD = TsFieldIndex(kind="tsfield", archive="das", fields=((4192, 40, 4, 300), (6377, 40, 4, 399)))


@pytest.fixture(scope="module")
def real_index(real_archive, tmp_path_factory):
    return build(real_archive, tmp_path_factory.mktemp("cache"), TSFIELD, PHOTOFIELD)


@pytest.mark.real
def test_real_field_tables_are_read_with_their_own_great_circle(real_index):
    assert len(real_index) == 2 + 536
    assert real_index.archive[[0, 1, 2]].tolist() == ["das", "das", "sas"]
    keys = [getattr(real_index, name)[1] for name in ("run", "rerun", "camcol", "field", "quality")]
    assert keys == [6377, 40, 4, 399, 2]
    assert (real_index.node_deg[1], real_index.incl_deg[1]) == (95, 0)
    assert (real_index.node_deg[2], real_index.incl_deg[2]) == (286.855205, 0.009477), "not 95, 0: run 94's own"
    assert real_index.mjd_tai_N5[1, 2] == pytest.approx(4665448596.13 / 86400, abs=1e-6), "the fpC header's TAI"
    assert real_index.psf_fwhm_N5[1, 2] == pytest.approx(1.0914, abs=1e-4)
    assert real_index.field[2:].tolist() == list(range(11, 547))


@pytest.mark.real
def test_real_catalogue_positions_fall_on_their_catalogued_pixels(real_index, real_data):
    path = real_data / "archive/sas/dr17/eboss/photoObj/301/94/1/photoObj-000094-1-0012.fits"
    with fits.open(path) as hdus:
        table = hdus[1].data
        ra, dec = np.array(table["RA"], float), np.array(table["DEC"], float)
        row, column = np.array(table["OBJC_ROWC"]), np.array(table["OBJC_COLC"])
    pairs = covering(real_index, ra, dec, margin_px=16)
    pairs = pairs.take((real_index.run[pairs.exposure_index] == 94) & (real_index.field[pairs.exposure_index] == 12))
    assert len(pairs) > 0.99 * len(ra)
    for found, catalogued in ((pairs.y_pix, row), (pairs.x_pix, column)):
        offset_px = found + 0.5 - catalogued[pairs.target_index]  # the catalogue counts from the pixel's edge
        assert np.abs(offset_px).max() < 0.5


@pytest.mark.real
@pytest.mark.filterwarnings("ignore::astropy.wcs.FITSFixedWarning")
@pytest.mark.parametrize(("run", "field"), [(4192, 300), (6377, 399)])
def test_real_fpc_header_puts_sources_on_the_same_pixels(real_index, real_data, run, field):
    path = real_data / f"archive/das/imaging/{run}/40/corr/4/fpC-{run:06d}-r4-{field:04d}.fit.gz"
    wcs = WCS(fits.getheader(path))
    x, y = (grid.ravel() for grid in np.meshgrid([5.0, 1000, 2040], [5.0, 700, 1480]))
    sky = wcs.pixel_to_world(x, y)
    pairs = covering(real_index, sky.ra.deg, sky.dec.deg)
    pairs = pairs.take(real_index.run[pairs.exposure_index] == run)
    assert len(pairs) == 9
    np.testing.assert_allclose(pairs.x_pix, x, atol=1)
    np.testing.assert_allclose(pairs.y_pix, y, atol=1)


@pytest.mark.real
def test_a_field_table_of_another_field_is_refused(server, reply, real_data, tmp_path):
    content = (real_data / "archive/das" / tsfield_path(4192, 40, 4, 300)).read_bytes()
    server.script["/das/" + tsfield_path(6377, 40, 4, 399)] = [reply(content)]
    with pytest.raises(ExposureIndexError, match=r"006377.*it says .* \(4192, 40, 4, 300\)"):
        build(server.url, tmp_path, TsFieldIndex(kind="tsfield", archive="das", fields=((6377, 40, 4, 399),)))


@pytest.mark.real
def test_a_corrupt_field_table_is_refused_and_not_kept(server, reply, real_data, tmp_path):
    path = photofield_path(94, 301, 1)
    content = (real_data / "archive" / path).read_bytes()
    server.script["/" + path] = [reply(content[:100_000])]
    with pytest.raises(ExposureIndexError, match=r"photoField-000094-1\.fits"):
        build(server.url, tmp_path, PHOTOFIELD)
    server.script["/" + path] = [reply(content)]
    assert len(build(server.url, tmp_path, PHOTOFIELD)) == 536


def test_a_run_that_the_archive_lacks_is_named(server, tmp_path):
    with pytest.raises(ExposureIndexError, match=r"photoField-000094-1\.fits does not exist"):
        build(server.url, tmp_path, PHOTOFIELD)
