"""One command from the query to features: stages that overlap, slides that go once they are cut."""

import csv
import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile

from wsi_pipeline import verify
from wsi_pipeline.cli import main
from wsi_pipeline.features import read_features
from wsi_pipeline.journal import read_journal, read_outcomes
from wsi_pipeline.pipeline.overlap import _Flow
from wsi_pipeline.run_folder import RunFolder, stores_in
from wsi_pipeline.tiles import open_tiles, stores_of

STUDY = """
[study]
run = "{folder}/run"
cohort = "{folder}/cohort.csv"
slides = "{folder}/slides"

[download]
server = "{server}"
query = "{folder}/query.toml"
out = "{folder}/slides"
cohort_out = "{folder}/cohort.csv"
segment_mib = 0.0625
files_at_once = 2
attempts = 2
first_wait_s = 0.05

[tile]
mpp_override = 0.5
max_background_fraction = 0.9

[extract]
encoder = "own_encoder:mean_colour"
device = "cpu"
"""
QUERY = 'projects = ["TCGA-LIHC"]\n[[labels.classes]]\nlabel = "hcc"\nproject = "TCGA-LIHC"\n'
OWN_ENCODER = """
from torch import nn
from wsi_pipeline.features import EncoderModel, Preprocess

def mean_colour(weights):
    return EncoderModel(
        model=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(), tag="mean-colour",
        preprocess=Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    )
"""
SIDE = 700  # of a slide, px
PLACES = [(x, y) for y in (600, 1300, 2100) for x in (600, 1100)]  # of tissue on the real slide
GB = 1e9
ROOT = Path(__file__).parents[2]


@dataclass
class Cohort:
    """Regions of a real slide, held by the stand-in."""

    stand_in: Any
    folder: Path
    sizes: list[int] = field(default_factory=list)

    def add(self, pixels: Any, name: str | None = None) -> str:
        name = name or f"TCGA-XX-{len(self.sizes):04d}-01A-01-TS1"
        path = self.folder / f"{name}.svs"
        if isinstance(pixels, bytes):
            path.write_bytes(pixels)
        else:
            tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb")
        self.sizes.append(path.stat().st_size)
        self.stand_in.hold(
            path,
            path.name,
            hashlib.md5(path.read_bytes()).hexdigest(),
            cases=[{"submitter_id": name[:12], "project": {"project_id": "TCGA-LIHC"}}],
            data_format="SVS",
            experimental_strategy="Tissue Slide",
        )
        return name

    def study(self, name: str, study: str = STUDY) -> list[str]:
        folder = self.folder / name
        folder.mkdir()
        (folder / "query.toml").write_text(QUERY)
        (folder / "study.toml").write_text(study.format(folder=folder, server=self.stand_in.url))
        return ["run", str(folder / "study.toml")]

    def passing(self, slides: float) -> list[str]:
        """Flags by which slides go once they are cut, with room for so many."""
        room = slides * max(self.sizes) / GB
        return ["--delete-after-tiling", f"--disk-gb={room:.9f}"]


@pytest.fixture
def cohort(data_dir: Path, stand_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "own_encoder.py").write_text(OWN_ENCODER)
    monkeypatch.syspath_prepend(str(tmp_path))
    cohort = Cohort(stand_in, tmp_path)
    with openslide.OpenSlide(data_dir / "slides" / "CMU-1-Small-Region.svs") as slide:
        for place in PLACES:
            region = slide.read_region(place, 0, (SIDE, SIDE)).convert("RGB")
            cohort.add(np.asarray(region))
    return cohort


def bytes_of(folder: Path) -> int:
    """The size of the slides in a folder of downloads, whole or on their way."""
    total = 0
    for here, _, names in os.walk(folder):
        for name in (name for name in names if ".svs" in name):
            with suppress(FileNotFoundError):
                total += Path(here, name).stat().st_blocks * 512
    return total


@contextmanager
def watched(folder: Path) -> Iterator[list[int]]:
    """Look at a folder of downloads all the time; its size goes into the list."""
    sizes, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.01):
            sizes.append(bytes_of(folder))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield sizes
    ended.set()
    thread.join()


def kill_when(command: Sequence[str], due: Callable[[], bool]) -> None:
    process = multiprocessing.get_context("spawn").Process(target=main, args=(list(command),))
    process.start()
    deadline = time.monotonic() + 60
    while not due() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.is_alive(), "the study ended before it was killed"
    process.kill()
    process.join()


def require_same(one: Path, other: Path) -> None:
    """Compare two studies: tables, tiles and features."""
    ours, theirs = (
        [row["slide_id"] for row in csv.DictReader((folder / "run/cohort.csv").open())]
        for folder in (one, other)
    )
    assert ours == theirs
    mine, clean = (stores_of(folder / "run" / "tiles") for folder in (one, other))
    assert mine.keys() == clean.keys() == set(ours)
    for slide_id in mine:
        a, b = open_tiles(mine[slide_id]), open_tiles(clean[slide_id])
        assert np.array_equal(a.coords, b.coords)
        assert np.array_equal(a.tiles[:], b.tiles[:])
    mine, clean = (stores_in(RunFolder(f / "run").features_of("mean-colour")) for f in (one, other))
    assert mine.keys() == clean.keys() == set(ours)
    for slide_id in mine:
        assert np.array_equal(
            read_features(mine[slide_id]).features, read_features(clean[slide_id]).features
        )


def test_a_study_killed_three_times_is_as_if_undisturbed(cohort: Cohort) -> None:
    """Its slides pass through the room of two; undisturbed they all stay, a stage at a time."""
    total, stand_in = sum(cohort.sizes), cohort.stand_in
    stand_in.pace = 2e6
    stand_in.tell()
    killed = [*cohort.study("killed"), *cohort.passing(2)]
    slides, run = cohort.folder / "killed" / "slides", RunFolder(cohort.folder / "killed" / "run")
    with watched(slides) as sizes:
        kill_when(killed, lambda: stand_in.progress() > 0.15 * total)
        kill_when(killed, lambda: run.tiles.is_dir() and any(run.tiles.glob("*.zarr")))
        kill_when(killed, lambda: len(list(run.tiles.glob("*.zarr"))) >= 4)
        stand_in.faster()
        assert main(killed) == 0
    assert stand_in.sent() < 1.25 * total
    undisturbed = cohort.study("undisturbed", STUDY)
    assert main([*undisturbed, "--no-overlap"]) == 0
    require_same(cohort.folder / "killed", cohort.folder / "undisturbed")
    assert bytes_of(cohort.folder / "undisturbed" / "slides") >= total
    assert bytes_of(slides) == 0
    assert max(sizes) <= 2.1 * max(cohort.sizes)
    sent = stand_in.sent()
    assert main(killed) == 0, "once more, everything is there"
    assert stand_in.sent() == sent
    assert verify.main([str(run.root)]) == 0


def test_slides_are_cut_and_encoded_while_others_still_come(cohort: Cohort) -> None:
    """With a GPU the encoder works beside; without one the two take turns: the same comes out."""
    cohort.stand_in.pace = 2e6
    cohort.stand_in.tell()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Flow, "_has_gpu", lambda _self, _extract: True)
        assert main(cohort.study("beside")) == 0
    assert main(cohort.study("turns")) == 0
    require_same(cohort.folder / "beside", cohort.folder / "turns")
    for name in ("beside", "turns"):
        journal = RunFolder(cohort.folder / name / "run").journal
        kinds = [
            (type(e.event).__name__, getattr(e.event, "stage", "")) for e in read_journal(journal)
        ]
        assert kinds.count(("StageStarted", "tile")) == 1
        assert kinds.count(("StageStarted", "extract")) == 1
        assert ("StageResumed", "download") in kinds, "slides came after the first was cut"
        outcomes = read_outcomes(journal)
        for stage in ("download", "tile", "extract"):
            fates = [told.fate for (_, of), told in outcomes.items() if of == stage]
            assert fates == ["done"] * len(PLACES), stage


def test_a_slide_that_fails_costs_itself_and_keeps_its_file(
    cohort: Cohort, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = cohort.add(bytes(range(256)) * 4000)
    empty = cohort.add(np.full((SIDE, SIDE, 3), 243, np.uint8))
    cohort.stand_in.tell()
    command = [*cohort.study("study"), *cohort.passing(2)]
    assert main(command) == 1
    folder = cohort.folder / "study"
    assert [path.name for path in folder.glob("slides/*/*.svs")] == [f"{bad}.svs"]
    run = RunFolder(folder / "run")
    assert len(stores_of(run.tiles)) == len(PLACES)
    outcomes = read_outcomes(run.journal)
    assert outcomes[bad, "tile"].fate == "failed"
    assert outcomes[empty, "tile"].words.startswith("no tissue")
    sent = cohort.stand_in.sent()
    assert main(command) == 1
    assert cohort.stand_in.sent() == sent, "what was found empty does not come again"
    assert read_outcomes(run.journal)[empty, "tile"].words.startswith("no tissue")
    capsys.readouterr()


def test_room_that_failed_slides_have_taken_is_told(
    cohort: Cohort, capsys: pytest.CaptureFixture[str]
) -> None:
    size = cohort.sizes[0]
    for record in cohort.stand_in.files[2:]:
        Path(record["_content"]).write_bytes(bytes(size))
        record["md5sum"] = hashlib.md5(bytes(size)).hexdigest()
        record["file_size"] = size
    cohort.stand_in.tell()
    command = [*cohort.study("study"), *cohort.passing(2)]
    assert main(command) == 1
    said = capsys.readouterr().out
    assert "are taken by 2 slides that failed and are kept" in said
    assert "it could not be fetched" in said
    assert main([*command[:2], *cohort.passing(5)]) == 1
    assert "are taken by" not in capsys.readouterr().out
    assert len(stores_of(cohort.folder / "study" / "run" / "tiles")) == 2


def test_a_deleted_slide_that_is_needed_again_is_named(
    cohort: Cohort, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort.stand_in.tell()
    command = [*cohort.study("study"), *cohort.passing(3)]
    assert main(command) == 0
    study = Path(command[1])
    before = study.read_text()
    study.write_text(before.replace("0.9", "0.8"))
    capsys.readouterr()
    assert main(command) == 1
    assert "was made with other settings" in capsys.readouterr().out
    assert main([*command, "--overwrite"]) == 0, "everything is fetched and cut anew"
    study.write_text(before)
    ledger = RunFolder(cohort.folder / "study" / "run").deleted_slides
    known = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert {each["slide_id"] for each in known} == set(stores_of(ledger.parent / "tiles"))


def test_slides_that_were_fetched_again_stay_unless_they_are_to_go(cohort: Cohort) -> None:
    cohort.stand_in.tell()
    command = [*cohort.study("study"), *cohort.passing(3)]
    slides, total = cohort.folder / "study" / "slides", sum(cohort.sizes)
    assert main(command) == 0
    assert main([*command[:2], "--no-overlap", "--only=download"]) == 0, "knows nothing of the run"
    assert main(command[:2]) == 0
    assert bytes_of(slides) >= total
    assert main(command) == 0
    assert bytes_of(slides) == 0


def test_a_store_that_is_damaged_is_made_from_the_slide_fetched_again(cohort: Cohort) -> None:
    cohort.stand_in.tell()
    command = [*cohort.study("study"), *cohort.passing(3)]
    assert main(command) == 0
    store = next((cohort.folder / "study" / "run" / "tiles").glob("*.zarr"))
    chunk = max(store.rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    chunk.unlink()
    cohort.stand_in.tell()
    assert main(command) == 1, "the store is not right, and it is not overwritten unasked"
    assert cohort.stand_in.sent() == cohort.sizes[0]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--disk-gb=1"], "--disk-gb goes with --delete-after-tiling"),
        (["--delete-after-tiling", "--no-overlap"], "goes with --overlap"),
        (["--delete-after-tiling", "--disk-gb=0.0001"], "alone takes"),
        (["--delete-after-tiling", "--only=download"], "needs a [download] with out"),
    ],
)
def test_what_cannot_be_is_refused_before_a_byte(
    cohort: Cohort, flags: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort.stand_in.tell()
    command = cohort.study("study")
    assert main([*command, *flags]) == 2
    assert told in capsys.readouterr().err
    assert cohort.stand_in.sent() == 0


def test_ctrl_c_ends_it_at_once_and_with_workers_it_goes_on(cohort: Cohort) -> None:
    cohort.stand_in.pace = 3e5
    cohort.stand_in.tell()
    command = [*cohort.study("study"), *cohort.passing(2)]
    process = subprocess.Popen(
        [sys.executable, "-m", "wsi_pipeline", *command],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{cohort.folder}"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while cohort.stand_in.progress() < cohort.sizes[0] and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    asked = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - asked < 20
    assert process.returncode == 130
    assert said.endswith("the same command goes on from there.\n")
    cohort.stand_in.faster()
    assert main([*command, "--workers=1"]) == 0
    assert len(stores_of(cohort.folder / "study" / "run" / "tiles")) == len(PLACES)
    assert bytes_of(cohort.folder / "study" / "slides") == 0
