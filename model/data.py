"""A dataset as tensors on the device: every image once, in half precision, sampled there.

A batch is put together by indexing on the device, so that training never waits for files or the CPU. Images come from
the dataset's pack if one lies beside it (`s82 dataset pack`), else from the file of each object: the same to the bit.

Shapes: O objects, P images of all of them one after the other, B sequences of a batch, M slots,
H × W pixels. Band ids are 1 to 5, 0 is padding.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.augment import EMPTY, orient, random_images, random_orientations, spread_images
from model.config import Config, ModelConfig, RunConfig
from model.embedding import PADDING
from model.errors import ModelConfigError
from pipeline.bands import BAND_ID, BANDS
from pipeline.errors import DatasetError
from pipeline.manifest import Dataset, ObjectRow
from pipeline.pack import Pack as StoredPack
from pipeline.pack import band_moments, find_pack, stored
from pipeline.sequences import Sequence as ImageSequence

LOG: Final = logging.getLogger(__name__)


class Normalisation(Config):
    """Band-wise standardisation of pixels, u to z, from the training objects of one fold alone."""

    mean_nmgy: tuple[float, float, float, float, float]
    std_nmgy: tuple[float, float, float, float, float]

    @classmethod
    def of_moments(cls, moments_O53: NDArray[np.float64]) -> Self:
        """From (count, sum, sum of squares) per object and band. A band never seen is left as it is."""
        count, total, square = moments_O53.sum(axis=0).T
        mean = total / np.maximum(count, 1)
        variance = square / np.maximum(count, 1) - mean**2
        std = np.sqrt(np.where(variance > 0, variance, 1.0))
        return cls(mean_nmgy=tuple(mean.tolist()), std_nmgy=tuple(std.tolist()))

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and 1 / std by band id (row 0, padding, is 0): two tensors of 6."""
        mean = torch.tensor((0.0, *self.mean_nmgy), dtype=torch.float32, device=device)
        scale = torch.tensor((0.0, *(1 / std for std in self.std_nmgy)), dtype=torch.float32, device=device)
        return mean, scale


@dataclass(frozen=True)
class Pack:
    """All images of some objects on one device, in nanomaggies; NaN where the frame did not cover."""

    object_ids: tuple[str, ...]
    image_PHW: Tensor
    band_P: Tensor
    first_O: Tensor
    length_O: Tensor
    longest: int
    moments_O53: NDArray[np.float64]
    """Per object and band: count, sum and sum of squares of covered pixels."""

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.image_PHW.device

    def normalisation(self, objects: Sequence[int]) -> Normalisation:
        """Band constants of these objects."""
        return Normalisation.of_moments(self.moments_O53[list(objects)])


def pick_device(config: RunConfig) -> torch.device:
    """The device a run uses; `auto` is the GPU where there is one. Raises ModelConfigError where `cuda` is absent."""
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ModelConfigError("device is cuda, but torch finds no GPU here: set device to auto or cpu")
    return torch.device(config.device)


def pack_dataset(dataset: Dataset, rows: Sequence[ObjectRow], config: RunConfig, device: torch.device) -> Pack:
    """Read the objects `rows` into one pack on the device.

    Raises
    ------
    DatasetError
        The images are not of the configured size, or an object has none in the configured bands.
    SequenceError, PackError
        A file is missing or damaged.
    """
    if dataset.info.size != config.model.size:
        raise DatasetError(
            f"{dataset.path} has images of {dataset.info.size} px, the model takes {config.model.size} px: "
            f"set model.size to {dataset.info.size} or build a dataset of {config.model.size} px"
        )
    if (packed := find_pack(dataset, config.storage)) is not None:
        LOG.info("images are taken from the pack %s", packed.path)
        return _take(packed, rows, config.model, device)
    total = sum(row.n_images for row in rows)
    return pack_sequences((dataset.sequence(row) for row in rows), total, config, device)


def pack_sequences(sequences: Iterable[ImageSequence], total: int, config: RunConfig, device: torch.device) -> Pack:
    """As `pack_dataset`, from sequences in memory with at most `total` images."""
    size = config.model.size
    image_PHW = np.empty((total, size, size), dtype=config.storage)
    band_P = np.empty(total, dtype=np.uint8)
    ids, firsts, lengths, moments, end = [], [], [], [], 0
    for sequence in sequences:
        used_M = _used(sequence, config.model)
        start, end = end, end + int(used_M.sum())
        if end > total:
            raise DatasetError(
                f"object {sequence.object_id} has more images than the manifest says: rebuild the dataset"
            )
        image_MHW = sequence.image[used_M]
        image_PHW[start:end] = stored(image_MHW, config.storage)
        band_P[start:end] = sequence.band_id[used_M]
        ids.append(sequence.object_id)
        firsts.append(start)
        lengths.append(end - start)
        moments.append(band_moments(image_MHW, sequence.band_id[used_M]))
    return Pack(
        object_ids=tuple(ids),
        image_PHW=torch.from_numpy(image_PHW[:end]).to(device),
        band_P=torch.from_numpy(band_P[:end]).to(device),
        first_O=torch.tensor(firsts, dtype=torch.int64, device=device),
        length_O=torch.tensor(lengths, dtype=torch.int64, device=device),
        longest=max(lengths, default=0),
        moments_O53=np.array(moments, dtype=np.float64).reshape(-1, len(BANDS), 3),
    )


def _take(packed: StoredPack, rows: Sequence[ObjectRow], config: ModelConfig, device: torch.device) -> Pack:
    """The images of some objects in the configured bands, copied out of the mapped file in its order."""
    place = {object_id: number for number, object_id in enumerate(packed.object_ids)}
    object_O = np.array([place[row.object_id] for row in rows], dtype=np.int64)
    wanted_P = np.isin(packed.band_P, [BAND_ID[band] for band in config.bands])
    taken = [
        start + np.flatnonzero(wanted_P[start : start + length])
        for start, length in zip(packed.first_O[object_O], packed.length_O[object_O], strict=True)
    ]
    length_O = np.array([len(images) for images in taken], dtype=np.int64)
    if not length_O.all():
        raise _no_image(rows[int(length_O.argmin())].object_id, config)
    taken_P = np.concatenate(taken) if taken else np.empty(0, np.int64)
    other_bands = [number for number, band in enumerate(BANDS) if band not in config.bands]
    moments_O53 = packed.moments_O53[object_O]
    moments_O53[:, other_bands] = 0
    return Pack(
        object_ids=tuple(row.object_id for row in rows),
        image_PHW=torch.from_numpy(packed.image_PHW[taken_P]).to(device),
        band_P=torch.from_numpy(packed.band_P[taken_P]).to(device),
        first_O=torch.from_numpy(np.cumsum(length_O) - length_O).to(device),
        length_O=torch.from_numpy(length_O).to(device),
        longest=int(length_O.max(initial=0)),
        moments_O53=moments_O53,
    )


def _used(sequence: ImageSequence, config: ModelConfig) -> NDArray[np.bool_]:
    if sequence.image.shape[1:] != (config.size, config.size):
        height, width = sequence.image.shape[1:]
        raise DatasetError(f"object {sequence.object_id}: images are {height} × {width} px, expected {config.size}")
    used_M = np.isin(sequence.band_id, [BAND_ID[band] for band in config.bands])
    if not used_M.any():
        raise _no_image(sequence.object_id, config)
    return used_M


def _no_image(object_id: str, config: ModelConfig) -> DatasetError:
    return DatasetError(f"object {object_id} has no image in {''.join(config.bands)}: leave it out")


@dataclass(frozen=True)
class Loader:
    """Batches of standardised images of one pack."""

    pack: Pack
    normalisation: Normalisation
    config: ModelConfig

    def random_batch(
        self, object_B: Tensor, generator: torch.Generator, max_rotation_deg: float
    ) -> tuple[Tensor, Tensor]:
        """Augmented images (B, M, H, W) and band ids (B, M) for training."""
        length_B = self.pack.length_O[object_B]
        chosen_BM = random_images(length_B, self.config.images, self.pack.longest, generator)
        image_BMHW, band_BM = self._gather(object_B, chosen_BM)
        turn_B22 = random_orientations(len(object_B), max_rotation_deg, generator, self.pack.device)
        return orient(image_BMHW, turn_B22), band_BM

    def batches(self, objects: Tensor, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The objects in order, by the fixed rule of evaluation."""
        for object_B in objects.split(batch):
            chosen_BM = spread_images(self.pack.length_O[object_B], self.config.images, self.pack.longest)
            yield self._gather(object_B, chosen_BM)

    def _gather(self, object_B: Tensor, chosen_BM: Tensor) -> tuple[Tensor, Tensor]:
        """Images and bands of the chosen places, cut to the longest sequence of the batch."""
        filled_BM = chosen_BM != EMPTY
        chosen_BM = chosen_BM[:, : int(filled_BM.sum(dim=1).max())]
        filled_BM = filled_BM[:, : chosen_BM.shape[1]]
        index_BM = self.pack.first_O[object_B, None] + chosen_BM.clamp(min=0)
        band_BM = torch.where(filled_BM, self.pack.band_P[index_BM].long(), PADDING)
        mean, scale = self.normalisation.tensors(self.pack.device)
        image_BMHW = self.pack.image_PHW[index_BM].float()
        image_BMHW = (image_BMHW - mean[band_BM][..., None, None]) * scale[band_BM][..., None, None]
        image_BMHW = image_BMHW.nan_to_num(nan=0.0)  # not covered: the band's mean
        return (_asinh(image_BMHW) if self.config.stretch == "asinh" else image_BMHW), band_BM


def _asinh(x: Tensor) -> Tensor:
    """asinh to 3e-7; torch's own takes seven times as long on a CPU, a seventh of a training step."""
    return (x.abs() + (x * x + 1).sqrt()).log().copysign(x)
