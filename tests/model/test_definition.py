"""The network equals its plain definition, in what it answers, how it learns and what it keeps of a batch."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from model.config import ConvLayer, ModelConfig
from model.convention import ConvEntion
from model.definition import logits_by_definition
from model.norm import SequenceNorm

PAPERS_FORM = (  # the paper's layers, narrow: the same strides, kernels and paddings
    ConvLayer(channels=24, kernel=11, stride=2, padding=2, time_stride=2, time_padding=2),
    ConvLayer(channels=30, kernel=5, padding=2, time_padding=2),
    ConvLayer(channels=20, kernel=3),
    ConvLayer(channels=8, kernel=3),
)
SHORT = (
    ConvLayer(channels=6, kernel=3, stride=2, padding=1, time_kernel=2, time_padding=1),
    ConvLayer(channels=4, kernel=3, time_kernel=3, time_padding=0),
)
WIDE = (
    ConvLayer(channels=18, kernel=3, stride=2, time_kernel=1),
    ConvLayer(channels=17, kernel=3, padding=1, time_padding=1),
    ConvLayer(channels=6, kernel=3, time_kernel=4),
)

CASES = {
    "the paper's form": ModelConfig(images=12, size=22, convolutions=PAPERS_FORM, heads=4, head_features=7),
    "positions at each layer": ModelConfig(
        images=6, size=17, block=2, convolutions=SHORT, heads=2, head_features=5, positions="each-layer", layers=3
    ),
    "the authors' padding": ModelConfig(
        images=10, size=16, block=2, convolutions=SHORT, heads=4, head_features=5, padding="published"
    ),
    "all that goes beyond the paper": ModelConfig(
        images=12,
        size=15,
        block=4,
        convolutions=WIDE,
        heads=3,
        head_features=5,
        attention="additive",
        clock="date",
        inputs=("flux", "difference", "weight"),
        positions="each-layer",
        score_kernel=3,
    ),
}
LENGTHS = {"full": (1.0, 1.0), "padded": (0.8, 0.3)}
"""Share of the slots that each sequence fills."""


def random_network(config: ModelConfig) -> ConvEntion:
    """In double precision, with no parameter and no statistic at its trivial value."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = ConvEntion(config).double()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 2)
            if isinstance(module, nn.BatchNorm2d | SequenceNorm):
                nn.init.normal_(module.weight, 1, 0.3)
                nn.init.normal_(module.bias, 0, 0.3)
        if network.clock is not None:
            nn.init.normal_(network.clock.map.weight)
    return network


def random_batch(config: ModelConfig, shares: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor]:
    random, (B, M) = torch.Generator().manual_seed(2), (len(shares), config.images)
    pixels = torch.randn(B, M, len(config.inputs), config.size, config.size, generator=random, dtype=torch.float64)
    band = torch.randint(1, 6, (B, M), generator=random)
    day = torch.rand(B, M, generator=random, dtype=torch.float64).mul(9).cumsum(dim=1)
    empty = torch.arange(M) >= torch.tensor([max(1, round(share * M)) for share in shares])[:, None]
    return pixels.masked_fill(empty[..., None, None, None], 0), band.masked_fill(empty, 0), day.masked_fill(empty, 0)


def all_of(forward, network: ConvEntion, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
    """Logits, gradients of the pixels and of all parameters, and the batch statistics kept."""
    pixels, band, day = batch[0].clone().requires_grad_(), *batch[1:]
    logits = forward(pixels, band, day)
    towards = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    names, wanted = zip(("pixels", pixels), *network.named_parameters(), strict=True)
    gradients = torch.autograd.grad(100 * (logits * towards).sum(), wanted, allow_unused=True)
    found = {"logits": logits.detach()} | {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for name, parameter, gradient in zip(names, wanted, gradients, strict=True)
    }
    return found | {name: buffer for name, buffer in network.named_buffers() if "running" in name}


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("way", ["cpu", "gpu"])
@pytest.mark.parametrize("filled", LENGTHS)
@pytest.mark.parametrize("case", CASES)
def test_the_network_is_its_definition(case: str, filled: str, way: str, mode: str, monkeypatch) -> None:
    """Logits, gradients and batch statistics to 1e-10, with dropout off.

    Compiled networks and GPUs take another way through it than CPUs, which a CPU can go, too.
    """
    network = random_network(CASES[case])
    network.train(mode == "train").head.eval()
    batch, plain = random_batch(CASES[case], LENGTHS[filled]), deepcopy(network)
    expected = all_of(lambda *inputs: logits_by_definition(plain, *inputs), plain, batch)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: way == "gpu")
    found = all_of(network, network, batch)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=lambda text, n=name: f"{n}: {text}")
    assert expected["pixels"].abs().max() > 1e-3


def test_a_case_goes_by_spectra() -> None:
    """Else the test above would not hold them to the definition."""
    stages = random_network(CASES["the paper's form"]).backbone.stages
    assert [stage.spectra_are_worth_it for stage in stages] == [False, True, False, False]


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_batch_of_no_sequence_goes_through(mode: str) -> None:
    """What a process may be left with of the last batch; nothing follows from it."""
    network = random_network(CASES["the paper's form"])
    pixels, band, day = (tensor[:0] for tensor in random_batch(CASES["the paper's form"], LENGTHS["full"]))
    logits = network.train(mode == "train")(pixels, band, day)
    assert logits.shape == (0, 4)
    logits.sum().backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in network.parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own modules, when the compiler loads them
@pytest.mark.parametrize(("case", "mode"), [("the paper's form", "train"), ("all that goes beyond the paper", "eval")])
def test_a_compiled_network_gives_the_same(case: str, mode: str) -> None:
    """To rounding, whole and padded, gradients and batch statistics included."""
    network = random_network(CASES[case])
    network.train(mode == "train").head.eval()
    other = deepcopy(network)
    compiled = torch.compile(other)
    for shares in LENGTHS.values():
        batch = random_batch(CASES[case], shares)
        expected, found = all_of(network, network, batch), all_of(compiled, other, batch)
        for name, value in expected.items():
            torch.testing.assert_close(
                found[name], value, rtol=1e-8, atol=1e-8, msg=lambda text, n=name: f"{n}: {text}"
            )
