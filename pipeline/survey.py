"""A survey as typed, frozen configuration, read from one TOML file.

A survey description says where the object list, the exposure index and the frames are, which of
them to use, and how thumbnails are cut. `data_manifest/surveys/` holds the ones that ship.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Collection
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.bands import BANDS, Band
from pipeline.errors import ConfigError
from pipeline.naming import Layout
from pipeline.validation import explain

Degrees = Annotated[float, Field(ge=-360, le=360)]


class Config(BaseModel):
    """Base of all configuration: frozen, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ArchiveConfig(Config):
    """One server that holds frames, with its mirrors."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")
    """Names a folder of the cache."""
    layout: Layout
    base_urls: tuple[str, ...] = Field(min_length=1)
    """Mirrors in order of preference, each ending in '/'; `{root}` stands for --archive-root."""
    sas_root: str = "sas/dr17/eboss"
    """Where photoObj/ and photo/ are below the base URL (`sas-dr8` only)."""
    max_connections: int = Field(default=4, ge=1, le=16)
    max_file_mb: float = Field(default=64, gt=0)
    """No file, as it lies in the archive (compressed), is larger; more is a lie or a bomb."""
    min_kb_per_s: float = Field(default=5, gt=0)
    """A server that is slower for the whole of a file, and for more than a minute, is given up on and tried again."""
    timeout_s: float = Field(default=30, gt=0)
    """Longest wait for a connection or for the next bytes."""
    attempts: int = Field(default=4, ge=1)
    """How often a file is asked for before it counts as not to be had."""
    max_outage_h: float = Field(default=12, ge=0)
    """A server that worked and stops working is waited for, with all downloads from it paused; after this long they
    fail. 0: at once."""
    verify: Literal["at-fetch", "when-cut"] = "at-fetch"
    """`at-fetch`: a file enters the cache only once its checksum, FITS structure and identity have been checked;
    `when-cut`: decoding finds out, which saves 0.7 s per `frame-*.fits.bz2`; a corrupt file is then fetched anew."""

    partial_decoding: bool = True
    """Of a `frame-*.fits.bz2` no more is decompressed than its thumbnails need; what is not is not checked when cut."""
    changed_files: Literal["refuse", "accept"] = "refuse"
    """A file that is not what it was when it was first fetched fails its cell and is reported; `accept`: it replaces
    the old one, and is reported. The ledger in the cache remembers both."""


class SkyServerIndex(Config):
    """Fields of one archive from a SkyServer SQL page (table `Field` of DR7's Stripe 82 database, CSV)."""

    kind: Literal["skyserver"]
    archive: str
    url: str
    first_run: int = 0
    last_run: int = 9999


class CasIndex(Config):
    """Fields of one archive from the SQL interface of DR8 or later, asked through astroquery."""

    kind: Literal["cas"]
    archive: str
    runs: tuple[int, ...]
    rerun: int = 301
    data_release: int = Field(default=17, ge=8)
    url: str = "https://skyserver.sdss.org"


class WindowFlistIndex(Config):
    """Fields of one archive from a `window_flist.fits` of the resolve step (DR8+)."""

    kind: Literal["window-flist"]
    archive: str
    source: str
    """File path or URL; the file has 353 MB."""
    runs: tuple[int, ...]
    rerun: int = 301


class FileIndex(Config):
    """Fields of one archive from a Parquet file as a build keeps it in `index/`, or CSV or ECSV with its columns."""

    kind: Literal["file"]
    archive: str
    source: str
    """File path or URL."""


class PhotoFieldIndex(Config):
    """Fields of one archive from its DR8+ photoField tables."""

    kind: Literal["photofield"]
    archive: str
    rerun: int = 301
    runs: tuple[int, ...]
    camcols: tuple[int, ...] = (1, 2, 3, 4, 5, 6)


class TsFieldIndex(Config):
    """Fields of one archive, listed by hand and described by their DR7 tsField tables."""

    kind: Literal["tsfield"]
    archive: str
    fields: tuple[tuple[int, int, int, int], ...]
    """(run, rerun, camcol, field) of each."""


IndexConfig = Annotated[
    SkyServerIndex | CasIndex | PhotoFieldIndex | TsFieldIndex | WindowFlistIndex | FileIndex,
    Field(discriminator="kind"),
]


class CatalogSelection(Config):
    """Which objects of the list are used. What is empty or absent does not restrict."""

    classes: tuple[Literal["AGN", "SNIa", "Variable", "SNOther", "Unknown"], ...] = ()
    """Of the class map; "Unknown" means those without a class, and needs `include` where the map sets them aside."""
    confirmations: tuple[Literal["spectroscopic", "photometric"], ...] = ()
    ra_deg: tuple[Degrees, Degrees] | None = None
    """From and to, eastwards: [350, 10] goes through 0."""
    dec_deg: tuple[Degrees, Degrees] | None = None
    seasons: tuple[str, ...] = ()
    """Names of `[[selection.seasons]]`, to which objects belong by their ids."""
    peak_r_mag: tuple[float, float] | None = None
    """Brightest and faintest magnitude in r at peak, as the list gives it; objects without one are left out."""
    object_ids: tuple[str, ...] = ()
    max_per_class: int | None = Field(default=None, ge=1)
    """Of each class and confirmation, drawn at random by `seed`, after all other cuts."""
    seed: int = 0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for key, range_ in (("dec_deg", self.dec_deg), ("peak_r_mag", self.peak_r_mag)):
            if range_ is not None and not range_[0] <= range_[1]:
                raise ValueError(f"{key}: {list(range_)} holds nothing: the smaller number comes first")
        return self


class CatalogConfig(Config):
    """Where the object list is and how its labels become classes."""

    source: str
    """File path, or a URL in which `{root}` stands for --archive-root.

    A relative path counts from the folder of the description, where that was read from a file.
    """
    format: Literal["auto", "sako-master", "snana-head", "list"] = "auto"
    """`sako-master`: the SDSS-II SN Survey's master table; `snana-head`: its SNANA HEAD table (FITS); `list`: CSV,
    ECSV, Parquet or FITS with id, RA, Dec and optional label; `auto`: look at the file."""
    class_map: str = "sako2018"
    """Name of a file in data_manifest/class_maps, or a path."""
    include: tuple[str, ...] = ()
    """Labels that the class map sets aside and that are used all the same, as ["SNIa?"]."""
    select: CatalogSelection = CatalogSelection()
    max_bad_fraction: float = Field(default=0.05, ge=0, le=1)
    """Bad rows are skipped and counted; above this fraction the table itself is refused."""


class Season(Config):
    """One observing season: objects are assigned by id, exposures by date."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,40}$")
    mjd_start: float
    mjd_end: float
    first_cid: int | None = None
    last_cid: int | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.mjd_end <= self.mjd_start:
            raise ValueError(f"season {self.name}: mjd_end must be after mjd_start")
        return self


ImageStatus = Literal[
    "CLOUDY", "UNKNOWN", "BAD_ROTATOR", "BAD_ASTROM", "BAD_FOCUS", "SHUTTERS", "FF_PETALS", "DEAD_CCD", "NOISY_CCD"
]
CalibStatus = Literal[
    "UNPHOT_OVERLAP", "UNPHOT_EXTRAP_CLEAR", "UNPHOT_EXTRAP_CLOUDY", "UNPHOT_DISJOINT", "INCREMENT_CALIB"
]


class SelectionConfig(Config):
    """Which exposures are used."""

    max_psf_fwhm_arcsec: float = 3.0
    """In r. The SN survey's own cut was 1.8."""
    min_quality: Literal["any", "acceptable", "good"] = "acceptable"
    """Field quality: 3 GOOD, 2 ACCEPTABLE, 1 BAD, 4 MISSING, 5 HOLE. Sources that do not tell it pass."""
    max_sky_nmgy_arcsec2: float | None = Field(default=None, gt=0)
    """In r; dark sky is about 5. Exposures whose sky the index does not tell pass."""
    forbidden_image_status: tuple[ImageStatus, ...] = ()
    """Bits of DR8+ IMAGE_STATUS that rule an exposure out, in any band that is cut. DR7 fields have none."""
    forbidden_calib_status: tuple[CalibStatus, ...] = ()
    """Bits of DR8+ CALIB_STATUS that rule an exposure out, in any band that is cut. DR7 fields have none."""
    mjd_range: tuple[float, float] | None = None
    """First and last MJD (TAI) of the exposures that are used."""
    max_epochs: int | None = Field(default=None, ge=1)
    """Most exposures per object; `epochs_by` says which stay."""
    epochs_by: Literal["seeing", "spread"] = "seeing"
    """`seeing`: the sharpest in r, the earlier of equal ones; `spread`: as even as can be in the order of time, with
    the first and the last."""
    seasons: tuple[Season, ...] = ()
    """Empty: every exposure. Else an object uses the exposures of its own season (by cid), or of all of these."""
    column_margin_px: int = Field(default=16, ge=0)
    """An object this far outside the column edges still gets a (partly covered) thumbnail."""
    min_coverage: float = Field(default=0.5, ge=0, le=1)
    """A thumbnail with a smaller part on the frame is skipped and counted."""
    max_missing_fraction: float = Field(default=0.5, ge=0, le=1)
    """Frames that an archive lacks or spoils are skipped and counted; if they are more than this part of a cell's
    frames of that archive, the archive is taken to be out of order and the cell fails."""


class ThumbnailConfig(Config):
    """The common grid of all thumbnails."""

    size: int = Field(default=32, ge=8, le=512)
    pixel_scale_arcsec: float = Field(default=0.396, gt=0)
    kernel: Literal["nearest", "bilinear", "cubic", "quintic"] = "quintic"
    bands: tuple[Band, ...] = BANDS
    astrometry: Literal["full", "header"] = "full"
    """The survey's full solution, or the TAN approximation in frame headers (up to 0.17″ off)."""


class CalibrationConfig(Config):
    """How the zero points of DR7 frames are held against standard stars; DR8+ frames are left as they are."""

    reference: str = "built"
    """`built`: from the photometric nights of each cell; `none`: zero points are not checked; else the URL or path of
    a catalogue of stars with ra, dec and AB magnitudes u, g, r, i, z."""
    min_stars: int = Field(default=5, ge=1)
    """With fewer, a frame counts as not checked."""
    correct: Literal["significant", "never"] = "significant"
    """`significant`: by an offset that is larger than `tolerance_mag` and than three times its error."""
    tolerance_mag: float = Field(default=0.005, ge=0)
    max_offset_mag: float = Field(default=0.5, gt=0)
    max_scatter_mag: float = Field(default=0.1, gt=0)
    """Stars that scatter more stand behind clouds that differ over the frame."""
    beyond_limit: Literal["flag", "drop"] = "flag"
    """What becomes of images from frames beyond either limit."""


class CacheConfig(Config):
    """The folder of downloaded files."""

    max_gb: float | None = Field(default=None, ge=0)
    """The least recently used files go when there is more; none that a running cell still needs. 0: every file goes as
    soon as it is cut. Absent: no bound."""


class CellConfig(Config):
    """The unit of work: one camcol's width × `ra_width_deg`, one season."""

    ra_width_deg: float = Field(default=1.0, ge=0.01, le=360)


class SplitConfig(Config):
    """Object-level folds."""

    folds: int = Field(default=5, ge=2)
    seed: int = 0
    duplicate_radius_arcsec: float = Field(default=2.0, ge=0)
    """Objects nearer than this always share a fold."""


class SurveyConfig(Config):
    """Everything `build-dataset` needs to know about a survey."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")
    title: str
    catalog: CatalogConfig
    archives: tuple[ArchiveConfig, ...] = Field(min_length=1)
    index: tuple[IndexConfig, ...] = Field(min_length=1)
    selection: SelectionConfig = SelectionConfig()
    thumbnails: ThumbnailConfig = ThumbnailConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    cells: CellConfig = CellConfig()
    cache: CacheConfig = CacheConfig()
    splits: SplitConfig = SplitConfig()
    simulation: dict[str, Any] | None = None
    """Figures of a simulated survey; validated by `pipeline.simulate`."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        known = {archive.name for archive in self.archives}
        if len(known) != len(self.archives):
            raise ValueError("two archives have the same name")
        for source in self.index:
            if source.archive not in known:
                raise ValueError(f"index names archive {source.archive!r}, but only {sorted(known)} are described")
        return self

    def archive(self, name: str) -> ArchiveConfig:
        """The archive called `name` (KeyError cannot happen for names inside the survey)."""
        return next(archive for archive in self.archives if archive.name == name)

    @property
    def given_standards(self) -> str | None:
        """URL or path of a given catalogue of standard stars."""
        reference = self.calibration.reference
        return None if reference in ("built", "none") else reference

    def with_root(self, archive_root: str | None) -> SurveyConfig:
        """Replace `{root}` in every URL by `archive_root` (no trailing slash needed).

        Raises
        ------
        ConfigError
            The survey uses `{root}` and none was given.
        """
        content = self.model_dump(mode="json")
        if not _has_root(content):
            return self
        if archive_root is None:
            raise ConfigError(f"survey {self.name!r} has no fixed archive: say where it is with --archive-root URL")
        return SurveyConfig.model_validate(_with_root(content, archive_root.rstrip("/")))

    def beside(self, folder: Path) -> SurveyConfig:
        """The survey with relative paths of the object list and of index files counted from `folder`."""
        catalog = _beside(self.catalog, folder)
        index = tuple(
            _beside(one, folder) if isinstance(one, WindowFlistIndex | FileIndex) else one for one in self.index
        )
        return self.model_copy(update={"catalog": catalog, "index": index})

    def cell_fingerprint(self, archives: Collection[str]) -> str:
        """sha256 of what decides, beside its plan, how the objects of a cell come out that uses these archives."""
        content = self._plain(include={"name", "archives", "thumbnails", "calibration"})
        content["archives"] = [archive for archive in content["archives"] if archive["name"] in archives]
        content["min_coverage"] = self.selection.min_coverage
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _plain(self, **keys: set[str]) -> dict[str, Any]:
        """The survey as plain data, without server addresses and patience."""
        content = self.model_dump(mode="json", **keys)  # type: ignore[arg-type]
        for archive in content["archives"]:
            for key in _PATIENCE if archive["layout"] == "sas-dr8" else (*_PATIENCE, "sas_root"):
                del archive[key]
        if self.given_standards is not None:
            content["calibration"]["reference"] = "given"
        return content

    def fingerprint(self) -> str:
        """sha256 of what decides the content of a dataset: all but server addresses and patience."""
        content = self._plain(exclude={"simulation", "title", "cache"})
        for source in content["index"]:
            source.pop("url", None)
            source.pop("source", None)
        del content["catalog"]["source"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


_PATIENCE = (
    "base_urls", "max_connections", "max_file_mb", "min_kb_per_s", "timeout_s", "attempts", "max_outage_h", "verify",
    "partial_decoding", "changed_files"
)  # fmt: skip
"""Keys of an archive that say how files are fetched and read, not which."""


def load_survey(name_or_path: str | Path) -> SurveyConfig:
    """Read a survey description that ships with the package (`demo`) or lies at a path (.toml, or .json as saved).

    Raises
    ------
    ConfigError
        No such description, not parseable, or a key is missing, unknown or out of range; the message names it.
    """
    where, text = _read_description(name_or_path)
    try:
        survey = SurveyConfig.model_validate(json.loads(text) if where.endswith(".json") else tomllib.loads(text))
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, SurveyConfig)}") from error
    except RecursionError as error:
        raise ConfigError(f"{where} cannot be parsed: it is nested too deeply") from error
    except ValueError as error:  # TOMLDecodeError and JSONDecodeError are such, and so is a number of 5000 digits
        raise ConfigError(f"{where} cannot be parsed: {error}") from error
    return survey.beside(Path(name_or_path).parent) if _is_file_name(name_or_path) else survey


T = TypeVar("T", bound=Config)


def _beside(config: T, folder: Path) -> T:
    """The same with `source`, where it has one and that is a relative path, counted from `folder`."""
    source = getattr(config, "source", None)
    if source is None or source.startswith("{root}") or urlsplit(source).scheme or Path(source).is_absolute():
        return config
    return config.model_copy(update={"source": str((folder / source).resolve())})


def _has_root(value: Any) -> bool:
    return bool(_with_root(value, "") != value)


def _with_root(value: Any, root: str) -> Any:
    """Plain data with `{root}` replaced in every string of it."""
    match value:
        case str():
            return value.replace("{root}", root)
        case list():
            return [_with_root(item, root) for item in value]
        case dict():
            return {key: _with_root(item, root) for key, item in value.items()}
    return value


def _is_file_name(name_or_path: str | Path) -> bool:
    """Whether this is the path of a description, not the name of one that ships."""
    return Path(name_or_path).suffix in (".toml", ".json")


def _read_description(name_or_path: str | Path) -> tuple[str, str]:
    path = Path(name_or_path)
    if _is_file_name(path):
        try:
            return str(path), path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot read survey description {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"survey description {path} is not UTF-8 text (byte {error.start})") from error
    shipped = files("data_manifest") / "surveys"
    candidate = shipped / f"{name_or_path}.toml"
    if not candidate.is_file():
        names = sorted(entry.name.removesuffix(".toml") for entry in shipped.iterdir() if entry.name.endswith(".toml"))
        raise ConfigError(
            f"no survey {str(name_or_path)!r}: give a path to a .toml or .json file, or one of {', '.join(names)}"
        )
    return f"survey {name_or_path}", candidate.read_text(encoding="utf-8")
