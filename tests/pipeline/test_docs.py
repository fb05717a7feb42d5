"""What README and docs show runs as it stands there, and they leave out no key, column or reason."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import get_args

import h5py
import numpy as np
import pytest
from pydantic import BaseModel

from pipeline.lightcurves import LIGHT_CURVE_SCHEMA, PhotometryFlag
from pipeline.manifest import FRAMES_SCHEMA, MANIFEST_SCHEMA, NOTES, SKIPS_SCHEMA
from pipeline.planfile import PLAN_SCHEMA, PlanInfo
from pipeline.selection import NOT_SELECTED
from pipeline.sequences import COLUMNS
from pipeline.sources import BAD_ZEROPOINT, LOW_COVERAGE, NOT_IN_ARCHIVE
from pipeline.survey import SurveyConfig, load_survey
from pipeline.thumbnails import target_wcs_header

PROJECT = Path(__file__).resolve().parents[2]


def block(document: str, language: str) -> str:
    """The first code block of that language."""
    match = re.search(rf"```{language}\n(.*?)```", (PROJECT / document).read_text(encoding="utf-8"), re.DOTALL)
    assert match
    return match[1]


def keys(annotation: object) -> set[str]:
    """Keys of a configuration and of all tables below it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        below = [keys(field.annotation) for field in annotation.model_fields.values()]
        return set(annotation.model_fields).union(*below)
    return set().union(*map(keys, get_args(annotation)))


@pytest.mark.parametrize("document", ["README.md", "docs/format.md"])
def test_the_python_runs_on_a_dataset_at_its_place(document, tmp_path, monkeypatch):
    versions = tmp_path / "work" / "demo" / "datasets" / "demo"
    (versions / "0123" / "objects" / "39").mkdir(parents=True)
    (versions / "latest").write_text("0123\n")
    with h5py.File(versions / "0123" / "objects" / "39" / "739.h5", "w") as file:
        for name in ("image", "band_id", "mjd_tai"):
            file[name] = np.zeros(3)
        file.attrs["wcs"] = target_wcs_header(347.5, 0.1, size=32, pixel_scale_arcsec=0.396)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(block(document, "python"), document, "exec"), names)  # noqa: S102
    assert names["dataset"] == Path("work/demo/datasets/demo/0123")


def test_the_survey_shown_loads_and_every_key_is_explained(tmp_path):
    (tmp_path / "mine.toml").write_text(block("docs/survey.md", "toml"))
    assert load_survey(tmp_path / "mine.toml").name == "mine"
    text = (PROJECT / "docs" / "survey.md").read_text(encoding="utf-8")
    assert [key for key in sorted(keys(SurveyConfig)) if not re.search(rf"\b{key}\b", text)] == []


def test_the_guide_of_the_format_names_every_column_unit_and_reason():
    text = (PROJECT / "docs" / "format.md").read_text(encoding="utf-8")
    columns = {*MANIFEST_SCHEMA.names, *SKIPS_SCHEMA.names, *FRAMES_SCHEMA.names, *COLUMNS, *LIGHT_CURVE_SCHEMA.names}
    columns |= {str(flag.name) for flag in PhotometryFlag}
    units = {column.unit for column in COLUMNS.values()} - {""}
    sources = "".join(file.read_text(encoding="utf-8") for file in (PROJECT / "pipeline").glob("*.py"))
    reasons = set(re.findall(r'(?:\bSkip|_skipped)\(\s*"([a-z-]+)"', sources))
    reasons |= {NOT_IN_ARCHIVE, NOT_SELECTED, LOW_COVERAGE, BAD_ZEROPOINT, *NOTES}
    assert len(reasons) > 10
    assert sorted(name for name in columns | units | reasons if f"`{name}`" not in text) == []
    on_cards = tomllib.loads((PROJECT / "data_manifest" / "card_texts.toml").read_text(encoding="utf-8"))["reasons"]
    assert reasons - set(NOTES) <= set(on_cards)


def test_the_guide_of_the_plan_names_every_column_and_key():
    text = (PROJECT / "docs" / "plan.md").read_text(encoding="utf-8")
    names = {*PLAN_SCHEMA.names, *PlanInfo.model_fields} - {"build_id", "frames_sha256"}  # these two in words
    assert sorted(name for name in names if f"`{name}`" not in text) == []
