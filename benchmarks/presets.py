"""Presets and their parts, trained alike on the same splits of one dataset: macro F1, against what it costs.

Each variant is trained and fine-tuned on every chosen fold. Variants are compared on the objects that both steps keep
for validation, pooled over the folds; `--test` adds the test objects, for the final table alone. Macro F1 has 95 %
bootstrap intervals, and so has its difference from the first variant's, of the same resampled objects. Cost is the
floating-point operations of one sequence forward, as torch counts them, and the seconds of training.

Without `--dataset` the benchmark survey is simulated at a reduced size. Images, epochs and sequences per epoch are the
same for all variants.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from torch.utils.flop_counter import FlopCounterMode

from model.config import ModelConfig, RunConfig, preset
from model.convention import ConvEntion
from model.describe import n_parameters
from model.evaluation.bootstrap import scores_of_confusion
from model.export import load_model
from model.rundir import step_dir
from model.runs import fine_tune, open_session, train
from model.train import predict_logits
from pipeline.simulate.sequences import simulate_sequences
from pipeline.survey import load_survey

Labels = NDArray[np.int64]
N_BOOTSTRAP = 2000


@dataclass(frozen=True)
class Variant:
    """A preset and what is changed in its network and training."""

    preset: str
    model: dict[str, Any]
    train: dict[str, Any]


SMALL_FRONT: dict[str, Any] = preset("small").model.model_dump(
    mode="json", include={"convolutions", "score_kernel", "head_features"}
)
"""A small front end for blocks of three images with maps of their bands."""
FAST = {"lr": 3e-3, "schedule": "cosine"}
VARIANTS = {
    "paper": Variant("paper", {}, {}),
    "paper, as fast": Variant("paper", {}, FAST),
    "paper, positions at each layer": Variant("paper", {"positions": "each-layer"}, {}),
    "paper, padding as published": Variant("paper", {"padding": "published"}, {}),
    "paper, asinh": Variant("paper", {"stretch": "asinh"}, {}),
    "small front": Variant("paper", {**SMALL_FRONT, "stretch": "asinh", "band_init_std": 0.1}, FAST),
    "small front, difference": Variant(
        "paper", {**SMALL_FRONT, "stretch": "asinh", "band_init_std": 0.1, "inputs": ["flux", "difference"]}, FAST
    ),
    "light": Variant("light", {}, FAST),
    "light, linear": Variant("light", {"stretch": "linear"}, FAST),
    "light, difference": Variant("light", {"inputs": ["flux", "difference"]}, FAST),
    "light, weight": Variant("light", {"inputs": ["flux", "weight"]}, FAST),
    "light, dates": Variant("light", {"clock": "date"}, FAST),
    "light, additive attention": Variant("light", {"attention": "additive"}, FAST),
    "light, dates and additive": Variant("light", {"clock": "date", "attention": "additive"}, FAST),
}


@dataclass(frozen=True)
class Answers:
    """What a variant said about objects that it had not seen."""

    true_V: Labels
    predicted_V: Labels

    def macro_f1(self) -> float:
        """Mean over the classes."""
        return float(f1_score(self.true_V, self.predicted_V, average="macro", zero_division=0))


def run_config(variant: Variant, options: argparse.Namespace) -> RunConfig:
    """The variant's own, at the common size and length."""
    base = preset(variant.preset)
    block = variant.model.get("block", base.model.block)
    length = {"batch": options.batch, "samples_per_epoch": options.samples}
    return base.updated(
        preset="custom",
        model={"images": options.images // block * block, **variant.model},
        train={**length, "epochs": options.epochs, **variant.train},
        fine_tune={**length, "epochs": options.fine_tune_epochs, **variant.train},
        protocol={"members": 1, "validation_fraction": options.validation},
    )


def answers(dataset: Path, run: Path, folds: list[int], *, test: bool) -> Answers:
    """Of the fine-tuned models on what both steps kept for validation, or on the test objects."""
    session = open_session(dataset, run)
    true, predicted = [], []
    for fold in folds:
        lists = session.lists(fold)
        places = lists.test if test else np.concatenate((lists.train_validation, lists.fine_tune_validation))
        model = load_model(step_dir(run, fold, 0, "fine-tune"), session.device)
        loader = session.loader(model.file.normalisation)
        logit_VC = predict_logits(model.network, loader, session.places(places), session.config.train.batch)
        true.append(session.label_O[places])
        predicted.append(logit_VC.argmax(dim=1).cpu().numpy())
    return Answers(np.concatenate(true), np.concatenate(predicted))


def gigaflops(config: ModelConfig) -> float:
    """Of one full sequence forward."""
    network = ConvEntion(config).eval()
    pixels = torch.randn(1, config.images, len(config.inputs), config.size, config.size)
    band = torch.arange(config.images)[None] % 5 + 1
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(pixels, band, torch.arange(config.images)[None].float())
    return counter.get_total_flops() / 1e9


def intervals(one: Answers, other: Answers, n_classes: int) -> NDArray[np.float64]:
    """95 % of `one`'s macro F1, and of its difference from `other`'s: (2, 2), low and high of each."""
    shape = (n_classes,) * 3  # true, what one says, what the other says: a resample is a draw of counts of these
    cell_V = np.ravel_multi_index((one.true_V, one.predicted_V, other.predicted_V), shape)
    part = np.bincount(cell_V, minlength=n_classes**3) / len(cell_V)
    counts = np.random.default_rng(0).multinomial(len(cell_V), part, size=N_BOOTSTRAP).reshape(-1, *shape)
    f1, f1_other = (scores_of_confusion(counts.sum(axis=axis))["macro_f1"] for axis in (3, 2))
    return np.percentile([f1, f1 - f1_other], (2.5, 97.5), axis=1).T


def measure(
    name: str, dataset: Path, folder: Path, options: argparse.Namespace
) -> tuple[dict[str, Any], list[Answers]]:
    """Train one variant; its line of the table, and its answers."""
    config, run, folds = run_config(VARIANTS[name], options), folder / name.replace(" ", "-"), options.folds
    started = time.monotonic()
    train(dataset, run, config, folds=folds)
    fine_tune(dataset, run)
    seconds = time.monotonic() - started
    kinds = (False, True) if options.test else (False,)
    line = {
        "parameters": n_parameters(ConvEntion(config.model)),
        "gigaflop_per_sequence": gigaflops(config.model),
        "train_s": seconds,
    }
    return line, [answers(dataset, run, folds, test=test) for test in kinds]


def table(dataset: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Print a line per variant as it is measured; all figures."""
    figures: dict[str, Any] = {}
    first: list[Answers] = []
    print(f"{'variant':<34} {'kparam':>7} {'GFLOP':>7} {'train s':>8}  macro F1 %, difference from the first")
    for name in options.variants:
        line, found = measure(name, dataset, folder, options)
        first = first or found
        text = f"{name:<34} {line['parameters'] / 1e3:7.0f} {line['gigaflop_per_sequence']:7.2f} {line['train_s']:8.0f}"
        for kind, its, of_first in zip(("validation", "test"), found, first, strict=False):
            (low, high), (low_d, high_d) = intervals(its, of_first, 4).tolist()
            value, gain = its.macro_f1(), its.macro_f1() - of_first.macro_f1()
            text += f"  {kind} {100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
            text += f", {100 * gain:+.1f} [{100 * low_d:+.1f}, {100 * high_d:+.1f}]"
            line |= {f"{kind}_macro_f1": value, f"{kind}_macro_f1_low": low, f"{kind}_macro_f1_high": high}
            line |= {f"{kind}_gain": gain, f"{kind}_gain_low": low_d, f"{kind}_gain_high": high_d}
        print(text, flush=True)
        figures |= {f"{name}: {key}": value for key, value in line.items()}
    return figures


def _simulated(folder: Path, options: argparse.Namespace) -> Path:
    result = simulate_sequences(
        load_survey("benchmark"), folder, n_objects=options.objects, nights=options.images // 5, progress=None
    )
    return result.dataset


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, help="a dataset; default: the benchmark survey, simulated")
    parser.add_argument("--objects", type=int, default=1500, help="about so many are simulated")
    parser.add_argument("--quick", action="store_true", help="so small that it tells nothing but that it runs")
    parser.add_argument("--runs", type=Path, help="keep the runs there, and continue them; default: nowhere")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["paper", "light"], metavar="NAME")
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--images", type=int, default=45, help="longest sequence")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--fine-tune-epochs", type=int, default=8)
    parser.add_argument("--samples", type=int, default=256, help="sequences per epoch")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--validation", type=float, default=0.25, help="part of each list that is kept for validation")
    parser.add_argument("--test", action="store_true", help="score the test objects, too: for the final table alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    if options.quick:
        options.objects, options.images, options.folds = 1, 10, [0]
        options.epochs, options.fine_tune_epochs, options.samples, options.batch = 1, 1, 16, 8
    with TemporaryDirectory() as temporary:
        dataset = options.dataset or _simulated(Path(temporary), options)
        figures = table(dataset, options.runs or Path(temporary), options)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
