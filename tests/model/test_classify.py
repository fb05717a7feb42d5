"""Trained models in use: the same answers as the evaluation, one line for each file that cannot be read."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from model.classification import Entry, classify_entries, open_input, trained_on
from model.classify import SEQUENCES_AT_ONCE, load_classifier
from model.config import THREE_CLASSES
from model.errors import ModelError, RunError, WeightsError
from model.evaluate import evaluate
from model.evaluation.calibration import Calibration, probability_at, write_calibration
from model.rundir import PREDICTIONS_FILE, fold_dir, step_dir
from pipeline.bands import BAND_ID
from pipeline.errors import DatasetError, PipelineError, SequenceError
from pipeline.manifest import open_dataset
from pipeline.sequences import MaskBit, Sequence, write_sequence
from s82.main import main
from tests.model.untrained import CONSTANTS, TINY, write_model, write_run


@pytest.fixture(scope="module")
def evaluated(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluated run of two folds, two members each."""
    run = write_run(tmp_path_factory.mktemp("run"), tiny_dataset, TINY)
    evaluate(tiny_dataset, run)
    return run


@pytest.fixture
def folder(tiny_dataset: Path, tmp_path: Path) -> Path:
    """Three sequences and a file that is none, outside of any dataset."""
    (tmp_path / "sequences").mkdir()
    for row in open_dataset(tiny_dataset).objects[:3]:
        shutil.copy(tiny_dataset / row.file, tmp_path / "sequences")
    (tmp_path / "sequences" / "1001a.h5").write_bytes(b"no sequence")
    return tmp_path / "sequences"


def run(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `s82`."""
    try:
        main([str(argument) for argument in arguments])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_folds_models_answer_as_in_their_evaluation(tiny_dataset: Path, evaluated: Path) -> None:
    """Object by object, to what half-precision images of other batches may differ in."""
    dataset = open_dataset(tiny_dataset)
    rows = {row.object_id: row for row in dataset.objects}
    for fold in (0, 1):
        classifier = load_classifier(evaluated, fold)
        for said in pq.read_table(evaluated / PREDICTIONS_FILE).to_pylist():
            if said["fold"] == fold:
                answer = classifier.classify(dataset.sequence(rows[said["object_id"]]))
                assert answer.predicted == said["predicted"]
                assert answer.n_images == min(rows[said["object_id"]].n_images, TINY.model.images)
                for name, p in answer.probabilities.items():
                    assert p == pytest.approx(said[f"p_{name}"], abs=1e-6)


def test_folds_are_calibrated_and_then_averaged(tiny_dataset: Path, evaluated: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(evaluated, tmp_path / "run")
    for fold, temperature in ((0, 0.5), (1, 3.0)):
        write_calibration(fold_dir(run_dir, fold), Calibration(temperature=temperature))
    sequence = open_dataset(tiny_dataset).sequence(open_dataset(tiny_dataset).objects[0])
    whole = load_classifier(run_dir)
    halves = [load_classifier(run_dir, fold).classify(sequence).probabilities for fold in (0, 1)]
    for name, p in whole.classify(sequence).probabilities.items():
        assert p == pytest.approx(np.mean([half[name] for half in halves]), abs=1e-9)
    write_calibration(fold_dir(run_dir, 0), Calibration())
    raw = list(load_classifier(run_dir, 0).classify(sequence).probabilities.values())
    sharp = probability_at(0.5, np.log([raw]))[0]
    assert list(halves[0].values()) == pytest.approx(sharp, abs=1e-9)
    assert whole.calibrated


def test_one_model_of_three_classes_in_one_band_by_hand(sequence_maker, tmp_path: Path) -> None:
    """The network on images standardised by numpy; the other bands' images are not counted."""
    config = TINY.updated(model={"classes": THREE_CLASSES, "bands": ["g", "r"], "stretch": "linear"})
    network = write_model(tmp_path, config)
    sequence = sequence_maker("7", ("SNIa", "spectroscopic"), 18, np.random.default_rng(0))
    used = np.isin(sequence.band_id, (BAND_ID["g"], BAND_ID["r"]))
    band = sequence.band_id[used]
    mean, std = np.array(CONSTANTS.mean_nmgy)[band - 1], np.array(CONSTANTS.std_nmgy)[band - 1]
    image = sequence.image[used].astype(np.float16).astype(np.float32)
    pixels = np.nan_to_num((image - mean[:, None, None]) / std[:, None, None])
    day = sequence.mjd_tai[used] - sequence.mjd_tai[used][0]
    with torch.inference_mode():
        logit = network(
            torch.tensor(pixels[None, :, None], dtype=torch.float32), torch.tensor(band[None].astype(int)),
            torch.tensor(day[None], dtype=torch.float32),
        )  # fmt: skip
    answer = load_classifier(tmp_path).classify(sequence)
    assert tuple(answer.probabilities) == THREE_CLASSES
    assert answer.n_images == used.sum() < len(sequence)
    assert list(answer.probabilities.values()) == pytest.approx(logit.softmax(dim=1)[0].tolist(), abs=1e-5)


def test_many_sequences_are_read_as_they_are_needed(sequence_maker, tmp_path: Path) -> None:
    """Before the first answer no more is read than one batch holds."""
    write_model(tmp_path, TINY)
    sequence = sequence_maker("7", ("AGN", "spectroscopic"), 3, np.random.default_rng(0))
    n_read, read_at_first_answer = 0, []

    def entries() -> Iterator[Entry]:
        for number in range(2 * SEQUENCES_AT_ONCE + 1):

            def read(number: int = number) -> Sequence:
                nonlocal n_read
                n_read += 1
                return replace(sequence, object_id=str(number))

            yield Entry(f"{number}.h5", read)

    rows: list[dict[str, object]] = []

    def sink(row: dict[str, object]) -> None:
        read_at_first_answer.append(n_read)
        rows.append(row)

    summary = classify_entries(load_classifier(tmp_path), entries(), sink)
    assert read_at_first_answer[0] == SEQUENCES_AT_ONCE
    assert [row["object_id"] for row in rows] == [str(n) for n in range(2 * SEQUENCES_AT_ONCE + 1)]
    assert (summary.n_classified, sum(summary.predicted.values()), summary.broken) == (65, 65, [])


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_broken_file_is_told_and_left_out(evaluated: Path, folder: Path, tmp_path: Path, capsys, suffix: str) -> None:
    out = tmp_path / f"answers.{suffix}"
    code, text, complaint = run("classify", evaluated, folder, "--out", out, capsys=capsys)
    assert code == 1
    assert "3 objects by 4 models" in text
    assert "left out: " in complaint
    assert "1001a.h5" in complaint
    rows = pq.read_table(out).to_pylist() if suffix == "parquet" else list(csv.DictReader(out.read_text().splitlines()))
    assert [row["file"] for row in rows] == ["1000.h5", "1001.h5", "1002.h5"]
    assert all(sum(float(row[f"p_{name}"]) for name in TINY.model.classes) == pytest.approx(1) for row in rows)


def test_strict_stops_and_writes_nothing(evaluated: Path, folder: Path, tmp_path: Path, capsys) -> None:
    code, text, complaint = run("classify", evaluated, folder, "--out", tmp_path / "a.csv", "--strict", capsys=capsys)
    assert (code, text) == (1, "")
    assert "1001a.h5" in complaint
    assert [path.name for path in tmp_path.iterdir()] == ["sequences"]


def test_machines_get_json_and_exit_code_0(tiny_dataset: Path, evaluated: Path, folder: Path, capsys) -> None:
    (folder / "1001a.h5").unlink()
    code, text, complaint = run("classify", evaluated, folder, "--json", capsys=capsys)
    assert (code, complaint) == (0, "")
    assert [row["object_id"] for row in json.loads(text)["objects"]] == ["1000", "1001", "1002"]
    code, _, complaint = run("classify", evaluated, tiny_dataset, "--json", capsys=capsys)
    assert code == 0
    assert "predictions.parquet of the run has each object by models that never saw it" in complaint


def test_an_object_of_the_training_dataset_is_known_by_its_place(tiny_dataset: Path, evaluated: Path) -> None:
    classifier = load_classifier(evaluated)
    file = tiny_dataset / open_dataset(tiny_dataset).objects[0].file
    assert trained_on(classifier, open_input(file).dataset)
    assert trained_on(classifier, open_input(tiny_dataset).dataset)
    other = replace(classifier, dataset_id="another-0123456789ab")
    assert not trained_on(other, open_input(file).dataset)


def uncovered(sequence: Sequence) -> Sequence:
    nothing = np.full_like(sequence.image, np.nan)
    return replace(
        sequence, image=nothing, variance=nothing, mask=np.full_like(sequence.mask, MaskBit.UNCOVERED)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (uncovered, "object 7 has not one covered pixel"),
        (lambda s: replace(s, band_id=np.full_like(s.band_id, 9)), "band_id holds values outside 1 to 5"),
        (lambda s: replace(s, band_id=np.full_like(s.band_id, BAND_ID["z"])), "object 7 has no image in ug"),
        (
            lambda s: replace(s, image=s.image[:, :16], variance=s.variance[:, :16], mask=s.mask[:, :16]),
            r"object 7: images are 16 × 32 px, expected 32",
        ),
    ],
)
def test_what_cannot_be_classified_says_why(
    sequence_maker, tmp_path: Path, spoil: Callable[[Sequence], Sequence], complaint: str
) -> None:
    write_model(tmp_path, TINY.updated(model={"bands": ["u", "g"]}))
    sequence = spoil(sequence_maker("7", ("AGN", "spectroscopic"), 5, np.random.default_rng(0)))
    with pytest.raises((SequenceError, DatasetError), match=complaint):
        load_classifier(tmp_path).classify(sequence)


def test_a_sequence_of_one_image_is_classified(sequence_maker, tmp_path: Path) -> None:
    write_model(tmp_path / "model", TINY)
    sequence = sequence_maker("7", ("AGN", "spectroscopic"), 1, np.random.default_rng(0))
    write_sequence(tmp_path / "7.h5", sequence)
    (entry,) = open_input(tmp_path / "7.h5").entries
    assert load_classifier(tmp_path / "model").classify(entry.read()).n_images == 1


def test_models_that_do_not_belong_together_are_refused(tiny_dataset: Path, evaluated: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(evaluated, tmp_path / "run")
    write_model(step_dir(run_dir, 1, 1, "fine-tune"), TINY.updated(model={"heads": 2}))
    with pytest.raises(WeightsError, match=r"another network than config\.json says \(heads\)"):
        load_classifier(run_dir)
    model = step_dir(run_dir, 0, 0, "fine-tune") / "model.json"
    model.write_text(model.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(WeightsError, match="format_version"):
        load_classifier(model.parent)


def test_what_is_no_model_is_named(tiny_dataset: Path, evaluated: Path, tmp_path: Path) -> None:
    expected: list[tuple[Callable[[], object], type[ModelError], str]] = [
        (lambda: load_classifier(tmp_path / "nowhere"), RunError, "there is no such folder"),
        (lambda: load_classifier(tiny_dataset), RunError, r"neither model\.json nor config\.json"),
        (lambda: load_classifier(evaluated, 4), RunError, "fold 4 has no fine-tuned models"),
        (lambda: load_classifier(step_dir(evaluated, 0, 0, "fine-tune"), 0), RunError, "is one model, not a run"),
        (lambda: load_classifier(write_run(tmp_path / "r", tiny_dataset, TINY, ())), RunError, "fine-tune the run"),
    ]
    for load, error, complaint in expected:
        with pytest.raises(error, match=complaint):
            load()
    for path, complaint in ((tmp_path / "nowhere", "there is nothing at"), (evaluated, "holds no sequence")):
        with pytest.raises(PipelineError, match=complaint):
            open_input(path)
