"""Making a pack: read every object file once, check it, and put its images at their place in preallocated files.

The work goes block by block, a run of whole objects in one thread: reading, hashing and numpy leave the interpreter
to the other threads. A journal beside the growing pack lists the finished blocks with their sha256, so that a killed
run continues behind them; what it finds must still have that sha256. One rename publishes the pack.

Shapes: M images of one object, H × W pixels.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

import numpy as np
from filelock import FileLock, Timeout
from h5py import h5d, h5t
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline.atomic import storing, sync_dir, write_text
from pipeline.errors import DatasetError, PackError, PackOfAnother
from pipeline.hdf5memory import open_bytes
from pipeline.manifest import Dataset, ObjectRow, open_dataset, write_table
from pipeline.naming import MANIFEST_FILE, PACK_FILE, PACK_OBJECTS_FILE, SUMS_FILE, pack_dir
from pipeline.outputs import check_output
from pipeline.pack import (
    OBJECTS_SCHEMA,
    Block,
    Pack,
    PackInfo,
    PackRecipe,
    PixelType,
    Plane,
    band_moments,
    block_sha256,
    files_of_packs,
    open_pack,
    stored,
    sums,
    verify_pack,
)
from pipeline.sequences import COLUMNS

LOG: Final = logging.getLogger(__name__)
BLOCK_BYTES: Final = 64 * 2**20
"""Of images in one block, about."""
PART: Final = ".*.part"
"""What `atomic` leaves of a file at which the process was killed."""
MAX_WORKERS: Final = 8
"""More threads than that wait for each other; each holds a block in memory."""

BlockCallback = Callable[[int, int], None]
"""Given the number of finished blocks and of all, after each."""


def pack_dataset(
    dataset_path: str | Path,
    out: str | Path | None = None,
    *,
    dtype: PixelType = "float16",
    planes: Sequence[Plane] = (),
    workers: int | None = None,
    progress: BlockCallback | None = None,
) -> Pack:
    """Pack a dataset, or continue where a killed run stopped; a whole pack of the same is left as it is.

    Parameters
    ----------
    dataset_path
        As for `open_dataset`.
    out
        Directory of the pack; its place beside the dataset by default, where training looks for it.
    dtype
        Of images and variances.
    planes
        What is packed besides images.
    workers
        Threads; one per core by default, up to `MAX_WORKERS`.

    Raises
    ------
    ConfigError
        `out` is inside a dataset or another pack.
    PackError
        `out` holds something else, or another process is packing into it.
    DatasetError, SequenceError
        The dataset, or a file of it, is not as it was published.
    StorageError
        The disk is full or not writable. What was at `out` is untouched.
    """
    dataset = open_dataset(dataset_path)
    out = Path(out) if out else pack_dir(dataset.path, dtype)
    check_output(out)
    recipe = PackRecipe(
        dataset_id=dataset.info.dataset_id,
        content_hash=dataset.info.content_hash,
        dtype=dtype,
        planes=tuple(sorted(set(planes), reverse=True)),
        size=dataset.info.size,
        n_objects=len(dataset.objects),
        n_images=sum(row.n_images for row in dataset.objects),
    )
    site = _Site(out, recipe)
    with storing(site.out), site.exclusive():
        if (pack := site.published()) is None:
            site.prepare()
            blocks = _fill(dataset, site, workers or min(MAX_WORKERS, os.cpu_count() or 1), progress)
            pack = _publish(dataset, site, blocks)
        site.journal.unlink(missing_ok=True)
    return pack


@dataclass(frozen=True, slots=True)
class _Site:
    """Where a pack grows."""

    out: Path
    recipe: PackRecipe

    @property
    def folder(self) -> Path:
        """What becomes `out`."""
        return self.out.with_name(f".{self.out.name}.packing")

    @property
    def journal(self) -> Path:
        """One line of JSON for what is packed, and one for each finished block."""
        return self.out.with_name(f".{self.out.name}.journal")

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Be the only process that packs into `out` (raises PackError where another does)."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        file = self.out.with_name(f".{self.out.name}.lock")
        file.touch()  # or a folder that cannot be written would be taken for one that is locked
        lock = FileLock(file)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise PackError(f"{self.out} is being packed by another process; wait for it or stop it") from error
        try:
            yield
        finally:
            lock.release()

    def published(self) -> Pack | None:
        """The same pack, whole, if an earlier run has finished it (raises PackError where `out` is anything else)."""
        if not self.out.exists():
            return None
        try:
            pack = open_pack(self.out)
            if PackRecipe(**pack.info.model_dump(exclude={"blocks"})) != self.recipe:
                raise PackOfAnother(
                    f"{self.out} holds a pack of {_what(pack.info)}, not of {_what(self.recipe)}: "
                    "choose another folder, or remove that one"
                )
            damage = next(iter(verify_pack(self.out)), None)
        except PackOfAnother:
            raise
        except PackError as error:
            damage = str(error)
        if damage is None:
            return pack
        self._check_is_ours()
        LOG.warning("%s is damaged and made anew: %s", self.out, damage)
        self._hide()
        return None

    def _check_is_ours(self) -> None:
        """Be sure that `out`, which is no whole pack, is what is left of the one that is wanted, and nothing else."""
        is_folder = self.out.is_dir() and not self.out.is_symlink()
        names = {path.name for path in self.out.iterdir()} if is_folder else {""}
        if strange := {name for name in names - files_of_packs() if not fnmatch(name, PART)}:
            raise PackError(
                f"{self.out} is there, and {min(strange) or 'it'} is no file of a pack: choose another folder, or move "
                "that away"
            )
        arrays = ((self.out / name, file.header) for name, file in self.recipe.files.items())
        if names and not self._is_described() and not any(_begins(path, header) for path, header in arrays):
            raise PackError(
                f"{self.out} is there, and nothing in it is surely of a pack of {_what(self.recipe)}: choose another "
                "folder, or remove that one"
            )

    def _is_described(self) -> bool:
        """Whether pack.json is whole enough to say that it is the pack."""
        try:
            info = PackInfo.model_validate_json((self.out / PACK_FILE).read_bytes())
        except (OSError, ValidationError):
            return False
        return PackRecipe(**info.model_dump(exclude={"blocks"})) == self.recipe

    def _hide(self) -> None:
        """Take a damaged pack away by one rename: killed later, the next run clears away what is left of it."""
        self.journal.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.out.rename(self.folder)
        sync_dir(self.out.parent)

    def prepare(self) -> None:
        """Make room for all arrays, unless an earlier run of the same has."""
        if self._is_prepared():
            for leftover in self.folder.glob(PART):
                leftover.unlink()
            return
        self.journal.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        try:
            for name, file in self.recipe.files.items():
                _allocate(self.folder / name, file.header, file.file_bytes)
        except OSError:
            shutil.rmtree(self.folder, ignore_errors=True)  # or the disk stays full
            raise
        write_text(self.journal, self.recipe.model_dump_json() + "\n")

    def _is_prepared(self) -> bool:
        lines = self._journal_lines()
        if not lines or lines[0] != self.recipe.model_dump_json():
            return False
        return all(_size(self.folder / name) == file.file_bytes for name, file in self.recipe.files.items())

    def finished(self) -> dict[int, Block]:
        """Blocks that are in the journal and still have the sha256 it says, by their first object."""
        blocks = (_block(line) for line in self._journal_lines()[1:])
        return {block.first_object: block for block in blocks if block and self._is_whole(block)}

    def _is_whole(self, block: Block) -> bool:
        files = self.recipe.files.items()
        return all(block_sha256(self.folder, name, file, block) == block.sha256.get(name) for name, file in files)

    def _journal_lines(self) -> list[str]:
        """All that were written to their end."""
        if not self.journal.is_file():
            return []
        *lines, _torn = self.journal.read_text(encoding="utf-8", errors="replace").split("\n")
        return lines


def _what(recipe: PackRecipe) -> str:
    planes = "".join(f" and {plane}" for plane in recipe.planes)
    return f"{recipe.dataset_id} (content {recipe.content_hash[:12]}) as {recipe.dtype}{planes}"


def _block(line: str) -> Block | None:
    try:
        return Block.model_validate_json(line)
    except ValidationError:
        return None


def _begins(path: Path, header: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(header)) == header
    except OSError:
        return False


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _allocate(path: Path, header: bytes, n_bytes: int) -> None:
    """Write the header and reserve the rest, so that a full disk is met here and not half-way."""
    with path.open("wb") as file:
        file.write(header)
        file.flush()
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        else:
            file.truncate(n_bytes)


def _plan(rows: Sequence[ObjectRow], image_bytes: int) -> list[Block]:
    """Runs of whole objects with `BLOCK_BYTES` of images or a little more."""
    blocks, first_object, first_image, end_image = [], 0, 0, 0
    for end_object, row in enumerate(rows, start=1):
        end_image += row.n_images
        if (end_image - first_image) * image_bytes >= BLOCK_BYTES or end_object == len(rows):
            blocks.append(
                Block(
                    first_object=first_object,
                    n_objects=end_object - first_object,
                    first_image=first_image,
                    n_images=end_image - first_image,
                )
            )
            first_object, first_image = end_object, end_image
    return blocks


def _fill(dataset: Dataset, site: _Site, workers: int, progress: BlockCallback | None) -> list[Block]:
    """Pack all blocks that are not finished, each entered into the journal when it is."""
    planned = _plan(dataset.objects, site.recipe.files["image.npy"].row_bytes)
    done = site.finished()
    missing = [block for block in planned if block.first_object not in done]
    with ExitStack() as stack:
        journal = stack.enter_context(site.journal.open("a", encoding="utf-8"))
        files = {name: stack.enter_context((site.folder / name).open("rb+")) for name in site.recipe.files}
        pool = stack.enter_context(ThreadPoolExecutor(workers, thread_name_prefix="pack"))
        stack.callback(pool.shutdown, cancel_futures=True)
        descriptors = {name: file.fileno() for name, file in files.items()}
        for future in as_completed(
            [pool.submit(_pack_block, dataset, site.recipe, block, descriptors) for block in missing]
        ):
            block = future.result()
            done[block.first_object] = block
            journal.write(block.model_dump_json() + "\n")
            journal.flush()
            if progress:
                progress(len(done), len(planned))
        for descriptor in descriptors.values():
            os.fsync(descriptor)
    return [done[block.first_object] for block in planned]


def _pack_block(dataset: Dataset, recipe: PackRecipe, block: Block, descriptors: dict[str, int]) -> Block:
    """Read the block's objects, write their rows; the block with its sha256."""
    arrays = {name: np.empty((block.rows(file)[1], *file.shape[1:]), file.dtype) for name, file in recipe.files.items()}
    end = 0
    rows = dataset.objects[block.first_object : block.first_object + block.n_objects]
    for number, row in enumerate(rows):
        start, end = end, end + row.n_images
        columns = _read_columns(dataset, row, recipe)
        arrays["moments.npy"][number] = band_moments(columns["image"], columns["band_id"])
        for name, values in columns.items():
            arrays[f"{name}.npy"][start:end] = stored(values, recipe.dtype) if name in _REAL else values
    digests = {}
    for name, file in recipe.files.items():
        content = arrays[name].reshape(-1).view(np.uint8).data
        _write_at(descriptors[name], content, file.offset(block.rows(file)[0]))
        digests[name] = hashlib.sha256(content).hexdigest()
    return block.model_copy(update={"sha256": digests})


_REAL: Final = ("image", "variance")
_STORED_TYPES: Final = {name: h5t.py_create(np.dtype(column.dtype)) for name, column in COLUMNS.items()}


def _write_at(descriptor: int, content: memoryview, offset: int) -> None:
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written


def _read_columns(dataset: Dataset, row: ObjectRow, recipe: PackRecipe) -> dict[str, NDArray[Any]]:
    """Those that are packed, out of a file that has the sha256 of the manifest."""
    path = dataset.path / row.file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}; fetch or build the dataset again") from error
    if hashlib.sha256(content).hexdigest() != row.sha256:
        raise DatasetError(f"{path} does not have the sha256 of {MANIFEST_FILE}: fetch or build the dataset again")
    columns = _contiguous(content, ["image", *recipe.planes, "band_id", "mjd_tai"])
    if columns is None:
        sequence = dataset.sequence(row)
        columns = {name: getattr(sequence, name) for name in ("image", *recipe.planes, "band_id", "mjd_tai")}
    for name, values in columns.items():
        expected = (row.n_images, recipe.size, recipe.size)[: COLUMNS[name].ndim]
        if values.shape != expected:
            raise DatasetError(f"{path}: {name} has shape {values.shape}, {MANIFEST_FILE} says {expected}")
    return columns


def _contiguous(content: bytes, names: Sequence[str]) -> dict[str, NDArray[Any]] | None:
    """Columns of an HDF5 file in memory, not copied; None where one is compressed or of an earlier type.

    Two thirds of what h5py takes to read them is spent on objects that nobody looks at.
    """
    columns = {}
    with open_bytes(content) as file:
        for name in names:
            dataset = h5d.open(file.id, name.encode())
            offset, shape = dataset.get_offset(), dataset.shape
            if offset is None or dataset.get_type() != _STORED_TYPES[name]:  # without a place: compressed, or empty
                return None
            flat = np.frombuffer(content, COLUMNS[name].dtype, count=math.prod(shape), offset=offset)
            columns[name] = flat.reshape(shape)
    return columns


def _publish(dataset: Dataset, site: _Site, blocks: Sequence[Block]) -> Pack:
    """Write the index and the description, then make the pack visible by one rename."""
    _write_objects(dataset, site.folder / PACK_OBJECTS_FILE)
    info = PackInfo(**site.recipe.model_dump(), blocks=tuple(blocks))
    write_text(site.folder / PACK_FILE, info.model_dump_json(indent=1) + "\n")
    write_text(site.folder / SUMS_FILE, sums(site.folder))
    site.folder.rename(site.out)
    sync_dir(site.out.parent)
    return open_pack(site.out)


def _write_objects(dataset: Dataset, path: Path) -> None:
    first, rows = 0, []
    for row in dataset.objects:
        own = {name: getattr(row, name) for name in OBJECTS_SCHEMA.names if name not in ("first", "length")}
        rows.append(own | {"first": first, "length": row.n_images})
        first += row.n_images
    write_table(path, rows, OBJECTS_SCHEMA)
