"""Which software made a file."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

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
