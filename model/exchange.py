"""Trained models for programs without this package: ONNX, and `torch.export`'s own format.

One graph holds everything from nanomaggies to calibrated probabilities: standardisation, channels, every network, the
mean over them. What it takes, what it gives and what it was made of lies in its metadata, as JSON.

Shapes: B sequences, M images, C classes, H × W pixels.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from model.classify import Classifier
from model.config import ModelConfig
from model.data import Normalisation
from model.embedding import PADDING
from model.errors import ModelConfigError
from model.loader import channels_of, days_of
from pipeline.atomic import replacing, write_bytes
from pipeline.bands import BAND_ID
from pipeline.outputs import check_output

Format = Literal["onnx", "pt2"]
METADATA_KEY: Final = "stripe82-convention"
"""Key of the metadata in an ONNX file; in a .pt2 file it is the extra file of this name + `.json`."""
_OPSET: Final = 20
_MOST_SEQUENCES: Final = 65_536


class Answering(nn.Module):
    """Images as they are in a sequence's file to the probability of each class; what is exported.

    Equal to `Classifier.classify` but for that storing images in half precision.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.config = classifier.model
        self.temperatures = [calibration.temperature for _, calibration in classifier.ensembles]
        self.folds = nn.ModuleList(
            nn.ModuleList(_Standardised(model.network, model.file.normalisation) for model in ensemble.models)
            for ensemble, _ in classifier.ensembles
        )

    def forward(
        self, image: Tensor, band_id: Tensor, mjd: Tensor | None = None, weight: Tensor | None = None
    ) -> Tensor:
        """(B, C) from images (B, M, H, W) in nanomaggies, NaN where not covered, and what `inputs_of` names."""
        day_BM = torch.zeros_like(band_id, dtype=torch.float32) if mjd is None else days_of(mjd, band_id)
        answers = []
        for members, temperature in zip(self.folds, self.temperatures, strict=True):
            said_EBC = torch.stack([member(image, weight, band_id, day_BM) for member in members.children()])
            answers.append((said_EBC.logsumexp(dim=0) / temperature).softmax(dim=1))  # softmax does not see log E
        return torch.stack(answers).mean(dim=0)


class _Standardised(nn.Module):
    """A network that standardises its images itself."""

    mean: Tensor
    scale: Tensor
    weight_scale: Tensor

    def __init__(self, network: nn.Module, normalisation: Normalisation) -> None:
        super().__init__()
        self.network = network
        for name, constant in zip(
            ("mean", "scale", "weight_scale"), normalisation.tensors(torch.device("cpu")), strict=True
        ):
            self.register_buffer(name, constant)

    def forward(self, image_BMHW: Tensor, weight_BMHW: Tensor | None, band_BM: Tensor, day_BM: Tensor) -> Tensor:
        config: ModelConfig = self.network.config  # type: ignore[assignment]
        constants = self.mean, self.scale, self.weight_scale
        pixels_BMCHW = channels_of(image_BMHW, weight_BMHW, band_BM, constants, config)
        logit_BC: Tensor = self.network(pixels_BMCHW, band_BM, day_BM)
        return logit_BC.log_softmax(dim=1)


def inputs_of(config: ModelConfig) -> dict[str, str]:
    """Names of the inputs of an exported graph, and what each is."""
    inputs = {
        "image": "float32 (batch, images, height, width): nanomaggies, NaN where the frame does not cover",
        "band_id": f"int64 (batch, images): u, g, r, i, z = 1 … 5, {PADDING} for empty slots, which come last",
    }
    if config.clock == "date":
        inputs["mjd"] = "float64 (batch, images): MJD (TAI) of each image, in time order"
    if "weight" in config.inputs:
        inputs["weight"] = "float32 (batch, images, height, width): 1 / sigma [1/nMgy], 0 where masked or not covered"
    return inputs


def metadata(classifier: Classifier) -> dict[str, Any]:
    """What a program must know to use the graph."""
    config = classifier.model
    return {
        "format_version": 1,
        "classes": config.classes,
        "bands": {band: BAND_ID[band] for band in config.bands},
        "inputs": inputs_of(config),
        "output": "probability: float32 (batch, classes)",
        "images": _image_counts(config),
        "size": config.size,
        "dataset_id": classifier.dataset_id,
        "networks": classifier.n_models,
        "calibrated": classifier.calibrated,
        "temperatures": [calibration.temperature for _, calibration in classifier.ensembles],
        "normalisation": [
            model.file.normalisation.model_dump() for ensemble, _ in classifier.ensembles for model in ensemble.models
        ],
    }


def export_classifier(classifier: Classifier, path: Path, form: Format) -> None:
    """Write the models as one graph, whole or not at all.

    Batch size is free, and so is the number of images, in whole blocks up to the network's: the rest is padded with
    empty slots (band id 0). A network that counts empty slots as images takes its full number.

    Raises
    ------
    ModelConfigError
        A package that the format needs is missing.
    ConfigError
        The file would be inside a dataset.
    """
    check_output(path)
    said = json.dumps(metadata(classifier), ensure_ascii=False)
    with _quiet():
        program = _traced(classifier)
        if form == "pt2":
            with replacing(path) as temporary, temporary.open("wb") as handle:
                torch.export.save(program, handle, extra_files={f"{METADATA_KEY}.json": said})
            return
        write_bytes(path, _onnx(program, classifier.model, said))


def _traced(classifier: Classifier) -> torch.export.ExportedProgram:
    config, device = classifier.model, classifier.device
    sizes = {0: torch.export.Dim("batch", min=1, max=_MOST_SEQUENCES)}
    if config.padding == "masked" and config.n_blocks > 2:
        # From two blocks on: torch takes a length of one for a special case.
        sizes[1] = config.block * torch.export.Dim("blocks", min=2, max=config.n_blocks)
    n_images = config.block * 2 if 1 in sizes else config.images
    shape_BM = (3, n_images + (config.block if 1 in sizes and config.n_blocks > 2 else 0))
    example = {
        "image": torch.zeros(*shape_BM, config.size, config.size),
        "band_id": torch.ones(shape_BM, dtype=torch.int64),
        "mjd": torch.arange(shape_BM[1], dtype=torch.float64).expand(shape_BM).contiguous(),
        "weight": torch.zeros(*shape_BM, config.size, config.size),
    }
    wanted = {name: example[name].to(device) for name in inputs_of(config)}
    return torch.export.export(
        Answering(classifier).to(device).eval(), (), wanted, dynamic_shapes=dict.fromkeys(wanted, sizes)
    )


def _onnx(program: torch.export.ExportedProgram, config: ModelConfig, said: str) -> bytes:
    try:
        made = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=_OPSET,
            input_names=list(inputs_of(config)),
            output_names=["probability"],
            verbose=False,
        )
    except ImportError as error:
        raise ModelConfigError(
            f"ONNX needs the package {error.name}: pip install 'stripe82-convention[export]'"
        ) from error
    if made is None:
        raise ModelConfigError("torch made no ONNX graph of this model")
    made.model.metadata_props[METADATA_KEY] = said
    content: bytes = made.model_proto.SerializeToString()
    return content


def _image_counts(config: ModelConfig) -> str:
    if config.padding == "published" or config.n_blocks <= 2:
        return f"{config.images}"
    return f"a multiple of {config.block} from {2 * config.block} to {config.images}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says about itself: packages of others that are not there, and its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)", category=FutureWarning)
            yield
    finally:
        logger.setLevel(before)
