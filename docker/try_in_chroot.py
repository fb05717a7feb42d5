"""Try the Dockerfile where no container engine is: its steps, as written, in chroots stacked with overlayfs.

    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm BASE
    python docker/try_in_chroot.py --base BASE --target cpu --run 's82 --version'

As root, on Linux. BASE stands in for the base image; it is not changed. What is run in the end is run as a container
of docker/compose.yaml is: as the image's user, on a root that cannot be written, with /tmp in memory and a volume at
/data. Not tried so: the engine itself, its cache and isolation, the base image, limits, health checks.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Final

import pathspec
from dockerfile_parse import DockerfileParser

PROJECT: Final = Path(__file__).resolve().parents[1]
SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEVICES: Final = ("null", "zero", "full", "random", "urandom")
FLAG: Final = re.compile(r"--(\S+?)=(\S+)\s+")
SECRET: Final = re.compile(r"type=secret,id=(\w+),target=(\S+)")


@dataclass
class Stage:
    """One FROM with its steps, and what they leave."""

    name: str
    parent: str
    steps: list[tuple[str, str]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    layers: list[Path] = field(default_factory=list)
    """Its own first, then its parents'."""
    root: Path = Path()

    def filled(self, text: str) -> str:
        """A text with the stage's variables in it."""
        return Template(text).safe_substitute(self.arguments | self.environment)


class Builder:
    """Executes a Dockerfile's stages below a scratch folder."""

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        self.options = options
        self.scratch = scratch
        self.build_arguments = dict(argument.split("=", 1) for argument in options.build_arg)
        self.stages = read_stages(PROJECT / "docker/Dockerfile", self.build_arguments)
        self.built: dict[str, Stage] = {}

    def build(self, name: str) -> Stage:
        """Execute a stage, and before it those that it needs."""
        if name in self.built:
            return self.built[name]
        stage = self.stages[name]
        parent = self.build(stage.parent) if stage.parent in self.stages else None
        needed = [
            match[1] for kind, text in stage.steps if kind == "COPY" and (match := re.search(r"--from=(\S+)", text))
        ]
        for other in needed:
            self.build(other)
        self._mount(stage, parent)
        for kind, text in stage.steps:
            started = time.monotonic()
            self._step(stage, kind, text)
            if kind in ("RUN", "COPY"):
                say(f"{name:<10} {time.monotonic() - started:6.1f} s  {kind} {' '.join(text.split())[:80]}")
        self.built[name] = stage
        say(f"{name:<10} adds {megabytes(stage.layers[0])} MB")
        return stage

    def _mount(self, stage: Stage, parent: Stage | None) -> None:
        place = self.scratch / stage.name
        upper, work, stage.root = place / "layer", place / "work", place / "root"
        for folder in (upper, work, stage.root):
            folder.mkdir(parents=True)
        stage.layers = [upper, *(parent.layers if parent else [self.options.base])]
        lower = ":".join(str(layer) for layer in stage.layers[1:])
        call("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", stage.root)
        if parent:
            stage.environment = dict(parent.environment)
            stage.folder, stage.user, stage.entrypoint = parent.folder, parent.user, list(parent.entrypoint)
            inherited = parent.arguments
            stage.arguments = inherited | stage.arguments

    def _step(self, stage: Stage, kind: str, text: str) -> None:
        if kind == "ENV":
            for pair in shlex.split(text):
                name, _, value = pair.partition("=")
                stage.environment[name] = stage.filled(value)
        elif kind == "ARG":
            name, _, default = text.partition("=")
            stage.arguments[name] = self.build_arguments.get(name, default)
        elif kind == "WORKDIR":
            stage.folder = text
            (stage.root / text.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif kind == "USER":
            stage.user = text
        elif kind == "ENTRYPOINT":
            stage.entrypoint = json.loads(text)
        elif kind == "RUN":
            self._run(stage, text)
        elif kind == "COPY":
            self._copy(stage, text)
        elif kind not in ("CMD", "HEALTHCHECK", "VOLUME"):
            raise SystemExit(f"{kind} {text}: no instruction that this script knows")

    def _run(self, stage: Stage, text: str) -> None:
        secret = SECRET.search(text)
        with Machine(stage.root, self.options.mount):
            target = stage.root / secret[2].lstrip("/") if secret else None
            if target and self.options.pip_conf:
                shutil.copy(self.options.pip_conf, target)
            in_chroot(stage, ["sh", "-c", FLAG.sub("", text)], stage.arguments | stage.environment)
            if target:
                target.unlink(missing_ok=True)

    def _copy(self, stage: Stage, text: str) -> None:
        flags = dict(FLAG.findall(text))
        *sources, target = shlex.split(FLAG.sub("", text))
        place = stage.root / (target if target.startswith("/") else f"{stage.folder}/{target}").lstrip("/")
        if "from" in flags:
            call("cp", "-a", f"{self.built[flags['from']].root}/{sources[0].lstrip('/')}", place)
            return
        for source in sources:
            for file in context_files(source):
                # A folder's content is copied, not the folder; a file goes into a folder, or becomes the target.
                inside = file.relative_to(source) if (PROJECT / source).is_dir() else Path(file.name)
                single = len(sources) == 1 and not (PROJECT / source).is_dir() and not target.endswith("/")
                here = place if single else place / inside
                here.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(PROJECT / file, here)
                if "chmod" in flags:
                    here.chmod(int(flags["chmod"], 8))


class Machine:
    """What an engine gives a container besides its files."""

    def __init__(self, root: Path, mounts: list[Path], *, read_only: bool = False, volume: Path | None = None) -> None:
        self.root, self.mounts, self.read_only, self.volume = root, mounts, read_only, volume
        self._mounted: list[Path] = []

    def __enter__(self) -> None:
        for path in (Path("/etc/resolv.conf"), Path("/etc/hosts"), *self.mounts):
            self._bind(path, path)
        if self.volume:
            self._bind(self.volume, Path("/data"))
        self._mount("/proc", "-t", "proc", "proc")
        self._mount("/tmp", "-t", "tmpfs", "tmpfs")  # noqa: S108
        self._mount("/dev", "-t", "tmpfs", "tmpfs")
        for name in DEVICES:
            self._bind(Path("/dev") / name, Path("/dev") / name)
        (self.root / "dev/shm").mkdir()
        self._mount("/dev/shm", "-t", "tmpfs", "tmpfs")  # noqa: S108
        if self.read_only:
            call("mount", "-o", "remount,ro", self.root)

    def _bind(self, outside: Path, inside: Path) -> None:
        place = self.root / inside.relative_to("/")
        if outside.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        call("mount", "--bind", outside, place)
        self._mounted.append(place)

    def _mount(self, inside: str, *words: str) -> None:
        place = self.root / inside.lstrip("/")
        call("mount", *words, place)
        self._mounted.append(place)

    def __exit__(self, *_: object) -> None:
        for place in reversed(self._mounted):
            call("umount", "--lazy", place)


def read_stages(file: Path, build_arguments: dict[str, str]) -> dict[str, Stage]:
    """The stages of a Dockerfile by name."""
    parser = DockerfileParser(fileobj=io.BytesIO(file.read_bytes()))
    stages: dict[str, Stage] = {}
    before: dict[str, str] = {}
    stage: Stage | None = None
    for line in parser.structure:
        kind, text = line["instruction"], line["value"]
        if kind == "FROM":
            image, _, name = text.partition(" AS ")
            stage = stages[name] = Stage(name, Template(image).safe_substitute(before))
        elif kind == "ARG" and stage is None:
            name, _, default = text.partition("=")
            before[name] = build_arguments.get(name, default)
        elif kind != "COMMENT" and stage is not None:
            stage.steps.append((kind, text))
    return stages


def context_files(source: str) -> list[Path]:
    """Files of the project below `source` that .dockerignore lets through."""
    ignored = pathspec.PathSpec.from_lines("gitignore", (PROJECT / ".dockerignore").read_text().splitlines())
    start = PROJECT / source
    files = (
        [start] if start.is_file() else [Path(folder) / name for folder, _, names in os.walk(start) for name in names]
    )
    found = [file.relative_to(PROJECT) for file in files if ".git" not in file.relative_to(PROJECT).parts]
    found = [file for file in found if not ignored.match_file(str(file))]
    if not found:
        raise SystemExit(f"COPY {source}: there is no such file, or .dockerignore keeps it out")
    return found


def in_chroot(stage: Stage, words: list[str], environment: dict[str, str], user: str = "0:0") -> None:
    """Run a command in a stage's tree; end with its exit code if it fails."""
    start = [
        "chroot",
        f"--userspec={user}",
        "--groups=",
        str(stage.root),
        "sh",
        "-c",
        'cd "$0" && exec "$@"',
        stage.folder,
    ]
    path = environment.get("PATH", SYSTEM_PATH).replace("$PATH", SYSTEM_PATH)
    done = subprocess.run([*start, *words], env={**environment, "PATH": path}, check=False)
    if done.returncode:
        raise SystemExit(f"{words}: ended with {done.returncode}")


def call(*words: object) -> None:
    """Run a command of this machine."""
    subprocess.run([str(word) for word in words], check=True)


def megabytes(folder: Path) -> int:
    """Size of a tree on the disk."""
    return int(subprocess.run(["du", "-sxm", folder], capture_output=True, text=True, check=False).stdout.split()[0])


def say(text: str) -> None:
    """One line, at once."""
    print(text, flush=True)


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="tree that stands for the base image")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--pip-conf", type=Path, help="what `--secret id=pip,src=FILE` would give")
    parser.add_argument(
        "--mount", type=Path, action="append", default=[], help="folder of this machine that steps may read"
    )
    parser.add_argument("--scratch", type=Path, help="where to work; removed in the end")
    parser.add_argument(
        "--run", action="append", default=[], metavar="COMMAND", help="to run in the end, in this order"
    )
    return parser.parse_args()


def main() -> None:
    """Build, and run what was asked."""
    if "S82_IN_NAMESPACE" not in os.environ:  # mounts of our own, which end with this process
        os.environ["S82_IN_NAMESPACE"] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])  # noqa: S606
    options = parse_options()
    scratch = Path(tempfile.mkdtemp(prefix="s82-image-", dir=options.scratch))
    started = time.monotonic()
    try:
        builder = Builder(options, scratch)
        stage = builder.build(options.target)
        own = sum(megabytes(layer) for layer in stage.layers[:-1])
        base = megabytes(options.base)
        say(f"built {options.target} in {time.monotonic() - started:.0f} s: {own} MB on a base of {base} MB")
        volume = scratch / "volume"
        call("cp", "-a", stage.root / "data", volume)
        for command in options.run:
            say(f"$ {command}")
            started = time.monotonic()
            with Machine(stage.root, options.mount, read_only=True, volume=volume):
                in_chroot(stage, [*stage.entrypoint, "sh", "-c", command], stage.environment, stage.user)
            call("mount", "-o", "remount,rw", stage.root)
            say(f"  ({time.monotonic() - started:.1f} s)")
    finally:
        subprocess.run(["umount", "--lazy", *(str(folder) for folder in scratch.glob("*/root"))], check=False)
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
