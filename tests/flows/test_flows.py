"""The flows as users run them: build over HTTP, train, fine-tune, evaluate, report, on the tiny archive."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pipeline.manifest import open_dataset
from pipeline.simulate.server import ArchiveServer, Fault
from pipeline.verify import verify_dataset

SHORT = {
    "model": {"images": 9},
    "train": {"epochs": 1, "batch": 4},
    "fine_tune": {"epochs": 1, "batch": 4},
    "protocol": {"validation_fraction": 0},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flows")


@pytest.fixture(scope="module")
def published(prefect_server: None, tiny_archive: Path, root: Path):  # type: ignore[no-untyped-def]
    from flows.build import build_dataset

    with ArchiveServer(tiny_archive) as server:
        return build_dataset(survey="tiny", root=root, archive_root=server.url, workers=2)


def test_the_build_publishes_a_dataset_that_verifies(published, root: Path) -> None:  # type: ignore[no-untyped-def]
    """Every catalogued object is there or counted, and `latest` names the version."""
    assert published.built_now
    assert verify_dataset(published.path) == []
    assert published.counts["objects"] == 14
    assert published.skips["set-aside"] == 1
    assert (root / "datasets/tiny/latest").read_text().strip() == published.path.name
    assert "nothing here was seen in the sky" in (published.path / "README.md").read_text()
    assert set(open_dataset(published.path).info.software) >= {"python", "numpy", "astropy", "sep"}


def test_frames_say_what_their_pixels_are_like_and_whom_they_show(published) -> None:  # type: ignore[no-untyped-def]
    """A simulated frame has the noise that its variance says; one that was cut from it is named."""
    dataset = open_dataset(published.path)
    ids = {row.object_id for row in dataset.objects}
    frames = [row for row in dataset.table("frames.parquet").to_pylist() if row["n_thumbnails"]]
    assert len(frames) == 12
    assert all(row["first_object"] in ids for row in frames)
    assert all(0.8 < row["noise_ratio"] < 1.25 and abs(row["sky_offset"]) < 0.5 for row in frames)


def test_building_the_same_again_changes_nothing(published, tiny_archive: Path, root: Path) -> None:  # type: ignore[no-untyped-def]
    """The second run finds the first one's dataset and fetches no frame."""
    from flows.build import build_dataset

    with ArchiveServer(tiny_archive) as server:
        again = build_dataset(survey="tiny", root=root, archive_root=server.url, workers=2)
        fetched = [request.path for request in server.requests if "frame-" in request.path or "fpC-" in request.path]
    assert not again.built_now
    assert again.path == published.path
    assert fetched == []


def test_a_nightly_refresh_that_meets_another_build_is_left_out(
    published, tiny_archive: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    """Nobody needs to be told; whoever types it is told."""
    from filelock import FileLock
    from prefect.runtime import deployment

    from flows.refresh import refresh_dataset
    from pipeline.errors import BeingBuilt
    from pipeline.versions import BUILD_LOCK_FILE

    with ArchiveServer(tiny_archive) as server, FileLock(published.path.parent / BUILD_LOCK_FILE):
        site = {"survey": "tiny", "root": root, "archive_root": server.url, "workers": 2}
        with pytest.raises(BeingBuilt):
            refresh_dataset(**site)
        monkeypatch.setattr(deployment, "id", "nightly", raising=False)
        state = refresh_dataset(**site, return_state=True)
    assert state.is_cancelled()
    assert state.message.startswith("left out: a dataset of survey tiny is being built")


@pytest.mark.slow
def test_a_large_transfer_is_refused_unless_announced_and_a_refresh_brings_what_was_missing(
    prefect_server: None, tiny_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a frame is fetched, the error says whom to write to; with the flag the build goes on.

    A file that the archive lacked then makes the next version; after that there is nothing new, and no version.
    """
    from flows.build import build_dataset
    from flows.refresh import refresh_dataset
    from pipeline.errors import LargeTransfer

    lost = "/das/imaging/5582/40/corr/4/fpC-005582-r4-0153.fit.gz"
    with ArchiveServer(tiny_archive, faults=[Fault(lost, "not_found")]) as server:
        site = {"survey": "tiny", "root": tmp_path, "archive_root": server.url, "workers": 2}
        with monkeypatch.context() as patch:
            patch.setattr("pipeline.costs.LARGE_TRANSFER_GB", 0.001)
            with pytest.raises(LargeTransfer, match=r"helpdesk@sdss\.org.*--large-transfer"):
                build_dataset(**site)
            asked = [one.path for one in server.requests if "frame-" in one.path or "fpC-" in one.path]
            assert asked == []
            first = build_dataset(**site, large_transfer=True)
        assert (first.skips["not-in-archive"], first.parent, first.changes["added"]) == (1, None, 14)
        assert not build_dataset(**site).built_now
        second = refresh_dataset(**site)
        assert [one.status for one in server.requests if one.path == lost][:2] == [404, 200]
        third = refresh_dataset(**site, recheck_files=True)
    assert (second.built_now, second.parent, second.changes["changed"]) == (True, first.dataset_id, 14)
    assert "not-in-archive" not in second.skips
    assert second.counts["images"] > first.counts["images"]
    assert (third.built_now, third.path, third.changes) == (False, second.path, {})
    assert verify_dataset(first.path) == verify_dataset(second.path) == []


def test_the_reading_shown_in_the_guide_runs(published, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    guide = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "open_dataset(" in block)
    exec(compile(code.replace("work/demo/datasets/demo", str(root / "datasets/tiny")), "format.md", "exec"), {})  # noqa: S102


def test_a_failed_build_says_which_cell_and_what_to_do(
    prefect_server: None, tiny_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive that goes down fails the flow, publishes nothing, and the message names the cell."""
    import flows.build as build
    import flows.crews.cells as cells
    from pipeline.archive import Archive, Patience
    from pipeline.errors import DatasetError
    from pipeline.naming import cache_dir

    def impatient(survey, root, **_):  # type: ignore[no-untyped-def]
        archives = [archive.model_copy(update={"attempts": 1}) for archive in survey.archives]
        return Archive(archives, cache_dir(root), Patience(attempts=1, wait_initial_s=0.01, wait_max_s=0.01))

    monkeypatch.setattr(build, "open_archive", impatient)
    monkeypatch.setattr(cells, "build_cells", cells.build_cells.with_options(retries=0))
    down = [Fault("/das/*/fpC-*", "reset", times=10_000)]
    with (
        ArchiveServer(tiny_archive, faults=down) as server,
        pytest.raises(DatasetError, match=r"cells failed, nothing was published; run again.*all-c4-ra347"),
    ):
        build.build_dataset(survey="tiny", root=tmp_path, archive_root=server.url, workers=1)
    assert not (tmp_path / "datasets/tiny/latest").exists()


def test_train_fine_tune_evaluate_and_report(published, tiny_archive: Path, root: Path) -> None:  # type: ignore[no-untyped-def]
    """The two steps leave weights and metrics; evaluation predicts each test object once; the page shows it all."""
    from flows.train import evaluate_model, fine_tune_model, headline, train_model
    from pipeline.report import write_report

    run = root / "runs" / "short"
    trained = train_model(published.path, run, model="small", changes=SHORT)
    assert {model.fold for model in trained.models} == {0, 1}
    assert {model.step for model in fine_tune_model(published.path, run).models} == {"fine-tune"}
    evaluation = evaluate_model(published.path, run, report=True)
    assert evaluation.n_objects == 12  # AGN, Variable and spectroscopic supernovae
    assert {row["score"] for row in headline(evaluation)} == {"balanced accuracy", "macro f1", "accuracy"}
    assert json.loads((run / "config.json").read_text())["dataset_id"] == published.dataset_id
    page = write_report(root / "report.html", published.path, run=run, truth=tiny_archive / "truth")
    text = page.read_text()
    assert published.dataset_id in text
    assert "<script" not in text
    index = root / "reports" / "short" / "index.html"
    linked = set(re.findall(r'href="(objects/[^"]+)"', index.read_text()))
    assert len(linked) == 14
    assert all((index.parent / link).is_file() for link in linked)
