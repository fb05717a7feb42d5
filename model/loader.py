"""Batches of a pack: which images, standardised, augmented, in the channels that the network looks at.

A batch is put together by indexing where the images are. If that is the device, training waits for neither files nor
the CPU; if they are too many for it, a thread gathers the next batches in pinned memory while the device computes.
Random choices are made in the order of the batches either way, so that both give the same.

Shapes: O objects, P images of all of them one after the other, B sequences of a batch, M slots, C channels,
H × W pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from model.augment import EMPTY, orient, random_images, random_orientations, spread_images
from model.config import ModelConfig
from model.data import Normalisation, Pack
from model.embedding import PADDING

NIGHT_DAY: Final = 0.5
"""Longer than this without an image, and the next one is of another night."""
AHEAD: Final = 3
"""Batches that are gathered before they are asked for, when images are streamed."""


class Batch(NamedTuple):
    """What the network takes."""

    pixels_BMCHW: Tensor
    """Channels in the order of `ModelConfig.inputs`; 0 in empty slots."""
    band_BM: Tensor
    day_BM: Tensor
    """Days since the sequence's first image; 0 in empty slots."""


class _Choice(NamedTuple):
    """Which images a batch consists of, and how its sequences are turned, on the device."""

    object_B: Tensor
    chosen_BM: Tensor
    turn_B22: Tensor | None


class _Raw(NamedTuple):
    """The chosen images as they are stored."""

    image_BMHW: Tensor
    weight_BMHW: Tensor | None
    band_BM: Tensor
    mjd_BM: Tensor

    def each(self, move: Callable[[Tensor], Tensor]) -> _Raw:
        weight_BMHW = None if self.weight_BMHW is None else move(self.weight_BMHW)
        return _Raw(move(self.image_BMHW), weight_BMHW, move(self.band_BM), move(self.mjd_BM))


@dataclass(frozen=True)
class Loader:
    """Batches of standardised images of one pack, on `device`."""

    pack: Pack
    normalisation: Normalisation
    config: ModelConfig
    device: torch.device

    @property
    def streams(self) -> bool:
        """Whether the images are elsewhere than the batches."""
        return self.pack.device != self.device

    def training_batches(
        self,
        objects: Tensor,
        batch: int,
        generator: torch.Generator,
        max_rotation_deg: float,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[Batch]:
        """The objects in order, randomly windowed, thinned and turned.

        Parameters
        ----------
        objects
            Places in the pack, repeated as they were drawn.
        batch
            Sequences of all processes together.
        share
            (rank, processes): of each batch only every so-many-th sequence, the same as if one process had them all;
            of a batch smaller than the processes are many, some get none.
        """
        rank, processes = share

        def choices() -> Iterator[_Choice]:
            for object_B in objects.to(self.device).split(batch):
                length_B = self._length(object_B)
                chosen_BM = self._cut(random_images(length_B, self.config.images, self.pack.longest, generator))
                turn_B22 = random_orientations(len(object_B), max_rotation_deg, generator, self.device)
                mine = slice(rank, None, processes)
                yield _Choice(object_B[mine], chosen_BM[mine], turn_B22[mine])

        return self._batches(choices())

    def batches(self, objects: Tensor, batch: int, until: int | None = None) -> Iterator[Batch]:
        """The objects in order, by the fixed rule of evaluation.

        Parameters
        ----------
        until
            Only the first so many nights of each sequence: what an alert broker had at that time.
        """

        def choices() -> Iterator[_Choice]:
            for object_B in objects.to(self.device).split(batch):
                length_B = self._length(object_B) if until is None else self._seen(object_B, until)
                chosen_BM = self._cut(spread_images(length_B, self.config.images, self.pack.longest))
                yield _Choice(object_B, chosen_BM, None)

        return self._batches(choices())

    def _cut(self, chosen_BM: Tensor) -> Tensor:
        """To the longest sequence of the batch; not where empty slots count: the authors had as many in each."""
        if self.config.padding == "published":
            return chosen_BM
        return chosen_BM[:, : int((chosen_BM != EMPTY).sum(dim=1).max())]

    def _length(self, object_B: Tensor) -> Tensor:
        return self.pack.length_O.to(self.device)[object_B]

    def _seen(self, object_B: Tensor, nights: int) -> Tensor:
        """Number of images up to the end of the given night."""
        seen = []
        for place in object_B.tolist():
            first, length = int(self.pack.first_O[place]), int(self.pack.length_O[place])
            night_M = (self.pack.mjd_P[first : first + length].diff() > NIGHT_DAY).cumsum(dim=0)
            seen.append(1 + int((night_M < nights).sum()))
        return torch.tensor(seen, device=self.device)

    def _batches(self, choices: Iterator[_Choice]) -> Iterator[Batch]:
        if not self.streams:
            for choice in choices:
                yield self._finish(self._gather(choice), choice)
            return
        waiting: deque[tuple[Future[_Raw], _Choice]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="gather") as pool:
            for choice in choices:
                waiting.append((pool.submit(self._gather, choice), choice))
                if len(waiting) > AHEAD:
                    raw, of = waiting.popleft()
                    yield self._finish(raw.result(), of)
            for raw, of in waiting:
                yield self._finish(raw.result(), of)

    def _gather(self, choice: _Choice) -> _Raw:
        """The chosen images; empty slots hold whatever."""
        pack, home = self.pack, self.pack.device
        chosen_BM = choice.chosen_BM.to(home)
        index_BM = pack.first_O.to(home)[choice.object_B.to(home), None] + chosen_BM.clamp(min=0)
        raw = _Raw(
            pack.image_PHW[index_BM],
            None if pack.weight_PHW is None else pack.weight_PHW[index_BM],
            torch.where(chosen_BM != EMPTY, pack.band_P[index_BM].long(), PADDING),
            pack.mjd_P[index_BM],
        )
        return raw.each(Tensor.pin_memory) if self.streams and self.device.type == "cuda" else raw

    def _finish(self, raw: _Raw, choice: _Choice) -> Batch:
        """Standardise, make the channels, turn."""
        image_BMHW, weight_BMHW, band_BM, mjd_BM = raw.each(lambda tensor: tensor.to(self.device, non_blocking=True))
        constants = self.normalisation.tensors(self.device)
        pixels_BMCHW = channels_of(image_BMHW, weight_BMHW, band_BM, constants, self.config)
        if choice.turn_B22 is not None and len(choice.turn_B22):  # affine_grid refuses a share of no sequence
            shape = pixels_BMCHW.shape[1:3]
            pixels_BMCHW = orient(pixels_BMCHW.flatten(1, 2), choice.turn_B22).unflatten(1, shape)
        return Batch(pixels_BMCHW, band_BM, days_of(mjd_BM, band_BM))


def channels_of(
    image_BMHW: Tensor,
    weight_BMHW: Tensor | None,
    band_BM: Tensor,
    constants: tuple[Tensor, Tensor, Tensor],
    config: ModelConfig,
) -> Tensor:
    """What the network sees of images as they are stored, (B, M, C, H, W); `constants` are `Normalisation.tensors`."""
    mean, scale, weight_scale = constants
    flux_BMHW = (image_BMHW.float() - mean[band_BM][..., None, None]) * scale[band_BM][..., None, None]
    channels = {"flux": flux_BMHW.nan_to_num(nan=0.0)}  # not covered: the band's mean
    if "difference" in config.inputs:
        channels["difference"] = difference(flux_BMHW, band_BM)
    if config.stretch == "asinh":
        channels = {name: _asinh(channel) for name, channel in channels.items()}
    if weight_BMHW is not None:
        channels["weight"] = weight_BMHW.float() * weight_scale[band_BM][..., None, None]
    return torch.stack([channels[name] for name in config.inputs], dim=2)


def days_of(mjd_BM: Tensor, band_BM: Tensor) -> Tensor:
    """Days since the sequence's first image; 0 in empty slots."""
    return torch.where(band_BM != PADDING, mjd_BM - mjd_BM[:, :1], 0).float()


def difference(flux_BMHW: Tensor, band_BM: Tensor) -> Tensor:
    """Flux minus the mean of the sequence's images in the same band; 0 where not covered (NaN).

    What does not vary, host and neighbours, goes. The mean is that of the images in the batch alone, so that it knows
    nothing that comes later than they do.
    """
    covered_BMHW = ~flux_BMHW.isnan()
    known_BMHW = flux_BMHW.nan_to_num(nan=0.0)
    of_band_BMS = functional.one_hot(band_BM, 6).to(flux_BMHW.dtype)  # slots of the bands, S = 6
    total_BSHW = torch.einsum("bms,bmhw->bshw", of_band_BMS, known_BMHW)
    count_BSHW = torch.einsum("bms,bmhw->bshw", of_band_BMS, covered_BMHW.to(flux_BMHW.dtype))
    mean_BSHW = total_BSHW / count_BSHW.clamp(min=1)
    sequence_B1 = torch.arange(band_BM.shape[0], device=band_BM.device)[:, None]
    return (known_BMHW - mean_BSHW[sequence_B1, band_BM]).masked_fill(~covered_BMHW, 0.0)


def _asinh(x: Tensor) -> Tensor:
    """asinh to 3e-7; torch's own takes seven times as long on a CPU, a seventh of a training step."""
    if torch.compiler.is_exporting():
        return x.asinh()  # ONNX knows it, and no copysign
    return (x.abs() + (x * x + 1).sqrt()).log().copysign(x)
