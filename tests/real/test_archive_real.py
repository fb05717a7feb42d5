"""The real archive tree through HTTP: every file is fetched, checked to be what its name says, and kept."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import pytest

from pipeline.archive import Archive
from pipeline.build import open_archive, prepare
from pipeline.errors import BadPayload
from pipeline.naming import FrameId, frame_path, parse_archive_name, photofield_path, tsfield_path
from pipeline.realsample import write_real_sample
from pipeline.simulate.faults import Fault
from pipeline.simulate.server import ArchiveServer
from pipeline.sums import file_sha256
from pipeline.survey import ArchiveConfig, load_survey

pytestmark = pytest.mark.real


def both(url: str) -> tuple[ArchiveConfig, ...]:
    return (
        ArchiveConfig(name="das", layout="das-dr7", base_urls=(f"{url}/das/",), max_outage_h=0),
        ArchiveConfig(name="sas", layout="sas-dr8", base_urls=(f"{url}/",), max_outage_h=0),
    )


def test_every_real_file_is_accepted_and_comes_once(real_data: Path, tmp_path: Path) -> None:
    """Images, masks, tables, psField, asTrans of both archives; their sha256 is that of the files."""
    tree = real_data / "archive"
    places = {
        ("das", str(path.relative_to(tree / "das"))) if path.is_relative_to(tree / "das")
        else ("sas", str(path.relative_to(tree))): path
        for path in sorted(tree.rglob("*.f*")) if path.is_file()
    }  # fmt: skip
    with ArchiveServer(tree) as server, ThreadPoolExecutor(4) as threads:
        for from_cache in (False, True):
            with Archive(both(server.url), tmp_path) as archive:
                fetched = dict(zip(places, threads.map(lambda place: archive.fetch(*place), places), strict=True))
                assert archive.held() == {name: {p for n, p in places if n == name} for name in ("das", "sas")}
            assert {file.from_cache for file in fetched.values()} == {from_cache}
        assert len(server.requests) == len(places)
    assert {place: file.sha256 for place, file in fetched.items()} == {p: file_sha256(f) for p, f in places.items()}
    kinds = Counter(name.kind for _, path in places if (name := parse_archive_name(PurePosixPath(path).name)))
    assert kinds == {"fpC": 10, "frame": 5, "fpM": 15, "psField": 3, "tsField": 2, "photoField": 1}


@pytest.mark.parametrize(
    "place",
    [
        ("das", frame_path(FrameId("das-dr7", 6377, 40, 4, 399, "r"))),
        ("das", tsfield_path(6377, 40, 4, 399)),
        ("sas", frame_path(FrameId("sas-dr8", 94, 301, 1, 12, "r"))),
        ("sas", photofield_path(94, 301, 1)),
    ],
    ids=["fpC", "tsField", "frame", "photoField"],
)
def test_a_real_file_cut_short_without_a_word_is_never_taken(real_data: Path, tmp_path: Path, place) -> None:
    """The server says that half of it is all: only the file itself can tell."""
    with (
        ArchiveServer(real_data / "archive", faults=[Fault("*", "short_length", times=99)]) as server,
        Archive(both(server.url), tmp_path) as archive,
        pytest.raises(BadPayload, match=PurePosixPath(place[1]).name),
    ):
        archive.fetch(*place)


def test_the_plan_of_the_real_sample_counts_what_a_build_fetches(real_data: Path, tmp_path: Path) -> None:
    """Three exposures in five bands, masks by band, tables by field (tsField) or run (photoField)."""
    with ArchiveServer(real_data / "archive") as server:
        survey = load_survey(write_real_sample(real_data, server.url, tmp_path))
        with open_archive(survey, tmp_path) as archive:
            summary = prepare(survey, tmp_path, archive).summary
        n_asked = len(server.requests)
        with open_archive(survey, tmp_path) as archive:
            assert prepare(survey, tmp_path, archive).summary == summary
        assert len(server.requests) == n_asked, "the index is built once"
    counts = {name: (costs.exposures, costs.frames, costs.sidecars) for name, costs in summary.archives.items()}
    assert counts == {"das": (2, 10, 12), "sas": (1, 5, 6)}
    real = sum(p.stat().st_size for p in (real_data / "archive").rglob("f*") if p.name.startswith(("fpC", "frame")))
    masks = sum(p.stat().st_size for p in (real_data / "archive").rglob("fpM*"))
    assert sum(costs.gigabytes for costs in summary.archives.values()) == pytest.approx((real + masks) / 1e9, rel=0.1)
