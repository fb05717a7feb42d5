"""Where a dataset's images come from, which decides what may be said of it: in cards, metadata and licence."""

from __future__ import annotations

from enum import Enum
from typing import Final

from pipeline.manifest import DatasetInfo

SDSS_POLICY: Final = "https://www.sdss.org/collaboration/image-use-policy/"
"""Says that SDSS's public data releases are in the public domain."""
BSD: Final = "https://spdx.org/licenses/BSD-3-Clause"


class Origin(Enum):
    """As `data_manifest/card_texts.toml` calls them."""

    SKY = "sky"
    """Frames of a survey."""
    SIMULATED_FRAMES = "simulated-frames"
    """Frames of a simulated archive, read as a survey's are."""
    SIMULATED_IMAGES = "simulated-images"
    """Drawn object by object, without frames (`pipeline.simulate.sequences`)."""

    @property
    def simulated(self) -> bool:
        """Nothing was seen in the sky."""
        return self is not Origin.SKY

    @property
    def licence_url(self) -> str:
        """Address of the licence's text."""
        return BSD if self.simulated else SDSS_POLICY


def origin_of(info: DatasetInfo) -> Origin:
    """By the survey's description, and whether any frame was read."""
    if not info.survey.get("simulation"):
        return Origin.SKY
    return Origin.SIMULATED_FRAMES if info.counts["frames"] else Origin.SIMULATED_IMAGES
