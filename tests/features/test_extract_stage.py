"""The extract stage: resumable, one slide's failure its own, the same however it is run."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from wsi_pipeline.errors import ConfigError, EncoderError
from wsi_pipeline.events import (
    Event,
    Note,
    Planned,
    SlideDone,
    SlideFailed,
    SlideSkipped,
    SlideStarted,
    StageStarted,
    Unmatched,
)
from wsi_pipeline.features import (
    describe_features,
    read_features,
    verify_features,
    write_features,
)
from wsi_pipeline.features.devices import claim, own_gpu
from wsi_pipeline.journal import Journal
from wsi_pipeline.pipeline.extract import run, worker_device
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.tiles import TileStore, create_tiles, open_tiles
from wsi_pipeline.verbs.tiles import ExtractConfig

TAG = "test_resnet.random-seed0"
SIDE = 64
TILES = {"tile_px": SIDE, "tile_px_level0": SIDE, "level0_width": SIDE * 14, "level0_height": SIDE}
COUNTS = {"A": 9, "B": 1, "C": 14, "D": 5}


def make_tiles(
    folder: Path, slide_id: str, count: int, side: int = SIDE, suffix: str = ".h5"
) -> Path:
    rng = np.random.default_rng(sum(slide_id.encode()))
    path = folder / "tiles" / f"{slide_id}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with create_tiles(path, tile_px=side, capacity=count) as writer:
        coords = np.stack([np.arange(count) * side, np.zeros(count)], axis=1).astype(np.int64)
        tiles = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        writer.append(tiles, coords, {"focus": np.ones(count, np.float32)})
        writer.commit(
            {
                "tile_px_level0": float(side),
                "mpp_effective": 0.5,
                "mpp_native": 0.5,
                "level0_width": side * count,
                "level0_height": side,
                "overlap_px": 0,
                "stain": {"method": "macenko"},
                "slide_digest": slide_id,
            }
        )
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for slide_id, count in COUNTS.items():
        make_tiles(tmp_path, slide_id, count)
    return tmp_path


def config(folder: Path, **changes: object) -> ExtractConfig:
    values = {"encoder": "test_resnet", "weights": "random", "device": "cpu", "batch": 4}
    return ExtractConfig.from_mapping({"run": folder, **values, **changes}, "test")


def fates(events: list[Event]) -> dict[str, Event]:
    kinds = (SlideDone, SlideSkipped, SlideFailed)
    return {event.slide_id: event for event in events if isinstance(event, kinds)}


def arrays(folder: Path) -> dict[str, tuple[bytes, bytes]]:
    found = {}
    for path in sorted((folder / "features" / TAG).glob("*.h5")):
        with h5py.File(path) as file:
            found[path.stem] = (file["features"][:].tobytes(), file["coords"][:].tobytes())
    return found


def test_every_slide_gets_its_store(folder: Path) -> None:
    events = list(run(config(folder)))
    assert events[0] == StageStarted(stage="extract", total=4)
    assert all(isinstance(fate, SlideDone) for fate in fates(events).values())
    assert any("tiles in" in event.text for event in events if isinstance(event, Note))
    for slide_id, count in COUNTS.items():
        path = folder / "features" / TAG / f"{slide_id}.h5"
        bag = read_features(path)
        assert bag.features.shape == (count, 96)
        assert bag.attributes["encoder"] == TAG
        assert bag.attributes["stain"] == {"method": "macenko"}
        assert "random" in bag.attributes["encoder_provenance"]["weights"]
        assert bag.attributes["encoder_provenance"]["preprocess"]["resize_px"] == 168
        assert (
            bag.attributes["made_from"]["recipe"] == bag.attributes["encoder_provenance"]["recipe"]
        )
        assert verify_features(path) == []
        assert str(folder).encode() not in path.read_bytes()


def test_stores_are_opened_once_and_not_before_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"S{number:02d}" for number in range(60)]
    for name in names:
        make_tiles(tmp_path, name, 2)
    opened: list[str] = []

    def open_counted(path: Path) -> TileStore:
        opened.append(path.stem)
        return open_tiles(path)

    monkeypatch.setattr("wsi_pipeline.pipeline.extract_jobs.open_tiles", open_counted)
    events = run(config(tmp_path, batch=1))
    next(event for event in events if isinstance(event, SlideStarted))
    assert len(opened) < len(names) / 2
    assert all(isinstance(fate, SlideDone) for fate in fates(list(events)).values())
    assert sorted(opened) == ["S00", *names], "the first once more, for the side of its tiles"
    opened.clear()
    monkeypatch.setattr("wsi_pipeline.pipeline.extract.load_encoder", None)
    again = fates(list(run(config(tmp_path, batch=1))))
    assert [fate.reason for fate in again.values()] == ["extracted earlier"] * len(names)
    assert sorted(opened) == names


def test_a_second_run_finds_everything_done_and_touches_nothing(folder: Path) -> None:
    list(run(config(folder)))
    stores = sorted((folder / "features" / TAG).glob("*.h5"))
    before = [(path.stat().st_mtime_ns, path.stat().st_ino) for path in stores]
    again = fates(list(run(config(folder, batch=7))))
    assert [fate.reason for fate in again.values() if isinstance(fate, SlideSkipped)] == [
        "extracted earlier"
    ] * 4
    assert before == [(path.stat().st_mtime_ns, path.stat().st_ino) for path in stores]


def test_features_of_two_recipes_never_mix(folder: Path) -> None:
    """Not even where an older store does not name its recipe: what was done to tiles tells it."""
    older = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "input_px": None,
             "interpolation": "bicubic"}  # fmt: skip
    for encoder, resumes in (("resnet50", True), ("test_resnet", False)):
        how = {"encoder": encoder, "batch": 1, "overwrite": False}
        list(run(config(folder, **how)))
        folders = folder / "features" / f"{encoder}.random-seed0"
        for path in folders.glob("*.h5"):
            bag = read_features(path)
            attributes = dict(bag.attributes)
            attributes["made_from"].pop("recipe")
            attributes["encoder_provenance"]["preprocess"] = older
            meta = describe_features(path.stem, folders.name, TILES, attributes)
            write_features(path, bag.features, bag.coords, meta)
        told = fates(list(run(config(folder, **how))))
        if resumes:
            assert all(isinstance(fate, SlideSkipped) for fate in told.values())
        else:
            assert all(isinstance(fate, SlideFailed) for fate in told.values())
            assert all("recipe: " in fate.error for fate in told.values())


def test_other_settings_are_refused_unless_overwriting_is_asked_for(folder: Path) -> None:
    list(run(config(folder)))
    refused = fates(list(run(config(folder, dtype="float16"))))
    for fate in refused.values():
        assert isinstance(fate, SlideFailed)
        assert "dtype: 'float32', asked 'float16'" in fate.error
        assert "--overwrite" in fate.error
    list(run(config(folder, dtype="float16", overwrite=True)))
    with h5py.File(folder / "features" / TAG / "A.h5") as file:
        assert file["features"].dtype == np.float16


def test_tiles_that_were_cut_anew_are_noticed(folder: Path) -> None:
    list(run(config(folder)))
    make_tiles(folder, "C", 13)
    found = fates(list(run(config(folder))))
    assert isinstance(found["C"], SlideFailed)
    assert isinstance(found["A"], SlideSkipped)
    assert isinstance(fates(list(run(config(folder, overwrite=True))))["C"], SlideDone)
    assert len(read_features(folder / "features" / TAG / "C.h5")) == 13


def test_a_damaged_tile_store_costs_its_slide_only(folder: Path) -> None:
    path = folder / "tiles" / "B.h5"
    os.truncate(path, path.stat().st_size // 2)
    make_tiles(folder, "E", 3, side=32)
    lost = make_tiles(folder, "F", 3, suffix=".zarr") / "tiles/c/0/0/0/0"
    lost.unlink()
    found = fates(list(run(config(folder))))
    failed = {
        slide_id: fate.error for slide_id, fate in found.items() if isinstance(fate, SlideFailed)
    }
    assert failed.keys() == {"B", "E", "F"}
    assert "tiles/c/0/0/0/0 is missing" in failed["F"], "no features of black tiles"
    assert set(arrays(folder)) == {"A", "C", "D"}


def test_a_damaged_feature_store_is_named_and_made_anew_on_request(folder: Path) -> None:
    list(run(config(folder)))
    whole = arrays(folder)
    path = folder / "features" / TAG / "D.h5"
    os.truncate(path, path.stat().st_size // 2)
    found = fates(list(run(config(folder))))["D"]
    assert isinstance(found, SlideFailed)
    assert "D.h5" in found.error
    list(run(config(folder, overwrite=True)))
    assert arrays(folder) == whole


def test_the_cohort_table_gives_order_and_slides_without_tiles_are_skipped(folder: Path) -> None:
    rows = [f"{slide_id},{slide_id}.svs,P,x,k" for slide_id in ("D", "Z", "A")]
    (folder / "cohort.csv").write_text(
        "\n".join(["slide_id,path,patient_id,label,cohort", *rows]) + "\n"
    )
    found = fates(list(run(config(folder))))
    assert found["Z"] == SlideSkipped(slide_id="Z", reason="no tiles")
    assert set(arrays(folder)) == {"A", "D"}


def test_a_row_without_tiles_is_lost_unless_the_tile_stage_found_no_tissue(folder: Path) -> None:
    rows = [f"{slide_id},{slide_id}.svs,P,x,k" for slide_id in ("A", "empty", "broken", "uncut")]
    (folder / "cohort.csv").write_text(
        "\n".join(["slide_id,path,patient_id,label,cohort", *rows]) + "\n"
    )
    with Journal(RunFolder(folder).journal, "tile") as journal:
        journal.take(SlideSkipped(slide_id="empty", reason="no tissue", detail="white"))
        journal.take(SlideFailed(slide_id="broken", error="ends in the middle"))
    events = list(run(config(folder)))
    found = fates(events)
    assert found["empty"] == SlideSkipped(slide_id="empty", reason="no tissue")
    assert "cut last: failed, ends in the middle" in found["broken"].error
    assert "never cut" in found["uncut"].error
    assert set(arrays(folder)) == {"A"}
    (told,) = [event for event in events if isinstance(event, Unmatched)]
    assert told.without_store == ("empty", "broken", "uncut")
    assert told.without_row == ("B", "C", "D")


def test_a_dry_run_plans_and_writes_nothing(folder: Path) -> None:
    events = list(run(config(folder, dry_run=True)))
    planned = {event.row["slide"]: event.row["tiles"] for event in events if type(event) is Planned}
    assert planned == COUNTS
    assert not (folder / "features").exists()


def test_nothing_is_started_without_tiles_or_weights(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"wsi_pipeline\.tile"):
        list(run(config(tmp_path / "elsewhere")))
    with pytest.raises(EncoderError, match="no such file"):
        list(run(config(folder, weights="absent.pth")))
    assert not (folder / "features").exists()


def test_slides_in_a_worker_process_give_the_same_bytes(folder: Path) -> None:
    list(run(config(folder)))
    here = arrays(folder)
    shutil.rmtree(folder / "features")
    found = fates(list(run(config(folder, workers=1))))
    assert all(isinstance(fate, SlideDone) for fate in found.values())
    assert arrays(folder) == here


def test_another_processs_slide_is_waited_for_and_not_done_twice(folder: Path) -> None:
    lock = RunFolder(folder).lock(f"extract-{TAG}", "A")
    lock.parent.mkdir(parents=True)
    code = (
        "import sys, time, filelock\n"
        "with filelock.FileLock(sys.argv[1]):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(1.5)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    found = fates(list(run(config(folder))))
    assert holder.wait(timeout=10) == 0
    assert list(found)[-1] == "A"
    assert isinstance(found["A"], SlideDone)
    assert set(arrays(folder)) == set(COUNTS)


def test_a_worker_has_a_gpu_whatever_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker_device("auto") == "auto"  # not on a worker
    own = [SimpleNamespace(uuid=f"of-test-{os.getpid()}-{number}") for number in range(2)]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_properties", own.__getitem__)
    monkeypatch.setattr("wsi_pipeline.pipeline.extract.get_worker", lambda: SimpleNamespace(name=3))
    own_gpu.cache_clear()
    try:
        assert worker_device("auto") == worker_device("cuda") == "cuda:0"  # and it stays its own
        assert claim([str(each.uuid) for each in own]) == 1, "the first is taken"
        assert worker_device("cpu") == "cpu"
        assert worker_device("cuda:1") == "cuda:1"
    finally:
        own_gpu.cache_clear()


def test_killed_and_run_again_equals_never_killed(folder: Path, tmp_path: Path) -> None:
    for number in range(6):  # enough work to be killed in the middle of it
        make_tiles(folder, f"M{number}", 120)
    whole = tmp_path / "whole"
    shutil.copytree(folder / "tiles", whole / "tiles")
    list(run(config(whole)))
    flags = ["--encoder", "test_resnet", "--weights", "random", "--device", "cpu", "--batch", "4"]
    command = [sys.executable, "-m", "wsi_pipeline.extract", str(folder), *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stores = folder / "features" / TAG
    deadline = time.monotonic() + 60
    while len(list(stores.glob("[!.]*.h5"))) < 5 and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)
    finished = {path.stem: path.stat().st_mtime_ns for path in stores.glob("[!.]*.h5")}
    assert 5 <= len(finished) < 10
    events = list(run(config(folder)))
    skipped = {key for key, fate in fates(events).items() if isinstance(fate, SlideSkipped)}
    assert skipped == set(finished)
    assert all((stores / f"{key}.h5").stat().st_mtime_ns == at for key, at in finished.items())
    assert arrays(folder) == arrays(whole)
    assert not list(stores.glob(".*partial*"))


def test_slides_without_a_tile_store_give_the_same_features(tmp_path: Path, data_dir: Path) -> None:
    from wsi_pipeline.pipeline.tile import run as cut
    from wsi_pipeline.verbs.tiles import TileConfig

    table = tmp_path / "cohort.csv"
    table.write_text(
        "slide_id,path,patient_id,label,cohort\n"
        "CMU,CMU-1-Small-Region.svs,P1,x,k\n"
        "broken,broken/broken.svs,P2,x,k\n"
    )
    where = {"cohort": table, "slides": data_dir / "slides"}
    cut_config = TileConfig.from_mapping({**where, "run": tmp_path / "cut"}, "test")
    list(cut(cut_config))
    list(run(config(tmp_path / "cut")))
    found = fates(list(run(config(tmp_path / "direct", source="slide", **where))))
    assert isinstance(found["CMU"], SlideDone)
    assert isinstance(found["broken"], SlideFailed)
    assert not (tmp_path / "direct" / "tiles").exists()
    assert arrays(tmp_path / "direct") == arrays(tmp_path / "cut")
    direct, stored = (
        read_features(tmp_path / name / "features" / TAG / "CMU.h5").attributes
        for name in ("direct", "cut")
    )
    differing = {key for key in stored if stored[key] != direct.get(key)}
    assert differing == {"input_digest", "made_from"}
    again = fates(list(run(config(tmp_path / "direct", source="slide", **where))))
    assert isinstance(again["CMU"], SlideSkipped)
