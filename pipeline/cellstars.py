"""The standard stars of one cell: which stars its DR7 frames are held against, and what comes of it.

Stars are looked for on few frames, `DETECTION_BANDS` of the two runs that have most exposures in the cell; after
that every frame measures them while it is cut, and when all are in, the standards and each frame's offset follow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Final

import numpy as np

from pipeline.archive import Archive, Fetched
from pipeline.bands import Band
from pipeline.cutting import FrameCut, find_frame_stars
from pipeline.errors import BadPayload, FrameError, NotInArchive, WorkerDied
from pipeline.fetching import Source, fetch_frame
from pipeline.inthreads import in_threads
from pipeline.naming import FrameId
from pipeline.plan import Cell, Exposure
from pipeline.sources import frame_files
from pipeline.standards import MeasuredFrame, Standards, around, make_standards, merge_positions, read_standards
from pipeline.starphot import Positions
from pipeline.survey import SurveyConfig
from pipeline.transfer import no_web_page
from pipeline.zeropoints import ZeropointCheck, check_zeropoint

DETECTION_BANDS: Final[tuple[Band, ...]] = ("g", "r")
"""Blue and red stars; what is cut of them, or else every band that is."""
DETECTION_RUNS: Final = 2
MARGIN_DEG: Final = 0.35
"""Farther from the targets than a frame that holds one of them reaches."""


@dataclass(frozen=True, slots=True)
class StarCheck:
    """What the zero points of one cell's frames are held against."""

    survey: SurveyConfig
    standards_sha256: str
    """Of the catalogue of stars, where one is given."""
    given: Standards | None

    def stars_to_measure(self, cell: Cell, source: Source) -> Positions | None:
        """Places of the stars that the cell's DR7 frames are to measure; None: none.

        A frame that cannot be had or read is passed over here; what becomes of it, cutting it says.

        Raises
        ------
        ArchiveError
            A server did not answer after all retries.
        WorkerDied
            A decoding process ended.
        """
        if self.given is not None:
            return self.given.positions
        frames = detection_frames(cell, self.survey)
        calls = (partial(_find, place, *frame, source) for place, frame in enumerate(frames))
        found = sorted(in_threads(calls, at_once=source.workers, until=source.give_up_at), key=itemgetter(0))
        positions = merge_positions(one for _, one in found if one is not None)
        return positions if len(positions) else None

    def judge(
        self, cuts: Sequence[FrameCut], stars: Positions | None
    ) -> tuple[dict[FrameId, ZeropointCheck], Standards | None]:
        """The check of every frame that measured `stars`, and the standards if they were made of these frames."""
        frames = [MeasuredFrame(cut.frame, int(cut.row["quality"]), cut.stars) for cut in cuts if cut.stars is not None]
        if stars is None or not frames:
            return {}, None
        standards = self.given or make_standards(stars, frames)
        config = self.survey.calibration
        checks = {one.frame: check_zeropoint(one.stars, one.frame.band, standards, config) for one in frames}
        return checks, standards if self.given is None else None


def star_check(cell: Cell, survey: SurveyConfig, archive: Archive) -> StarCheck:
    """How the frames of `cell` are checked; a given catalogue is read as it was fetched when the build was prepared.

    Raises
    ------
    ArchiveError, CatalogError
        The catalogue cannot be had, or is none.
    """
    given = given_standards(survey, archive)
    sha256 = standards_sha256(survey, archive)
    if given is None or not any(visit.exposure.layout == "das-dr7" for visit in cell.visits):
        return StarCheck(survey, sha256, None)
    ra_deg = np.array([target.ra_deg for target in cell.targets])
    dec_deg = np.array([target.dec_deg for target in cell.targets])
    return StarCheck(survey, sha256, around(given, ra_deg, dec_deg, margin_deg=MARGIN_DEG))


def given_standards(survey: SurveyConfig, archive: Archive) -> Standards | None:
    """The stars of the survey's catalogue; None where it gives none.

    Raises
    ------
    ArchiveError, CatalogError
        The catalogue cannot be had, or is none.
    """
    table = _catalogue(survey, archive, refresh=False)
    return read_standards(table.path, table.path.read_bytes()) if table else None


def standards_sha256(survey: SurveyConfig, archive: Archive, *, refresh: bool = False) -> str:
    """sha256 of the survey's catalogue of standard stars; empty where it gives none."""
    table = _catalogue(survey, archive, refresh=refresh)
    return table.sha256 if table else ""


def _catalogue(survey: SurveyConfig, archive: Archive, *, refresh: bool) -> Fetched | None:
    if (source := survey.given_standards) is None:
        return None
    return archive.fetch_url(source, f"{survey.name}-standards", refresh=refresh, or_stale=True, check=no_web_page)


def detection_frames(cell: Cell, survey: SurveyConfig) -> list[tuple[Exposure, Band]]:
    """The frames on which stars are looked for; none where there is but one night, which would be its own judge."""
    if survey.calibration.reference != "built":
        return []
    exposures = [visit.exposure for visit in cell.visits if visit.exposure.layout == "das-dr7"]
    per_run = Counter(exposure.run for exposure in exposures)
    if len(per_run) < 2:
        return []
    runs = sorted(per_run, key=lambda run: (-per_run[run], run))[:DETECTION_RUNS]
    bands = [band for band in DETECTION_BANDS if band in survey.thumbnails.bands] or list(survey.thumbnails.bands)
    chosen = sorted(exposure for exposure in exposures if exposure.run in runs)
    return [(exposure, band) for exposure in chosen for band in bands]


def detection_uses(cell: Cell, survey: SurveyConfig) -> Counter[tuple[str, str]]:
    """How often `stars_to_measure` reads each file, by archive and path."""
    frames = detection_frames(cell, survey)
    return Counter((one.archive, path) for one, band in frames for path in frame_files(one, band, survey))


def _find(place: int, exposure: Exposure, band: Band, source: Source) -> tuple[int, Positions | None]:
    """Look for stars on one frame; with its place among the frames, whose order decides between near positions."""
    return place, _stars_of(exposure, band, source)


def _stars_of(exposure: Exposure, band: Band, source: Source) -> Positions | None:
    try:
        job, _, _ = fetch_frame(exposure, band, source)
        return source.executor.submit(find_frame_stars, job).result()
    except BadPayload as error:
        source.spoilt[exposure.frame(band)] = error
        return None
    except (NotInArchive, FrameError):
        return None
    except BrokenExecutor as error:
        frame = exposure.frame(band)
        raise WorkerDied(f"a decoding process died while stars were sought on frame {frame}: out of memory?") from error
    finally:
        for path in frame_files(exposure, band, source.survey):
            source.used(exposure.archive, path)
