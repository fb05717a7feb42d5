"""A small archive of its own, built once: an empty sky in r."""

from __future__ import annotations

import pytest

from pipeline.simulate.archive import SimulationResult, simulate_archive
from pipeline.survey import SurveyConfig, load_survey


@pytest.fixture(scope="session")
def empty_survey() -> SurveyConfig:
    """Two runs, one of each format and each with two fields, r only, and no source but three objects."""
    survey = load_survey("tiny")
    assert survey.simulation is not None
    runs = [{**run, "boundary_in_patch": True} for run in survey.simulation["runs"] if run["run"] in (125, 5582)]
    sky = {
        **survey.simulation,
        "written_bands": ["r"],
        "runs": runs,
        "labels": {"SNIa": 1, "AGN": 1, "Variable": 1},
        "field": {"stars_r22": 0, "galaxies_r22": 0},
        "optical_distortion": False,
    }
    index = [one if one.kind != "photofield" else one.model_copy(update={"runs": (125,)}) for one in survey.index]
    return survey.model_copy(update={"simulation": sky, "index": tuple(index)})


@pytest.fixture(scope="session")
def empty(empty_survey: SurveyConfig, tmp_path_factory: pytest.TempPathFactory) -> SimulationResult:
    """The empty sky."""
    return simulate_archive(empty_survey, tmp_path_factory.mktemp("simulated") / "empty", workers=1)
