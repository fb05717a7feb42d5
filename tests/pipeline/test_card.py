"""The cards say what is in the dataset, and nothing that is untrue of where it comes from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from astropy.time import Time

from pipeline.card import dataset_card, export_card
from pipeline.manifest import SKIPS_SCHEMA, Dataset, DatasetInfo, Skip, write_table
from pipeline.naming import MANIFEST_FILE, SKIPS_FILE
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
        "| fold | AGN, spectroscopic | SNIa, spectroscopic | unlabelled |",
        "| -1 | 0 | 0 | 1 |",
        "| 1 | 1 | 1 | 0 |",
        "| step | AGN, spectroscopic | SNIa, spectroscopic | unlabelled |",
        "| train | 2 | 2 | 0 |",
        "| `bad-id` | 2 | an object whose id cannot be a file name |",
        "1 u, 2 g, 3 r, 4 i, 5 z",
        "1 INTERP, 2 SATUR, 4 CR, 8 GHOST, 16 UNCOVERED",
        "labels of the list `sdsssn_master.dat2` by the class map `sako2018`",
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


def simulated(info: DatasetInfo, **counts: int) -> DatasetInfo:
    return info.model_copy(update={"survey": info.survey | {"simulation": {"seed": 1}}, "counts": info.counts | counts})


def both_cards(dataset: Dataset) -> list[str]:
    """Of the dataset and of its export, in one line each."""
    rows = dataset.table(MANIFEST_FILE).to_pylist()
    skips = [Skip(**row) for row in dataset.table(SKIPS_FILE).to_pylist()]
    cards = dataset_card(dataset.info, rows, skips), export_card(dataset, ["data/fold_0-00000-of-00001.parquet"])
    return [" ".join(card.split()) for card in cards]


@pytest.mark.parametrize(
    ("counts", "said", "not_said"),
    [
        (None, ["Cut from 0 SDSS frames", "own fpM planes", "no ground truth", "Funding for the SDSS"], ["simulat"]),
        ({"frames": 7}, ["7 simulated frames", "and so are true"], ["own fpM", "no ground truth", "Funding for"]),
        (
            {"frames": 0},
            ["There are no frames", "subtracted as it was", "no stars were measured", "and so are true"],
            ["Cut from", "fpM", "held against", "A sky level", "no ground truth", "Funding for"],
        ),
    ],
)
def test_what_is_said_depends_on_where_images_come_from(
    tmp_path: Path, counts: dict[str, int] | None, said: list[str], not_said: list[str]
) -> None:
    dataset = small_dataset(tmp_path)
    if counts is not None:
        dataset = dataclasses.replace(dataset, info=simulated(dataset.info, **counts))
    for card in both_cards(dataset):
        assert [text for text in said if text not in card] == []
        assert [text for text in not_said if text in card] == []
        assert "divide by `noise_factor`" in card
        assert "host galaxies are in them" in card


def test_frames_without_masks_are_not_left_out_and_masks_are_not_said_to_be_there(tmp_path: Path) -> None:
    dataset = small_dataset(tmp_path)
    reasons = ("no-mask", "no-image", "no-mask")
    skips = [{"reason": reason, "detail": "", "object_id": "", "frame": str(n)} for n, reason in enumerate(reasons)]
    write_table(tmp_path / SKIPS_FILE, skips, SKIPS_SCHEMA)
    for card in both_cards(dataset):
        assert "own fpM planes, which 2 frames were cut without, so that their bad pixels are not marked" in card
        assert "Frames that were cut all the same, without the survey's mask planes (`no-mask`): 2." in card
        assert "| `no-image` | 1 | an object all of whose frames were left out |" in card
        assert "| `no-mask`" not in card
