"""The plan: every object in one cell or in the skips, nothing twice, the same whatever the order of rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.catalog import Catalog, Target
from pipeline.exposures import ExposureIndex
from pipeline.naming import FrameId
from pipeline.plan import Exposure, Plan, make_plan
from pipeline.survey import (
    ArchiveConfig,
    CatalogConfig,
    CellConfig,
    Season,
    SelectionConfig,
    SplitConfig,
    SurveyConfig,
    ThumbnailConfig,
    TsFieldIndex,
)

FIELD_STEP_DEG = 0.1497
SEASONS = (
    Season(name="2005", mjd_start=53600, mjd_end=53720, first_cid=679, last_cid=12727),
    Season(name="2006", mjd_start=53960, mjd_end=54080, first_cid=12778, last_cid=17141),
)


def survey(ra_width_deg: float = 0.5, **selection: Any) -> SurveyConfig:
    return SurveyConfig(
        name="test",
        title="test",
        catalog=CatalogConfig(source=""),
        archives=(
            ArchiveConfig(name="das", layout="das-dr7", base_urls=("http://das/",)),
            ArchiveConfig(name="sas", layout="sas-dr8", base_urls=("http://sas/",)),
        ),
        index=(TsFieldIndex(kind="tsfield", archive="das", fields=()),),
        selection=SelectionConfig(**selection),
        cells=CellConfig(ra_width_deg=ra_width_deg),
    )


def sky(n_fields: int = 12) -> ExposureIndex:
    """Six runs over RA 359.5 to 1.3 in camcols 1 and 2; the first three of 2005, the others of 2006; run 0 twice."""
    rows = [
        (archive, run, rerun, camcol, 20 + n)
        for archive, runs, rerun in (("das", range(6), 40), ("sas", range(1), 301))
        for run in runs
        for camcol in (1, 2)
        for n in range(n_fields)
    ]
    archive, run, rerun, camcol, field = (np.array(column) for column in zip(*rows, strict=True))
    count, scale = len(rows), 1.1e-4
    mjd = np.where(run < 3, 53650.0, 54000.0) + run
    return ExposureIndex(
        archive=archive,
        run=run,
        rerun=rerun,
        camcol=camcol,
        field=field,
        quality=np.full(count, 3),
        mjd_tai_N5=np.repeat(mjd[:, None], 5, axis=1),
        psf_fwhm_N5=np.full((count, 5), 1.3),
        sky_N5=np.full((count, 5), np.nan),
        image_status_N5=np.zeros((count, 5), int),
        calib_status_N5=np.zeros((count, 5), int),
        node_deg=np.full(count, 95.0),
        incl_deg=np.zeros(count),
        mu_N3=np.stack([(359.5 + (field - 20) * FIELD_STEP_DEG) % 360, np.full(count, scale), np.zeros(count)], axis=1),
        nu_N3=np.stack([-0.25 + (camcol - 1) * 0.2248, np.zeros(count), np.full(count, scale)], axis=1),
    )


def objects(n: int = 60, first_cid: int = 1000) -> Catalog:
    rng = np.random.default_rng(5)
    ra, dec = (359.6 + rng.uniform(0, 1.5, n)) % 360, rng.uniform(-0.24, 0.19, n)
    rows = zip(range(first_cid, first_cid + n), ra.tolist(), dec.tolist(), strict=True)
    return Catalog(tuple(Target(str(cid), a, d, "AGN", "AGN", "spectroscopic") for cid, a, d in rows), (), "0" * 64)


def cuts(plan: Plan) -> set[tuple[str, int, int, str]]:
    """(object, run, camcol, archive) of everything that will be cut, and a check that nothing is cut twice."""
    found = [
        (object_id, visit.exposure.run, visit.exposure.camcol, visit.exposure.archive)
        for cell in plan.cells
        for visit in cell.visits
        for object_id in visit.object_ids
    ]
    assert len(found) == len({key[:3] for key in found}), "an object is cut twice from one run and camcol"
    return set(found)


def test_every_object_is_finished_in_exactly_one_cell():
    catalog = objects()
    plan = make_plan(survey(), catalog, sky())
    placed = [target for cell in plan.cells for target in cell.targets]
    assert sorted(placed, key=lambda target: int(target.object_id)) == list(catalog.targets)
    assert plan.skips == ()
    for cell in plan.cells:
        ids = {target.object_id for target in cell.targets}
        assert {object_id for visit in cell.visits for object_id in visit.object_ids} == ids
        assert [visit.exposure for visit in cell.visits] == sorted({visit.exposure for visit in cell.visits})
        starts = {np.floor(target.ra_deg / 0.5) for target in cell.targets}
        assert len(starts) == 1, "a cell is one RA interval"
    assert {run for _, run, _, _ in cuts(plan)} == set(range(6))
    assert {archive for *_, archive in cuts(plan)} == {"das"}, "run 0 is taken once, from the first archive"


def test_the_plan_does_not_depend_on_the_order_of_rows():
    catalog, index = objects(), sky()
    plan = make_plan(survey(), catalog, index)
    rng = np.random.default_rng(1)
    shuffled = replace(catalog, targets=tuple(catalog.targets[n] for n in rng.permutation(len(catalog.targets))))
    assert make_plan(survey(), shuffled, index.take(rng.permutation(len(index)))) == plan


def test_an_object_of_a_season_uses_that_season_alone():
    catalog = objects(5, first_cid=700), objects(5, first_cid=13000), objects(5, first_cid=90000)
    together = Catalog(sum((each.targets for each in catalog), ()), (), "")
    plan = make_plan(survey(seasons=SEASONS), together, sky())
    runs_of = {object_id: set() for object_id in ("700", "13000", "90000")}
    for object_id, run, _, _ in cuts(plan):
        if object_id in runs_of:
            runs_of[object_id].add(run)
    assert runs_of == {"700": {0, 1, 2}, "13000": {3, 4, 5}, "90000": {0, 1, 2, 3, 4, 5}}
    seasons = {target.object_id: cell.season for cell in plan.cells for target in cell.targets}
    assert (seasons["700"], seasons["13000"], seasons["90000"]) == ("2005", "2006", "all")


def test_what_the_selection_leaves_out_is_counted_and_explained():
    index = sky()
    index.psf_fwhm_N5[index.run == 1] = 2.1
    index.psf_fwhm_N5[index.run == 2] = np.nan
    index.quality[index.run == 3] = 1
    n_run = 24
    plan = make_plan(survey(max_psf_fwhm_arcsec=2.0), objects(), index)
    assert {run for _, run, _, _ in cuts(plan)} == {0, 4, 5}
    assert plan.left_out == {"psf": 2 * n_run, "quality": n_run}
    assert {run for _, run, _, _ in cuts(make_plan(survey(min_quality="any"), objects(), index))} == {0, 1, 3, 4, 5}

    far = Target("far", 200.0, 0.0, "", "", "")
    late = replace(objects(1).targets[0], object_id="12800")
    only_2006 = (replace_season(SEASONS[1], mjd_end=53961),)
    plan = make_plan(survey(seasons=only_2006), Catalog((far, late), (), ""), index)
    assert [(skip.reason, skip.object_id) for skip in plan.skips] == [("no-exposure", "12800"), ("no-exposure", "far")]
    assert plan.skips[0].detail == (
        "every exposure that covers it is cut: 1 by psf, 1 by quality, 5 by season (season 2006)"
    )
    assert plan.skips[1].detail == "no exposure of the index covers it"
    assert plan.cells == ()


def replace_season(season: Season, **changes: Any) -> Season:
    return Season.model_validate({**season.model_dump(), **changes})


def test_a_cell_hash_changes_with_everything_that_decides_its_content():
    catalog, index = objects(), sky()
    plan = make_plan(survey(), catalog, index)
    cell = plan.cells[0]
    same = make_plan(survey(), objects(), sky()).cells[0]
    first = cell.targets[0]
    moved = replace(cell, targets=(replace(first, ra_deg=np.nextafter(first.ra_deg, 400)), *cell.targets[1:]))
    renamed = replace(cell, targets=(replace(first, class_name="SNIa"), *cell.targets[1:]))
    fewer = replace(cell, visits=cell.visits[1:])
    rerun = replace(
        cell, visits=(replace(cell.visits[0], exposure=replace(cell.visits[0].exposure, rerun=41)), *cell.visits[1:])
    )
    plain = survey()
    assert same.input_hash(plain) == cell.input_hash(plain)
    hashes = [each.input_hash(plain) for each in (cell, moved, renamed, fewer, rerun)]
    hashes += [
        cell.input_hash(plain, "of stars"),
        cell.input_hash(plain.model_copy(update={"thumbnails": ThumbnailConfig(size=48)})),
    ]
    hashes += [cell.input_hash(survey(min_coverage=0.9))]
    assert len(set(hashes)) == 8


def test_a_cell_hash_is_the_same_where_its_content_is():
    """What decides which exposures a cell has, how folds are dealt or whom to ask is not a reason to cut it anew."""
    (cell, *_), plain = make_plan(survey(), objects(), sky()).cells, survey()
    unused = plain.archives[0].model_copy(update={"name": "not-used-here"})
    for other in (
        survey(max_epochs=99, max_psf_fwhm_arcsec=2.5),
        plain.model_copy(update={"splits": SplitConfig(seed=99)}),
        plain.model_copy(update={"title": "another"}),
        plain.model_copy(update={"archives": (*plain.archives, unused)}),
    ):
        assert cell.input_hash(other) == cell.input_hash(plain)


def test_cell_ids_are_unique_file_names():
    ids = [cell.cell_id for cell in make_plan(survey(ra_width_deg=0.06), objects(), sky()).cells]
    assert len(set(ids)) == len(ids) > 10
    assert ids == sorted(ids)
    assert all(set(cell_id) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-") for cell_id in ids)


def test_an_exposure_knows_its_frames():
    exposure = Exposure("das", "das-dr7", 6377, 40, 4, 399)
    assert exposure.frame("r") == FrameId("das-dr7", 6377, 40, 4, 399, "r")
