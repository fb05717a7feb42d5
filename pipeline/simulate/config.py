"""What a simulated archive is made of: typed, frozen, read from `[simulation]` of a survey description."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator

from pipeline.bands import BANDS, Band
from pipeline.errors import ConfigError
from pipeline.naming import Layout
from pipeline.survey import Config, SurveyConfig
from pipeline.validation import explain

Label = Literal[
    "AGN", "Variable", "SNIa", "pSNIa", "zSNIa", "SNIa?", "SNII", "pSNII", "zSNII",
    "SNIb", "SNIc", "pSNIbc", "zSNIbc", "SLSN", "Unknown",
]  # fmt: skip
"""`Classification` in the master table of Sako et al. 2018 (PASP 130, 064002)."""

SEQUENCES: Final = "sequences"
"""The part of `[simulation]` that only `pipeline.simulate.benchmark` reads."""

Positive = Annotated[float, Field(gt=0)]


class BandConfig(Config):
    """One CCD and its sky. Gains and dark variances: tsField; sky and seeing: quantiles of the real field tables."""

    gain_e_per_dn: Positive
    dark_variance_dn2: Positive
    """Variance per pixel without any light, rounding to whole DN included."""
    saturation_dn: int = Field(gt=0, le=63000)
    zeropoint_aa_mag: float
    """`aa` of tsField: instrumental magnitude = aa + kk × airmass - 2.5 log10(DN / EXPTIME)."""
    extinction_kk_mag: float = Field(ge=0)
    sky_nmgy_arcsec2: Positive
    sky_log_scatter: float = Field(ge=0, le=1)
    fwhm_over_r: Positive
    fwhm_log_scatter: float = Field(ge=0, le=0.5)


class SeeingConfig(Config):
    """PSF width of r over the runs: log-normal, cut at the quantiles; the shape is a double Gaussian."""

    median_arcsec: Positive = 1.35
    log_scatter: float = Field(default=0.15, ge=0, le=0.5)
    range_arcsec: tuple[float, float] = (1.05, 2.1)
    sigma_ratio: float = Field(default=2.3, gt=1)
    """psf_sigma2_2G / psf_sigma1_2G."""
    wing: float = Field(default=0.08, ge=0, lt=1)
    """psf_b_2G: peak of the wide Gaussian over peak of the narrow one."""


class RunConfig(Config):
    """One night's drift scan over the patch."""

    run: int = Field(ge=1, le=999_999)
    rerun: int = Field(ge=1, le=999)
    layout: Layout
    mjd: float = Field(ge=50_000, le=60_000)
    """MJD(TAI) at which r reads out the middle of the patch."""
    field: int = Field(default=100, ge=11, le=9000)
    """Number of the first field that is written."""
    boundary_in_patch: bool = False
    """The patch lies across two consecutive fields; both are written."""
    swapped_axes: bool = False
    """CTYPE1 is DEC--TAN, as in run 3325 rerun 41."""
    stripe_100: bool = False
    """STRIPE 100 and a header NODE, INCL that the astrometric solution does not use, as in run 94."""
    moon: float = Field(default=1.0, ge=1, le=30)
    """Sky brightness over dark time in u and g; r, i, z follow with its square root."""
    clouds_mag: float = Field(default=0.0, ge=0, le=3)
    """Grey extinction that the calibration table does not know about."""
    quality: Literal[1, 2, 3] = 3


class PatchConfig(Config):
    """Where the objects are, in the units of the camera."""

    ra_deg: float = Field(ge=0, lt=360)
    dec_deg: float = Field(ge=-2, le=2)
    camcol: int = Field(ge=1, le=6)
    rows: int = Field(ge=100, le=1200)
    cols: int = Field(ge=100, le=1980)
    at_column_edge: int = Field(default=2, ge=0)
    """So many objects lie on the edge of the CCD, where a thumbnail is only partly covered."""
    min_separation_px: Positive = 45.0


class FieldConfig(Config):
    """Stars and galaxies that are not in the object list, per 2048 × 1489 field."""

    stars_r22: int = Field(default=450, ge=0, le=5000)
    """Stars brighter than r = 22; counts go on to `faintest_r` with the same slope."""
    galaxies_r22: int = Field(default=120, ge=0, le=2000)
    brightest_r: float = 12.5
    faintest_r: float = 23.0
    star_slope: float = 0.17
    galaxy_slope: float = 0.40
    cosmic_rays: int = Field(default=150, ge=0, le=2000)


class SimulationConfig(Config):
    """Everything that decides the bytes of a simulated archive."""

    seed: int = Field(default=82, ge=0)
    written_bands: tuple[Band, ...] = BANDS
    patch: PatchConfig
    labels: dict[Label, int]
    """Objects per label of the master table."""
    runs: tuple[RunConfig, ...] = Field(min_length=1)
    bands: dict[Band, BandConfig]
    seeing: SeeingConfig = SeeingConfig()
    field: FieldConfig = FieldConfig()
    pointing_scatter_px: tuple[float, float] = (150.0, 20.0)
    """Largest offset of a run's rows and columns from its nominal place."""
    optical_distortion: bool = True
    """Real columns are off the header's TAN solution by up to a few tenths of a pixel."""
    first_cid: int = 679
    last_cid: int = 12727

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if set(self.bands) != set(BANDS):
            raise ValueError(f"bands: describe each of {', '.join(BANDS)}, also those that are not written")
        runs = [run.run for run in self.runs]
        if len(set(runs)) != len(runs):
            raise ValueError("runs: the same run is listed twice")
        if sum(self.labels.values()) > self.last_cid - self.first_cid:
            raise ValueError("labels: more objects than candidate ids")
        return self

    def fingerprint(self) -> str:
        """sha256 of the configuration."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def simulation_config(survey: SurveyConfig) -> SimulationConfig:
    """Validate the survey's `[simulation]` section and hold it against the survey's own exposure index.

    Raises
    ------
    ConfigError
        There is no such section, a key of it is missing, unknown or out of range, or a photofield
        index of the survey lists other runs than the simulation writes.
    """
    if survey.simulation is None:
        raise ConfigError(
            f"survey {survey.name!r} has no [simulation] section: only a survey that has one is simulated"
        )
    try:
        config = SimulationConfig.model_validate(
            {key: value for key, value in survey.simulation.items() if key != SEQUENCES}
        )
    except ValidationError as error:
        raise ConfigError(f"survey {survey.name!r}, [simulation]: {explain(error)}") from error
    _check_index(survey, config)
    return config


def _check_index(survey: SurveyConfig, config: SimulationConfig) -> None:
    written = {run.run for run in config.runs if run.layout == "sas-dr8"}
    for index in survey.index:
        if index.kind == "photofield" and set(index.runs) != written:
            raise ConfigError(
                f"survey {survey.name!r}: [[index]] photofield lists runs {sorted(index.runs)}, but [simulation] "
                f"writes DR8+ frames of {sorted(written)}; make them the same"
            )
