"""Which software made a file."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, distributions, version
from typing import Final

PIPELINE_VERSION: Final = 2
"""Raised whenever the same inputs give other thumbnails: every cell is then built anew."""
DISTRIBUTION = "stripe82-convention"
RECORDED = ("numpy", "astropy", "scipy", "sep", "h5py", "pyarrow", "torch", "prefect", "galsim")


def software_version() -> str:
    """Name and version of this software."""
    return f"{DISTRIBUTION} {version(DISTRIBUTION)}"


def software_versions() -> dict[str, str]:
    """Versions of everything that can change a result; packages that are not installed are left out."""
    found = {"python": platform.python_version(), DISTRIBUTION: version(DISTRIBUTION)}
    for name in RECORDED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def installed_packages() -> str:
    """Everything that is installed here, as a requirements file: with it the environment can be made again.

    The local part of a version, as in torch 2.13.0+cpu, is a comment: such builds are at their maker's, not on PyPI.
    """
    found = {name: one.version for one in distributions() if (name := one.metadata["Name"])}  # a broken one has none
    return "".join(_pinned(name, found[name]) for name in sorted(found, key=str.lower) if name != DISTRIBUTION)


def _pinned(name: str, installed: str) -> str:
    public, _, local = installed.partition("+")
    return f"{name}=={public}" + (f"  # +{local}" if local else "") + "\n"
