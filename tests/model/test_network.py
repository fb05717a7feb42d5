"""The network is the paper's, its shortcuts are exact, and padding never reaches a result."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from model.attention import AdditiveAttention, PublishedAttention
from model.backbone import BlockCNN, conv3d_real_taps
from model.config import ModelConfig, preset
from model.convention import ConvEntion
from model.definition import attention_by_definition
from model.describe import describe, n_parameters
from model.embedding import BandChannels, positional_encoding
from model.norm import SequenceNorm
from model.spectral import conv3d_by_spectra

PAPER, SMALL = preset("paper").model, preset("small").model


def seeded_network(config=SMALL, seed: int = 0) -> ConvEntion:
    """A network whose batch statistics are not the trivial ones, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = ConvEntion(config)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 2)
            if isinstance(module, SequenceNorm):
                nn.init.normal_(module.weight, 1, 0.3)
                nn.init.normal_(module.bias, 0, 0.3)
    return network.eval()


def random_input(batch: int, images: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(batch, images, 1, 32, 32, generator=generator)
    band = torch.randint(1, 6, (batch, images), generator=generator)
    return image, band, torch.rand(batch, images, generator=generator).cumsum(dim=1)


def test_the_paper_preset_has_the_papers_parameters() -> None:
    """1,253,108 weights with four classes, distributed as in the authors' network."""
    description = describe("paper")
    assert description.parameters == 1_253_108
    assert [layer.parameters for layer in description.layers] == [10_240, 896_664, 0, 89_516, 89_516, 167_172]
    assert description.layers[1].shape_in == (33, 3, 2, 32, 32)
    assert description.layers[1].shape_out == (33, 8, 9, 9)
    assert n_parameters(ConvEntion(PAPER)) == 1_253_108


@pytest.mark.parametrize("config", [PAPER, SMALL], ids=["paper", "small"])
def test_described_shapes_are_the_real_ones(config) -> None:
    block = torch.zeros(2, *config.shapes[0])
    features = BlockCNN(config).eval()(block)
    assert features.shape == (2, config.channels, config.feature_size, config.feature_size)
    assert seeded_network(config)(*random_input(1, 7)).shape == (1, 4)


@pytest.mark.parametrize("config", [PAPER, SMALL], ids=["paper", "small"])
def test_leaving_out_padded_taps_is_exact(config) -> None:
    """The backbone's temporal shortcut against torch's own Conv3d, layer by layer, in double precision."""
    generator = torch.Generator().manual_seed(1)
    for stage, (time, channels, size, _) in zip(BlockCNN(config).double().stages, config.shapes, strict=False):
        x_RTCHW = torch.randn(2, time, channels, size, size, generator=generator, dtype=torch.float64)
        expected = stage.conv(x_RTCHW.transpose(1, 2)).transpose(1, 2)
        torch.testing.assert_close(conv3d_real_taps(x_RTCHW, stage.conv), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("size", "kernel", "padding"),
    [
        ((3, 7, 7), (3, 5, 5), (2, 2, 2)),  # the paper's second layer
        ((5, 7, 6), (3, 3, 3), (0, 0, 0)),  # its third
        ((2, 7, 6), (3, 3, 3), (1, 1, 2)),  # even periods of height and width
        ((4, 3, 5), (1, 2, 4), (0, 1, 3)),
        ((1, 2, 2), (3, 5, 5), (1, 2, 2)),  # kernels larger than the maps
    ],
)
def test_convolution_by_spectra_is_torchs(size, kernel, padding, monkeypatch) -> None:
    """Maps and gradients, in double precision, blocks in several pieces."""
    monkeypatch.setattr("model.spectral.BLOCKS_AT_ONCE", 2)
    random = torch.Generator().manual_seed(1)
    x_RCTHW, weight_OCTHW, bias_O = (
        torch.randn(shape, generator=random, dtype=torch.float64, requires_grad=True)
        for shape in ((5, 3, *size), (4, 3, *kernel), (4,))
    )
    expected = functional.conv3d(x_RCTHW, weight_OCTHW, bias_O, padding=padding)
    found = conv3d_by_spectra(x_RCTHW.permute(2, 3, 4, 0, 1), weight_OCTHW, bias_O, padding).permute(3, 4, 0, 1, 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    towards, wanted = torch.randn(found.shape, generator=random, dtype=torch.float64), (x_RCTHW, weight_OCTHW, bias_O)
    gradients = (torch.autograd.grad((maps * towards).sum(), wanted) for maps in (found, expected))
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-11)


def test_the_papers_inner_layers_go_by_spectra() -> None:
    """Where nine tenths of the time went; the others would not gain."""
    assert [stage.spectra_are_worth_it for stage in BlockCNN(PAPER).stages] == [False, True, True, False]
    assert not any(stage.spectra_are_worth_it for stage in BlockCNN(SMALL).stages)


def attention_case(n_blocks: int = 7) -> tuple[PublishedAttention, torch.Tensor, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        attention = PublishedAttention(8, heads=4, score_kernel=5).double()
        x_BNDHW = torch.randn(2, n_blocks, 8, 9, 9, dtype=torch.float64)
    return attention, x_BNDHW, torch.arange(n_blocks) < torch.tensor([[n_blocks], [n_blocks - 3]])


def test_linear_attention_equals_the_definition() -> None:
    """The O(N) form against all N × N score maps of the valid blocks, output and gradients.

    Weights that the O(N) form leaves out have no gradient in the definition either.
    """
    attention, x_BNDHW, valid_BN = attention_case()
    x_BNDHW.requires_grad_()
    wanted = (x_BNDHW, *attention.parameters())
    expected = [attention_by_definition(attention, x[valid]) for x, valid in zip(x_BNDHW, valid_BN, strict=True)]
    found = [one.expand_as(all_n) for one, all_n in zip(attention(x_BNDHW, valid_BN), expected, strict=True)]

    def with_gradients(outputs: list[torch.Tensor]) -> list[torch.Tensor]:
        output = torch.cat(outputs)
        towards = torch.randn(output.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        gradients = torch.autograd.grad((output * towards).sum(), wanted, allow_unused=True)
        return [output] + [torch.zeros_like(w) if g is None else g for g, w in zip(gradients, wanted, strict=True)]

    for left, right in zip(with_gradients(found), with_gradients(expected), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-12)
        assert right.abs().max() > 1e-3 or left.eq(0).all()


def test_sequence_norm_is_layer_norm_where_all_is_valid() -> None:
    norm = seeded_network().layers[0].norm_ffn
    x_BNDHW = torch.randn(3, *norm.weight.shape, generator=torch.Generator().manual_seed(4))
    expected = functional.layer_norm(x_BNDHW, norm.weight.shape, norm.weight, norm.bias)
    torch.testing.assert_close(norm(x_BNDHW, torch.ones(3, len(norm.weight), dtype=torch.bool)), expected)


@pytest.mark.parametrize("length", [1, 10, 30])
def test_padding_does_not_change_the_answer(length: int) -> None:
    """Neither how many empty slots follow, nor what lies in them, nor longer neighbours in the batch."""
    network = seeded_network()
    image, band, day = random_input(2, SMALL.images)
    alone = network(image[:1, :length], band[:1, :length], day[:1, :length])
    band[0, length:] = 0
    image[0, length:] = torch.nan_to_num(image[0, length:] * 1e6)
    together = network(image, band, day)
    torch.testing.assert_close(together[:1], alone, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_padding_does_not_reach_batch_statistics() -> None:
    """In training, empty blocks must not pull the running means towards zero."""
    image, band, day = random_input(2, 30)
    padded = (
        functional.pad(image, (0, 0, 0, 0, 0, 0, 0, 30)),
        functional.pad(band, (0, 30)),
        functional.pad(day, (0, 30)),
    )
    one, other = seeded_network().train(), seeded_network().train()
    one.head.eval(), other.head.eval()
    torch.testing.assert_close(one(image, band, day), other(*padded), rtol=1e-4, atol=1e-4)
    for (name, left), (_, right) in zip(one.named_buffers(), other.named_buffers(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5, msg=name)


def test_order_and_band_matter() -> None:
    """The same images in another order, or in another band, are another sequence."""
    network = seeded_network()
    image, band, day = random_input(1, 30)
    answer = network(image, band, day)
    assert not torch.allclose(network(image.flip(1), band.flip(1), day), answer, atol=1e-4)
    assert not torch.allclose(network(image, band % 5 + 1, day), answer, atol=1e-4)


def options(**changes: object) -> ModelConfig:
    return preset("small").updated(model={"images": 12, **changes}).model


@pytest.mark.parametrize("attention", ["published", "additive"])
@pytest.mark.parametrize("clock", ["none", "date"])
def test_options_do_not_see_padding(attention: str, clock: str) -> None:
    network = seeded_network(options(attention=attention, clock=clock)).double()
    image, band, day = random_input(2, 12)
    band[0, 4:], day[0, 4:] = 0, 0  # one block whole, one begun
    if network.clock is not None:
        nn.init.normal_(network.clock.map.weight, generator=torch.Generator().manual_seed(5))
    alone = network(image[:1, :4].double(), band[:1, :4], day[:1, :4].double())
    together = network(image.double(), band, day.double())
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-12)


def test_a_clock_starts_as_the_network_without_and_then_tells_time() -> None:
    """Same seed, same answer before training; afterwards the dates count, up to their common origin."""
    image, band, day = random_input(1, 12)
    with torch.random.fork_rng():
        plain, network = (ConvEntion(options(clock=clock)).eval() for clock in ("none", "date") if torch.manual_seed(6))
    assert plain(image, band, day).equal(network(image, band, day))
    with torch.no_grad():
        nn.init.normal_(network.clock.map.weight, generator=torch.Generator().manual_seed(5))
        assert not torch.allclose(network(image, band, day), network(image, band, 3 * day), atol=1e-3)


def test_additive_attention_depends_on_the_query_and_fits_in_parts(monkeypatch) -> None:
    """Brute force over pairs, in one piece and query by query, with gradients of everything."""
    published, x_BNDHW, valid_BN = attention_case(5)
    attention = AdditiveAttention(8, heads=4, score_kernel=5).double()
    attention.load_state_dict(published.state_dict())
    x_BNDHW.requires_grad_()

    def by_pairs() -> torch.Tensor:
        rows = []
        for x_NDHW, valid_N in zip(x_BNDHW, valid_BN, strict=True):
            query_NDHW, (key_NDHW, value_NDHW) = attention.query(x_NDHW), attention.key_value(x_NDHW).chunk(2, dim=1)
            for query_DHW in query_NDHW:
                weight_NTHW = attention.score(torch.tanh(query_DHW + key_NDHW))[valid_N].softmax(dim=0)
                rows.append((weight_NTHW.repeat_interleave(2, dim=1) * value_NDHW[valid_N]).sum(dim=0))
        return attention.merge(torch.stack(rows)).unflatten(0, valid_BN.shape)

    def with_gradients(output_BNDHW: torch.Tensor) -> list[torch.Tensor]:
        wanted = (x_BNDHW, *attention.parameters())
        found = torch.autograd.grad(output_BNDHW.square().sum(), wanted, allow_unused=True)
        return [output_BNDHW, *(torch.zeros_like(w) if g is None else g for g, w in zip(found, wanted, strict=True))]

    expected = with_gradients(by_pairs())
    for pair_values in (1 << 27, 1):
        monkeypatch.setattr("model.attention.PAIR_VALUES", pair_values)
        for left, right in zip(with_gradients(attention(x_BNDHW, valid_BN)), expected, strict=True):
            torch.testing.assert_close(left, right, rtol=0, atol=1e-10)
    assert (expected[0][0] - expected[0][0, :1]).abs().max() > 1e-4


def test_published_padding_counts_like_images() -> None:
    """As in the authors' code: what follows a sequence changes its answer, but not how much of it was passed."""
    image, band, day = random_input(1, 6)
    published = seeded_network(options(padding="published"))
    answer = published(image, band, day)
    padded = functional.pad(image, (0, 0, 0, 0, 0, 0, 0, 6)), functional.pad(band, (0, 6)), functional.pad(day, (0, 6))
    torch.testing.assert_close(published(*padded), answer)
    assert not torch.allclose(seeded_network(options())(image, band, day), answer, atol=1e-3)


def test_band_channels_hold_each_image_in_those_of_its_band() -> None:
    pixels, band = torch.randn(2, 3, 2, 4, 4), torch.tensor([[1, 5, 0], [3, 3, 2]])
    found = BandChannels()(pixels, band).unflatten(2, (5, 2))
    for b, m in np.ndindex(2, 3):
        for s in range(5):
            expected = pixels[b, m] if band[b, m] == s + 1 else torch.zeros(2, 4, 4)
            assert found[b, m, s].equal(expected)


def test_positional_encoding_is_equations_4_and_5() -> None:
    place = positional_encoding(33, 8)
    assert place.shape == (33, 8, 1, 1)
    n, i = 7, 2
    expected = torch.tensor([n / 10000 ** (2 * i / 8)]).double()
    assert place[n - 1, 2 * i, 0, 0] == pytest.approx(expected.sin().item(), abs=1e-7)
    assert place[n - 1, 2 * i + 1, 0, 0] == pytest.approx(expected.cos().item(), abs=1e-7)
