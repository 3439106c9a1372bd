"""What is damaged after it was written is found, refused, and made again; nothing else is."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from faults.corruption import Runs, copied, corrupt, do, findings

from wsi_pipeline import hdf5
from wsi_pipeline.atomic import write_text
from wsi_pipeline.digests import read_seal
from wsi_pipeline.errors import StoreCorruptError
from wsi_pipeline.events import SlideFailed
from wsi_pipeline.features import read_features
from wsi_pipeline.inventory import begin, read_inventory
from wsi_pipeline.repair import main as repair
from wsi_pipeline.verify import main as verify

IN_THE_SUITE = 40
TAG = "test_resnet.random-seed0"


@pytest.fixture
def runs(built: Runs, tmp_path: Path) -> Runs:
    """A run of one's own to damage."""
    return Runs(shutil.copytree(built.run, tmp_path / "run"), built.other, built.slides)


def failures(runs: Runs) -> list[str]:
    return list(findings(runs))


def test_every_corruption_is_found_and_nothing_else(built: Runs, tmp_path: Path) -> None:
    mine = copied(built, tmp_path)
    assert failures(mine) == []
    missed = [each for each in corrupt(mine, IN_THE_SUITE) if not each.found]
    assert missed == []
    assert failures(mine) == []


def flip(path: Path, place: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 0xFF
    path.write_bytes(content)


def shard_of(store: Path) -> Path:
    return next(path for path in (store / "tiles" / "c").rglob("*") if path.is_file())


def test_repair_redoes_what_is_damaged_and_that_alone(runs: Runs) -> None:
    run = runs.run
    zarrs, h5s = sorted((run / "tiles").glob("*.zarr")), sorted((run / "tiles").glob("*.h5"))
    features = sorted((run / "features" / TAG).glob("*.h5"))
    predictions = sorted((run / "predictions" / TAG).glob("*.h5"))
    shutil.rmtree(zarrs[0] / "coords" / "c")
    flip(shard_of(zarrs[1]))
    flip(h5s[0])
    flip(features[3])
    features[4].unlink()
    flip(predictions[5])
    flip(next((run / "heatmaps").rglob(f"{predictions[6].stem}.png")))
    flip(run / "thumbnails" / f"{h5s[1].stem}.jpg")
    (run / "report" / "index.html").unlink()
    touched = {zarrs[0], zarrs[1], h5s[0], h5s[1], features[3], features[4], predictions[5]}
    left = {p: p.stat().st_mtime_ns for p in (*h5s, *features) if p not in touched}
    assert len(failures(runs)) >= 9
    assert repair([str(run), "--slides", str(runs.slides), "--device", "cpu"]) == 0
    assert failures(runs) == []
    assert {path: path.stat().st_mtime_ns for path in left} == left


def test_damaged_inputs_are_never_used(runs: Runs) -> None:
    store = next((runs.run / "tiles").glob("*.zarr"))
    features = runs.run / "features" / TAG / f"{store.stem}.h5"
    features.unlink()
    flip(shard_of(store))
    told = do("extract", run=runs.run, encoder="test_resnet", weights="random", device="cpu")
    assert store.stem in [each.slide_id for each in told if isinstance(each, SlideFailed)]
    assert not features.exists()
    other = max((runs.run / "features" / TAG).glob("*.h5"))
    shutil.copy(runs.other / other.relative_to(runs.run), other)
    told = do("predict", run=runs.run, device="cpu", overwrite=True)
    lost = {each.slide_id: each.error for each in told if isinstance(each, SlideFailed)}
    assert "of another slide or run" in lost[other.stem] or "bytes where" in lost[other.stem]


def test_stores_swapped_between_slides_are_refused_when_they_are_read(runs: Runs) -> None:
    one, two = sorted((runs.run / "features" / TAG).glob("*.h5"))[:2]
    one.rename(one.with_suffix(".aside"))
    two.rename(one)
    one.with_suffix(".aside").rename(two)
    for path in (one, two):
        with pytest.raises(StoreCorruptError, match=r"another slide or run|bytes where"):
            read_features(path)


def test_an_edited_cohort_is_a_finding_that_a_person_can_accept(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    table = runs.run / "cohort.csv"
    table.write_text(table.read_text() + "\n")
    assert verify([str(runs.run)]) == 1
    assert "--accept cohort.csv" in " ".join(capsys.readouterr().out.split())
    assert repair([str(runs.run), "--accept", "cohort.csv"]) == 0
    assert verify([str(runs.run)]) == 0


def test_an_archive_that_cannot_be_written_is_verified(runs: Runs) -> None:
    for name in ("logs", ".locks"):  # nothing can be made in them, whoever one is
        shutil.rmtree(runs.run / name, ignore_errors=True)
        (runs.run / name).write_text("")
    assert verify([str(runs.run)]) == 0
    flip(min((runs.run / "features" / TAG).glob("*.h5")))
    assert verify([str(runs.run)]) == 1


def test_fast_finds_what_is_missing_cut_or_swapped(runs: Runs) -> None:
    assert list(findings(runs, fast=True)) == []
    one, two = sorted((runs.run / "tiles").glob("*.h5"))[:2]
    content = one.read_bytes()
    for damage in (content[:-100], two.read_bytes()):
        one.write_bytes(damage)
        assert any(one.name in each for each in findings(runs, fast=True))
    one.write_bytes(content)
    assert list(findings(runs, fast=True)) == []


def without_digests(path: Path) -> Path:
    """Leave a feature store as older versions wrote it."""
    with h5py.File(path, "r+") as file:
        del file.attrs["sealed"]
    seal = read_seal(path)
    assert seal is None
    return path


def test_what_has_no_digests_is_read_told_and_adopted(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs.run / "inventory.jsonl").unlink()
    shutil.rmtree(runs.run / ".locks")
    path = without_digests(min((runs.run / "features" / TAG).glob("*.h5")))
    assert len(read_features(path)) > 0
    assert verify([str(runs.run)]) == 0
    assert "have no digests" in " ".join(capsys.readouterr().out.split())
    begin(runs.run)
    assert repair([str(runs.run), "--adopt"]) == 0
    assert read_seal(path) is not None
    assert read_inventory(runs.run.absolute()).problems == []
    flip(path)
    assert verify([str(runs.run)]) == 1


def test_hdf5_without_digests_cannot_hang_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe that nobody writes to stands for metadata that libhdf5 never comes back from."""
    path = tmp_path / "old.h5"
    with h5py.File(path, "w") as file:
        file["features"] = np.ones((3, 4), np.float32)
    monkeypatch.setattr(hdf5, "PATIENCE_S", 2.0)
    assert hdf5._prober(0).ask(str(path), 30) == ""
    monkeypatch.setattr(hdf5, "CHILD", "import sys, time; sys.stdin.readline(); time.sleep(60)")
    hdf5._prober.cache_clear()
    with pytest.raises(StoreCorruptError, match="does not come back"), hdf5.open_hdf5(path):
        pass
    hdf5._prober.cache_clear()


def test_a_killed_writer_leaves_an_inventory_that_holds(runs: Runs) -> None:
    """It is cut off in the middle of a line, or between a file and its second line."""
    path = runs.run / "inventory.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    assert failures(runs) == []
    path.write_bytes(b"".join(lines) + b'{"path": "cohort.c')
    assert failures(runs) == []
    write_text(runs.run / "audit.json", "{}")  # the next writer cuts the torn line off
    assert failures(runs) == []


def test_a_repair_that_was_stopped_is_a_finding_and_is_gone_on_with(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had removed what was bad, and nothing would tell that a slide is missing."""
    store = min((runs.run / "tiles").glob("*.h5"))
    flip(store)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("wsi_pipeline.pipeline.repair._cut", stopped)
    assert repair([str(runs.run), "--slides", str(runs.slides)]) == 130
    monkeypatch.undo()
    assert not store.exists()
    assert any("did not come to its end" in each for each in failures(runs))
    assert repair([str(runs.run), "--slides", str(runs.slides)]) == 0
    assert store.exists()
    assert failures(runs) == []
