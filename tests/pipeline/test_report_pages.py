"""The folder of pages: every link leads somewhere, every object's page says what its file says, no id leaves it."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError, PipelineError, ReportError
from pipeline.manifest import open_dataset
from pipeline.naming import FRAMES_FILE, MANIFEST_FILE
from pipeline.report import write_object_pages, write_pages
from pipeline.report.framelist import FrameList
from pipeline.report.history import Shelf, history_figure
from pipeline.report.inspection import even_sample
from pipeline.report.measure import masked_fraction, measure
from pipeline.report.skymap import contiguous, sky_map
from pipeline.report.style import Picture
from pipeline.report.template import size
from pipeline.sequences import MaskBit
from s82.words.report import command
from tests.pipeline.small import republish
from tests.pipeline.test_report import CLASSES, Page, observed, write_dataset, write_truth

SHA256 = "c0ffee" + 58 * "1"


@dataclass(frozen=True)
class Folder:
    path: Path
    dataset: Path

    def page(self, name: str) -> Page:
        return Page((self.path / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The pages of a dataset of four objects, one with a bad frame that was fetched from a server."""
    made = tmp_path_factory.mktemp("pages")
    dataset = write_dataset(made / "dataset")
    known_frame(dataset)
    write_pages(made / "pages", dataset, truth=write_truth(made / "truth"), sample=1)
    return Folder(made / "pages", dataset)


def known_frame(dataset: Path, url: str = "http://das.example.org/fpC-5003-r1.fit.gz") -> None:
    """Give one row of frames.parquet the sha256 that an image of object 679 has, an address, and a terrible seeing."""
    rows = pq.read_table(dataset / FRAMES_FILE).to_pylist()
    rows[17] |= {"sha256": SHA256, "path": "imaging/5003/fpC-5003-r1.fit.gz", "psf_fwhm_arcsec": 9.0}
    rows = [row | {"url": url if row["sha256"] == SHA256 else ""} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows), dataset / FRAMES_FILE)
    sequence = observed("679")
    frame_sha256 = sequence.frame_sha256.copy()
    frame_sha256[17] = SHA256.encode()
    republish(dataset, replace(sequence, frame_sha256=frame_sha256))


def test_every_object_of_a_small_dataset_has_a_page_and_the_index_leads_there(folder: Folder) -> None:
    index = folder.page("index.html")
    linked = {link for link in index.links if link.startswith("objects/")}
    assert linked == {f"objects/{object_id}.html" for object_id in CLASSES}
    written = {path.relative_to(folder.path).as_posix() for path in folder.path.rglob("*") if path.is_file()}
    assert written == linked | {"index.html"}


@pytest.mark.parametrize("name", ["objects/679.html", "objects/700.html"])
def test_a_page_needs_nothing_but_itself(folder: Folder, name: str) -> None:
    """No script and no request; pictures are well-formed drawings within the page, and the way back is relative."""
    page = folder.page(name)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    pictures = [link for link in page.links if link.startswith("data:image/svg+xml;base64,")]
    assert len(pictures) == len(page.alts) == 2
    for uri in pictures:
        ElementTree.fromstring(base64.b64decode(uri.partition(",")[2]))  # noqa: S314 (our own)
    others = {link for link in page.links if link not in pictures and not link.startswith("#")}
    assert others - {"http://das.example.org/fpC-5003-r1.fit.gz"} == {"../index.html"}
    assert (folder.path / name).parent.joinpath("../index.html").is_file()


def test_an_objects_page_says_what_its_file_says(folder: Folder) -> None:
    text = folder.page("objects/679.html").text
    row = open_dataset(folder.dataset).objects[0]
    sequence = open_dataset(folder.dataset).sequence(row)
    curve = measure(row, sequence)
    for said in (
        "679 SNIa", "spectroscopic · RA 0.00000°, Dec +0.00000° · 40 images in 8 epochs, 1998-09-25 to 2005-11-26",
        row.sha256,
        f"{curve.flux_nmgy_M[17]:.3f} ± {curve.error_nmgy_M[17]:.3f} 1.30", "SATUR", "50.0%", "5003/1/1 r",
    ):  # fmt: skip
        assert said in text
    assert len(re.findall(r"\d{4}-\d\d-\d\d \d{5}\.\d{5} ", text)) == len(sequence)
    html = (folder.path / "objects" / "679.html").read_text(encoding="utf-8")
    assert html.count('class="unusable"') == (~curve.ok_M).sum()


def test_an_image_leads_to_the_frame_that_it_was_cut_from(folder: Folder) -> None:
    html = (folder.path / "objects" / "679.html").read_text(encoding="utf-8")
    address, name = "http://das.example.org/fpC-5003-r1.fit.gz", "fpC-5003-r1.fit.gz"
    assert f'<a href="{address}" title="{name}" rel="noreferrer"><code>{SHA256[:12]}</code></a>' in html
    assert html.count(address) == 1, "images of other frames do not lead there"


def test_the_worst_frame_is_named_with_its_reason(folder: Folder) -> None:
    text = folder.page("index.html").text
    assert "1 of 40 frames deserve a look" in text
    assert re.search(r"5003/0/0 r 2005-09-24 c0ffee111111 690 seeing 9\.00″ 1\.30″ \d+\.\d 1 ", text)
    assert "0 of 4 objects" in text


def test_the_worst_frame_leads_to_where_it_was_fetched_and_to_an_object_cut_from_it(tmp_path: Path) -> None:
    """The object has a page, whatever else it is."""
    dataset = write_dataset(tmp_path / "dataset")
    known_frame(dataset)
    row = next(row for row in pq.read_table(dataset / FRAMES_FILE).to_pylist() if row["sha256"] == SHA256)
    index = write_pages(tmp_path / "pages", dataset, sample=0, max_objects=1).read_text(encoding="utf-8")
    line = next(line for line in index.split("<tr>") if line.startswith("<th>5003/0/0"))
    assert f'<a href="{row["url"]}" title="fpC-5003-r1.fit.gz" rel="noreferrer"' in line
    assert '<a href="objects/690.html">690</a>' in line
    assert (tmp_path / "pages" / "objects" / "690.html").is_file()


@pytest.mark.filterwarnings("error")
def test_frames_of_a_version_that_says_less_are_drawn(tmp_path: Path) -> None:
    """Without the columns that came later, without a seeing and without a time: no link, no warning."""
    dataset = write_dataset(tmp_path / "dataset")
    table = pq.read_table(dataset / FRAMES_FILE)
    later = ["noise_ratio", "sky_offset", "bright_excess", "masked_excess", "first_object", "url"]
    unknown = pa.array(np.full(table.num_rows, np.nan), pa.float32())
    older = table.drop_columns([*later, "psf_fwhm_arcsec"]).append_column("psf_fwhm_arcsec", unknown)
    pq.write_table(older, dataset / FRAMES_FILE)
    assert "0 of 40 frames" in Page(write_pages(tmp_path / "pages", dataset).read_text(encoding="utf-8")).text


@pytest.mark.parametrize(
    ("n_bytes", "written"),
    [(0, "0.0 MB"), (80_000_000, "80.0 MB"), (2_800_000_000, "2.8 GB"), (2_940 * 10**9, "2.9 TB")],
)
def test_sizes_have_the_unit_that_fits(n_bytes: int, written: str) -> None:
    assert " ".join(size(n_bytes)) == written


@pytest.mark.parametrize("url", ["javascript:alert(1)", "file:///etc/passwd", "", None])
def test_only_addresses_of_the_web_become_links(url: str | None) -> None:
    frames = pa.table({"sha256": [SHA256], "path": ["a/b.fit"], "url": pa.array([url], pa.string())})
    assert FrameList.of(frames).sources(np.array([SHA256.encode(), b"0" * 64])) == [("b.fit", ""), ("", "")]


@given(st.lists(st.text("0123456789abcdef", min_size=64, max_size=64), unique=True, max_size=20), st.data())
def test_every_frame_of_the_table_is_found_and_no_other(known: list[str], data: st.DataObject) -> None:
    strings = pa.string()
    table = pa.table({name: pa.array(known, strings) for name in ("sha256", "path", "url")})
    asked = data.draw(st.lists(st.sampled_from([*known, "g" * 64]), max_size=20))
    found = FrameList.of(table).sources(np.array([digest.encode() for digest in asked], dtype="S64"))
    assert [name for name, _ in found] == [digest if digest in known else "" for digest in asked]


def test_the_same_seed_draws_the_same_and_evenly() -> None:
    drawn = even_sample(10_000, 50, seed=3)
    assert drawn == even_sample(10_000, 50, seed=3) != even_sample(10_000, 50, seed=4)
    assert [place // 200 for place in drawn] == list(range(50)), "one out of each 200"


@given(st.integers(0, 200), st.integers(0, 300), st.integers(0, 2**32))
def test_a_draw_holds_as_many_as_asked_for_or_all(n_objects: int, count: int, seed: int) -> None:
    drawn = even_sample(n_objects, count, seed)
    assert len(set(drawn)) == min(n_objects, count)
    assert all(0 <= place < n_objects for place in drawn)


@pytest.mark.parametrize("object_id", ["../index", "..", "/etc/passwd", "a/b", "", "a\0b", "\N{FULLWIDTH SOLIDUS}"])
def test_an_id_with_path_parts_writes_nothing(folder: Folder, tmp_path: Path, object_id: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a file name"):
        write_object_pages(tmp_path / "out", folder.dataset, [object_id])
    assert list(tmp_path.iterdir()) == []


def test_an_object_that_is_not_there_is_named(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"has no object 4711: manifest\.parquet lists"):
        write_pages(tmp_path / "out", folder.dataset, object_ids=["679", "4711"])
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_whose_ids_leave_the_folder_writes_nothing(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    table = pq.read_table(dataset / MANIFEST_FILE)
    rows = table.to_pylist()
    rows[0]["object_id"] = "../../index"
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), dataset / MANIFEST_FILE)
    with pytest.raises(PipelineError, match=r"manifest\.parquet: object id '\.\./\.\./index' cannot be a file name"):
        write_pages(tmp_path / "out", dataset)
    assert not (tmp_path / "out").exists()


def test_a_damaged_object_stops_the_index_and_is_named(tmp_path: Path) -> None:
    """The index is written last: an old one stays until all that the new one names is there."""
    dataset = write_dataset(tmp_path / "dataset")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.html").write_text("old")
    broken = dataset / open_dataset(dataset).objects[1].file
    with h5py.File(broken, "r+") as file:
        del file["mask"]
    with pytest.raises(PipelineError, match=re.escape(str(broken))):
        write_pages(tmp_path / "out", dataset)
    assert (tmp_path / "out" / "index.html").read_text() == "old"


def test_the_command_writes_what_it_is_asked_for(folder: Folder, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    done = run(command, [str(folder.dataset), "--object", "679", "--object", "690", "--object", "679"])
    assert done.output.split() == ["objects/679.html", "objects/690.html"]
    assert "../index.html" not in (tmp_path / "objects" / "679.html").read_text(encoding="utf-8")
    assert run(command, [str(folder.dataset)]).output.split() == ["report.html"]
    done = run(command, [str(folder.dataset), "--pages", "all", "--out", "page.html"])
    assert done.exit_code == 2
    assert "leave it out" in done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["objects", "report.html"]


def test_a_long_object_shows_every_epoch_in_strips_of_one_scale(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    sequence = observed("679")
    runs = np.arange(len(sequence), dtype=np.int32)  # every image is an epoch of its own
    republish(dataset, replace(sequence, run=runs))
    write_object_pages(tmp_path, dataset, ["679"])
    page = Page((tmp_path / "objects" / "679.html").read_text(encoding="utf-8"))
    assert sum(alt.startswith("Thumbnails") for alt in page.alts) == 2
    assert "40 images in 40 epochs" in page.text


def test_an_object_without_images_has_a_page(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    whole = observed("679")
    arrays = {name: value[:0] for name, value in vars_of(whole).items() if isinstance(value, np.ndarray)}
    republish(dataset, replace(whole, **arrays))
    index = write_pages(tmp_path / "out", dataset)
    text = Page((index.parent / "objects" / "679.html").read_text(encoding="utf-8")).text
    assert text.count("the object has no images") == 3
    assert "median masked –" in text


def vars_of(sequence) -> dict[str, object]:
    return {name: getattr(sequence, name) for name in sequence.__dataclass_fields__}


def test_masked_is_a_part_of_what_is_covered() -> None:
    mask = np.zeros((3, 4, 4), np.uint8)
    mask[0, :2] = MaskBit.UNCOVERED
    mask[0, 3] = MaskBit.CR
    mask[1, 0, 0] = MaskBit.INTERP | MaskBit.SATUR
    mask[2] = MaskBit.UNCOVERED
    np.testing.assert_array_equal(masked_fraction(mask), [0.5, 1 / 16, np.nan])


@given(st.floats(0, 360), st.lists(st.floats(-60, 60), min_size=1, max_size=30))
def test_the_sky_map_cuts_the_circle_where_there_is_nothing(middle: float, away: list[float]) -> None:
    """Neighbours on the sky are neighbours on the map, wherever 0° is."""
    ra = np.mod(middle + np.array(away), 360)
    along = contiguous(ra)
    assert np.ptp(along) == pytest.approx(np.ptp(away), abs=1e-9)
    np.testing.assert_allclose(np.mod(along - ra + 180, 360), 180, atol=1e-9)


@pytest.mark.parametrize("n_objects", [1, 14, 3000])
def test_the_sky_map_draws_any_number(n_objects: int) -> None:
    """Shapes for few, one picture for many: the page does not grow with the survey."""
    rng = np.random.default_rng(1)
    drawn = sky_map(rng.uniform(-60, 60, n_objects) % 360, rng.uniform(-1.25, 1.25, n_objects), np.full(n_objects, 9))
    assert isinstance(drawn, Picture)
    assert len(drawn.uri) < 400_000


@given(st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), max_size=20), st.floats(1e-3, 10))
def test_a_shelf_holds_its_values_and_its_numbers(values: list[float], least: float) -> None:
    shelf = Shelf.holding(np.array(values), 1.0, 0.8, least_range=least)
    known = np.array(values)[np.isfinite(values)] if values else np.empty(0)
    inside = shelf.height(known)
    assert ((inside >= 1.0 - 1e-6) & (inside <= 1.0 + shelf.height_in + 1e-6)).all()
    for height, written in shelf.ticks():
        step = 10.0 ** -len(written.partition(".")[2])
        assert shelf.height(float(written.replace("−", "-"))) == pytest.approx(height, abs=shelf.scale * step / 2)


def test_an_object_of_which_nothing_can_be_measured_is_drawn(folder: Folder) -> None:
    opened = open_dataset(folder.dataset)
    sequence = opened.sequence(opened.objects[0])
    nothing = np.full(len(sequence), np.nan, np.float32)
    unknown = replace(sequence, psf_fwhm_arcsec=nothing, sky_nmgy_arcsec2=nothing, zp_offset_mag=nothing)
    assert history_figure(measure(opened.objects[0], unknown), None, "x").uri
