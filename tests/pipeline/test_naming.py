"""SDSS names are read and written exactly, and no id leaves its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bands import BANDS
from pipeline.errors import ConfigError, FrameError
from pipeline.naming import (
    ArchiveName,
    FrameId,
    frame_file,
    frame_path,
    mask_path,
    parse_archive_name,
    parse_frame_file,
    photofield_path,
    sequence_path,
    tsfield_path,
)

frames = st.builds(
    FrameId,
    layout=st.sampled_from(("sas-dr8", "das-dr7")),
    run=st.integers(1, 999999),
    rerun=st.integers(0, 999),
    camcol=st.integers(1, 6),
    field=st.integers(0, 9999),
    band=st.sampled_from(BANDS),
)


@given(frames)
def test_a_frame_name_round_trips(frame: FrameId) -> None:
    assert parse_frame_file(frame_file(frame), rerun=frame.rerun) == frame


@given(st.text(max_size=60))
def test_any_other_name_is_refused_with_a_clear_error(name: str) -> None:
    with pytest.raises(FrameError, match="not an SDSS frame name"):
        parse_frame_file(name, rerun=301)


@given(frames)
def test_every_archive_name_that_we_ask_for_says_what_it_is(frame: FrameId) -> None:
    """Image, masks and tables: run and camcol always, the rest where such a name tells it."""
    full = ArchiveName("frame", frame.run, frame.camcol, frame.rerun, frame.field, frame.band)
    image = parse_archive_name(PurePosixPath(frame_path(frame)).name)
    assert image == replace(full, kind="frame" if frame.layout == "sas-dr8" else "fpC", rerun=None)
    masks = parse_archive_name(PurePosixPath(mask_path(frame)).name)
    assert masks == replace(full, kind="fpM", rerun=None)
    tsfield = parse_archive_name(PurePosixPath(tsfield_path(frame.run, frame.rerun, frame.camcol, frame.field)).name)
    assert tsfield == replace(full, kind="tsField", band=None)
    photofield = parse_archive_name(PurePosixPath(photofield_path(frame.run, frame.rerun, frame.camcol)).name)
    assert photofield == ArchiveName("photoField", frame.run, frame.camcol)


@given(st.text(max_size=60))
def test_other_names_say_nothing(name: str) -> None:
    assert parse_archive_name(name) is None
    assert parse_archive_name(f"fpC-006377-r4-0399.fit.gz{name}") is None or not name


def test_paths_are_those_of_the_real_servers(real_data) -> None:  # type: ignore[no-untyped-def]
    """Every path we would ask for exists in the real trees."""
    archive = real_data / "archive"
    for band in BANDS:
        legacy = FrameId("sas-dr8", 94, 301, 1, 12, band)
        season = FrameId("das-dr7", 6377, 40, 4, 399, band)
        for root, frame in ((archive, legacy), (archive / "das", season)):
            assert (root / frame_path(frame)).is_file()
            assert (root / mask_path(frame)).is_file()
    assert (archive / "das" / tsfield_path(6377, 40, 4, 399)).is_file()


@given(st.text(max_size=80))
def test_an_object_id_cannot_leave_its_folder(object_id: str) -> None:
    try:
        path = PurePosixPath(sequence_path(object_id))
    except ConfigError:
        return
    assert path.parts[0] == "objects"
    assert len(path.parts) == 3
    assert path.name == f"{object_id}.h5"


@pytest.mark.parametrize("object_id", ["../x", "a/b", "", ".hidden", "x" * 65, "a\0b", "-flag"])
def test_dangerous_ids_are_named_in_the_error(object_id: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a file name"):
        sequence_path(object_id)
