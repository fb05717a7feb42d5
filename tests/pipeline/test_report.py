"""The report page: complete with and without run and truth, safe with hostile names, honest about wrong fluxes."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bands import BAND_ID, BANDS
from pipeline.errors import ReportError
from pipeline.manifest import (
    FRAMES_SCHEMA,
    MANIFEST_SCHEMA,
    SKIPS_SCHEMA,
    DatasetInfo,
    content_hash,
    open_dataset,
    write_info,
    write_table,
)
from pipeline.naming import FRAMES_FILE, MANIFEST_FILE, SKIPS_FILE, sequence_path
from pipeline.report import write_report
from pipeline.report.measure import LightCurve, choose, measure_all
from pipeline.report.objects import GAP_PX, UNCOVERED_COLOUR, band_row, epochs_of
from pipeline.report.timeaxis import LONG_GAP_D, TimeAxis, calendar_date
from pipeline.report.training import read_run
from pipeline.report.truth import compare, read_truth, true_flux
from pipeline.sequences import COLUMNS, MaskBit, Sequence, write_sequence
from pipeline.sums import file_sha256
from pipeline.versions import write_record

SIZE, SCALE, FWHM = 24, 0.396, 1.3
NIGHTS = np.array([51081.3, 53616.3, 53628.3, 53637.2, 53654.2, 53669.2, 53687.1, 53700.1])
HOST_NMGY, NOISE = 30.0, 0.05
HOSTILE = "<script>alert('x')</script> & $\\frac{"
CLASSES = {"679": "SNIa", "680": "SNIa", "690": "AGN", "700": HOSTILE}


def spot(flux: float, *, north: float = 0, west: float = 0, sigma: float = FWHM / SCALE / 2.3548) -> np.ndarray:
    """A Gaussian of this flux, in pixels from the middle."""
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    return flux * np.exp(-((x - west) ** 2 + (y - north) ** 2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)


def injected(object_id: str, night: int) -> float:
    """679 explodes on night 3 and fades; 680 does so ten times fainter; the others keep changing."""
    if object_id in ("679", "680"):
        return (100.0 if object_id == "679" else 10.0) * max(0.0, 1 - 0.25 * (night - 3)) if night >= 3 else 0.0
    return 40.0 + 20.0 * np.sin(night + int(object_id))


def observed(object_id: str, scale: float = 1.0) -> Sequence:
    """Eight nights in five bands; the second night is half uncovered, the fourth has a saturated pixel in r."""
    rng = np.random.default_rng(int(object_id))
    n = len(NIGHTS) * len(BANDS)
    night_M, band_M = np.repeat(np.arange(len(NIGHTS)), len(BANDS)), np.tile(np.arange(1, 6), len(NIGHTS))
    host = spot(HOST_NMGY, sigma=3.0)
    image = np.stack([host + spot(scale * injected(object_id, night)) for night in night_M])
    image = (image + NOISE * rng.standard_normal(image.shape)).astype(np.float32)
    mask = np.zeros(image.shape, np.uint8)
    mask[night_M == 1, : SIZE // 2] = MaskBit.UNCOVERED
    mask[(night_M == 3) & (band_M == BAND_ID["r"]), SIZE // 2, SIZE // 2] = MaskBit.SATUR
    image[(mask & MaskBit.UNCOVERED) > 0] = np.nan
    arrays = {name: np.ones(n, column.dtype) for name, column in COLUMNS.items() if column.ndim == 1}
    arrays |= {
        "image": image,
        "variance": np.full(image.shape, NOISE**2, np.float32),
        "mask": mask,
        "band_id": band_M.astype(np.uint8),
        "mjd_tai": NIGHTS[night_M] + 1e-3 * band_M,
        "run": (5000 + night_M).astype(np.int32),
        "psf_fwhm_arcsec": np.full(n, FWHM, np.float32),
        "sky_nmgy_arcsec2": rng.uniform(1, 5, n).astype(np.float32),
        "coverage": np.where(night_M == 1, 0.5, 1.0).astype(np.float32),
    }
    return Sequence(
        object_id=object_id,
        survey="test",
        ra_deg=347.5,
        dec_deg=0.1,
        class_name=CLASSES[object_id],
        confirmation="spectroscopic",
        pixel_scale_arcsec=SCALE,
        wcs_header="",
        pipeline_version=2,
        **arrays,
    )


def write_dataset(folder: Path, scale: float = 1.0) -> Path:
    rows = []
    for object_id in CLASSES:
        sequence = observed(object_id, scale)
        file = folder / sequence_path(object_id)
        write_sequence(file, sequence)
        rows.append(
            dict.fromkeys(MANIFEST_SCHEMA.names, 0)
            | {
                "object_id": object_id,
                "class_name": sequence.class_name,
                "confirmation": "spectroscopic",
                "cell": "c",
                "group": object_id,
                "step": "train",
            }
            | {"file": sequence_path(object_id), "sha256": file_sha256(file), "n_images": len(sequence)}
        )
    write_table(folder / MANIFEST_FILE, rows, MANIFEST_SCHEMA)
    skips = [
        {"reason": "low-coverage", "object_id": str(k), "frame": "94/301/1/12/r", "detail": HOSTILE} for k in range(7)
    ]
    skips += [{**skips[0], "reason": reason} for reason in ("bad-coordinates", "no-mask", "no-mask")]
    write_table(folder / SKIPS_FILE, skips, SKIPS_SCHEMA)
    frames = [
        dict.fromkeys(FRAMES_SCHEMA.names, 0)
        | {"archive": "das", "band": band, "path": f"{k}/{band}", "sha256": "0", "bytes": 2_000_000, "url": "u"}
        | {"calibration_sha256": "1", "mask_sha256": "", "quality": 3, "noise_ratio": 1.0, "first_object": "690"}
        | {"run": 5000 + k, "psf_fwhm_arcsec": FWHM, "mjd_tai": mjd}
        for k, mjd in enumerate(NIGHTS)
        for band in BANDS
    ]
    write_table(folder / FRAMES_FILE, frames, FRAMES_SCHEMA)
    write_info(
        folder,
        DatasetInfo(
            dataset_id="test-0",
            survey={"title": HOSTILE},
            software={"python": "3.11"},
            input_hash="1" * 64,
            content_hash=content_hash((str(row["object_id"]), str(row["sha256"])) for row in rows),
            counts={},
            size=SIZE,
            pixel_scale_arcsec=SCALE,
        ),
    )
    write_record(folder.parent, folder.name, None, {"plan": 1.0, "cells": 9.0})
    return folder


def write_truth(folder: Path, **changes: list[object]) -> Path:
    folder.mkdir()
    keys = [(i, k, band) for i in CLASSES for k in range(len(NIGHTS)) for band in BANDS]
    columns: dict[str, list[object]] = {
        "object_id": [i for i, _, _ in keys],
        "run": [5000 + k for _, k, _ in keys],
        "camcol": [1] * len(keys),
        "band": [band for _, _, band in keys],
        "flux_nmgy": [injected(i, k) for i, k, _ in keys],
    }
    pq.write_table(pa.table(columns | changes), folder / "epochs.parquet")
    return folder


def write_run(folder: Path, dataset: Path) -> Path:
    info = open_dataset(dataset).info
    folder.mkdir()
    record = {"dataset_id": info.dataset_id, "dataset_content_hash": info.content_hash}
    record |= {"format_version": 1, "config": {"preset": "small"}, "software": {"torch": "2.13.0"}}
    (folder / "config.json").write_text(json.dumps(record))
    for fold in (0, 1):
        for step, epochs in (("train", 3), ("fine-tune", 2)):
            path = folder / f"fold-{fold}" / "member-0" / step / "metrics.jsonl"
            path.parent.mkdir(parents=True)
            path.write_text("".join(json.dumps(epoch_metrics(k + 1, fold)) + "\n" for k in range(epochs)))
    (folder / "evaluation.json").write_text(json.dumps(evaluation()))
    return folder


def epoch_metrics(epoch: int, fold: int) -> dict[str, object]:
    validation = {"validation_loss": 1.3 / epoch, "validation_accuracy": 0.5, "validation_balanced_accuracy": 0.5}
    none = dict.fromkeys(validation) if fold else validation
    return {"epoch": epoch, "loss": 1.4 / epoch, "accuracy": 0.5, "lr": 1e-3, "seconds": 2.0, **none}


def evaluation() -> dict[str, object]:
    def estimate(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.1, "high": value + 0.1}

    scores = {"balanced_accuracy": 0.25, "macro_f1": 0.1, "accuracy": 0.4}
    names = ["AGN", "SNIa", "Variable", "$rare"]
    return {
        "dataset_id": "test-0",
        "preset": "small",
        "classes": names,
        "folds": [{"fold": 0}, {"fold": 1}],
        "members": 1,
        "n_objects": 20,
        **{key: estimate(0.6 + 0.013 * k) for k, key in enumerate(("balanced_accuracy", "macro_f1", "accuracy"))},
        "ece": estimate(0.12),
        "per_class": [
            {"name": name, "n_objects": 0 if name == "$rare" else 6, "f1": 0.5, "precision": estimate(0.5)}
            | {"recall": None if name == "$rare" else estimate(0.5)}
            for name in names
        ],
        "confusion": [[5, 1, 0, 0], [2, 4, 0, 0], [1, 0, 7, 0], [0, 0, 0, 0]],
        "calibration": [{"low": 0.5, "high": 0.6, "n_objects": 20, "confidence": 0.55, "accuracy": 0.6}],
        "majority": {"answer": "always Variable", **scores},
        "chance": {"answer": "at random", **scores},
        "n_bootstrap": 2000,
    }


class Page(HTMLParser):
    """What a browser would see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.alts: list[str] = []
        self.text = ""
        self.feed(html)
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.links += [values[name] or "" for name in ("src", "href", "srcset", "data") if name in values]
        self.alts += [values["alt"] or ""] if "alt" in values else []

    def handle_endtag(self, tag: str) -> None:
        self.text += " " if tag in ("td", "th", "li", "dt", "dd") else ""

    def handle_data(self, data: str) -> None:
        self.text += data


@dataclass(frozen=True)
class Made:
    dataset: Path
    truth: Path
    run: Path
    html: str
    page: Page


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A dataset with truth and run, and its page."""
    folder = tmp_path_factory.mktemp("report")
    dataset = write_dataset(folder / "dataset")
    truth, run = write_truth(folder / "truth"), write_run(folder / "run", dataset)
    out = write_report(folder / "page.html", dataset, run=run, truth=truth, seconds={"simulate": 41.5}, max_objects=4)
    html = out.read_text(encoding="utf-8")
    return Made(dataset, truth, run, html, Page(html))


@pytest.fixture(scope="module")
def alone(made: Made) -> Page:
    """The page of the dataset alone."""
    out = write_report(made.dataset.parent / "alone.html", made.dataset, max_objects=1)
    return Page(out.read_text(encoding="utf-8"))


def test_the_page_needs_nothing_but_itself(made: Made) -> None:
    """No script, no request: every link leads into the page, every picture is in it and is a well-formed drawing."""
    assert not {"script", "link", "iframe", "object", "base"} & set(made.page.tags)
    pictures = [link for link in made.page.links if not link.startswith("#")]
    assert len(pictures) == 4 * 2 + 1 + 3 + 2 + 1
    for uri in pictures:
        head, _, data = uri.partition(",")
        assert head == "data:image/svg+xml;base64"
        drawing = ElementTree.fromstring(base64.b64decode(data))  # noqa: S314 (our own)
        assert drawing.tag.endswith("svg")
    assert "url(" not in made.html
    assert len(made.page.alts) == len(pictures)
    assert all(made.page.alts)
    anchors = [link[1:] for link in made.page.links if link.startswith("#")]
    assert all(f'id="{anchor}"' in made.html for anchor in anchors)


def test_names_from_outside_are_text(made: Made) -> None:
    """A title, class or detail may hold markup or mathematics: it is shown, not run."""
    assert made.page.text.count("<script>alert('x')</script> & $\\frac{") >= 3
    assert "<script" not in made.html


def test_the_page_says_what_is_in_the_files(made: Made) -> None:
    text = made.page.text
    for said in (
        "4 objects", "40 SDSS frames", "80.0 MB", "simulate 41.5", open_dataset(made.dataset).info.content_hash,
        "0.600 [0.500, 0.700]", "always Variable", "20 test objects", "low-coverage 7", "bad-coordinates 1",
        "left out 8", "is not: 8 in all", "Cut without the survey's masks: 2 frames, as 94/301/1/12/r.",
        "object 0 frame 94/301/1/12/r", "torch", "40 images in 8 epochs, 1998-09-25 to 2005-11-26",
    ):  # fmt: skip
        assert said in text
    assert "object 3 frame" not in text, "three examples per reason are enough"
    assert "Not part of this report" not in text


def test_a_dataset_alone_gives_a_page_that_says_what_is_missing(alone: Page) -> None:
    assert alone.text.count("Not part of this report") == 2
    assert "no injected truth was given" in alone.text
    assert "no training run was given" in alone.text
    assert "cells 9.0" in alone.text, "the build's own times where no others are given"


@pytest.mark.slow
def test_the_same_input_gives_the_same_page(made: Made) -> None:
    first, second = (
        write_report(made.dataset.parent / f"{name}.html", made.dataset, truth=made.truth, max_objects=1)
        for name in "ab"
    )
    assert first.read_bytes() == second.read_bytes()


def test_measured_flux_is_the_injected_flux_beyond_the_host(made: Made) -> None:
    """Unit pulls and unit slope where flux and errors are right."""
    for band in compare(read_truth(made.truth), measure_all(open_dataset(made.dataset))):
        assert band.n_images == 4 * (6 if band.band == "r" else 7), "uncovered and saturated images do not count"
        assert abs(band.median_sigma) < 0.6
        assert 0.5 < band.scatter_sigma < 1.6
        # The PSF here is one Gaussian, the aperture correction is for a double one: 0.4 % of difference.
        assert band.slope == pytest.approx(1.0, abs=4 * band.slope_error)
        assert band.slope_error < 0.01


def test_a_wrong_flux_scale_shows(made: Made, tmp_path: Path) -> None:
    truth = read_truth(made.truth)
    wrong = measure_all(open_dataset(write_dataset(tmp_path / "wrong", scale=1.1)))
    right = measure_all(open_dataset(made.dataset))
    for bad, good in zip(compare(truth, wrong), compare(truth, right), strict=True):
        assert bad.slope / good.slope == pytest.approx(1.1, abs=0.01)


def test_images_that_the_truth_does_not_know_have_none(made: Made) -> None:
    curve = measure_all(open_dataset(made.dataset))[0]
    assert np.isfinite(true_flux(read_truth(made.truth), curve)).all()
    elsewhere = replace(curve, camcol_M=curve.camcol_M + 1)
    assert np.isnan(true_flux(read_truth(made.truth), elsewhere)).all()
    with pytest.raises(ReportError, match="of another archive"):
        compare(read_truth(made.truth), [elsewhere])


def test_every_class_is_shown_and_its_most_variable_object_first(made: Made) -> None:
    curves = measure_all(open_dataset(made.dataset))

    def shown(n: int) -> list[str]:
        return [curve.row.object_id for curve in choose(curves, n)]

    assert set(shown(4)) == {"679", "680", "690", "700"}
    assert {"690", "700", "679"} == set(shown(3)), "679 changes more than 680"
    assert len(shown(1)) == 1


def band_tiles(sequence: Sequence) -> np.ndarray:
    """Drawn r tiles, (night, row, column, colour)."""
    row = band_row(sequence, "r", epochs_of(sequence))[:SIZE]
    return np.stack([row[:, k * (SIZE + GAP_PX) :][:, :SIZE] for k in range(len(NIGHTS))])


def test_a_supernova_appears_and_fades_on_one_scale() -> None:
    middle = band_tiles(observed("679"))[:, SIZE // 2 - 2 : SIZE // 2 + 2, SIZE // 2 - 2 : SIZE // 2 + 2, 2].mean(
        (1, 2)
    )
    assert middle[4] > middle[5] > middle[6] > middle[2] + 0.05
    assert middle[0] == pytest.approx(middle[2], abs=0.1), "without the supernova all epochs look the same"


def test_north_is_up_and_east_is_left() -> None:
    """Images have North at the last row and East at the first column; pictures are drawn from the top left."""
    sequence = observed("690")
    image = np.repeat(spot(200.0, north=8, west=-8)[None], len(sequence), axis=0).astype(np.float32)
    tile = band_tiles(replace(sequence, image=image, mask=np.zeros_like(sequence.mask)))[3, ..., 0]
    y, x = np.unravel_index(tile.argmax(), tile.shape)
    assert y < SIZE // 3
    assert x < SIZE // 3


def test_uncovered_pixels_have_a_colour_of_their_own() -> None:
    tile = band_tiles(observed("679"))[1]
    colour = np.array([int(UNCOVERED_COLOUR[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    assert np.allclose(tile[SIZE // 2 :], colour), "South, at the bottom, is not covered on the second night"
    assert not np.isclose(tile[: SIZE // 2], colour).all(axis=-1).any()


@given(st.lists(st.floats(50_000, 60_000), min_size=1, max_size=30))
def test_the_time_axis_keeps_order_and_days_and_cuts_gaps(times: list[float]) -> None:
    mjd = np.sort(np.array(times))
    axis = TimeAxis.over(mjd)
    days, drawn = np.diff(mjd), np.diff(axis.position(mjd))
    near = days <= LONG_GAP_D
    np.testing.assert_allclose(drawn[near], days[near], atol=1e-6)
    assert (drawn[~near] > 0).all()
    assert (drawn[~near] < days[~near]).all()
    assert axis.position(mjd)[-1] == pytest.approx(axis.length)


def test_calendar_dates_are_those_of_the_almanac() -> None:
    assert [str(calendar_date(mjd)) for mjd in (0.0, 51544.5, 53628.99)] == ["1858-11-17", "2000-01-01", "2005-09-15"]


def without(path: Path, key: str) -> None:
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))


def other_dataset(run: Path) -> None:
    content = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(content | {"dataset_id": "other-1"}))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda run: (run / "config.json").unlink(), r"cannot read .*config\.json"),
        (lambda run: without(run / "evaluation.json", "majority"), r"evaluation\.json .*majority: is missing"),
        (lambda run: (run / "evaluation.json").write_text("<html>"), r"evaluation\.json is not what a run writes"),
        (other_dataset, "was trained on dataset other-1, the report is about test-0"),
        (
            lambda run: (run / "fold-0" / "member-0" / "train" / "metrics.jsonl").write_text('{"epoch": 1}\n'),
            r"metrics\.jsonl .*loss: is missing",
        ),
    ],
)
def test_a_damaged_run_is_named(made: Made, tmp_path: Path, damage: Callable[[Path], object], complaint: str) -> None:
    run = write_run(tmp_path / "run", made.dataset)
    damage(run)
    info = open_dataset(made.dataset).info
    with pytest.raises(ReportError, match=complaint):
        read_run(run, info.dataset_id, info.content_hash)


def test_a_truth_without_a_column_is_named_and_the_old_page_stays(made: Made, tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "truth")
    table = pq.read_table(truth / "epochs.parquet").drop_columns(["band"])
    pq.write_table(table, truth / "epochs.parquet")
    page = tmp_path / "page.html"
    page.write_text("old")
    with pytest.raises(ReportError, match=r"epochs\.parquet lacks columns \['band'\]"):
        write_report(page, made.dataset, truth=truth)
    assert page.read_text() == "old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["page.html", "truth"]


def test_a_run_that_is_not_evaluated_yet_still_shows_its_losses(made: Made, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", made.dataset)
    (run / "evaluation.json").unlink()
    html = write_report(tmp_path / "page.html", made.dataset, run=run, max_objects=1).read_text(encoding="utf-8")
    assert "the run is not evaluated yet" in html
    assert "Training and validation loss" in html


def test_light_curves_have_as_many_points_as_images(made: Made) -> None:
    """No silent loss between the file and the plot."""
    for curve in measure_all(open_dataset(made.dataset)):
        assert isinstance(curve, LightCurve)
        assert len(curve.flux_nmgy_M) == curve.row.n_images == len(NIGHTS) * len(BANDS)
        assert curve.ok_M.sum() == len(NIGHTS) * len(BANDS) - 5 - 1
