"""photoField and tsField tables: what real ones hold, or one clear error; asked for again only if they have changed."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from pipeline.errors import ExposureIndexError
from pipeline.footprint import covering
from pipeline.indexing import fits_tables
from pipeline.naming import photofield_path, tsfield_path
from pipeline.simulate.server import ArchiveServer
from pipeline.survey import PhotoFieldIndex, TsFieldIndex

PHOTOFIELD = PhotoFieldIndex(kind="photofield", archive="sas", runs=(94,), camcols=(1,))
TSFIELD = TsFieldIndex(kind="tsfield", archive="das", fields=((4192, 40, 4, 300), (6377, 40, 4, 399)))

pytestmark = pytest.mark.real


@pytest.fixture
def real_index(real_archive, build):
    return build(real_archive.url + "/", TSFIELD, PHOTOFIELD)


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


def test_sky_and_status_have_one_unit_and_meaning_whatever_the_table(real_index):
    """tsField has the sky in maggies, photoField in nanomaggies; dark sky is 4 to 6 nMgy/arcsec² in r in both."""
    np.testing.assert_allclose(real_index.sky_N5[1], [1.53608, 1.75626, 3.91169, 7.0402, 21.7133], rtol=1e-5)
    np.testing.assert_allclose(real_index.sky_N5[3], [1.85639, 2.13855, 5.59832, 12.08819, 38.59587], rtol=1e-5)
    assert real_index.image_status_N5[:3].tolist() == [[0] * 5, [0] * 5, [1] * 5], "none in DR7, CLEAR in run 94"
    assert real_index.calib_status_N5[:3].tolist() == [[0] * 5, [0] * 5, [1] * 5], "none in DR7, PHOTOMETRIC in run 94"


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


@pytest.mark.filterwarnings("ignore::astropy.wcs.FITSFixedWarning")
@pytest.mark.parametrize(
    ("run", "field", "image"),
    [
        (4192, 300, "das/imaging/4192/40/corr/4/fpC-004192-r4-0300.fit.gz"),
        (6377, 399, "das/imaging/6377/40/corr/4/fpC-006377-r4-0399.fit.gz"),
        (94, 12, "sas/dr17/eboss/photoObj/frames/301/94/1/frame-r-000094-1-0012.fits.bz2"),
    ],
)
def test_a_real_header_puts_sources_on_the_same_pixels(real_index, real_data, run, field, image):
    """The footprint agrees with astropy's WCS of real images of both formats, at corners and in the middle."""
    wcs = WCS(fits.getheader(real_data / "archive" / image)).celestial
    x, y = (grid.ravel() for grid in np.meshgrid([5.0, 1000, 2040], [5.0, 700, 1480]))
    sky = wcs.pixel_to_world(x, y)
    pairs = covering(real_index, sky.ra.deg, sky.dec.deg)
    pairs = pairs.take(
        (real_index.run[pairs.exposure_index] == run) & (real_index.field[pairs.exposure_index] == field)
    )
    assert len(pairs) == 9
    np.testing.assert_allclose(pairs.x_pix, x, atol=1)
    np.testing.assert_allclose(pairs.y_pix, y, atol=1)


def test_what_has_not_changed_is_neither_sent_nor_parsed_again(real_data, build, tmp_path, monkeypatch):
    """A refresh asks with the validators of the cached file, and reads only the one that is another."""
    tree = tmp_path / "tree"
    for path in ("das/" + tsfield_path(4192, 40, 4, 300), "das/" + tsfield_path(6377, 40, 4, 399)):
        (tree / path).parent.mkdir(parents=True)
        shutil.copy(real_data / "archive" / path, tree / path)
    read = []
    original = fits_tables._tsfield
    monkeypatch.setattr(fits_tables, "_tsfield", lambda *given: read.append(given[2][0]) or original(*given))
    with ArchiveServer(tree) as server:
        first = build(server.url + "/", TSFIELD)
        asked = len(server.requests)
        build(server.url + "/", TSFIELD)
        assert len(server.requests) == asked, "a stored index needs no server"
        build(server.url + "/", TSFIELD, refresh=True)
        assert [request.status for request in server.requests[asked:]] == [304, 304]
        assert sorted(read) == [4192, 6377]
        with fits.open(tree / path, mode="update") as hdus:
            hdus[1].data["psf_width"][0, 2] = 1.5
        with pytest.raises(ExposureIndexError, match=r'is not the file it was.*set changed_files = "accept"'):
            build(server.url + "/", TSFIELD, refresh=True)
        second = build(server.url + "/", TSFIELD, refresh=True, changed_files="accept")
        assert sorted(read) == [4192, 6377, 6377]
        again = build(server.url + "/", TSFIELD, root=tmp_path / "scratch")
    assert (first.psf_fwhm_N5[1, 2], second.psf_fwhm_N5[1, 2]) == (pytest.approx(1.0914, abs=1e-4), 1.5)
    for name in ("run", "psf_fwhm_N5", "mu_N3"):
        np.testing.assert_array_equal(getattr(second, name), getattr(again, name))


def test_another_server_with_the_same_files_is_asked_but_sends_nothing(real_data, build):
    """A demonstration archive has another port each time."""
    for n in range(2):
        with ArchiveServer(real_data / "archive") as server:
            build(server.url + "/", TSFIELD)
            assert [request.status for request in server.requests] == [[200, 200], [304, 304]][n]


@pytest.mark.parametrize("verify", ["at-fetch", "when-cut"])
def test_a_field_table_of_another_field_or_run_is_refused(server, reply, real_data, build, verify):
    """Whether the download is looked at or not."""
    archive = real_data / "archive"
    one, other = "/das/" + tsfield_path(6377, 40, 4, 399), "/" + photofield_path(125, 301, 1)
    server.script[one] = [reply((archive / "das" / tsfield_path(4192, 40, 4, 300)).read_bytes())]
    server.script[other] = [reply((archive / photofield_path(94, 301, 1)).read_bytes())]
    wanted = TsFieldIndex(kind="tsfield", archive="das", fields=((6377, 40, 4, 399),))
    with pytest.raises(ExposureIndexError, match=r"006377.*(says run 4192, field 300|\(4192, 40, 4, 300\))"):
        build(server.url, wanted, verify=verify)
    with pytest.raises(ExposureIndexError, match=r"000125-1.*says run(, rerun, camcol = \[\(| )94"):
        build(server.url, PHOTOFIELD.model_copy(update={"runs": (125,)}), verify=verify)


def test_a_corrupt_field_table_is_refused_and_not_kept(server, reply, real_data, build):
    path = photofield_path(94, 301, 1)
    content = (real_data / "archive" / path).read_bytes()
    server.script["/" + path] = [reply(content[:100_000])]
    with pytest.raises(ExposureIndexError, match=r"photoField-000094-1\.fits"):
        build(server.url, PHOTOFIELD)
    server.script["/" + path] = [reply(content)]
    assert len(build(server.url, PHOTOFIELD)) == 536


def test_a_run_that_the_archive_lacks_is_named(server, build):
    with pytest.raises(ExposureIndexError, match=r"photoField-000094-1\.fits does not exist"):
        build(server.url, PHOTOFIELD)
