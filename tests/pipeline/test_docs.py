"""What README and docs show runs as it stands there, and they leave out no key, column or reason."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from pipeline.lightcurves import LIGHT_CURVE_SCHEMA, PhotometryFlag
from pipeline.manifest import FRAMES_SCHEMA, MANIFEST_SCHEMA, NOTES, SKIPS_SCHEMA
from pipeline.packing import pack_dataset
from pipeline.planfile import PLAN_SCHEMA, PlanInfo
from pipeline.selection import NOT_SELECTED
from pipeline.sequences import COLUMNS, Sequence
from pipeline.sources import BAD_ZEROPOINT, LOW_COVERAGE, NOT_IN_ARCHIVE
from pipeline.sums import write_sums
from pipeline.survey import SurveyConfig, load_survey
from pipeline.thumbnails import target_wcs_header
from pipeline.versions import point_latest
from tests.pipeline.small import small_dataset

PROJECT = Path(__file__).resolve().parents[2]


def blocks(document: str, language: str) -> list[str]:
    """All code blocks of that language."""
    text = (PROJECT / document).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def keys(annotation: object) -> set[str]:
    """Keys of a configuration and of all tables below it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        below = [keys(field.annotation) for field in annotation.model_fields.values()]
        return set(annotation.model_fields).union(*below)
    return set().union(*map(keys, get_args(annotation)))


def with_a_grid(sequence: Sequence) -> Sequence:
    return replace(sequence, wcs_header=target_wcs_header(347.5, 0.1, size=8, pixel_scale_arcsec=0.396))


def test_the_python_runs_on_a_dataset_at_its_place(tmp_path, monkeypatch):
    """Every block of the documents that speak of a dataset alone; those about models need a trained one."""
    versions = tmp_path / "work" / "demo" / "datasets" / "demo"
    small_dataset(versions / "0123", with_a_grid)
    write_sums(versions / "0123", {})
    point_latest(versions, "0123")
    pack_dataset(versions)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for document, n_blocks in (("README.md", 1), ("docs/format.md", 3)):
        found = blocks(document, "python")
        assert len(found) == n_blocks
        for number, code in enumerate(found):
            exec(compile(code, f"{document}, block {number}", "exec"), names)  # noqa: S102
    assert names["wcs"].wcs.crval.tolist() == [347.5, 0.1]
    assert (names["dataset"].path.name, names["sequence"].object_id, names["frames"].num_rows) == ("0123", "679", 0)
    assert names["image"].shape == (15, 8, 8)


def test_the_survey_shown_loads_and_every_key_is_explained(tmp_path):
    (tmp_path / "mine.toml").write_text(blocks("docs/survey.md", "toml")[0])
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
