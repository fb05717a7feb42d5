"""The five SDSS bands: their order, their ids, and when each is read out.

Source: https://www.sdss4.org/dr17/imaging/ (drift scan, filter order r i u z g).
"""

from typing import Final, Literal

Band = Literal["u", "g", "r", "i", "z"]

BANDS: Final[tuple[Band, ...]] = ("u", "g", "r", "i", "z")
BAND_ID: Final[dict[Band, int]] = {band: index for index, band in enumerate(BANDS, start=1)}
"""Band ids of the paper (Sect. 3.1). 0 is padding and is never stored."""

READOUT_ORDER: Final[tuple[Band, ...]] = ("r", "i", "u", "z", "g")
"""A source drifts over the five CCDs of its column in this order, 71.7 s apart."""

FRAME_MINUS_FIELD: Final[dict[Band, int]] = {"r": 0, "i": 2, "u": 4, "z": 6, "g": 8}
"""Header card FRAME counts camera read-outs, so it runs ahead of the field number from band to band."""
