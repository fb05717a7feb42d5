"""A dataset as tensors: every image once, in half precision, on the device if it fits there.

Images come from the dataset's pack if one lies beside it (`s82 dataset pack`), else from the file of each object: the
same to the bit. `model.loader` makes batches of them.

Shapes: O objects, P images of all of them one after the other, M of one, H × W pixels. Band ids are 1 to 5, 0 is
padding.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.config import Config, ModelConfig, RunConfig
from model.errors import ModelConfigError
from pipeline.bands import BAND_ID, BANDS
from pipeline.errors import DatasetError
from pipeline.manifest import Dataset, ObjectRow
from pipeline.pack import Pack as StoredPack
from pipeline.pack import band_moments, find_pack, stored
from pipeline.sequences import Sequence as ImageSequence

LOG: Final = logging.getLogger(__name__)
DEVICE_SHARE: Final = 0.5
"""Part of a GPU's free memory that images may take; the rest is the network's."""
_WEIGHT_PLANES: Final = ("variance", "mask")

FiveBands = tuple[float, float, float, float, float]


class Normalisation(Config):
    """Band-wise standardisation of pixels, u to z, from the training objects of one fold alone."""

    mean_nmgy: FiveBands
    std_nmgy: FiveBands
    weight_per_nmgy: FiveBands = (1.0, 1.0, 1.0, 1.0, 1.0)
    """Mean 1 / σ of a pixel; 1 where the network does not look at weights."""

    @classmethod
    def of_moments(cls, moments_O53: NDArray[np.float64], weights_O52: NDArray[np.float64] | None = None) -> Self:
        """From (count, sum, sum of squares) and (count, sum of 1 / σ) per object and band.

        A band never seen is left as it is.
        """
        count, total, square = moments_O53.sum(axis=0).T
        mean = total / np.maximum(count, 1)
        variance = square / np.maximum(count, 1) - mean**2
        std = np.sqrt(np.where(variance > 0, variance, 1.0))
        if weights_O52 is None:
            return cls(mean_nmgy=tuple(mean.tolist()), std_nmgy=tuple(std.tolist()))
        count, total = weights_O52.sum(axis=0).T
        weight = np.where(total > 0, total / np.maximum(count, 1), 1.0)
        return cls(mean_nmgy=tuple(mean.tolist()), std_nmgy=tuple(std.tolist()), weight_per_nmgy=tuple(weight.tolist()))

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, 1 / std and 1 / mean weight by band id (row 0, padding, is 0): three tensors of 6."""
        rows = (self.mean_nmgy, tuple(1 / std for std in self.std_nmgy), tuple(1 / w for w in self.weight_per_nmgy))
        mean, scale, weight_scale = (torch.tensor((0.0, *row), dtype=torch.float32, device=device) for row in rows)
        return mean, scale, weight_scale


@dataclass(frozen=True)
class Pack:
    """All images of some objects, in nanomaggies; NaN where the frame did not cover."""

    object_ids: tuple[str, ...]
    image_PHW: Tensor
    weight_PHW: Tensor | None
    """1 / σ [1/nMgy], 0 where masked or not covered; None where the network does not look at it."""
    band_P: Tensor
    mjd_P: Tensor
    first_O: Tensor
    length_O: Tensor
    longest: int
    moments_O53: NDArray[np.float64]
    """Per object and band: count, sum and sum of squares of covered pixels."""
    weights_O52: NDArray[np.float64] | None
    """Per object and band: count and sum of the weights above 0."""

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.image_PHW.device

    @property
    def n_bytes(self) -> int:
        """Of the images."""
        return self.image_PHW.nbytes + (0 if self.weight_PHW is None else self.weight_PHW.nbytes)

    def normalisation(self, objects: Sequence[int]) -> Normalisation:
        """Band constants of these objects."""
        chosen = list(objects)
        return Normalisation.of_moments(
            self.moments_O53[chosen], None if self.weights_O52 is None else self.weights_O52[chosen]
        )

    def placed(self, device: torch.device) -> Self:
        """The same on the device if it fits there, else in the host's memory, to be streamed."""
        if device.type == "cuda" and self.n_bytes > DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
            LOG.info("%.1f GB of images do not fit into the GPU's free memory: they are streamed", self.n_bytes / 1e9)
            return self
        return replace(
            self,
            image_PHW=self.image_PHW.to(device),
            weight_PHW=None if self.weight_PHW is None else self.weight_PHW.to(device),
            band_P=self.band_P.to(device),
            mjd_P=self.mjd_P.to(device),
            first_O=self.first_O.to(device),
            length_O=self.length_O.to(device),
        )


def pick_device(config: RunConfig) -> torch.device:
    """The device a run uses; `auto` is the GPU where there is one. Raises ModelConfigError where `cuda` is absent."""
    if config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ModelConfigError("device is cuda, but torch finds no GPU here: set device to auto or cpu")
    return torch.device("cuda", torch.cuda.current_device())  # with its number, as tensors say it


def pack_dataset(dataset: Dataset, rows: Sequence[ObjectRow], config: RunConfig) -> Pack:
    """Read the objects `rows` into one pack in the host's memory.

    Raises
    ------
    DatasetError
        The images are not of the configured size, or an object has none in the configured bands, or only empty ones.
    SequenceError, PackError
        A file is missing or damaged.
    """
    if dataset.info.size != config.model.size:
        raise DatasetError(
            f"{dataset.path} has images of {dataset.info.size} px, the model takes {config.model.size} px: "
            f"set model.size to {dataset.info.size} or build a dataset of {config.model.size} px"
        )
    packed = find_pack(dataset, config.storage)
    if packed is not None and "weight" in config.model.inputs and not set(_WEIGHT_PLANES) <= set(packed.info.planes):
        LOG.info("%s has no variance and mask: images are read from each object's file", packed.path)
        packed = None
    if packed is not None:
        LOG.info("images are taken from the pack %s", packed.path)
        return _take(packed, rows, config.model)
    total = sum(row.n_images for row in rows)
    return pack_sequences((dataset.sequence(row) for row in rows), total, config)


def pack_sequences(sequences: Iterable[ImageSequence], total: int, config: RunConfig) -> Pack:
    """As `pack_dataset`, from sequences in memory with at most `total` images."""
    size, weighted = config.model.size, "weight" in config.model.inputs
    image_PHW = np.empty((total, size, size), dtype=config.storage)
    weight_PHW = np.empty((total, size, size), dtype=config.storage) if weighted else None
    band_P, mjd_P = np.empty(total, dtype=np.uint8), np.empty(total, dtype=np.float64)
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
        band_P[start:end], mjd_P[start:end] = sequence.band_id[used_M], sequence.mjd_tai[used_M]
        if weight_PHW is not None:
            weight_PHW[start:end] = _weight(stored(sequence.variance[used_M], config.storage), sequence.mask[used_M])
        ids.append(sequence.object_id)
        firsts.append(start)
        lengths.append(end - start)
        moments.append(band_moments(image_MHW, sequence.band_id[used_M]))
    return _pack(
        ids,
        image_PHW[:end],
        None if weight_PHW is None else weight_PHW[:end],
        band_P[:end],
        mjd_P[:end],
        np.array(firsts, dtype=np.int64),
        np.array(lengths, dtype=np.int64),
        np.array(moments, dtype=np.float64).reshape(-1, len(BANDS), 3),
    )


def _take(packed: StoredPack, rows: Sequence[ObjectRow], config: ModelConfig) -> Pack:
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
    weight_PHW = None
    if "weight" in config.inputs and packed.variance_PHW is not None and packed.mask_PHW is not None:
        weight_PHW = np.empty((len(taken_P), *packed.image_PHW.shape[1:]), packed.image_PHW.dtype)
        for part in np.array_split(np.arange(len(taken_P)), len(taken_P) // 4096 + 1):  # bounded memory
            weight_PHW[part] = _weight(packed.variance_PHW[taken_P[part]], packed.mask_PHW[taken_P[part]])
    other_bands = [number for number, band in enumerate(BANDS) if band not in config.bands]
    moments_O53 = packed.moments_O53[object_O]
    moments_O53[:, other_bands] = 0
    return _pack(
        [row.object_id for row in rows],
        packed.image_PHW[taken_P],
        weight_PHW,
        packed.band_P[taken_P],
        packed.mjd_P[taken_P],
        np.cumsum(length_O) - length_O,
        length_O,
        moments_O53,
    )


def _pack(
    ids: Sequence[str],
    image_PHW: NDArray[Any],
    weight_PHW: NDArray[Any] | None,
    band_P: NDArray[np.uint8],
    mjd_P: NDArray[np.float64],
    first_O: NDArray[np.int64],
    length_O: NDArray[np.int64],
    moments_O53: NDArray[np.float64],
) -> Pack:
    covered_O = moments_O53[:, :, 0].sum(axis=1) > 0
    if not covered_O.all():
        raise DatasetError(f"object {ids[int(covered_O.argmin())]} has not one covered pixel: leave it out")
    return Pack(
        object_ids=tuple(ids),
        image_PHW=torch.from_numpy(image_PHW),
        weight_PHW=None if weight_PHW is None else torch.from_numpy(weight_PHW),
        band_P=torch.from_numpy(band_P),
        mjd_P=torch.from_numpy(mjd_P),
        first_O=torch.from_numpy(first_O),
        length_O=torch.from_numpy(length_O),
        longest=int(length_O.max(initial=0)),
        moments_O53=moments_O53,
        weights_O52=None if weight_PHW is None else _weight_moments(weight_PHW, band_P, first_O, length_O),
    )


def _weight(variance_MHW: NDArray[Any], mask_MHW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """1 / σ where the pixel is good, else 0."""
    variance_MHW = variance_MHW.astype(np.float32)
    good_MHW = (mask_MHW == 0) & (variance_MHW > 0)  # NaN is not above 0
    return np.where(good_MHW, 1 / np.sqrt(np.where(good_MHW, variance_MHW, 1)), 0)


def _weight_moments(
    weight_PHW: NDArray[Any], band_P: NDArray[np.uint8], first_O: NDArray[np.int64], length_O: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Count and sum of the weights above 0, per object and band."""
    per_image_P2 = np.stack([(weight_PHW > 0).sum(axis=(1, 2)), weight_PHW.sum(axis=(1, 2), dtype=np.float64)], axis=1)
    object_P = np.repeat(np.arange(len(first_O)), length_O)
    moments_O52 = np.zeros((len(first_O), len(BANDS), 2))
    np.add.at(moments_O52, (object_P, band_P - 1), per_image_P2)
    return moments_O52


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
