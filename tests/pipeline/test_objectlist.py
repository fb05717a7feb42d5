"""What an object list comes in: told by its bytes, units and nulls honoured, and one error from bad ones."""

from __future__ import annotations

import gzip
import io

import astropy.units as u
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, QTable, Table
from astropy.utils.masked import Masked
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.catalog import Target, read_catalog
from pipeline.errors import CatalogError
from pipeline.survey import CatalogConfig

AUTO = CatalogConfig(source="", max_bad_fraction=1)


def as_fits(table: Table) -> bytes:
    file = io.BytesIO()
    table.write(file, format="fits")
    return file.getvalue()


def as_ecsv(table: Table) -> bytes:
    file = io.StringIO()
    table.write(file, format="ascii.ecsv")
    return file.getvalue().encode()


def as_parquet(table: Table, tmp_path) -> bytes:
    """As astropy writes it, with units and masks."""
    table.write(tmp_path / "table", format="parquet", overwrite=True)
    return (tmp_path / "table").read_bytes()


def arrow(columns: dict[str, object]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


@pytest.fixture
def read(tmp_path):
    def function(content: bytes, config: CatalogConfig = AUTO):
        (tmp_path / "objects").write_bytes(content)
        return read_catalog(tmp_path / "objects", config)

    return function


def table() -> QTable:
    """Integer ids, hour angles, a masked Dec, masked and unmasked labels."""
    return QTable(
        {
            "cid": [679, 1237663000000000001],
            "ra": [23.5, 0.0] * u.hourangle,
            "dec": Masked([-0.5, 7.0], mask=[False, True]) * u.deg,
            "label": MaskedColumn(["AGN", "AGN"], mask=[True, False]),
        }
    )


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("kind", ["ecsv", "parquet"])
def test_units_masks_and_integer_ids_of_typed_tables(read, tmp_path, kind, zipped):
    content = as_ecsv(table()) if kind == "ecsv" else as_parquet(table(), tmp_path)
    catalog = read(gzip.compress(content) if zipped else content)
    assert catalog.targets == (Target("679", 352.5, -0.5, "", "", ""),)
    assert [(skip.reason, skip.object_id) for skip in catalog.skips] == [("bad-coordinates", "1237663000000000001")]


def test_a_fits_list_has_units_and_nulls(read):
    columns = [
        fits.Column("ID", "K", array=[5, 6]),
        fits.Column("RA", "D", unit="h", array=[2.0, 3.0]),
        fits.Column("DEC", "E", unit="deg", array=[-0.25, np.nan]),
        fits.Column("CLASS", "8A", array=["  AGN  ", ""]),
    ]
    file = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto(file)
    catalog = read(file.getvalue())
    assert catalog.targets == (Target("5", 30.0, -0.25, "AGN", "AGN", "spectroscopic"),)
    assert [(skip.reason, skip.object_id) for skip in catalog.skips] == [("bad-coordinates", "6")]


def test_a_head_table_is_known_by_its_columns_and_its_codes_by_the_class_map(read):
    """DEC or DECL; -9 and 999 are SNANA's nulls, as codes and as a pair of coordinates; an unheard-of code is none."""
    head = Table(
        {
            "SNID": ["  12  ", "13", "14", "15", "16", "17"],
            "RA": [-9.0, 1.0, 2.0, -9.0, 999.0, 3.0],
            "DECL": [0.5, 0.5, 0.5, -9.0, 999.0, 0.5],
            "SNTYPE": [120, -9, 77, 110, 110, 119],
        }
    )
    catalog = read(as_fits(head))
    assert catalog.targets == (
        Target("12", 351.0, 0.5, "SNIa", "SNIa", "spectroscopic"),
        Target("13", 1.0, 0.5, "", "", ""),
    )
    assert [(skip.reason, skip.object_id) for skip in catalog.skips] == [
        ("unknown-class", "14"),
        ("bad-coordinates", "15"),
        ("bad-coordinates", "16"),
        ("set-aside", "17"),
    ]
    head.rename_column("DECL", "DEC")
    assert read(as_fits(head)).targets == catalog.targets


@pytest.mark.parametrize(
    "text",
    [
        "id,ra,dec\n1,10.5,0\n",
        "\ufeff# made by hand\n#\nid, ra, dec\r\n1, 10.5, 0\r\n",
        "# id ra dec\r1 10.5 0\r",
        "id;ra;dec;note\n1;10.5;0;a, b\n",
        "id\tra\tdec\tnote\n1\t10.5\t0\t\n",
        'note,id,ra,dec\n"a, ""b""\nc","1",10.5,0\n',
    ],
)
def test_text_in_its_many_spellings(read, text):
    catalog = read(text.encode())
    assert catalog.targets == (Target("1", 10.5, 0.0, "", "", ""),)
    assert catalog.skips == ()


IMAGE = io.BytesIO()
fits.PrimaryHDU(np.zeros((4, 4))).writeto(IMAGE)
LIST = {"cid": ["1"], "ra": [10.0], "dec": [0.0]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (IMAGE.getvalue(), "without a table"),
        (as_fits(Table(LIST))[:-2880], "not a FITS table"),
        (gzip.compress(as_fits(Table(LIST)))[:-9], "cut short"),
        (arrow(LIST)[:-9], "not a Parquet table"),
        (arrow(LIST | {"ra": [[10.0, 11.0]]}), "one number or text per row"),
        (arrow(LIST | {"cid": [True]}), "one number or text per row"),
        (as_fits(Table(LIST | {"ra": [[10.0, 11.0]]})), "one value per row"),
        (arrow({name: np.zeros(1_000_001, dtype=np.int8) for name in LIST}), "1000001 rows"),
        (b"id,ra,dec\n" * 1_000_002, "1000002 rows"),
        (arrow(LIST | {"cid": pa.array(["x" * 2000] * 1)}), "cells of over 1024 bytes"),
        (arrow(LIST | {"cid": [1.23e18]}), "does not keep ids"),
        (b"# %ECSV 1.0\n# ---\n", "whole header"),
        (b"# %ECSV 1.0\n# ---\n" + b"# - [[[[\n" * 150_000, "over 1048576 bytes"),
        (b"# %ECSV 1.0\nid,ra,dec\n1,10,0\n", "whole header"),
        (as_ecsv(Table(LIST)).replace(b"float64", b"!!python/name:os.system"), "whole header"),
        (as_ecsv(QTable(LIST | {"ra": [1.0] * u.arcsec})), "ra is in 'arcsec'"),
        (as_ecsv(Table(LIST | {"ra": ["10.0"]}, units={"ra": "hourangle"})), "unit but holds text"),
        ("id,ra,dec,note\n1,10,0,é\n".encode("latin-1"), "not text in UTF-8 .byte 22"),
    ],
)
def test_a_broken_or_misleading_file_is_one_clear_error(read, content, message):
    with pytest.raises(CatalogError, match=message):
        read(content)


def test_sexagesimal_positions_are_named_as_what_they_are(read):
    with pytest.raises(CatalogError, match="sexagesimal: give decimal degrees"):
        read(as_ecsv(Table(LIST | {"ra": ["21h49m44s"], "dec": ["+00:39:27"]})), CatalogConfig(source=""))


WHOLE = [as_fits(Table(LIST)), as_ecsv(Table(LIST)), arrow(LIST), gzip.compress(as_ecsv(Table(LIST)))]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(WHOLE), st.data())
def test_damage_to_a_typed_table_is_one_clear_error(read, content, data):
    """Bytes flipped or cut off anywhere: sound targets, counted skips, or a CatalogError."""
    damaged = bytearray(content)
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        damaged[position] = data.draw(st.integers(0, 255))
    try:
        catalog = read(bytes(damaged[: data.draw(st.integers(0, len(content)))]))
    except CatalogError:
        return
    assert all(0 <= target.ra_deg < 360 and -90 <= target.dec_deg <= 90 for target in catalog.targets)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(-360, 360), st.floats(-90, 90))
def test_positions_come_through_unrounded(read, ra_deg, dec_deg):
    """The same in every form, and RA in [0, 360)."""
    columns = {"cid": ["1"], "ra": [ra_deg], "dec": [dec_deg]}
    text = f"cid,ra,dec\n1,{ra_deg!r},{dec_deg!r}\n".encode()
    for content in (text, as_fits(Table(columns)), as_ecsv(Table(columns)), arrow(columns)):
        (target,) = read(content).targets
        assert 0 <= target.ra_deg < 360
        assert target.dec_deg == dec_deg
        assert target.ra_deg == (ra_deg if 0 <= ra_deg < 360 else pytest.approx(ra_deg % 360 % 360))
