"""The training loop, part by part: loss, scores, schedule, what is kept, what is frozen, memory, precision."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch import Tensor

import model.train
from model.checkpoint import EpochMetrics, History
from model.config import RunConfig, TrainConfig, preset
from model.convention import ConvEntion
from model.distributed import ALONE
from model.errors import ModelConfigError, TrainingError
from model.export import load_model
from model.freezing import ready_for_training
from model.loader import Batch
from model.objective import assess, loss_of
from model.rundir import WEIGHTS_FILE, step_dir
from model.runs import read_history, train
from model.selection import has_settled, is_best
from model.stepping import Stepper
from model.train import learning_rate

TINY = preset("small").updated(
    model={"images": 12, "dropout": 0},
    train={"epochs": 1, "samples_per_epoch": 8, "batch": 8},
    protocol={"members": 1, "validation_fraction": 0.3},
    device="cpu",
)


@pytest.mark.parametrize(("gamma", "smoothing"), [(0.0, 0.0), (0.5, 0.0), (2.0, 0.0), (2.0, 0.2), (0.0, 0.3)])
def test_focal_loss_is_its_formula_and_cross_entropy_without_focus(gamma: float, smoothing: float) -> None:
    """Also for an answer so sure that its probability rounds to 1; its gradient stays finite."""
    logit_BC = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double() * 3
    logit_BC[0] = torch.tensor([60.0, 0, 0, 0])
    label_B = torch.tensor([0, 1, 2, 3, 0, 1])
    p_BC = np.exp(logit_BC.numpy()) / np.exp(logit_BC.numpy()).sum(axis=1, keepdims=True)
    q_BC = np.eye(4)[label_B] * (1 - smoothing) + smoothing / 4
    expected_B = -(q_BC * (1 - p_BC) ** gamma * np.log(p_BC)).sum(axis=1)
    config = TrainConfig(epochs=1, loss="focal", focal_gamma=gamma, label_smoothing=smoothing)
    logit_BC.requires_grad_()
    loss_B = loss_of(logit_BC, label_B, config)
    np.testing.assert_allclose(loss_B.detach(), expected_B, rtol=1e-9, atol=1e-12)
    loss_B.sum().backward()
    assert logit_BC.grad is not None
    assert logit_BC.grad.isfinite().all()
    if gamma == 0:
        plain_B = loss_of(logit_BC, label_B, TrainConfig(epochs=1, label_smoothing=smoothing))
        torch.testing.assert_close(plain_B, loss_B)


@pytest.mark.parametrize("classes", [[0, 1, 2, 3], [0, 2]])
def test_validation_scores_are_those_of_scikit_learn(classes: list[int]) -> None:
    """Also where validation lacks classes that are answered."""
    random = np.random.default_rng(1)
    label_V, logit_VC = random.choice(classes, 40), random.normal(size=(40, 4))
    values = assess(torch.from_numpy(logit_VC), torch.from_numpy(label_V))
    answer_V = logit_VC.argmax(axis=1)
    expected = f1_score(label_V, answer_V, labels=classes, average="macro")
    assert values["validation_macro_f1"] == pytest.approx(expected, abs=1e-6)
    recall = np.mean([(answer_V == label_V)[label_V == c].mean() for c in classes])
    assert values["validation_balanced_accuracy"] == pytest.approx(recall, abs=1e-6)


def test_the_learning_rate_rises_evenly_then_falls_to_nothing() -> None:
    config = TrainConfig(epochs=8, lr=4.0, warmup_epochs=3, schedule="cosine")
    rates = [learning_rate(config, epoch) for epoch in range(1, 9)]
    assert rates[:4] == [1, 2, 3, 4]
    assert rates[3:] == pytest.approx([4 * (0.5 + 0.5 * np.cos(np.pi * i / 5)) for i in range(5)])


def epochs(values: list[tuple[float | None, float | None]], config: TrainConfig) -> History:
    """What is noted of epochs with these validation macro F1 and losses, each time read from a checkpoint."""
    history = History()
    for epoch, (f1, loss) in enumerate(values, 1):
        metrics = EpochMetrics(
            epoch=epoch, loss=0, accuracy=0, lr=0, seconds=0, validation_loss=loss, validation_macro_f1=f1,
            validation_accuracy=0, validation_balanced_accuracy=0,
        )  # fmt: skip
        best = epoch if is_best(history, metrics, config) else history.best_epoch
        history = History(metrics=(*history.metrics, metrics), best_epoch=best)
        history = History.model_validate_json(history.model_dump_json())  # as after a kill: NaN is null
    return history


@pytest.mark.parametrize(
    ("select", "values", "kept"),
    [
        ("loss", [(0.9, np.nan), (0.8, 0.5), (0.1, 0.1), (0.9, 0.2)], 3),
        ("loss", [(0, 0.5), (0, np.nan), (0, 0.6)], 1),
        ("loss", [(0, np.inf), (0, np.nan)], 1),
        ("macro-f1", [(0.5, 0.9), (0.7, 0.8), (0.7, 0.7), (0.7, 0.75), (0.6, 0.1)], 3),
        ("macro-f1", [(0.5, np.nan), (0.5, 0.8)], 2),
        ("macro-f1", [(None, None), (None, None)], 2),
        ("last", [(0.9, 0.1), (0.1, 0.9)], 2),
    ],
)
def test_the_epoch_that_validation_says_is_kept(select: str, values: list, kept: int) -> None:
    assert epochs(values, TrainConfig(epochs=9, select=select)).best_epoch == kept


def test_patience_counts_epochs_since_the_best() -> None:
    config = TrainConfig(epochs=9, patience=2)
    f1s = [0.5, 0.4, 0.6, 0.6, 0.5]
    settled = [has_settled(epochs([(f1, 1.0) for f1 in f1s[:n]], config), config) for n in range(1, 6)]
    assert settled == [False, False, False, False, True]


def test_a_settled_training_stops_and_keeps_its_best(tiny_dataset: Path, tmp_path: Path) -> None:
    config = TINY.updated(train={"epochs": 30, "patience": 2, "lr": 1e-6, "samples_per_epoch": 4})
    last = []
    train(tiny_dataset, tmp_path, config, folds=[0], progress=lambda p: last.append(p.is_last))
    folder = step_dir(tmp_path, 0, 0, "train")
    history = read_history(folder)
    assert history.epochs_done == history.best_epoch + 2 < 30
    assert last == [False] * (history.epochs_done - 1) + [True]
    assert load_model(folder).file.epoch == history.best_epoch


def test_parts_join_in_from_the_top_and_frozen_ones_keep_their_statistics() -> None:
    network = ConvEntion(TINY.model)
    config = TrainConfig(epochs=9, freeze="gradual", unfreeze_every=2)
    trained = []
    for epoch in range(1, 9):
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        ready_for_training(network, config, epoch)
        with torch.no_grad():
            network(torch.rand(2, 12, 1, 32, 32), torch.ones(2, 12, dtype=torch.long), torch.zeros(2, 12))
        moved = {name for name, tensor in network.state_dict().items() if not tensor.equal(before[name])}
        parts = {".".join(name.split(".")[: 1 + name.startswith("layers")]) for name, p in network.named_parameters()
                 if p.requires_grad}  # fmt: skip
        assert all(name.startswith(tuple(parts)) for name in moved)
        trained.append(parts)
    assert trained[::2] == [
        {"head"},
        {"head", "layers.1"},
        {"head", "layers.1", "layers.0"},
        {"head", "layers.1", "layers.0", "backbone", "embed"},
    ]
    assert trained[1::2] == trained[::2]


class Limited(torch.nn.Module):
    """A network that holds a few sequences at a time."""

    def __init__(self, network: ConvEntion, most: int) -> None:
        super().__init__()
        self.network, self.most, self.sizes = network, most, []

    def forward(self, *inputs: Tensor) -> Tensor:
        self.sizes.append(len(inputs[0]))
        if len(inputs[0]) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.network(*inputs)


def stepper_of(config: RunConfig, most: int) -> tuple[ConvEntion, Stepper]:
    torch.manual_seed(0)
    network = ConvEntion(config.model).double()
    ready_for_training(network, config.train, 1)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    return network, Stepper(Limited(network, most), optimizer, config.train, ALONE)


def batch_of(n: int) -> tuple[Batch, Tensor]:
    band_BM = torch.arange(12).expand(n, -1) % 5 + 1
    return Batch(torch.rand(n, 12, 1, 32, 32).double(), band_BM, torch.zeros(n, 12)), torch.arange(n) % 4


def test_where_memory_runs_out_a_step_is_made_in_pieces(caplog: pytest.LogCaptureFixture) -> None:
    """The same loss and weights to rounding where batch statistics stay; halved once, told once, kept."""
    config = TINY.updated(train={"freeze": "encoder"})
    batch, label_B = batch_of(7)
    whole, one = stepper_of(config, most=7)
    pieces, other = stepper_of(config, most=3)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            left, right = one.step(batch, label_B, 7), other.step(batch, label_B, 7)
            torch.testing.assert_close(left, right, check_dtype=False)
    assert other.forward.sizes == [7, 3, 2, 2, 3, 2, 2]
    assert other.micro_batch == 3
    assert len(caplog.records) == 1
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(pieces.state_dict()[name], tensor, msg=name)


def test_what_fits_into_memory_is_known_after_a_kill(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = []

    def for_training(network: ConvEntion, *others: object) -> Limited:
        limited.append(Limited(network, most=5))
        return limited[-1]

    def stop(progress: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(model.train, "for_training", for_training)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_dataset, tmp_path, TINY.updated(train={"epochs": 2}), folds=[0], progress=stop)
    train(tiny_dataset, tmp_path, TINY.updated(train={"epochs": 2}), folds=[0])
    assert [each.sizes for each in limited] == [[8, 4, 4], [4, 4]]


def test_memory_for_not_even_one_sequence_is_one_clear_error() -> None:
    batch, label_B = batch_of(5)
    with pytest.raises(TrainingError, match=r"single sequence .*model\.images"):
        stepper_of(TINY, most=0)[1].step(batch, label_B, 5)


def test_low_precision_and_deterministic_algorithms_are_for_training_alone(tiny_dataset: Path, tmp_path: Path) -> None:
    """Trained in bfloat16, weights are still float32, and the loss near that of float32; torch is left as it was."""
    for name, changes in {"full": {}, "low": {"precision": "bfloat16", "deterministic": True}}.items():
        train(tiny_dataset, tmp_path / name, TINY.updated(train=changes), folds=[0])
    assert not torch.are_deterministic_algorithms_enabled()
    low = load_model(step_dir(tmp_path / "low", 0, 0, "train")).network
    assert {p.dtype for p in low.parameters()} == {torch.float32}
    losses = [read_history(step_dir(tmp_path / name, 0, 0, "train")).metrics[0].loss for name in ("full", "low")]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_without_a_compiler_training_goes_on_and_says_so(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(network: torch.nn.Module) -> object:
        def call(*inputs: Tensor) -> Tensor:
            raise RuntimeError("InvalidCxxCompiler: no working compiler\nand more")

        return call

    monkeypatch.setattr(torch, "compile", failing)
    train(tiny_dataset, tmp_path / "on", TINY.updated(train={"compile": "on"}), folds=[0])
    train(tiny_dataset, tmp_path / "off", TINY, folds=[0])
    assert "cannot be compiled here, training goes on without: InvalidCxxCompiler: no working compiler" in caplog.text
    left, right = ((step_dir(tmp_path / name, 0, 0, "train") / WEIGHTS_FILE).read_bytes() for name in ("on", "off"))
    assert left == right


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler about torch itself
def test_compiled_training_learns_the_same(tiny_dataset: Path, tmp_path: Path) -> None:
    losses = []
    for choice in ("on", "off"):
        train(tiny_dataset, tmp_path / choice, TINY.updated(train={"compile": choice}), folds=[0])
        losses.append(read_history(step_dir(tmp_path / choice, 0, 0, "train")).metrics[0].loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 3, "warmup_epochs": 3}, "warmup_epochs .3. must be fewer than epochs"),
        ({"patience": 3, "select": "last"}, "patience needs select"),
        ({"precision": "float16"}, r"train\.precision"),
        ({"clip_norm": 0}, r"train\.clip_norm"),
    ],
)
def test_impossible_training_is_one_clear_error(changes: dict, message: str) -> None:
    with pytest.raises(ModelConfigError, match=message):
        TINY.updated(train=changes)


def test_runs_of_before_macro_f1_are_read() -> None:
    assert TINY.updated(train={"select": "best"}).train.select == "loss"


def test_a_class_too_small_for_the_folds_is_told(
    dataset_writer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,  # type: ignore[no-untyped-def]
) -> None:
    kinds = {"AGN": 6, "Variable": 6, "SNIa": 3}
    sources = [(name, "spectroscopic") for name, n in kinds.items() for _ in range(n)]
    sources += [(name, "photometric") for name in ("SNIa", "SNOther") for _ in range(5)]
    sources += [("SNOther", "spectroscopic")] * 5
    dataset = dataset_writer(tmp_path / "data", sources, n_images=(2, 3))
    train(dataset, tmp_path / "run", TINY.updated(train={"samples_per_epoch": 2}), folds=[0])
    assert "2 of 5 folds have no SNIa to test" in caplog.text
    assert "no SNOther to test" not in caplog.text
