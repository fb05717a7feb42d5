"""`window_flist.fits`: fields without a solution, rebuilt well enough to plan with; made of a real photoField."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from pipeline.astrometry import from_great_circle
from pipeline.errors import ExposureIndexError
from pipeline.footprint import covering
from pipeline.naming import photofield_path
from pipeline.simulate.server import ArchiveServer
from pipeline.survey import CasIndex, PhotoFieldIndex, WindowFlistIndex

pytestmark = pytest.mark.real
PHOTOFIELD = PhotoFieldIndex(kind="photofield", archive="sas", runs=(94,), camcols=(1,))


@pytest.fixture
def truth(real_archive, build, tmp_path):
    """Index of the real photoField of run 94 camcol 1, solutions and all."""
    return build(real_archive.url + "/", PHOTOFIELD, root=tmp_path / "truth")


@pytest.fixture
def window_flist(real_data, tmp_path) -> Path:
    """The rows of run 94 as window_flist has them, among those of a rerun and a run that are not wanted."""
    with fits.open(real_data / "archive" / photofield_path(94, 301, 1)) as hdus:
        header, rows = hdus[0].header, hdus[1].data
        names = ["RUN", "CAMCOL", "FIELD", "RA", "DEC", "TAI", "IMAGE_STATUS", "CALIB_STATUS"]
        names += ["MU_START", "MU_END", "NU_START", "NU_END"]
        columns = {name: np.tile(np.array(rows[name]), (3, 1) if rows[name].ndim > 1 else 3) for name in names}
        columns |= {"PSF_FWHM": np.tile(rows["PSF_WIDTH"], (3, 1)), "SKYFLUX": np.tile(rows["SKY"], (3, 1))}
    count = len(columns["RUN"]) // 3
    columns["RUN"][:count] = 125
    columns["RERUN"] = np.repeat(["301", "301", "157"], count)
    columns["NODE"], columns["INCL"] = np.full(3 * count, header["NODE"]), np.full(3 * count, header["INCL"])
    form = {"RERUN": "3A", "TAI": "5D", **dict.fromkeys(("PSF_FWHM", "SKYFLUX"), "5E")}
    form |= dict.fromkeys(("IMAGE_STATUS", "CALIB_STATUS"), "5J") | dict.fromkeys(("RUN", "CAMCOL", "FIELD"), "J")
    hdu = fits.BinTableHDU.from_columns(
        [fits.Column(name=name, format=form.get(name, "D"), array=array) for name, array in columns.items()]
    )
    hdu.writeto(tmp_path / "window_flist.fits")
    return tmp_path / "window_flist.fits"


def source(path: Path | str, runs: tuple[int, ...] = (94,)) -> WindowFlistIndex:
    return WindowFlistIndex(kind="window-flist", archive="sas", source=str(path), runs=runs)


def offsets_px(index, truth) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of corners, edges and middles of all fields in `index`, less those in `truth`."""
    row, column = (grid.ravel() for grid in np.meshgrid([3.0, 744.5, 1486.0], [0.0, 1024.0, 2048.0]))
    mu = truth.mu_N3 @ np.stack([np.ones(9), row, column])
    nu = truth.nu_N3 @ np.stack([np.ones(9), row, column])
    ra, dec = from_great_circle(mu.ravel(), nu.ravel(), truth.node_deg[0], truth.incl_deg[0])
    pairs = covering(index, ra, dec, margin_px=5)
    pairs = pairs.take(pairs.target_index // 9 == pairs.exposure_index)
    assert len(pairs) == len(ra)
    which = pairs.target_index % 9
    return pairs.x_pix + 0.5 - column[which], pairs.y_pix + 0.5 - row[which]


def test_the_rebuilt_solution_is_right_to_two_pixels_over_all_fields_of_a_real_run(window_flist, build, truth):
    """The figure that the module states."""
    index = build("http://127.0.0.1:9/", source(window_flist))
    assert index.field.tolist() == truth.field.tolist()
    x_px, y_px = offsets_px(index, truth)
    assert np.abs(x_px).max() < 1.0
    assert np.abs(y_px).max() < 2.0


def test_times_seeing_sky_and_status_are_those_of_the_field_tables(window_flist, build, truth):
    index = build("http://127.0.0.1:9/", source(window_flist))
    np.testing.assert_allclose(index.mjd_tai_N5, truth.mjd_tai_N5, rtol=0, atol=2e-3 / 86400)
    for name in ("psf_fwhm_N5", "sky_N5", "image_status_N5", "calib_status_N5", "run", "rerun", "camcol"):
        np.testing.assert_array_equal(getattr(index, name), getattr(truth, name), name)
    assert set(index.quality) == {0}, "it does not tell"


def test_a_database_without_great_circles_is_right_to_two_pixels_on_a_real_run(
    real_data, build, truth, tmp_path, row, write_fields
):
    """Run 94 is 32″ off the equator; its solution laid through RA and Dec of the centres is not."""
    with fits.open(real_data / "archive" / photofield_path(94, 301, 1)) as hdus:
        table = hdus[1].data
        rows = []
        for n in range(len(table)):
            one = row((94, 301, 1, int(table["FIELD"][n])), dr8=True)
            one |= {"ra": table["RA"][n], "dec": table["DEC"][n]}
            one |= {f"{term}_r": table[term if term != "f" else "ff"][n, 2] for term in "abcdef"}
            rows.append(one)
    write_fields(tmp_path / "tree", rows, dr8=True)
    with ArchiveServer(tmp_path / "tree") as server:
        index = build(server.url + "/", CasIndex(kind="cas", archive="sas", runs=(94,), url=server.url))
    x_px, y_px = offsets_px(index, truth)
    assert max(np.abs(x_px).max(), np.abs(y_px).max()) < 2.0


def test_it_is_fetched_from_a_url_once(window_flist, build):
    with ArchiveServer(window_flist.parent) as server:
        one = source(server.url + "/window_flist.fits")
        for refresh in (False, False, True):
            assert len(build(server.url + "/", one, refresh=refresh)) == 536
        assert [request.status for request in server.requests] == [200, 304]


def test_what_is_not_such_a_table_is_refused(window_flist, build, real_data, tmp_path):
    nowhere = "http://127.0.0.1:9/"
    with pytest.raises(ExposureIndexError, match=r"no field of runs \[5566\] in rerun 301"):
        build(nowhere, source(window_flist, (94, 5566)))
    with pytest.raises(ExposureIndexError, match="not a window_flist table"):
        build(nowhere, source(real_data / "archive" / photofield_path(94, 301, 1)))
    cut = tmp_path / "cut.fits"
    cut.write_bytes(window_flist.read_bytes()[:100_000])
    with pytest.raises(ExposureIndexError, match=r"cut\.fits is not a window_flist table"):
        build(nowhere, source(cut))
    with pytest.raises(ExposureIndexError, match="cannot read"):
        build(nowhere, source(tmp_path / "none.fits"))
