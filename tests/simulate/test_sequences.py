"""The benchmark survey: rendered straight onto thumbnails, it is what frames would have given, and reproducible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError
from pipeline.frames import read_frame
from pipeline.manifest import open_dataset
from pipeline.naming import calibration_path, frame_path, mask_path
from pipeline.simulate.archive import SimulationResult
from pipeline.simulate.benchmark import benchmark_of, moon
from pipeline.simulate.camera import strips
from pipeline.simulate.conditions import double_gaussian, draw_conditions
from pipeline.simulate.config import simulation_config
from pipeline.simulate.mixture import add_galaxy
from pipeline.simulate.population import draw_population
from pipeline.simulate.sequences import simulate_sequences
from pipeline.simulate.stamps import expose, place_stamp, record
from pipeline.simulate.truth import epochs
from pipeline.survey import load_survey
from pipeline.thumbnails import cut_thumbnails
from pipeline.verify import verify_dataset


@pytest.fixture(scope="module")
def both_ways(tiny: SimulationResult) -> list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Every image of the survey `tiny`: cut from its frames, and the same source, night and place rendered alone."""
    survey = load_survey("tiny")
    config = simulation_config(survey)
    population, all_strips = draw_population(config), strips(config)
    seen = epochs(population.targets, all_strips)
    rng = np.random.default_rng(0)
    pairs = []
    for number, strip in enumerate(all_strips):
        if strip.band not in config.written_bands:
            continue
        conditions = draw_conditions(config, strip)
        frames = {}
        for target in population.targets:
            stamp = place_stamp(strip, target.ra_deg, target.dec_deg, survey.thumbnails.size)
            if stamp is None:
                continue
            if stamp.field_index not in frames:
                frames[stamp.field_index] = _read(tiny.root, strip.frame(stamp.field_index))
            where = np.array([target.ra_deg]), np.array([target.dec_deg])
            cut = cut_thumbnails(frames[stamp.field_index], *where, survey.thumbnails)
            alone = expose(config, strip, conditions, population, seen.flux_nmgy_TS[:, number], stamp, rng)
            one = record(alone, target.ra_deg, target.dec_deg, survey.thumbnails)
            pairs.append(
                (
                    {"image": cut.image_THW[0], "variance": cut.variance_THW[0], "mask": cut.mask_THW[0]}
                    | {"mjd_tai": cut.mjd_tai_T[0], "x_pix": cut.x_pix_T[0], "factor": cut.noise_factor_T[0]},
                    {name: one[name] for name in ("image", "variance", "mask", "mjd_tai")}
                    | {"x_pix": one["x_pix"] + stamp.cols.start, "factor": one["noise_factor"]},
                )
            )
    assert len(pairs) > 80
    return pairs


def _read(root: Path, frame):
    def place(path: str) -> Path:
        return root / ("das" if frame.layout == "das-dr7" else "") / path

    mask = place(mask_path(frame))
    return read_frame(
        place(frame_path(frame)),
        place(calibration_path(frame)),
        mask if mask.exists() else None,
        rerun=frame.rerun,
        astrometry="full",
    )


def test_rendered_images_differ_from_cut_ones_by_their_noise_alone(both_ways) -> None:
    """Difference over its σ: mean, width, correlation of neighbours, and what a shift or a wider PSF would leave."""
    pulls, tilts, flux = [], [], []
    y, x = np.mgrid[:32, :32] - 15.5
    core = np.exp(-(x**2 + y**2) / (2 * 1.8**2))
    for cut, alone in both_ways:
        good = (cut["mask"] == 0) & (alone["mask"] == 0)
        sigma = np.sqrt(np.where(good, cut["variance"] + alone["variance"], 1))
        pull = np.where(good, (cut["image"] - alone["image"]) / sigma, np.nan)
        pulls.append(pull)
        weight = np.where(good, core, 0)
        white = np.sqrt(cut["factor"])  # the noise of a sum is that of independent pixels

        def projected(shape: np.ndarray, pull=pull, weight=weight, white=white) -> float:
            template = weight * shape
            return float(np.nansum(pull * template) / np.sqrt((template**2).sum()) * white)

        flux.append(projected(np.ones_like(x)))
        tilts.append([projected(x), projected(y), projected(x**2 + y**2 - 2 * 1.8**2)])
    pull_EHW = np.stack(pulls)
    assert np.nanmean(pull_EHW) == pytest.approx(0, abs=0.03)
    assert np.nanstd(pull_EHW) == pytest.approx(1, abs=0.02)
    neighbours = np.nanmean(pull_EHW[:, :, 1:] * pull_EHW[:, :, :-1])
    cut_alone, rendered_alone = (_correlation([pair[k] for pair in both_ways]) for k in (0, 1))
    assert rendered_alone == pytest.approx(cut_alone, abs=0.02)
    assert neighbours == pytest.approx((cut_alone + rendered_alone) / 2, abs=0.05)
    assert np.mean(flux) == pytest.approx(0, abs=4 / len(flux) ** 0.5)
    assert np.std(flux) < 1.5
    assert np.abs(np.mean(tilts, axis=0)).max() < 4 / len(tilts) ** 0.5
    assert np.std(tilts, axis=0).max() < 1.5


def _correlation(images: list[dict[str, np.ndarray]]) -> float:
    """Of the noise of neighbouring pixels in the corners, where there is sky alone, after a smooth background."""
    products, squares = [], []
    for one in images:
        corner = np.where(one["mask"] == 0, one["image"] / np.sqrt(one["variance"]), np.nan)[:10, :10]
        corner = corner - np.nanmedian(corner)
        if np.nanstd(corner) < 1.3:  # no neighbour
            products.append(np.nanmean(corner[:, 1:] * corner[:, :-1]))
            squares.append(np.nanmean(corner**2))
    return float(np.nanmean(products) / np.nanmean(squares))


def test_rendered_images_are_at_the_same_place_and_time_with_the_same_variance(both_ways) -> None:
    for cut, alone in both_ways:
        assert alone["mjd_tai"] == pytest.approx(cut["mjd_tai"], abs=1e-7)
        assert alone["x_pix"] == pytest.approx(cut["x_pix"], abs=0.02)
        assert alone["factor"] == pytest.approx(cut["factor"], rel=0.02)
        ratio = np.nanmedian(alone["variance"] / cut["variance"])
        assert ratio == pytest.approx(1, abs=0.03)
    flagged = np.array([[(part["mask"] > 0).mean() for part in pair] for pair in both_ways]).mean(axis=0)
    assert flagged[1] == pytest.approx(flagged[0], abs=0.01)


@pytest.mark.parametrize("sersic", [1.0, 1.5, 2.5])
def test_a_mixture_of_gaussians_is_the_galaxy(sersic: float) -> None:
    """Against GalSim's Fourier convolution, to 3e-4 of the peak."""
    galsim = pytest.importorskip("galsim")
    from pipeline.simulate.render import galsim_psf

    psf = double_gaussian(1.3, 2.3, 0.08)
    expected = galsim.ImageF(71, 71, scale=0.396)
    profile = galsim.Sersic(n=sersic, half_light_radius=1.6, flux=100.0).shear(q=0.5, beta=0.6 * galsim.radians)
    convolved = galsim.Convolve(profile, galsim_psf(psf))
    convolved.drawImage(image=expected, center=galsim.PositionD(36.3, 35.8), method="no_pixel")
    found = np.zeros((71, 71), np.float32)
    add_galaxy(found, psf, 35.3, 35.8, 100.0, radius_px=1.6 / 0.396, sersic=sersic, axis_ratio=0.5, angle_rad=0.6)
    assert np.abs(found - expected.array).max() < 3e-4 * expected.array.max()


def test_the_full_survey_has_the_papers_numbers() -> None:
    labels = benchmark_of(load_survey("benchmark")).labels
    assert sum(labels.values()) == 8208
    assert (labels["AGN"], labels["Variable"], labels["SNIa"], labels["pSNIa"] + labels["zSNIa"]) == (
        906,
        3225,
        499,
        1448,
    )
    spectroscopic = sum(labels[name] for name in ("SNII", "SNIb", "SNIc", "SLSN"))
    photometric = sum(labels[name] for name in ("pSNII", "zSNII", "pSNIbc", "zSNIbc"))
    assert (spectroscopic, photometric) == (89, 2041)


def test_the_moon_is_full_when_it_was() -> None:
    """2005 October 17 and 3 (MJD 53660.5 and 53646.4), full and new."""
    assert moon(53660.5) == pytest.approx(5, abs=0.1)
    assert moon(53646.4) == pytest.approx(1, abs=0.01)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("benchmark")
    return root, simulate_sequences(_fewer(), root, n_objects=1, nights=2, workers=1)


def _fewer():
    """One object per label at least."""
    survey = load_survey("benchmark")
    assert survey.simulation is not None
    own = survey.simulation["sequences"] | {"least_per_label": 1}
    return survey.model_copy(update={"simulation": survey.simulation | {"sequences": own}})


def test_it_is_a_dataset_like_any_other_whoever_makes_it(few, tmp_path: Path) -> None:
    """It verifies, and two processes give the bytes of one."""
    _, result = few
    dataset = open_dataset(result.dataset)
    assert verify_dataset(result.dataset) == []
    assert {row.class_name for row in dataset.objects} == {"AGN", "SNIa", "Variable", "SNOther"}
    assert all(row.n_images == 10 and row.fold >= 0 and row.step for row in dataset.objects)
    again = simulate_sequences(_fewer(), tmp_path, n_objects=1, nights=2, workers=2)
    assert again.dataset_id == result.dataset_id
    assert [row.sha256 for row in open_dataset(again.dataset).objects] == [row.sha256 for row in dataset.objects]


def test_the_truth_is_written_beside_it(few) -> None:
    _, result = few
    objects, seen = (pq.read_table(result.truth / f"{name}.parquet") for name in ("objects", "epochs"))
    dataset = open_dataset(result.dataset)
    assert sorted(objects["object_id"].to_pylist()) == [row.object_id for row in dataset.objects]
    row = next(row for row in dataset.objects if row.class_name == "Variable")
    sequence = dataset.sequence(row)
    times = [
        time
        for name, time in zip(*(seen[c].to_pylist() for c in ("object_id", "mjd_tai")), strict=True)
        if name == row.object_id
    ]
    np.testing.assert_allclose(np.sort(times), sequence.mjd_tai, atol=1e-7)


def test_a_survey_without_a_benchmark_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="survey 'demo' has no \\[simulation\\.sequences\\] section: choose one"):
        simulate_sequences(load_survey("demo"), tmp_path)


@pytest.mark.slow
def test_peak_magnitude_alone_tells_too_little_and_light_curves_tell_more(tmp_path: Path) -> None:
    """Balanced accuracy over five folds, of trees on measured fluxes: under 60 % by brightness, far above by all.

    Peaks in all five bands are mostly colour, and tell much; so they do of the real classes.
    """
    survey = load_survey("benchmark")
    result = simulate_sequences(survey, tmp_path, n_objects=800, nights=12)
    peak, shape, label = features(result.dataset)
    by_peak, by_colour = balanced_accuracy(peak[:, 2:3], label), balanced_accuracy(peak, label)
    by_shape = balanced_accuracy(np.hstack((peak, shape)), label)
    print(f"r peak {by_peak:.3f}, ugriz peaks {by_colour:.3f}, light curves {by_shape:.3f}, {len(label)} objects")  # noqa: T201
    assert by_peak < 0.60
    assert by_peak + 0.2 < by_colour < by_shape < 0.9


def features(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per object: brightest magnitude in each band; scatter, trend and time of the peak in each band; class."""
    dataset = open_dataset(path)
    y, x = np.mgrid[:32, :32] - 15.5
    radius = np.hypot(x, y)
    peaks, shapes = [], []
    for row in dataset.objects:
        sequence = dataset.sequence(row)
        sky = np.nanmedian(np.where(radius > 11, sequence.image, np.nan), axis=(1, 2), keepdims=True)
        flux_M = np.nansum(np.where(radius < 4, sequence.image - sky, 0), axis=(1, 2))
        peak, shape = [], []
        for band in range(1, 6):
            mine = sequence.band_id == band
            flux, day = flux_M[mine], sequence.mjd_tai[mine] - sequence.mjd_tai[0]
            sigma = np.sqrt(np.nanmedian(sequence.independent_variance[mine], axis=(1, 2)) * np.pi * 16)
            brightest = flux.max()
            peak.append(22.5 - 2.5 * np.log10(max(brightest, 0.1)))
            level = max(np.median(flux), 0.1)
            shape += [
                np.sqrt(np.mean(((flux - flux.mean()) / sigma) ** 2)),
                flux.std() / level,
                np.polyfit(day, flux / level, 1)[0],
                day[flux.argmax()],
                (flux.max() - np.median(flux)) / max(np.median(flux) - flux.min(), 0.05),
                np.mean(np.diff(flux) ** 2) / max(flux.var(), 1e-6),
            ]
        peaks.append(peak)
        shapes.append(shape)
    return np.array(peaks), np.array(shapes), np.array([row.class_name for row in dataset.objects])


def balanced_accuracy(feature: np.ndarray, label: np.ndarray) -> float:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    forest = RandomForestClassifier(300, class_weight="balanced", min_samples_leaf=3, random_state=0)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return float(balanced_accuracy_score(label, cross_val_predict(forest, feature, label, cv=folds)))
