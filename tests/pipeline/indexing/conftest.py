"""Archives to build an index from: tables `Field` behind SQL pages, real field tables over HTTP."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.archive import Archive, Patience
from pipeline.bands import BANDS
from pipeline.exposures import ExposureIndex
from pipeline.indexing.build import build_index
from pipeline.indexing.sql import COLUMNS, STATUS_COLUMNS
from pipeline.naming import CAS_FIELDS, SKYSERVER_FIELDS
from pipeline.simulate.server import ArchiveServer
from pipeline.survey import ArchiveConfig, CatalogConfig, SurveyConfig

FieldKey = tuple[int, int, int, int]
"""run, rerun, camcol, field"""


@pytest.fixture
def survey() -> Callable[..., SurveyConfig]:
    """A survey of two archives at an address (ending in '/'), with these index sources and settings of the archives."""

    def make(url: str, *sources: object, **settings: object) -> SurveyConfig:
        archives = (
            ArchiveConfig(name="das", layout="das-dr7", base_urls=(url + "das/",), attempts=1, **settings),
            ArchiveConfig(name="sas", layout="sas-dr8", base_urls=(url,), attempts=1, **settings),
        )
        catalog = CatalogConfig(source="")
        return SurveyConfig(name="test", title="test", catalog=catalog, archives=archives, index=sources)

    return make


@pytest.fixture
def build(survey, tmp_path) -> Callable[..., ExposureIndex]:
    """Build the index of these sources below `root`, without patience."""

    def run(
        url: str, *sources: object, root: Path = tmp_path / "root", refresh: bool = False, **settings: object
    ) -> ExposureIndex:
        config = survey(url, *sources, **settings)
        with Archive(config.archives, root / "cache", Patience(attempts=1, wait_initial_s=0)) as archive:
            return build_index(config, archive, root, refresh=refresh)

    return run


def field_row(key: FieldKey, *, dr8: bool, quality: int = 3) -> dict[str, object]:
    """A row of `Field`, different in every column that is read."""
    run, rerun, camcol, field = key
    a, d = 350 + field * 0.1497 % 5, -1.3 + 0.2 * camcol
    row: dict[str, object] = {"run": run, "rerun": rerun, "camcol": camcol, "field": field, "quality": quality}
    row |= {"ra": a + 744.5 * 1.1e-4 + 1024 * 1e-8, "dec": d + 744.5 * 2e-8 + 1024 * 1.1e-4}
    for n, band in enumerate(BANDS):
        row |= {f"mjd_{band}": 51000.5 + run + 1e-3 * n, f"psfWidth_{band}": 1.1 + 0.1 * n}
        row |= {f"sky_{band}": (2.5 + n) * (1 if dr8 else 1e-9)}
        row |= {f"imageStatus_{band}": 1 << n, f"calibStatus_{band}": 2 << n} if dr8 else {}
    return row | {"a_r": a, "b_r": 1.1e-4, "c_r": 1e-8, "d_r": d, "e_r": 2e-8, "f_r": 1.1e-4}


@pytest.fixture
def row() -> Callable[..., dict[str, object]]:
    """`field_row`"""
    return field_row


@pytest.fixture
def write_fields() -> Callable[..., None]:
    """Write rows as the table `Field` of a tree that is served, DR7's or DR8's."""

    def write(tree: Path, rows: list[dict[str, object]], *, dr8: bool = False) -> None:
        place = tree / (CAS_FIELDS if dr8 else SKYSERVER_FIELDS)
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("w", newline="") as file:
            table = csv.DictWriter(file, [*COLUMNS, *(STATUS_COLUMNS if dr8 else ())], extrasaction="raise")
            table.writeheader()
            table.writerows(rows)

    return write


@pytest.fixture(scope="session")
def real_archive(real_data) -> Iterator[ArchiveServer]:
    """The real SDSS tree, served."""
    with ArchiveServer(real_data / "archive") as server:
        yield server
