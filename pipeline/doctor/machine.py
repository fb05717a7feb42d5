"""What this machine offers: versions, cores, memory, disk, GPU, open files; limits of containers included."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from pipeline.doctor.check import Check
from pipeline.errors import DatasetError
from pipeline.naming import PLAN_FILE, plans_dir
from pipeline.planfile import PlanInfo, read_plan
from pipeline.survey import SurveyConfig
from pipeline.version import DISTRIBUTION

BUILD_GB: Final = 1.5
"""Memory of a build without its workers: Prefect, and the plan of the whole survey (0.5 GB)."""
WORKER_GB: Final = 0.3
"""Of one decoding process: 0.25 GB after ten real frames."""
OPEN_FILES: Final = 1024
SYSTEM: Final = Path("/")


def check_machine(survey: SurveyConfig, root: Path) -> list[Check]:
    """All that can be looked at without a network."""
    return [_python(), _prefect(), _cores(), _memory(), _disk(survey, root), _gpu(), _open_files()]


# ── versions ─────────────────────────────────────────────────────────────────────────────────────


def _python() -> Check:
    wanted = metadata(DISTRIBUTION)["Requires-Python"] or ""
    found = ".".join(map(str, sys.version_info[:3]))
    if SpecifierSet(wanted).contains(found, prereleases=True):
        return Check("python", "ok", found)
    return Check("python", "fail", found, f"Python {wanted} is needed")


def _prefect() -> Check:
    """Prefect and what breaks it in a wrong version, against this project's own requirements."""
    found, wrong, missing = [], [], []
    for requirement in requirements("flows"):
        try:
            present = version(requirement.name)
        except PackageNotFoundError:
            missing.append(requirement.name)
            continue
        found.append(f"{requirement.name} {present}")
        if not requirement.specifier.contains(present, prereleases=True):
            wrong.append(f"'{requirement.name}{requirement.specifier}'")
    if wrong:
        advice = f"flows do not run with these versions: pip install {' '.join(wrong)}"
        return Check("prefect", "fail", ", ".join(found), advice)
    if missing:
        advice = f"to run flows here: pip install '{DISTRIBUTION}[flows]'"
        return Check("prefect", "warn", f"not installed: {', '.join(missing)}", advice)
    return Check("prefect", "ok", ", ".join(found))


def requirements(extra: str) -> list[Requirement]:
    """What the project requires for one of its extras, without what it requires always."""
    every = [Requirement(line) for line in requires(DISTRIBUTION) or ()]
    return [one for one in every if one.marker and one.marker.evaluate({"extra": extra})]


# ── cores and memory ─────────────────────────────────────────────────────────────────────────────


def _cores() -> Check:
    cores = usable_cores()
    there = os.cpu_count() or 1
    if cores < there:
        advice = f"build with --workers {max(int(cores), 1)}: more would only compete"
        return Check("cores", "warn", f"{cores:g} usable of {there}", advice)
    return Check("cores", "ok", f"{cores:g}")


def usable_cores(system: Path = SYSTEM) -> float:
    """Cores that this process may use: of its affinity, and of its control groups' quota."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [
        quota / period
        for folder in _control_groups("cpu", system)
        for quota, period in (
            _numbers(folder / "cpu.max", 2),
            _numbers(folder / "cpu.cfs_quota_us", 1) + _numbers(folder / "cpu.cfs_period_us", 1),
        )
        if quota > 0 and period > 0
    ]
    return min([float(affinity), *quotas])


def _memory() -> Check:
    free_gb, cores = usable_memory_gb(), max(int(usable_cores()), 1)
    fitting = int((free_gb - BUILD_GB) / WORKER_GB)
    if fitting < 1:
        return Check("memory", "fail", f"{free_gb:.1f} GB", f"a build needs {BUILD_GB + WORKER_GB:g} GB: free some")
    if fitting < cores:
        advice = f"for {cores} workers {BUILD_GB + cores * WORKER_GB:.1f} GB are needed: build with --workers {fitting}"
        return Check("memory", "warn", f"{free_gb:.1f} GB", advice)
    return Check("memory", "ok", f"{free_gb:.1f} GB")


def usable_memory_gb(system: Path = SYSTEM) -> float:
    """Memory that can be had without swapping, and no more than the control groups allow."""
    limits = [_installed_memory(system)]
    for folder in _control_groups("memory", system):
        for name in ("memory.max", "memory.limit_in_bytes"):
            (limit,) = _numbers(folder / name, 1)
            if limit > 0:
                limits.append(limit)
    return min(limits) / 1e9


def _installed_memory(system: Path) -> float:
    """Bytes available now, as Linux estimates them; elsewhere all there are."""
    for line in _text(system / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _control_groups(controller: str, system: Path) -> Iterator[Path]:
    """Folders of the groups that this process is in, of version 2 and 1, up to the outermost that can be seen."""
    for line in _text(system / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        top = system / "sys/fs/cgroup" / (controller if controllers else "")
        folder = top / path.strip("/")
        while folder != top:
            yield folder
            folder = folder.parent
        yield top


def _numbers(file: Path, count: int) -> tuple[float, ...]:
    """The first numbers of a file of the kernel; -1 for each that is not there, as in 'max 100000'."""
    words = _text(file).split()[:count]
    numbers = [float(word) if word.isdecimal() else -1.0 for word in words]
    return tuple(numbers + [-1.0] * (count - len(numbers)))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


# ── disk, GPU, files ─────────────────────────────────────────────────────────────────────────────


def _disk(survey: SurveyConfig, root: Path) -> Check:
    place = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return Check("disk", "fail", f"{place} cannot be written to", "choose another folder with --root")
    free_gb = shutil.disk_usage(place).free / 1e9
    found = f"{free_gb:.1f} GB free at {place}"
    advice = "free some, choose another --root, or lower cache.max_gb of the survey"
    if plan := _latest_plan(survey, root):
        need_gb = plan.summary.disk_gb
        found += f", {need_gb:.1f} needed by plan {plan.build_id}"
        return Check("disk", "ok", found) if free_gb >= need_gb else Check("disk", "fail", found, advice)
    if survey.cache.max_gb and free_gb < survey.cache.max_gb:
        return Check("disk", "warn", f"{found}, the cache may take {survey.cache.max_gb:g}", advice)
    return Check("disk", "ok", f"{found}; `s82 plan` says how much is needed")


def _latest_plan(survey: SurveyConfig, root: Path) -> PlanInfo | None:
    """The plan that was written last for this survey below `root`."""
    plans = sorted(plans_dir(root).glob(f"{survey.name}-*/{PLAN_FILE}"), key=lambda file: file.stat().st_mtime)
    for file in reversed(plans):
        try:
            plan = read_plan(file.parent)
        except DatasetError:  # of other software, or damaged: the one before it may do
            continue
        if plan.survey.get("name") == survey.name:
            return plan
    return None


def _gpu() -> Check:
    if (tool := shutil.which("nvidia-smi")) is None:
        return Check("gpu", "warn", "no nvidia-smi", "building needs none; training runs on the CPU, many times slower")
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Check("gpu", "warn", f"nvidia-smi fails: {error}", "see whether the driver is loaded")
    gpus = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    return Check("gpu", "ok" if gpus else "warn", "; ".join(gpus) or "none")


def _open_files() -> Check:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES:
        return Check("open files", "warn", f"{soft}", f"raise the limit before a build: ulimit -n {OPEN_FILES}")
    return Check("open files", "ok", "unlimited" if soft == resource.RLIM_INFINITY else f"{soft}")
