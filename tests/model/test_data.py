"""What the network is fed: the right images, standardised by the right constants, turned alike."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from model.augment import EMPTY, orient, random_images, random_orientations, spread_images
from model.config import preset
from model.data import pack_dataset, pack_sequences
from model.loader import Loader
from model.train import draw_balanced
from pipeline.errors import DatasetError
from pipeline.manifest import Dataset, open_dataset
from pipeline.naming import pack_dir
from pipeline.packing import pack_dataset as write_pack

SMALL = preset("small")
CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def sequences(sequence_maker):
    random = np.random.default_rng(1)
    return [sequence_maker(str(i), ("AGN", "spectroscopic"), n, random) for i, n in enumerate((7, 40, 75))]


def linear(**changes):
    return SMALL.updated(model={"stretch": "linear", **changes}, storage="float32")


def test_a_batch_holds_the_objects_own_images_standardised_by_band(sequences) -> None:
    config = linear()
    pack = pack_sequences(sequences, 200, config)
    normalisation = pack.normalisation([1, 2])
    batch = next(Loader(pack, normalisation, config.model, CPU).batches(torch.tensor([1, 0]), 2))
    image_BMHW, band_BM = batch.pixels_BMCHW[:, :, 0], batch.band_BM
    assert image_BMHW.shape == (2, 40, 32, 32)
    first, mean, std = sequences[1], np.array(normalisation.mean_nmgy), np.array(normalisation.std_nmgy)
    assert band_BM[0].tolist() == first.band_id.tolist()
    expected = (first.image - mean[first.band_id - 1, None, None]) / std[first.band_id - 1, None, None]
    np.testing.assert_allclose(image_BMHW[0].numpy(), np.nan_to_num(expected, nan=0), rtol=1e-4, atol=1e-5)
    assert band_BM[1, 7:].eq(0).all()
    assert image_BMHW[1, 7:].eq(0).all()
    np.testing.assert_allclose(batch.day_BM[0].numpy(), first.mjd_tai - first.mjd_tai[0], atol=1e-4)
    assert batch.day_BM[1, 7:].eq(0).all()


def test_constants_are_those_of_the_covered_pixels_of_the_given_objects(sequences) -> None:
    pack = pack_sequences(sequences, 200, SMALL)
    normalisation = pack.normalisation([0, 2])
    for band in range(1, 6):
        parts = [s.image[s.band_id == band].ravel() for s in (sequences[0], sequences[2])]
        pixels = np.concatenate(parts).astype(float)
        assert normalisation.mean_nmgy[band - 1] == pytest.approx(np.nanmean(pixels), rel=1e-9)
        assert normalisation.std_nmgy[band - 1] == pytest.approx(np.nanstd(pixels), rel=1e-9)


def test_half_precision_keeps_pixels_to_its_rounding(sequences) -> None:
    pack = pack_sequences(sequences, 200, SMALL)
    np.testing.assert_allclose(pack.image_PHW[:7].float().numpy(), sequences[0].image, rtol=2**-10, atol=1e-6)


def test_only_the_configured_bands_are_read(sequences) -> None:
    pack = pack_sequences(sequences, 200, linear(bands=("g",)))
    assert pack.band_P.unique().tolist() == [2]
    assert pack.length_O.tolist() == [int((s.band_id == 2).sum()) for s in sequences]


def test_wrong_image_size_is_one_clear_error(tiny_dataset) -> None:
    dataset = open_dataset(tiny_dataset)
    config = SMALL.updated(model={"size": 48})
    with pytest.raises(DatasetError, match=r"set model\.size to 32"):
        pack_dataset(dataset, dataset.objects, config)


@pytest.mark.parametrize("storage", ["float16", "float32"])
@pytest.mark.parametrize("bands", [("u", "g", "r", "i", "z"), ("r", "g")])
def test_a_pack_beside_the_dataset_gives_the_same_tensors_to_the_bit(
    tiny_dataset, tmp_path, monkeypatch, storage: str, bands: tuple[str, ...]
) -> None:
    path = tmp_path / "dataset"
    shutil.copytree(tiny_dataset, path)
    dataset, config = open_dataset(path), SMALL.updated(model={"bands": bands}, storage=storage)
    rows = dataset.objects[1::2][::-1]
    from_files = pack_dataset(dataset, rows, config)
    write_pack(path, dtype=storage)
    monkeypatch.setattr(Dataset, "sequence", None)  # no file of an object is read any more
    from_pack = pack_dataset(dataset, rows, config)
    for name in ("image_PHW", "band_P", "first_O", "length_O"):
        expected, found = getattr(from_files, name), getattr(from_pack, name)
        assert found.dtype == expected.dtype
        assert found.numpy().tobytes() == expected.numpy().tobytes()
    assert from_pack.moments_O53.tobytes() == from_files.moments_O53.tobytes()
    assert (from_pack.object_ids, from_pack.longest) == (from_files.object_ids, from_files.longest)


def test_a_pack_of_other_content_is_not_used(tiny_dataset, tmp_path, dataset_writer) -> None:
    path = tmp_path / "dataset"
    shutil.copytree(tiny_dataset, path)
    other = dataset_writer(tmp_path / "other", [("AGN", "spectroscopic")] * 3, n_images=(2, 4))
    write_pack(other, pack_dir(path, "float16"))
    dataset = open_dataset(path)
    pack = pack_dataset(dataset, dataset.objects, SMALL)
    assert len(pack.image_PHW) == sum(row.n_images for row in dataset.objects)


def test_an_object_without_an_image_in_the_bands_is_named(tmp_path, dataset_writer) -> None:
    path = dataset_writer(tmp_path / "dataset", [("AGN", "spectroscopic")] * 2, n_images=(1, 1))
    for _ in ("files", "pack"):
        dataset = open_dataset(path)
        with pytest.raises(DatasetError, match="object 1000 has no image in z: leave it out"):
            pack_dataset(dataset, dataset.objects, SMALL.updated(model={"bands": ("z",)}))
        write_pack(path)


@pytest.mark.parametrize("choose", ["training", "evaluation"])
def test_chosen_images_are_in_time_order_and_fill_the_slots(choose: str) -> None:
    length_B = torch.tensor([1, 59, 60, 61, 300])
    if choose == "training":
        chosen_BM = random_images(length_B, 60, 300, generator())
    else:
        chosen_BM = spread_images(length_B, 60, 300)
    for chosen_M, length in zip(chosen_BM, length_B.tolist(), strict=True):
        real_M = chosen_M[chosen_M != EMPTY]
        assert len(real_M) == min(length, 60)
        assert chosen_M[: len(real_M)].equal(real_M)
        assert real_M.diff().gt(0).all()
        assert real_M.max() < length
        if length <= 60:
            assert real_M.tolist() == list(range(length))


def test_training_windows_and_drops_reach_every_image() -> None:
    """Both the first and the last image are used, contiguous windows as well as spread ones."""
    chosen_BM = random_images(torch.full((2000,), 90), 60, 90, generator())
    count_L = chosen_BM.flatten().bincount(minlength=90)
    assert count_L.min() > 100
    span_B = chosen_BM[:, -1] - chosen_BM[:, 0]
    assert span_B.min() < 63
    assert span_B.max() > 85


def test_evaluation_spreads_over_time_and_bands() -> None:
    """Every fifth image of 500 interleaved ones would be of one band; the rule takes all bands alike."""
    chosen_M = spread_images(torch.tensor([500]), 100, 500)[0]
    assert (chosen_M % 5).bincount().tolist() == pytest.approx([20] * 5, abs=3)
    assert chosen_M.diff().max() <= 13
    assert chosen_M[-1] - chosen_M[0] > 480


def test_orientation_is_rotation_within_the_limit_or_a_flip_the_same_for_all_images() -> None:
    turn_B22 = random_orientations(500, 15.0, generator(), CPU)
    np.testing.assert_allclose((turn_B22 @ turn_B22.mT).numpy(), np.broadcast_to(np.eye(2), (500, 2, 2)), atol=1e-6)
    flips = turn_B22[turn_B22[:, 0, 1] == 0]
    turned = turn_B22[turn_B22[:, 0, 1] != 0]
    assert 200 < len(turned) < 300
    assert turned[:, 0, 1].abs().max() <= np.sin(np.radians(15)) + 1e-6
    assert flips.flatten(1).unique(dim=0).shape[0] == 4

    image_BMHW = torch.randn(4, 3, 32, 32, generator=generator())
    mirrored = orient(image_BMHW, torch.diag_embed(torch.tensor([[-1.0, 1.0]] * 4)))
    torch.testing.assert_close(mirrored, image_BMHW.flip(3), rtol=1e-5, atol=1e-5)


def test_classes_are_drawn_alike() -> None:
    label_O = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)
    drawn = draw_balanced(torch.arange(1000), label_O, 3000, generator())
    assert label_O[drawn].bincount().tolist() == pytest.approx([1000] * 3, abs=120)


def test_streamed_batches_are_the_resident_ones_to_the_bit(sequences) -> None:
    """Images elsewhere than the device, gathered by a thread, every process its share: the same random choices."""
    config = linear(inputs=("flux", "difference", "weight"), images=30)
    pack = pack_sequences(sequences, 200, config)
    resident = Loader(pack, pack.normalisation([0, 1, 2]), config.model, CPU)
    drawn = torch.tensor([0, 2, 1, 2, 2, 0, 1] * 3)
    with pytest.MonkeyPatch.context() as patched:
        expected = list(resident.training_batches(drawn, 4, generator(), 15.0))
        patched.setattr(Loader, "streams", True)
        streamed = list(resident.training_batches(drawn, 4, generator(), 15.0))
        halves = [list(resident.training_batches(drawn, 4, generator(), 15.0, share=(rank, 2))) for rank in (0, 1)]
    assert len(expected) == len(streamed) == 6
    for one, other, *shares in zip(expected, streamed, *halves, strict=True):
        for left, right in zip(one, other, strict=True):
            assert left.equal(right)
        for rank, share in enumerate(shares):
            assert share.band_BM.equal(one.band_BM[rank::2])
            torch.testing.assert_close(share.pixels_BMCHW, one.pixels_BMCHW[rank::2])


def test_difference_and_weight_are_what_they_say(sequences) -> None:
    config = linear(inputs=("flux", "difference", "weight"))
    sequence = replace(sequences[2], variance=sequences[2].variance * np.float32(4))
    sequence.mask[0, 5, 5] = 1
    pack = pack_sequences([sequence], 200, config)
    batch = next(Loader(pack, pack.normalisation([0]), config.model, CPU).batches(torch.tensor([0]), 1))
    chosen = spread_images(torch.tensor([75]), SMALL.model.images, 75)[0].numpy()
    band, image = sequence.band_id[chosen], sequence.image[chosen].astype(float)
    std = np.array(pack.normalisation([0]).std_nmgy)[band - 1, None, None]
    for number, (one, its_band) in enumerate(zip(image, band, strict=True)):
        same = image[band == its_band]
        count = (~np.isnan(same)).sum(axis=0)
        mean = np.nan_to_num(same).sum(axis=0) / np.maximum(count, 1)
        expected = np.nan_to_num((one - mean) / std[number])
        np.testing.assert_allclose(batch.pixels_BMCHW[0, number, 1].numpy(), expected, atol=2e-4)
    good = sequence.mask[chosen] == 0
    np.testing.assert_allclose(batch.pixels_BMCHW[0, :, 2].numpy(), good.astype(float), atol=1e-3)


def test_the_first_nights_alone(sequences) -> None:
    """What a broker had seen by then: whole nights, from the first."""
    pack = pack_sequences(sequences, 200, linear())
    loader = Loader(pack, pack.normalisation([0, 1, 2]), linear().model, CPU)
    for nights in (1, 3):
        batch = next(loader.batches(torch.arange(3), 3, until=nights))
        for number, sequence in enumerate(sequences):
            night = np.concatenate([[0], np.cumsum(np.diff(sequence.mjd_tai) > 0.5)])
            assert int((batch.band_BM[number] > 0).sum()) == min(int((night < nights).sum()), SMALL.model.images)


def test_an_object_of_empty_images_is_named(sequences) -> None:
    empty = replace(sequences[0], image=np.full_like(sequences[0].image, np.nan))
    with pytest.raises(DatasetError, match="object 0 has not one covered pixel: leave it out"):
        pack_sequences([sequences[1], empty], 200, SMALL)
