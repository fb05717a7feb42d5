"""Fetching frames, hashed and checked, against `curl` with as many connections from the same server on this machine.

The files are DR7 fpC frames of noise at a real sky level: as large as real ones, and as hard to decompress. The server
is `pipeline.simulate.server` in a process of its own, with each connection held to a rate (what archives do) and
without. `curl` only writes what comes; ours writes it, hashes it, decompresses it for its checksum, checks structure
and identity, syncs it to disk and enters it into the ledger before it counts.

At last, the memory of a process that fetches few files, and of one that fetches many.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from astropy.io import fits

from pipeline.archive import Archive
from pipeline.identity import SHAPE
from pipeline.naming import FrameId, frame_path
from pipeline.survey import ArchiveConfig

CONNECTIONS = 4
THREADS = 8
"""More than connections, so that checking one file does not keep a connection from the next; a build has as many."""
RATES_MB_PER_S = {"archive": 2.0, "fast_archive": 8.0, "unbounded": None}
"""Of each connection. Four at 2 MB/s are what `s82 plan` takes the SDSS servers to give."""
SERVER = """
import sys, time
from pathlib import Path
from pipeline.simulate.server import ArchiveServer
with ArchiveServer(Path(sys.argv[1]), bytes_per_s=float(sys.argv[2]) or None) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""
CHILD = """
import sys
from benchmarks.fetch import fetch
from benchmarks.support.memory import peak_mb
from pathlib import Path
fetch(sys.argv[1], Path(sys.argv[2]), sys.argv[3:], "at-fetch")
print(peak_mb())
"""


def write_frames(tree: Path, number: int) -> list[str]:
    """Write so many fpC frames; give their paths."""
    counts = np.random.default_rng(82).poisson(112, SHAPE) + 1000
    paths = []
    for n in range(number):
        frame = FrameId("das-dr7", 5600 + n, 40, 4, 100, "r")
        hdu = fits.PrimaryHDU(counts.astype(np.uint16))
        hdu.header.update({"RUN": frame.run, "CAMCOL": 4, "FILTER": "r", "FRAME": 100, "SOFTBIAS": 1000})
        content = BytesIO()
        hdu.writeto(content)
        path = tree / frame_path(frame)
        path.parent.mkdir(parents=True)
        path.write_bytes(gzip.compress(content.getvalue(), 1))
        paths.append(frame_path(frame))
    return paths


@contextmanager
def serving(tree: Path, rate_mb_per_s: float | None) -> Iterator[str]:
    """The URL of a server process."""
    command = [sys.executable, "-c", SERVER, str(tree), str((rate_mb_per_s or 0) * 1e6)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate()


def curl(url: str, target: Path, paths: list[str]) -> float:
    """Seconds that curl takes."""
    pairs = "".join(f'url = "{url}/{path}"\noutput = "{target / path}"\n' for path in paths)
    command = ["curl", "--no-progress-meter", "--fail", "--parallel", "--parallel-immediate", "--create-dirs"]
    started = time.perf_counter()
    subprocess.run(
        [*command, "--parallel-max", str(CONNECTIONS), "--config", "-"],
        input=pairs,
        text=True,
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - started


def fetch(url: str, target: Path, paths: list[str], verify: str) -> float:
    """Seconds that we take."""
    config = ArchiveConfig.model_validate(
        {"name": "das", "layout": "das-dr7", "base_urls": [f"{url}/"], "verify": verify, "max_connections": CONNECTIONS}
    )
    started = time.perf_counter()
    with Archive((config,), target) as archive, ThreadPoolExecutor(THREADS) as threads:
        for _ in threads.map(lambda path: archive.fetch("das", path), paths):
            pass
    return time.perf_counter() - started


def throughput(tree: Path, paths: list[str], rate_mb_per_s: float | None, repeats: int) -> dict[str, float]:
    """MB/s of curl and of us, in turns, and the median of their ratios."""
    megabytes = sum((tree / path).stat().st_size for path in paths) / 1e6
    ways: dict[str, Callable[[str, Path], float]] = {
        "curl": lambda url, target: curl(url, target, paths),
        "ours": lambda url, target: fetch(url, target, paths, "at-fetch"),
        "ours_when_cut": lambda url, target: fetch(url, target, paths, "when-cut"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with serving(tree, rate_mb_per_s) as url:
        for _ in range(repeats):
            for name, way in ways.items():
                with TemporaryDirectory(dir=tree.parent) as target:
                    seconds[name].append(way(url, Path(target)))
    ratios = [a / b for a, b in zip(seconds["curl"], seconds["ours"], strict=True)]
    unchecked = [a / b for a, b in zip(seconds["curl"], seconds["ours_when_cut"], strict=True)]
    speeds = {f"{name}_mb_per_s": megabytes / median(times) for name, times in seconds.items()}
    return speeds | {"ratio_to_curl": median(ratios), "ratio_to_curl_when_cut": median(unchecked)}


def memory_mb(tree: Path, paths: list[str]) -> float:
    """Largest resident memory of a process that fetches `paths`."""
    root = Path(__file__).resolve().parents[1]
    with serving(tree, None) as url, TemporaryDirectory(dir=tree.parent) as target:
        command = [sys.executable, "-c", CHILD, url, target, *paths]
        done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def measure(*, quick: bool) -> dict[str, float]:
    """Everything the table shows, flat."""
    n_files, repeats = (16, 1) if quick else (64, 3)
    result: dict[str, float] = {"connections": CONNECTIONS, "files": n_files}
    with TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        paths = write_frames(tree, n_files)
        result["file_mb"] = (tree / paths[0]).stat().st_size / 1e6
        for name, rate in RATES_MB_PER_S.items():
            result |= {f"{name}_{key}": value for key, value in throughput(tree, paths, rate, repeats).items()}
        few, many = paths[: n_files // 4], paths
        result |= {"memory_few_files_mb": memory_mb(tree, few), "memory_many_files_mb": memory_mb(tree, many)}
        result |= {"memory_few_files": len(few), "memory_many_files": len(many)}
    return result


def show(result: dict[str, float]) -> None:
    """The table."""
    print(f"{result['files']:.0f} frames of {result['file_mb']:.2f} MB, {result['connections']:.0f} connections\n")
    print(f"{'server':<30} {'curl':>10} {'ours':>10} {'ratio':>6}   {'ours, checked when cut':>22} {'ratio':>6}")
    for name, rate in RATES_MB_PER_S.items():
        server = f"{rate:g} MB/s per connection" if rate else "as fast as it can"
        speeds = [result[f"{name}_{who}_mb_per_s"] for who in ("curl", "ours", "ours_when_cut")]
        print(
            f"{server:<30} {speeds[0]:>5.1f} MB/s {speeds[1]:>5.1f} MB/s {result[f'{name}_ratio_to_curl']:>6.2f}   "
            f"{speeds[2]:>17.1f} MB/s {result[f'{name}_ratio_to_curl_when_cut']:>6.2f}"
        )
    print(f"\n{'peak memory':<30} {'files':>10} {'MB':>10}")
    for which in ("few", "many"):
        print(f"{'':<30} {result[f'memory_{which}_files']:>10.0f} {result[f'memory_{which}_files_mb']:>10.0f}")


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer files, once")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    if shutil.which("curl") is None:
        sys.exit("benchmarks/fetch.py compares with curl, which is not on the path: install it")
    result = measure(quick=arguments.quick)
    show(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
