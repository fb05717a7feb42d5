"""The quick FITS reader gives what astropy gives, on real files and on ones that nobody has seen before."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compressed import read_bytes
from pipeline.hdus import split_hdus


def assert_same(content: bytes) -> None:
    found = split_hdus(content)
    with fits.open(BytesIO(content), disable_image_compression=True) as expected:
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            assert [card.image for card in ours.header.cards] == [card.image for card in theirs.header.cards]
            if isinstance(theirs, fits.BinTableHDU):
                assert_same_table(ours.table, theirs)
            elif theirs.data is not None and "BZERO" not in theirs.header:
                np.testing.assert_array_equal(ours.image, theirs.data)


def assert_same_table(rows: np.ndarray, hdu: fits.BinTableHDU) -> None:
    assert [name.lower() for name in hdu.columns.names] == list(rows.dtype.names or ())
    for name, form in zip(hdu.columns.names, hdu.columns.formats, strict=True):
        if "P" in form:
            continue
        ours, theirs = rows[name.lower()], hdu.data[name]
        if ours.dtype.kind == "S":
            assert [value.decode().rstrip() for value in ours.ravel()] == [str(v).rstrip() for v in theirs.ravel()]
        else:
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.real
def test_real_files_are_read_as_astropy_reads_them(real_data: Path) -> None:
    """Headers, images and every column of frame, fpC, fpM, tsField, photoField, photoObj, psField and asTrans."""
    kinds = {path.name.split("-")[0]: path for path in sorted((real_data / "archive").rglob("*.f*"))}
    assert len(kinds) == 8
    for path in kinds.values():
        assert_same(read_bytes(path))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n_rows=st.integers(0, 4), shape=st.lists(st.integers(0, 5), max_size=3))
def test_any_table_and_image_is_read_as_astropy_reads_it(data: st.DataObject, n_rows: int, shape: list[int]) -> None:
    forms = data.draw(st.lists(st.sampled_from(["J", "3J", "E", "5D", "I", "K", "B", "7A", "1PB()"]), max_size=6))
    columns = [
        fits.Column(f"Col{i}", form, array=[np.arange(i % 3, dtype="u1")] * n_rows if "P" in form else None)
        for i, form in enumerate(forms)
    ]
    table = fits.BinTableHDU.from_columns(columns, nrows=n_rows)
    kind = data.draw(st.sampled_from(["u1", ">i2", ">i4", ">f4", ">f8"]))
    image = fits.PrimaryHDU(np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(kind) if shape else None)
    file = BytesIO()
    fits.HDUList([image, table]).writeto(file)
    assert_same(file.getvalue())


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 5759), st.booleans())
def test_damage_is_a_value_or_key_error(noise: bytes, where: int, cut: bool) -> None:
    """Never another exception from splitting, and never more bytes than there are."""
    file = BytesIO()
    fits.HDUList([fits.PrimaryHDU(np.zeros((3, 5), ">f4")), fits.ImageHDU()]).writeto(file)
    content = bytearray(file.getvalue())
    content[where : where + len(noise)] = noise
    damaged = bytes(content[: where + len(noise)] if cut else content)
    try:
        hdus = split_hdus(damaged)
    except ValueError:
        return
    assert sum(len(hdu.cards) + hdu.data.nbytes for hdu in hdus) <= len(damaged)


def test_a_size_that_is_not_there_is_refused_before_memory_is_asked_for() -> None:
    cards = fits.Header([("SIMPLE", True), ("BITPIX", 8), ("NAXIS", 2), ("NAXIS1", 10**9), ("NAXIS2", 10**9)])
    with pytest.raises(ValueError, match="cut short"):
        split_hdus(cards.tostring(padding=True).encode())
