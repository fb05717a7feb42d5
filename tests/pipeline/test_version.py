"""What is installed can be installed again from the list that a dataset keeps."""

from __future__ import annotations

import re
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement

from pipeline import version as module
from pipeline.version import installed_packages


class Installed:
    def __init__(self, name: str, said: str) -> None:
        self.metadata, self.version = {"Name": name}, said


def test_every_line_is_a_requirement_of_a_version_that_an_index_can_have(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [re.split(r"\s+#", line)[0] for line in installed_packages().splitlines()]  # as pip cuts comments off
    found = {(one := Requirement(line)).name: one for line in lines}
    assert found["numpy"].specifier.contains(version("numpy"))
    assert not any("+" in str(one.specifier) for one in found.values())
    monkeypatch.setattr(module, "distributions", lambda: [Installed("torch", "2.13.0+cpu"), Installed("b", "1.0rc1")])
    assert installed_packages() == "b==1.0rc1\ntorch==2.13.0  # +cpu\n"
