"""What decides a run: the network, the two training steps, the protocol. Typed, frozen, complete.

`preset("paper")` is the network and the training of Bairouk et al. 2023 (A&A 673, A141), with the
sizes that reproduce its 1,253,108 parameters; `preset("light")` sees a night's five bands as channels of one block,
better and for a twentieth of the work; `preset("small")` is the paper's architecture for two cores.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from model.errors import ModelConfigError
from pipeline.bands import BANDS, Band
from pipeline.validation import explain

FOUR_CLASSES: Final = ("AGN", "SNIa", "Variable", "SNOther")
"""Classes of the paper's Table 4."""
THREE_CLASSES: Final = ("AGN", "SN", "Variable")
"""Classes of the paper's Table 5: all supernovae are one."""

Channel = Literal["flux", "difference", "weight"]

Size = Annotated[int, Field(ge=1, le=4096)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Config(BaseModel):
    """Base of all configuration: frozen, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ConvLayer(Config):
    """One 3D convolution of the backbone (+ batch normalisation + ReLU), square in the image."""

    channels: Size
    kernel: Size
    stride: Size = 1
    padding: int = Field(default=0, ge=0)
    time_kernel: Size = 3
    time_stride: Size = 1
    time_padding: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _touches_data(self) -> Self:
        if self.padding >= self.kernel or self.time_padding >= self.time_kernel:
            raise ValueError("padding must be smaller than the kernel, else some outputs see no data at all")
        return self

    def size_after(self, size: int) -> int:
        """Pixels on a side after this layer."""
        return (size + 2 * self.padding - self.kernel) // self.stride + 1

    def time_after(self, steps: int) -> int:
        """Time steps after this layer."""
        return (steps + 2 * self.time_padding - self.time_kernel) // self.time_stride + 1


class ModelConfig(Config):
    """The network. Symbols in brackets are the paper's."""

    classes: tuple[str, ...] = FOUR_CLASSES
    bands: tuple[Band, ...] = BANDS
    """Images in other bands are not read."""
    inputs: tuple[Channel, ...] = ("flux",)
    """What is seen of each image, a channel each, beside the map of its band: `flux` standardised by band, the paper's
    only one; `difference`, flux minus the mean of the sequence's images in the same band; `weight`, 1 / σ of each pixel
    in units of its band's mean, 0 where it is masked or not covered."""
    images: int = Field(default=99, ge=1, le=10_000)
    """Longest sequence the network takes [M]."""
    size: int = Field(default=32, ge=8, le=512)
    """Pixels on a side of an image [H = W]."""
    block: int = Field(default=3, ge=1, le=100)
    """Images per block of the 3D CNN [K]."""
    bands_as: Literal["map", "channels"] = "map"
    """How the network knows an image's band: by a learned map beside it, as in the paper, or by its channels."""
    band_rows: int = Field(default=10, ge=6, le=1000)
    """Rows of the band table; 0 is padding, 1-5 are u-z, the rest is the paper's and never used."""
    band_init_std: float = Field(default=1.0, gt=0)
    """Scatter of the band maps before training; 1 is torch's default, less learns faster from few objects."""
    stretch: Literal["linear", "asinh"] = "linear"
    """Applied to standardised pixels. The paper's is linear; asinh keeps bright stars from drowning the rest."""
    convolutions: tuple[ConvLayer, ...] = Field(min_length=1)
    """The 3D CNN; the last one's channels are the model dimension [D]."""
    layers: int = Field(default=2, ge=1, le=100)
    """Convolutional BERT layers [L]."""
    heads: Size = 4
    """Attention heads [T]."""
    score_kernel: Literal[1, 3, 5, 7] = 5
    """Kernel of the convolution that turns a key map into attention scores [M_θ]."""
    positions: Literal["once", "each-layer"] = "once"
    """Where the positional encoding is added: once as in the authors' code, or at each layer as the paper says."""
    attention: Literal["published", "additive"] = "published"
    """`published` is the paper's linear score, the same context for every block; `additive` has a tanh between the sum
    and the convolution, so that what a block attends to depends on it (Bahdanau et al. 2015)."""
    clock: Literal["none", "date"] = "none"
    """`date`: blocks also know when they were observed and how long after the one before, not only their rank."""
    padding: Literal["masked", "published"] = "masked"
    """`published`: as in the authors' code, empty slots are normalised, attended and pooled like images."""
    ffn_channels: Size = 16
    head_features: Size = 256
    dropout: Fraction = 0.3

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.classes not in (FOUR_CLASSES, THREE_CLASSES):
            raise ValueError(f"classes must be {FOUR_CLASSES} or {THREE_CLASSES}")
        if self.inputs[:1] != ("flux",) or len(set(self.inputs)) < len(self.inputs):
            raise ValueError(f"inputs must begin with flux and name each channel once, not {self.inputs}")
        if self.images % self.block:
            raise ValueError(f"images ({self.images}) must be a multiple of block ({self.block})")
        if self.channels % self.heads:
            raise ValueError(f"channels of the last convolution ({self.channels}) must be a multiple of heads")
        if self.shapes[-1][2:] != (self.feature_size, self.feature_size) or self.feature_size < 1:
            raise ValueError("the convolutions shrink the image to nothing")
        if self.shapes[-1][0] != 1:
            raise ValueError(f"the convolutions must end with one time step per block, not {self.shapes[-1][0]}")
        return self

    @property
    def shapes(self) -> list[tuple[int, int, int, int]]:
        """(time, channels, height, width) of a block before and after each convolution."""
        found = [(self.block, self.block_channels, self.size, self.size)]
        for layer in self.convolutions:
            time, _, size, _ = found[-1]
            found.append((layer.time_after(time), layer.channels, layer.size_after(size), layer.size_after(size)))
        return found

    @property
    def block_channels(self) -> int:
        """Channels of an image where the convolutions begin."""
        return len(self.inputs) * len(BANDS) if self.bands_as == "channels" else len(self.inputs) + 1

    @property
    def n_blocks(self) -> int:
        """Steps of the sequence that the attention sees [N = M / K]."""
        return self.images // self.block

    @property
    def channels(self) -> int:
        """Channels of a feature map [D]."""
        return self.convolutions[-1].channels

    @property
    def feature_size(self) -> int:
        """Pixels on a side of a feature map [H' = W']."""
        return self.shapes[-1][2]


class TrainConfig(Config):
    """One training step."""

    epochs: int = Field(ge=1, le=100_000)
    batch: int = Field(default=128, ge=1)
    """Sequences per step, of all processes together."""
    micro_batch: int | None = Field(default=None, ge=1)
    """Sequences that a process computes at a time; the gradients of a step are added up. None: all at once, and fewer
    once memory runs out."""
    samples_per_epoch: int | None = Field(default=None, ge=1)
    """Sequences drawn per epoch, by inverse class frequency with replacement; None: as many as there are objects."""
    optimizer: Literal["adam", "adamw"] = "adam"
    amsgrad: bool = False
    """Never let the denominator of Adam's step shrink (Reddi et al. 2018); the authors' code does so."""
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate over the epochs; cosine ends at zero."""
    warmup_epochs: int = Field(default=0, ge=0)
    """Epochs in which the learning rate first rises, in even steps."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Longest gradient, over all weights together; None: any."""
    loss: Literal["cross-entropy", "focal"] = "cross-entropy"
    """`focal` (Lin et al. 2017) gives less weight to what is answered well already; the authors' code has it."""
    focal_gamma: float = Field(default=2, ge=0)
    label_smoothing: Fraction = 0
    """Part of each label that is spread evenly over all classes."""
    max_rotation_deg: float = Field(default=15, ge=0, le=180)
    freeze: Literal["nothing", "encoder", "gradual"] = "nothing"
    """`encoder`: only the classifier head is trained and batch statistics stay as they are. `gradual`: so it begins;
    then, from the top, one ConvBERT layer after the other joins in, and at last the 3D CNN."""
    unfreeze_every: int = Field(default=5, ge=1)
    """Epochs from one part to the next where `freeze` is `gradual`."""
    select: Literal["macro-f1", "loss", "last"] = "macro-f1"
    """Keep the weights of the epoch with the highest validation macro F1 (of equal ones, that with the lowest loss),
    with the lowest class-balanced validation loss, or of the last epoch."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many epochs that were no better, by `select`; None: go on to the last."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`bfloat16`: multiply matrices in it, with weights and sums in float32 (autocast); `auto` does so on a GPU."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether torch compiles the network; `auto` on a GPU, where the steps are enough to make up for a minute of it."""
    deterministic: bool = False
    """Only algorithms that repeat to the bit: slower on a GPU; on a CPU they all do."""

    @field_validator("select", mode="before")
    @classmethod
    def _by_its_old_name(cls, value: Any) -> Any:
        return "loss" if value == "best" else value  # runs of version 0.1

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs}) must be fewer than epochs ({self.epochs})")
        if self.patience is not None and self.select == "last":
            raise ValueError("patience needs select to say what is better: macro-f1 or loss, not last")
        return self


class ProtocolConfig(Config):
    """Folds × ensemble members × two steps (Sect. 4.1)."""

    members: int = Field(default=3, ge=1, le=100)
    """Models per fold, averaged."""
    seed: int = Field(default=0, ge=0)
    validation_fraction: float = Field(default=0.1, ge=0, le=0.5)
    """Part of each training list that only chooses the epoch; 0: train on all and keep the last epoch."""
    duplicate_radius_arcsec: float = Field(default=2.0, ge=0)
    """Objects nearer than this never fall on two sides of a split."""


class RunConfig(Config):
    """All of a run. Equal configuration, dataset and software give equal weights on a CPU."""

    preset: str = "custom"
    model: ModelConfig
    train: TrainConfig
    fine_tune: TrainConfig
    protocol: ProtocolConfig = ProtocolConfig()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    storage: Literal["float16", "float32"] = "float16"
    """Type that images have on the device; DR8+ frames carry 11 significant bits, as float16 does."""

    def updated(self, **changes: Any) -> Self:
        """A copy with nested changes, checked again: `updated(train={"epochs": 5})`.

        Raises
        ------
        ModelConfigError
            A key is unknown or a value out of range; the message names it.
        """
        return type(self).checked(_merge(self.model_dump(), changes))

    @classmethod
    def checked(cls, content: Any) -> Self:
        """Validate plain data (raises ModelConfigError, naming each wrong key)."""
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise ModelConfigError(explain(error, cls)) from error


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


_PAPER: Final = RunConfig(
    preset="paper",
    model=ModelConfig(
        convolutions=(
            ConvLayer(channels=64, kernel=11, stride=2, padding=2, time_stride=2, time_padding=2),
            ConvLayer(channels=128, kernel=5, padding=2, time_padding=2),
            ConvLayer(channels=64, kernel=3),
            ConvLayer(channels=8, kernel=3),  # Table 2 prints 64; only 8 gives the paper's parameter count
        ),
    ),
    train=TrainConfig(epochs=100),
    fine_tune=TrainConfig(epochs=100, freeze="encoder"),
)
_SMALL: Final = RunConfig(
    preset="small",
    model=ModelConfig(
        images=60,
        band_init_std=0.1,
        stretch="asinh",
        convolutions=(
            ConvLayer(channels=16, kernel=5, stride=4, padding=2, time_stride=2, time_padding=1),
            ConvLayer(channels=32, kernel=3, padding=1, time_padding=1),
            ConvLayer(channels=16, kernel=3, time_kernel=2),
            ConvLayer(channels=8, kernel=3, time_kernel=1),
        ),
        score_kernel=3,
        head_features=64,
        dropout=0.1,
    ),
    train=TrainConfig(epochs=40, batch=16, samples_per_epoch=48, lr=3e-3, schedule="cosine"),
    fine_tune=TrainConfig(epochs=16, batch=16, samples_per_epoch=48, lr=1e-3, schedule="cosine", freeze="encoder"),
    protocol=ProtocolConfig(members=1),
)
_LIGHT: Final = RunConfig(
    preset="light",
    model=ModelConfig(
        images=100,
        block=5,
        bands_as="channels",
        stretch="asinh",
        convolutions=(
            ConvLayer(channels=32, kernel=5, stride=2, padding=2, time_kernel=5),
            ConvLayer(channels=32, kernel=3, stride=2, padding=1, time_kernel=1),
            ConvLayer(channels=32, kernel=3, padding=1, time_kernel=1),
            ConvLayer(channels=16, kernel=3, time_kernel=1),
        ),
        score_kernel=3,
        head_features=64,
    ),
    train=TrainConfig(epochs=100, lr=3e-3, schedule="cosine"),
    fine_tune=TrainConfig(epochs=30, lr=1e-3, schedule="cosine", freeze="encoder"),
)
PRESETS: Final = {config.preset: config for config in (_PAPER, _LIGHT, _SMALL)}


def preset(name: str) -> RunConfig:
    """The configuration called `name` (raises ModelConfigError where there is none)."""
    try:
        return PRESETS[name]
    except KeyError:
        raise ModelConfigError(f"no preset {name!r}: choose one of {', '.join(PRESETS)}") from None
