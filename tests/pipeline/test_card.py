"""The card says what is in the dataset."""

from __future__ import annotations

from pathlib import Path

from astropy.time import Time

from pipeline.card import dataset_card
from pipeline.manifest import Skip
from pipeline.naming import MANIFEST_FILE
from tests.pipeline.small import small_dataset


def test_the_card_counts_what_is_there(tmp_path: Path) -> None:
    dataset = small_dataset(tmp_path)
    rows = dataset.table(MANIFEST_FILE).to_pylist()
    card = dataset_card(dataset.info, rows, [Skip("no-exposure", ""), Skip("bad-id", ""), Skip("bad-id", "")])
    assert "$" not in card
    for line in (
        "| AGN | spectroscopic | 2 |",
        "| unlabelled | spectroscopic | 1 |",
        "| u | 5 | 5 |",
        "| z | 1 | 1 |",
        "| fold | AGN | SNIa | unlabelled |",
        "| -1 | 0 | 0 | 1 |",
        "| 1 | 1 | 1 | 0 |",
        "| bad-id | 2 |",
        "| numpy | 2 |",
        f"`{dataset.info.content_hash}`",
    ):
        assert line in card
    assert "simulated" not in card


def test_days_are_those_of_the_calendar(tmp_path: Path) -> None:
    """As astropy.time has them."""
    dataset = small_dataset(tmp_path)
    rows = [row | {"mjd_first": 53616.4, "mjd_last": 54434.0} for row in dataset.table(MANIFEST_FILE).to_pylist()]
    days = [Time(mjd, format="mjd").strftime("%Y-%m-%d") for mjd in (53616.4, 54434.0)]
    assert f"From 53616.4 to 54434.0 (MJD, TAI), that is {days[0]} to {days[1]}." in dataset_card(
        dataset.info, rows, []
    )
