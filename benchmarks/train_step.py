"""Sequences per second of the `paper` network, forward and with gradients: its plain definition, ours, ours as trained.

The definition (`model/definition.py`) goes block by block through torch's 3D convolutions and keeps all N × N maps of
scores, in float32. Ours gives the same numbers in float32; as trained, it is what a run does by default: float32 on a
CPU; bfloat16 autocast, compiled, on a GPU (where float32 convolutions are torch's default, TF32). All are timed in
turns on random sequences of the full M = 99 images, and a ratio is the median of the turns' ratios.

A training step is batch, forward, gradients and Adam, from a pack of random images that lies on the device; what it
waits for data is what the same steps take less on one batch over and over. The whole protocol is 15 models of the sizes
of Table 3, 100 epochs of step 1 and 100 of step 2 with a frozen encoder, at the measured seconds per step; validation
counts as training. Operations are those that are done, counted by torch; a device's peak is a large matrix product in
the same precision. On a CPU, --full shows what bfloat16 and the compiler would do to a training step there.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice, repeat
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from model.config import preset
from model.convention import ConvEntion
from model.data import Normalisation, Pack
from model.definition import logits_by_definition
from model.describe import n_parameters
from model.freezing import ready_for_training
from model.loader import Batch, Loader

CONFIG: Final = preset("paper")
BARS: Final = {"cpu": {"forward": ("ours", 3.0), "step": ("ours", 2.5)}, "cuda": {"step": ("trained", 20.0)}}
"""Ratios to the definition that are promised."""
TITLES: Final = {"definition": "definition, float32", "ours": "ours, float32", "trained": "ours, as trained"}
TABLE_3: Final = {"train": 362 + 1448 + 1290 + 2041, "fine_tune": 362 + 400 + 1290 + 72}
"""Objects of the two steps in one fold."""
MODELS, EPOCHS, WAITING_BAR, PROTOCOL_BAR_MINUTES = 15, 100, 0.02, 60
Forward = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    batch: int
    rounds: int
    objects: int
    steps: int
    runs: int
    """Of so many training steps."""
    matrix: int

    @classmethod
    def of(cls, device: torch.device, *, quick: bool) -> Sizes:
        """A GPU gets the batch of the paper, a CPU a few sequences."""
        if device.type == "cuda":
            turns = 5 if quick else 20
            return cls(batch=CONFIG.train.batch, rounds=turns, objects=1024, steps=20, runs=3, matrix=8192)
        if quick:
            return cls(batch=2, rounds=3, objects=4, steps=2, runs=1, matrix=2048)
        return cls(batch=4, rounds=9, objects=16, steps=4, runs=3, matrix=4096)


def random_batch(n: int, device: torch.device) -> Batch:
    """Full sequences."""
    model, random = CONFIG.model, torch.Generator().manual_seed(0)
    pixels_BMCHW = torch.randn(n, model.images, len(model.inputs), model.size, model.size, generator=random)
    band_BM = torch.randint(1, 6, (n, model.images), generator=random)
    day_BM = torch.rand(n, model.images, generator=random).cumsum(dim=1)
    return Batch(pixels_BMCHW.to(device), band_BM.to(device), day_BM.to(device))


def random_loader(n_objects: int, device: torch.device) -> Loader:
    """Of a pack of sequences somewhat longer than the network takes."""
    size, length = CONFIG.model.size, CONFIG.model.images + 20
    pack = Pack(
        object_ids=tuple(map(str, range(n_objects))),
        image_PHW=torch.randn(n_objects * length, size, size).half(),
        weight_PHW=None,
        band_P=torch.arange(n_objects * length).remainder(5).add(1).to(torch.uint8),
        mjd_P=torch.arange(n_objects * length).remainder(length).double(),
        first_O=torch.arange(n_objects) * length,
        length_O=torch.full((n_objects,), length),
        longest=length,
        moments_O53=np.zeros((n_objects, 5, 3)),
        weights_O52=None,
    )
    unit = Normalisation(mean_nmgy=(0.0,) * 5, std_nmgy=(1.0,) * 5)
    return Loader(pack.placed(device), unit, CONFIG.model, device)


def ways(network: ConvEntion, device: torch.device) -> dict[str, Forward]:
    """Forward passes with the same weights; on a CPU, training is ours in float32."""
    found: dict[str, Forward] = {
        "definition": lambda batch: logits_by_definition(network, *batch),
        "ours": lambda batch: network(*batch),
    }
    if device.type == "cuda":
        found["trained"] = as_trained(network, low=True, compiled=True)
    return found


def as_trained(network: ConvEntion, *, low: bool, compiled: bool) -> Forward:
    """In bfloat16 if `low`, compiled if so wanted."""
    call = torch.compile(network) if compiled else network

    def forward(batch: Batch) -> Tensor:
        with torch.autocast(batch.band_BM.device.type, dtype=torch.bfloat16, enabled=low):
            logit_BC: Tensor = call(*batch)
        return logit_BC.float()

    return forward


def with_gradients(network: ConvEntion, forward: Forward, batch: Batch) -> None:
    """Gradients of all that is trained."""
    label_B = torch.arange(len(batch.band_BM), device=batch.band_BM.device) % len(CONFIG.model.classes)
    network.zero_grad()
    functional.cross_entropy(forward(batch), label_B).backward()


def seconds(work: Callable[[], object], number: int = 1) -> float:
    """Wall time of one call, with all of torch's threads and after the GPU has finished."""
    timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
    return timer.timeit(number).median


def in_turns(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, turn by turn, after one that does not count."""
    for work in works.values():
        work()
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            found[name].append(seconds(work))
    return found


def compare(network: ConvEntion, forwards: dict[str, Forward], batch: Batch, rounds: int) -> dict[str, float]:
    """Sequences per second of each way and its ratio to the first one, forward and with gradients."""
    network.eval()
    with torch.inference_mode():
        times = {"forward": in_turns({name: partial(way, batch) for name, way in forwards.items()}, rounds)}
    network.train()
    steps = {name: partial(with_gradients, network, way, batch) for name, way in forwards.items()}
    times["step"] = in_turns(steps, rounds)
    first, result = next(iter(forwards)), {}
    for kind, taken in times.items():
        for name, turns in taken.items():
            result[f"{name}_{kind}_sequences_per_s"] = len(batch.band_BM) / median(turns)
            result[f"{name}_{kind}_ratio"] = median(a / b for a, b in zip(taken[first], turns, strict=True))
    return result


def latency_ms(network: ConvEntion, forward: Forward, device: torch.device, rounds: int) -> float:
    """Of the classification of one sequence that lies on the device."""
    network.eval()
    one = random_batch(1, device)
    with torch.inference_mode():
        return 1e3 * median(in_turns({"one": lambda: forward(one).softmax(dim=1).cpu()}, rounds)["one"])


def training(network: ConvEntion, forward: Forward, loader: Loader, sizes: Sizes) -> dict[str, float]:
    """Seconds of a step, what of it is waiting for data, and the protocol that is made of such steps."""
    epoch = torch.arange(sizes.batch * sizes.steps) % sizes.objects
    generator = torch.Generator(device=loader.device).manual_seed(0)

    def run(optimizer: torch.optim.Optimizer, batches: Callable[[], Iterator[Batch]]) -> None:
        for batch in islice(batches(), sizes.steps):
            with_gradients(network, forward, batch)
            optimizer.step()

    def fresh() -> Iterator[Batch]:
        return loader.training_batches(epoch, sizes.batch, generator, CONFIG.train.max_rotation_deg)

    result: dict[str, float] = {"step_batch": sizes.batch}
    for step in TABLE_3:
        ready_for_training(network, CONFIG.train if step == "train" else CONFIG.fine_tune, epoch=1)
        optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad])
        same = next(fresh())
        runs = {"fresh": partial(run, optimizer, fresh), "same": partial(run, optimizer, partial(repeat, same))}
        times = in_turns(runs, sizes.runs)
        result[f"{step}_step_ms"] = 1e3 * median(times["fresh"]) / sizes.steps
        waiting = median(1 - b / a for a, b in zip(times["fresh"], times["same"], strict=True))
        result[f"{step}_waiting_share"] = max(0.0, waiting)
    network.requires_grad_(True)
    per_sequence_s = {step: result[f"{step}_step_ms"] / 1e3 / sizes.batch for step in TABLE_3}
    one_model_s = sum(EPOCHS * n * per_sequence_s[step] for step, n in TABLE_3.items())
    return result | {"protocol_min": MODELS * one_model_s / 60}


def work_done(network: ConvEntion, batch: Batch, steps_per_s: float, peak_tflop_per_s: float) -> dict[str, float]:
    """Floating-point operations of a step, and the part of the device's peak that they come to."""
    network.train()
    with FlopCounterMode(display=False) as counter:
        with_gradients(network, lambda batch: network(*batch), batch)
    achieved = counter.get_total_flops() * steps_per_s / 1e12
    return {
        "step_gflop_per_sequence": counter.get_total_flops() / len(batch.band_BM) / 1e9,
        "achieved_tflop_per_s": achieved,
        "peak_tflop_per_s": peak_tflop_per_s,
        "share_of_peak": achieved / peak_tflop_per_s,
    }


def peak(device: torch.device, size: int) -> float:
    """TFLOP/s of a large matrix product: bfloat16 on a GPU, float32 on a CPU."""
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
    return 2 * size**3 / min(in_turns({"product": lambda: a @ a}, 5)["product"]) / 1e12


def measure(device: torch.device, *, quick: bool, full: bool) -> dict[str, float]:
    """Everything the table shows of one device, flat."""
    torch.manual_seed(0)
    network, sizes = ConvEntion(CONFIG.model).to(device), Sizes.of(device, quick=quick)
    forwards, batch = ways(network, device), random_batch(sizes.batch, device)
    trained = list(forwards)[-1]
    result = {"batch": float(sizes.batch)} | compare(network, forwards, batch, sizes.rounds)
    result["latency_ms"] = latency_ms(network, forwards["ours"], device, 2 * sizes.rounds)
    steps_per_s = result[f"{trained}_step_sequences_per_s"] / sizes.batch
    result |= work_done(network, batch, steps_per_s, peak(device, sizes.matrix))
    result |= training(network, forwards[trained], random_loader(sizes.objects, device), sizes)
    return result | (other_arithmetic(network, batch) if full and device.type == "cpu" else {})


def other_arithmetic(network: ConvEntion, batch: Batch) -> dict[str, float]:
    """What a GPU trains with, on a CPU."""
    others: dict[str, Forward] = {
        "ours": lambda batch: network(*batch),
        "bfloat16": as_trained(network, low=True, compiled=False),
        "compiled": as_trained(network, low=False, compiled=True),
    }
    found = compare(network, others, batch, 3)
    return {f"{name}_step_to_ours": found[f"{name}_step_ratio"] for name in ("bfloat16", "compiled")}


def verdict(met: bool) -> str:
    """In a word."""
    return "met" if met else "MISSED"


def show(result: dict[str, float], device: torch.device) -> None:
    """The table of one device."""
    print(f"\n{describe(device)}: {result['batch']:.0f} sequences at a time")
    print(f"{'':<22} {'forward':>16} {'ratio':>7} {'with gradients':>20} {'ratio':>7}")
    for name, title in TITLES.items():
        if f"{name}_step_ratio" not in result:
            print(f"{title:<22} the same")
            continue
        print(
            f"{title:<22} {result[f'{name}_forward_sequences_per_s']:>14.2f}/s {result[f'{name}_forward_ratio']:>7.2f} "
            f"{result[f'{name}_step_sequences_per_s']:>18.2f}/s {result[f'{name}_step_ratio']:>7.2f}"
        )
    for kind, (name, bar) in BARS[device.type].items():
        found = result[f"{name}_{kind}_ratio"]
        what = "forward" if kind == "forward" else "with gradients"
        print(f"{TITLES[name]}, {what}: {found:.2f} × the definition (≥ {bar:g} {verdict(found >= bar)})")
    print(f"one sequence classified in {result['latency_ms']:.1f} ms")
    print(
        f"{result['step_gflop_per_sequence']:.1f} GFLOP per sequence and step as trained, "
        f"{result['achieved_tflop_per_s']:.3f} of {result['peak_tflop_per_s']:.3f} TFLOP/s "
        f"({result['share_of_peak']:.0%} of a large matrix product)"
    )
    show_training(result, device)
    for name in ("bfloat16", "compiled"):
        if f"{name}_step_to_ours" in result:
            print(f"{name}, with gradients: {result[f'{name}_step_to_ours']:.2f} × ours in float32")


def show_training(result: dict[str, float], device: torch.device) -> None:
    """Steps and the protocol; the bars are those of a GPU."""
    on_gpu = device.type == "cuda"
    for step in TABLE_3:
        share = result[f"{step}_waiting_share"]
        bar = f" (≤ {WAITING_BAR:.0%} {verdict(share <= WAITING_BAR)})" if on_gpu else ""
        print(
            f"{step} step of {result['step_batch']:.0f} sequences: {result[f'{step}_step_ms']:.0f} ms, "
            f"{share:.1%} of it waiting for data{bar}"
        )
    minutes = result["protocol_min"]
    bar = f" (≤ {PROTOCOL_BAR_MINUTES} {verdict(minutes <= PROTOCOL_BAR_MINUTES)})" if on_gpu else ""
    print(f"the protocol of {MODELS} models of 2 × {EPOCHS} epochs: {minutes:,.0f} minutes projected{bar}")


def describe(device: torch.device) -> str:
    """What it is."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.get_num_threads()} threads"


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer sequences, fewer times")
    parser.add_argument("--full", action="store_true", help="on a CPU, bfloat16 and the compiler too")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices.append(torch.device("cuda", torch.cuda.current_device()))
    print(f"`paper`: {n_parameters(ConvEntion(CONFIG.model)):,} parameters, {CONFIG.model.images} images per sequence")
    results: dict[str, float] = {}
    for device in devices:
        found = measure(device, quick=arguments.quick, full=arguments.full)
        show(found, device)
        results |= {f"{device.type}_{key}": value for key, value in found.items()}
    if len(devices) == 1:
        print("\nno GPU here: its rows, the matrix peak in bfloat16 and the bars that are a GPU's cannot be measured")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
