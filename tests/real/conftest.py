"""The real archive tree, served over HTTP and built once by the very flow that users run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import sep
from astropy.io import fits
from astropy.wcs import WCS

from pipeline.manifest import Dataset, ObjectRow, open_dataset
from pipeline.naming import FrameId, frame_path
from pipeline.realsample import KnownObject, known_objects, write_real_sample
from pipeline.sequences import Sequence
from pipeline.simulate.server import ArchiveServer


@dataclass(frozen=True)
class RealBuild:
    """The built dataset beside the catalogue it is judged by."""

    dataset: Dataset
    known: dict[str, KnownObject]
    galaxies: tuple[str, ...]
    """Ids of galaxies of the fpC field: they do not move between epochs, as stars do."""

    def rows(self, kind: str, prefix: str = "") -> list[ObjectRow]:
        """Rows of catalogued objects."""
        wanted = {key for key, known in self.known.items() if known.kind == kind and key.startswith(prefix)}
        return [row for row in self.dataset.objects if row.object_id in wanted]

    def sequences(self, ids: set[str]) -> dict[str, Sequence]:
        """Sequences of some objects."""
        return {row.object_id: self.dataset.sequence(row) for row in self.dataset.objects if row.object_id in ids}


def galaxies_of_fpc_field(archive: Path) -> list[tuple[str, float, float]]:
    """Extended sources of run 4192 in i, found on the raw frame without any of our code."""
    frame = archive / "das" / frame_path(FrameId("das-dr7", 4192, 40, 4, 300, "i"))
    with fits.open(frame) as hdus:
        counts = hdus[0].data.astype(np.float32)
        cards = hdus[0].header
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = cards["CTYPE1"], cards["CTYPE2"]
        wcs.wcs.crpix = cards["CRPIX1"], cards["CRPIX2"]
        wcs.wcs.crval = cards["CRVAL1"], cards["CRVAL2"]
        wcs.wcs.cd = [[cards[f"CD{i}_{j}"] for j in (1, 2)] for i in (1, 2)]
    sky = sep.Background(counts)
    image = counts - sky.back()
    found = sep.extract(image, 4.0, err=sky.globalrms, minarea=8)
    inside = (abs(found["x"] - 1024) < 950) & (abs(found["y"] - 744) < 600) & (found["flag"] == 0)
    found = found[inside & (found["flux"] > 1500) & (found["flux"] < 50000)]
    half_light, _ = sep.flux_radius(
        image, found["x"], found["y"], np.full(len(found), 15.0), 0.5, normflux=found["flux"]
    )
    of_stars = np.percentile(half_light[found["flux"] > 5000], 10)
    found = found[half_light > 1.35 * of_stars]
    ra_deg, dec_deg = wcs.wcs_pix2world(np.column_stack([found["x"], found["y"]]), 0).T
    return [(f"gal-{i}", float(ra), float(dec)) for i, (ra, dec) in enumerate(zip(ra_deg, dec_deg, strict=True))]


@pytest.fixture(scope="session")
def real_build(real_data: Path, prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> RealBuild:
    """Serve the real files, run `build-dataset` on them, and hand over what it published."""
    from flows.build import build_dataset

    root = tmp_path_factory.mktemp("real")
    galaxies = galaxies_of_fpc_field(real_data / "archive")
    with ArchiveServer(real_data / "archive") as server:
        survey = write_real_sample(real_data, server.url, root)
        with (root / "objects.csv").open("a") as objects:
            objects.writelines(f"{name},{ra!r},{dec!r}\n" for name, ra, dec in galaxies)
        published = build_dataset(survey=str(survey), root=root, workers=2)
    known = {item.object_id: item for item in known_objects(real_data)}
    return RealBuild(open_dataset(published.path), known, tuple(name for name, _, _ in galaxies))
