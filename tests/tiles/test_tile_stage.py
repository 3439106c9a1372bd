"""The tile stage: what a user sees of a cohort, of reruns, of failures and of a microarray."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from wsi_pipeline.cli import main
from wsi_pipeline.cohort import read_cohort
from wsi_pipeline.cores import main as cores
from wsi_pipeline.errors import CohortError
from wsi_pipeline.events import (
    Event,
    Note,
    SlideDone,
    SlideFailed,
    SlideSkipped,
    StageStarted,
)
from wsi_pipeline.pipeline.tile import run
from wsi_pipeline.tiles import open_tiles, verify_tiles
from wsi_pipeline.verbs.tiles import TileConfig

TILES = 12


@pytest.fixture(scope="module")
def liver(data_dir: Path) -> np.ndarray:
    """Real liver, 4 × 3 tiles of 256 px."""
    files = sorted((data_dir / "liver_tiles").rglob("*.jpg"))[:TILES]
    tiles = [cv2.imread(str(file)) for file in files]
    return np.concatenate([np.concatenate(tiles[i : i + 4], axis=1) for i in range(0, TILES, 4)])


@pytest.fixture(scope="module")
def slides(liver: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides, an empty one and a broken one."""
    folder = tmp_path_factory.mktemp("slides")
    frame = (256, 256, 256, 256, cv2.BORDER_CONSTANT)
    for name, image in (("a", liver), ("b", liver[::-1])):
        whole = cv2.copyMakeBorder(image, *frame, value=(244, 243, 245))
        cv2.imwrite(str(folder / f"{name}.png"), whole)
    cv2.imwrite(str(folder / "empty.png"), np.full((1200, 1200, 3), 244, np.uint8))
    (folder / "broken.svs").write_bytes(b"II*\0 no slide")
    return folder


def config(cohort: Path, folder: Path, **settings: Any) -> TileConfig:
    return TileConfig(cohort=cohort, run=folder, **{"mpp_override": 0.5, **settings})


def of(kind: type[Event], events: Iterable[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def test_each_slide_meets_its_own_fate(slides: Path, tmp_path: Path) -> None:
    events = list(run(config(slides, tmp_path)))
    assert of(StageStarted, events)[0].total == 4
    assert [event.slide_id for event in of(SlideDone, events)] == ["a", "b"]
    assert [(e.slide_id, e.reason) for e in of(SlideSkipped, events)] == [("empty", "no tissue")]
    (failed,) = of(SlideFailed, events)
    assert failed.slide_id == "broken"
    assert "broken.svs" in failed.error
    assert not failed.traceback, "a broken slide is foreseen"
    assert sorted(path.name for path in (tmp_path / "tiles").iterdir()) == ["a.zarr", "b.zarr"]
    thumbnails = sorted(path.name for path in (tmp_path / "thumbnails").iterdir())
    assert thumbnails == ["a.jpg", "b.jpg", "empty.jpg"]
    done = of(SlideDone, events)[0]
    store = open_tiles(tmp_path / "tiles" / "a.zarr")
    assert done.counts["tiles kept"] == len(store)
    assert store.attributes["config"] == config(slides, tmp_path).identity()
    assert len(store.attributes["slide_digest"]) == 32
    assert store.attributes["versions"]["wsi_pipeline"]
    assert [row.slide_id for row in read_cohort(tmp_path / "cohort.csv")] == [
        "a", "b", "broken", "empty"
    ]  # fmt: skip


def test_a_rerun_redoes_nothing_and_another_setting_is_refused(
    slides: Path, tmp_path: Path
) -> None:
    list(run(config(slides, tmp_path)))
    store = tmp_path / "tiles" / "a.zarr"
    written = (store / "zarr.json").stat().st_mtime_ns
    again = list(run(config(slides, tmp_path, workers=0)))
    assert {e.slide_id: e.reason for e in of(SlideSkipped, again)} == {
        "a": "done earlier", "b": "done earlier", "empty": "no tissue"
    }  # fmt: skip
    assert (store / "zarr.json").stat().st_mtime_ns == written
    other = of(SlideFailed, run(config(slides, tmp_path, min_tissue_fraction=0.9)))
    assert "config.min_tissue_fraction: 0.5, asked 0.9" in other[0].error
    assert "--overwrite" in other[0].error
    replaced = list(run(config(slides, tmp_path, store="hdf5", overwrite=True)))
    assert len(of(SlideDone, replaced)) == 2
    assert sorted(path.name for path in (tmp_path / "tiles").iterdir()) == ["a.h5", "b.h5"]


def test_a_slide_that_changed_on_disk_is_noticed(slides: Path, tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    shutil.copy(slides / "a.png", copies / "a.png")
    list(run(config(copies, tmp_path / "run")))
    shutil.copy(slides / "b.png", copies / "a.png")
    (failed,) = of(SlideFailed, run(config(copies, tmp_path / "run")))
    assert "slide_digest" in failed.error


@pytest.mark.parametrize("lost", ["zarr.json", "tiles/c/0/0/0/0", "coords/c/0/0", "focus/c/0"])
def test_a_damaged_store_is_named_and_overwrite_mends_it(
    slides: Path, tmp_path: Path, lost: str
) -> None:
    only = table(tmp_path, slides, [("a", "a.png", "")])
    settings = config(only, tmp_path / "run", slides=slides)
    list(run(settings))
    store = tmp_path / "run" / "tiles" / "a.zarr"
    (store / lost).unlink()
    (failed,) = of(SlideFailed, run(settings))
    assert "a.zarr: damaged: " in failed.error
    assert "--overwrite" in failed.error
    mended = run(config(only, tmp_path / "run", slides=slides, overwrite=True))
    assert len(of(SlideDone, mended)) == 1
    assert verify_tiles(store) == []


def table(folder: Path, slides: Path, rows: list[tuple[str, str, str]]) -> Path:
    path = folder / "cohort.csv"
    lines = [f"{slide_id},{name},P-{slide_id},normal,x,{mpp}" for slide_id, name, mpp in rows]
    path.write_text("slide_id,path,patient_id,label,cohort,mpp\n" + "\n".join(lines) + "\n")
    return path


def test_the_tables_mpp_goes_before_the_flags(slides: Path, tmp_path: Path) -> None:
    cohort = table(tmp_path, slides, [("fine", "a.png", "0.25"), ("plain", "a.png", "")])
    list(run(config(cohort, tmp_path / "run", slides=slides)))
    fine, plain = (open_tiles(tmp_path / "run/tiles" / f"{n}.zarr") for n in ("fine", "plain"))
    assert (fine.attributes["mpp_native"], fine.attributes["tile_px_level"]) == (0.25, 512)
    assert (plain.attributes["mpp_native"], plain.attributes["tile_px_level"]) == (0.5, 256)


def test_a_folder_without_any_of_the_files_stops_the_run(slides: Path, tmp_path: Path) -> None:
    cohort = table(tmp_path, slides, [("c", "c.png", ""), ("d", "d.png", "")])
    with pytest.raises(CohortError, match=r"(?s)c: no file.*c\.png.*d: no file.*--slides"):
        list(run(config(cohort, tmp_path / "run", slides=slides)))
    assert not (tmp_path / "run").exists()


def test_a_slide_in_the_place_of_the_table_is_a_cohort_of_one(slides: Path, tmp_path: Path) -> None:
    """It joins what the run folder has, under the name that it has in a folder of slides."""
    list(run(config(slides / "a.png", tmp_path)))
    list(run(config(slides / "b.png", tmp_path)))
    assert [row.slide_id for row in read_cohort(tmp_path / "cohort.csv")] == ["a", "b"]
    again = of(SlideSkipped, run(config(slides, tmp_path)))
    assert {event.slide_id for event in again} == {"a", "b", "empty"}
    with pytest.raises(CohortError, match=r"no file .*c\.png"):
        list(run(config(slides / "c.png", tmp_path)))


def test_killed_and_run_again_equals_a_run_in_peace(slides: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "wsi_pipeline.tile", str(slides), "--mpp-override", "0.5"]
    killed, peaceful = tmp_path / "killed", tmp_path / "peaceful"
    with subprocess.Popen(
        [*command, "--run", str(killed)], stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("b: started"):
                process.kill()
    finished = (killed / "tiles" / "a.zarr" / "zarr.json").stat().st_mtime_ns
    assert not (killed / "tiles" / "b.zarr").exists()
    for folder in (killed, peaceful):
        subprocess.run([*command, "--run", str(folder)], capture_output=True, check=False)
    assert (killed / "tiles" / "a.zarr" / "zarr.json").stat().st_mtime_ns == finished
    files = sorted(p.relative_to(peaceful) for p in (peaceful / "tiles").rglob("*") if p.is_file())
    assert files == sorted(
        p.relative_to(killed) for p in (killed / "tiles").rglob("*") if p.is_file()
    )
    assert len(files) > 10
    for file in files:
        assert (killed / file).read_bytes() == (peaceful / file).read_bytes(), file


@pytest.fixture(scope="module")
def microarray(liver: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 × 4 cores of real liver, 300 px at 2 µm/px, A4 lost; a map with all twelve."""
    folder = tmp_path_factory.mktemp("tma")
    canvas = np.full((1400, 1800, 3), 244, np.uint8)
    disc = np.hypot(*np.mgrid[-150:150, -150:150]) < 150
    lines = ["row,column,core_id,patient_id,label"]
    for row in range(3):
        for column in range(4):
            name = f"{'ABC'[row]}{column + 1:02d}"
            lines.append(f"{'ABC'[row]},{column + 1},TMA9-{name},P{row}{column},hcc")
            if name == "A04":
                continue
            x, y = 130 + column * 410 + 7 * row, 120 + row * 410
            core = liver[30 * row : 30 * row + 300, 100 * column : 100 * column + 300]
            canvas[y : y + 300, x : x + 300][disc] = core[disc]
    cv2.imwrite(str(folder / "tma.png"), canvas)
    (folder / "map.csv").write_text("\n".join(lines) + "\n")
    (folder / "cohort.csv").write_text(
        "slide_id,path,patient_id,label,cohort,mpp,tma_map\nTMA9,tma.png,,,held-out,2.0,map.csv\n"
    )
    return folder


def accept_cores(microarray: Path, run_folder: Path) -> None:
    preview = run_folder / "cores" / "TMA9.jpg"
    said = ["--map", str(microarray / "map.csv"), "--preview", str(preview), "--accept"]
    assert cores([str(microarray / "tma.png"), *said]) == 0


def test_the_cores_of_a_microarray_become_slides(microarray: Path, tmp_path: Path) -> None:
    settings = {"mpp": 2.0, "tile_px": 64, "mpp_override": None}
    asked = config(microarray / "cohort.csv", tmp_path, **settings)
    (unsure,) = of(SlideFailed, list(run(asked)))
    assert "--accept" in unsure.error, "a full map fits a full array in four ways"
    accept_cores(microarray, tmp_path)
    events = list(run(asked))
    done = [event.slide_id for event in of(SlideDone, events)]
    names = [f"TMA9-{row}{column:02d}" for row in "ABC" for column in range(1, 5)]
    assert done == [name for name in names if name != "TMA9-A04"]
    assert any("TMA9-A04" in event.text for event in of(Note, events))
    rows = {row.slide_id: row for row in read_cohort(tmp_path / "cohort.csv")}
    assert list(rows) == done
    core = rows["TMA9-B02"]
    assert (core.patient_id, core.label, core.cohort) == ("P11", "hcc", "held-out")
    assert core.region is not None
    assert core.region.x + core.region.width / 2 == pytest.approx(130 + 410 + 7 + 150, abs=12)
    assert core.region.y + core.region.height / 2 == pytest.approx(120 + 410 + 150, abs=12)
    store = open_tiles(tmp_path / "tiles" / "TMA9-B02.zarr")
    assert (store.coords >= [core.region.x, core.region.y]).all()
    far = store.coords + 64 <= [
        core.region.x + core.region.width, core.region.y + core.region.height
    ]  # fmt: skip
    assert far.all()
    assert cv2.imread(str(tmp_path / "cores" / "TMA9.jpg")) is not None
    # a person moves a core: the next run takes the table as it stands
    places = tmp_path / "cores" / "TMA9.csv"
    lines = list(csv.reader(places.open()))
    lines[1][5] = str(int(lines[1][5]) + 20)
    places.write_text("\n".join(",".join(line) for line in lines) + "\n")
    again = list(run(asked))
    (failed,) = of(SlideFailed, again)
    assert failed.slide_id == "TMA9-A01"
    assert "region_level0.x" in failed.error
    assert len(of(SlideSkipped, again)) == 10


def test_a_microarray_without_cores_costs_itself_alone(
    microarray: Path, slides: Path, tmp_path: Path
) -> None:
    shutil.copy(slides / "empty.png", tmp_path / "empty.png")
    shutil.copy(slides / "a.png", tmp_path / "a.png")
    shutil.copy(microarray / "map.csv", tmp_path / "map.csv")
    (tmp_path / "cohort.csv").write_text(
        "slide_id,path,patient_id,label,cohort,mpp,tma_map\n"
        "TMA8,empty.png,,,x,0.5,map.csv\na,a.png,P1,hcc,y,0.5,\n"
    )
    events = list(run(config(tmp_path / "cohort.csv", tmp_path / "run")))
    (failed,) = of(SlideFailed, events)
    assert failed.slide_id == "TMA8"
    assert "empty.png" in failed.error
    assert [event.slide_id for event in of(SlideDone, events)] == ["a"]


@pytest.mark.parametrize("place", ["12,x,5,5", "1,2,0,5", "1,2,,"])
def test_a_core_table_that_cannot_be_read_is_refused(
    microarray: Path, tmp_path: Path, place: str
) -> None:
    (tmp_path / "cores").mkdir()
    (tmp_path / "cores" / "TMA9.csv").write_text(
        f"row,column,core_id,patient_id,label,x,y,width,height\nA,1,TMA9-A01,P,hcc,{place}\n"
    )
    with pytest.raises(CohortError, match=r"TMA9\.csv: line 2.*whole numbers"):
        list(run(config(microarray / "cohort.csv", tmp_path)))


def test_a_study_runs_any_verb(
    slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``[qc]`` and ``[verify]`` are stages as ``[tile]`` is, in the order in which verbs stand."""
    cohort, study = table(tmp_path, slides, [("a", "a.png", "")]), tmp_path / "study.toml"
    study.write_text(
        f"[study]\nrun = '{tmp_path / 'run'}'\nslides = '{slides}'\n[verify]\n[qc]\ndrop = []\n"
        f"[tile]\ncohort = '{cohort}'\nmpp_override = 0.5\n"
    )
    assert main(["run", str(study)]) == 0
    titles = [
        line.split(":")[0] for line in capsys.readouterr().out.splitlines() if " s   " in line
    ]
    assert titles == ["tile", "qc", "verify"]
    assert (tmp_path / "run" / "qc" / "decisions.csv").exists()


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("--stain mazenko", "no stain method 'mazenko'; did you mean 'macenko'?"),
        ("--stain nowhere:method", "cannot import it: No module named 'nowhere'"),
        ("--tissue-method otsi", "no tissue method 'otsi'; did you mean 'otsu'?"),
        ("--reader openslid", "'openslid'; did you mean 'openslide'?"),
        ("--drop-flagged pen,blured", "no tile flag 'blured'; did you mean 'blurred'?"),
        ("--edge pat", "no choice 'pat'; did you mean 'pad'?"),
        ("--denoise medium", "did you mean 'median'?"),
        ("--store hdf", "did you mean 'hdf5'?"),
        ("--codec zstd --store hdf5", "codec zstd: .h5 stores know auto, none, jpeg"),
        ("--mpp-override -3", "'mpp_override': Input should be greater than or equal to 0.05"),
        ("--mpp 0", "'mpp': Input should be greater than 0"),
        ("--overlap-px 300", "overlap_px 300 leaves tiles of 256 px no step to take"),
        ("--min-tissue-fraction 50", "less than or equal to 1"),
        ("--tile-px large", "'tile_px': Input should be a valid integer"),
    ],
)
def test_a_wrong_word_stops_before_any_slide_is_opened(
    words: str,
    answer: str,
    slides: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a slide was opened")

    monkeypatch.setattr("wsi_pipeline.slides.open.open_slide", opened)
    monkeypatch.setattr("wsi_pipeline.slides.files.slide_digest", opened)
    assert main(["tile", str(slides), "--run", str(tmp_path / "run"), *words.split()]) == 2
    out, err = capsys.readouterr()
    assert answer in err
    assert (out, (tmp_path / "run").exists()) == ("", False)


def test_a_store_older_than_a_knob_resumes_by_the_rule_it_was_made_with(
    slides: Path, tmp_path: Path
) -> None:
    cohort = table(tmp_path, slides, [("a", "a.png", "")])
    folder = tmp_path / "run"
    old = config(cohort, folder, slides=slides, background_rule="normalised")
    list(run(old))
    store = next((folder / "tiles").glob("*.zarr"))
    record = store / "zarr.json"
    text = json.loads(record.read_text())
    del text["attributes"]["config"]["background_rule"]
    del text["attributes"]["seal"]
    (folder / "inventory.jsonl").unlink()  # neither was there then
    record.write_text(json.dumps(text))
    assert [event.reason for event in of(SlideSkipped, run(old))] == ["done earlier"]
    now = config(cohort, folder, slides=slides)
    (failed,) = of(SlideFailed, run(now))
    assert "background_rule: 'normalised', asked 'scanned'" in failed.error
