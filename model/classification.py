"""Classify a sequence file, a folder of them, or a dataset, into one table that is written whole or not at all."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from model.classify import Classification, Classifier
from model.errors import ModelConfigError
from pipeline.atomic import replacing
from pipeline.errors import DatasetError, PipelineError, SequenceError
from pipeline.manifest import Dataset, open_dataset
from pipeline.outputs import check_output
from pipeline.sequences import Sequence, open_sequence

ROWS_AT_ONCE: Final = 10_000
"""In one row group of a Parquet file."""
_DATASET_FILES: Final = ("dataset.json", "latest")
Row = dict[str, Any]
Sink = Callable[[Row], None]


@dataclass(frozen=True, slots=True)
class Entry:
    """One sequence that shall be classified; it is read when its turn comes."""

    file: str
    """As it is named below the input."""
    read: Callable[[], Sequence]


@dataclass(frozen=True, slots=True)
class Input:
    """All of them, and the dataset that they are of, if it is known."""

    entries: Iterable[Entry]
    dataset: Dataset | None


def open_input(path: Path) -> Input:
    """What there is to classify.

    Raises
    ------
    SequenceError
        There is nothing at `path`, or no sequence in the folder.
    DatasetError
        It is a dataset, but a damaged one.
    """
    if any((path / name).is_file() for name in _DATASET_FILES) or path.name == "latest":
        dataset = open_dataset(path)
        return Input([Entry(row.file, lambda row=row: dataset.sequence(row)) for row in dataset.objects], dataset)  # type: ignore[misc]
    if path.is_dir():
        files = sorted(path.rglob("*.h5"))
        if not files:
            raise SequenceError(f"{path} holds no sequence (*.h5), and it is no dataset")
        entries = [Entry(str(file.relative_to(path)), lambda file=file: open_sequence(file)) for file in files]  # type: ignore[misc]
        return Input(entries, _dataset_around(path))
    if not path.exists():
        raise SequenceError(f"there is nothing at {path}")
    return Input([Entry(path.name, lambda: open_sequence(path))], _dataset_around(path))


def trained_on(classifier: Classifier, dataset: Dataset | None) -> bool:
    """Whether the models were trained on this dataset or another version of it: on objects that it holds."""
    return dataset is not None and _survey(dataset.info.dataset_id) == _survey(classifier.dataset_id)


@dataclass(slots=True)
class Summary:
    """What became of the sequences."""

    n_classified: int
    predicted: dict[str, int]
    broken: list[str]
    """One line for each that could not be classified."""


def classify_entries(
    classifier: Classifier,
    entries: Iterable[Entry],
    sink: Sink,
    *,
    strict: bool = False,
    complain: Callable[[str], None] | None = None,
) -> Summary:
    """Classify each entry and hand the row to `sink`; memory holds one batch, however many there are.

    Parameters
    ----------
    strict
        Raise the error of the first sequence that cannot be classified; else it is left out and told.

    Raises
    ------
    SequenceError
        Not one could be classified.
    """
    summary = Summary(0, dict.fromkeys(classifier.model.classes, 0), [])
    files: list[str] = []

    def good() -> Iterator[Sequence]:
        for entry in entries:
            try:
                sequence = entry.read()
                classifier.check(sequence)
            except PipelineError as error:
                if strict:
                    raise
                line = _naming(entry.file, str(error))
                summary.broken.append(line)
                if complain is not None:
                    complain(line)
                continue
            files.append(entry.file)
            yield sequence

    for answer in classifier.classify_all(good()):
        sink(_row(answer, files[summary.n_classified]))
        summary.n_classified += 1
        summary.predicted[answer.predicted] += 1
    if summary.broken and not summary.n_classified:
        raise SequenceError(f"not one of {len(summary.broken)} sequences could be classified: {summary.broken[0]}")
    return summary


@contextmanager
def table_file(path: Path, classes: tuple[str, ...]) -> Iterator[Sink]:
    """Rows to a .parquet or .csv file, which is there at the end, whole, or not at all.

    Raises
    ------
    ModelConfigError
        The file name ends with neither.
    ConfigError
        The file would be inside a dataset.
    """
    check_output(path)
    if path.suffix not in (".parquet", ".csv"):
        raise ModelConfigError(f"{path}: a table can be written as .parquet or .csv")
    with replacing(path) as temporary:
        if path.suffix == ".csv":
            with temporary.open("w", newline="", encoding="utf-8") as handle:
                writer = csv.DictWriter(handle, columns(classes))
                writer.writeheader()
                yield writer.writerow
        else:
            with _parquet(temporary, classes) as sink:
                yield sink


def columns(classes: tuple[str, ...]) -> list[str]:
    """Names of the columns."""
    return ["object_id", "predicted", *(f"p_{name}" for name in classes), "n_images", "file"]


@contextmanager
def _parquet(path: Path, classes: tuple[str, ...]) -> Iterator[Sink]:
    types = {"n_images": pa.int32(), **{f"p_{name}": pa.float64() for name in classes}}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in columns(classes)])
    waiting: list[Row] = []
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:

        def sink(row: Row) -> None:
            waiting.append(row)
            if len(waiting) == ROWS_AT_ONCE:
                flush()

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(waiting, schema=schema))
            waiting.clear()

        yield sink
        flush()


def _row(answer: Classification, file: str) -> Row:
    probabilities = {f"p_{name}": p for name, p in answer.probabilities.items()}
    return {
        "object_id": answer.object_id,
        "predicted": answer.predicted,
        **probabilities,
        "n_images": answer.n_images,
        "file": file,
    }


def _survey(dataset_id: str) -> str:
    """A dataset's id is its survey and a hash of what is in it."""
    return dataset_id.rpartition("-")[0]


def _naming(file: str, message: str) -> str:
    """An error that surely names its file."""
    return message if Path(file).name in message else f"{file}: {message}"


def _dataset_around(path: Path) -> Dataset | None:
    """The dataset whose objects folder the path is in, or None."""
    for folder in path.resolve().parents:
        if (folder / _DATASET_FILES[0]).is_file():
            try:
                return open_dataset(folder)
            except DatasetError:
                return None  # it is asked for a warning alone
    return None
