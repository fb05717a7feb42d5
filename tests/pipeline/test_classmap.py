"""Class maps: one meaning per label, and what is set aside can be had by name."""

from __future__ import annotations

import pytest

from pipeline.catalog import Target, read_catalog
from pipeline.classmap import read_class_map
from pipeline.errors import ConfigError
from pipeline.survey import CatalogConfig


def own(tmp_path, text):
    path = tmp_path / "own.toml"
    path.write_text('title = "own"\n' + text)
    return str(path)


def test_a_class_map_of_ones_own(tmp_path):
    (tmp_path / "objects.csv").write_text("cid,ra,dec,label\n1,10,0,Unknown\n")
    config = CatalogConfig(source="", class_map=own(tmp_path, '[labels]\nUnknown = { class_name = "" }\n'))
    assert read_catalog(tmp_path / "objects.csv", config).targets == (Target("1", 10, 0, "Unknown", "", ""),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[labels]\nX = { class_name = "Quasar" }\n', r"labels\.X\.class_name"),
        (
            '[labels]\nX = { class_name = "AGN" }\n[set_aside]\nX = { class_name = "", reason = "" }\n',
            "have a class and are set aside",
        ),
        ('[labels]\nX = { class_name = "AGN" }\n[set_aside]\nY = { class_name = "" }\n', "reason: is missing"),
        ('[labels]\nX = { class_name = "AGN" }\n[sntypes]\n110 = "QSO"\n', r"neither in labels.*QSO"),
        ("labels = [", "is not TOML"),
    ],
)
def test_a_wrong_class_map_is_refused_with_its_key(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_class_map(own(tmp_path, text))


def test_no_class_map_says_what_to_give():
    with pytest.raises(ConfigError, match="no class map 'nothing': give a path"):
        read_class_map("nothing")


def test_including_a_label_moves_it_and_no_other():
    shipped = read_class_map("sako2018")
    included = shipped.including(["SNIa?"])
    assert included.labels.keys() - shipped.labels.keys() == {"SNIa?"}
    assert (included.labels["SNIa?"].class_name, included.labels["SNIa?"].confirmation) == ("SNIa", "spectroscopic")
    assert set(included.set_aside) == {"Unknown"}
    assert shipped.including([]) == shipped


@pytest.mark.parametrize("label", ["SNIa", "Quasar"])
def test_only_what_is_set_aside_can_be_included(label):
    with pytest.raises(ConfigError, match=rf"'{label}' is not set aside .* set aside are: SNIa\?, Unknown"):
        read_class_map("sako2018").including([label])
