"""One synthetic dataset from nothing to its pages, in a process of its own: seconds and peak memory of each stage.

A command, `python -m benchmarks.support.scale ROOT OBJECTS`, so that one size does not count towards the memory of
another. Prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.support.memory import peak_mb
from benchmarks.support.synthetic import Sky, build_cell, plan_build
from pipeline.pack import verify_pack
from pipeline.packing import pack_dataset
from pipeline.publish import publish
from pipeline.report.pages import write_pages
from pipeline.verify import verify_dataset


def measure(root: Path, n_objects: int) -> dict[str, float]:
    """Flat figures."""
    result: dict[str, float] = {"objects": n_objects, "start_peak_mb": peak_mb()}

    def stage(name: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        done = work()
        result[f"{name}_s"] = time.perf_counter() - started
        result[f"{name}_peak_mb"] = peak_mb()
        return done

    sky = Sky()
    build = plan_build(root, n_objects, sky)
    results = stage("write", lambda: [build_cell(build, cell, sky) for cell in build.plan.cells])
    dataset = stage("publish", lambda: publish(build, results, {}))
    assert stage("verify", lambda: verify_dataset(dataset.path)) == []
    pack = stage("pack", lambda: pack_dataset(dataset.path))
    assert stage("verify_pack", lambda: verify_pack(pack.path)) == []
    stage("report", lambda: write_pages(root / "report", dataset.path))
    result["dataset_gb"] = sum(file.stat().st_size for file in dataset.path.rglob("*") if file.is_file()) / 1e9
    result["pack_gb"] = pack.n_bytes / 1e9
    return result


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))
