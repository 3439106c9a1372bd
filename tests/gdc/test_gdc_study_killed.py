"""From the query to tiles by one command, killed three times on the way, as if undisturbed."""

import hashlib
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from wsi_pipeline.cli import main
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
segment_mib = 0.25

[tile]
"""
QUERY = 'projects = ["TCGA-LIHC"]\n[[labels.classes]]\nlabel = "hcc"\nproject = "TCGA-LIHC"\n'
SLIDES = 4


def study_in(folder: Path, server: str) -> list[str]:
    folder.mkdir()
    (folder / "query.toml").write_text(QUERY)
    (folder / "study.toml").write_text(STUDY.format(folder=folder, server=server))
    return ["run", str(folder / "study.toml")]


def kill_when(command: list[str], due: Callable[[], bool]) -> None:
    process = multiprocessing.get_context("spawn").Process(target=main, args=(command,))
    process.start()
    deadline = time.monotonic() + 60
    while not due() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.is_alive(), "the study ended before it was killed"
    process.kill()
    process.join()


def test_a_study_killed_three_times_is_as_if_undisturbed(
    data_dir: Path, stand_in: Any, tmp_path: Path
) -> None:
    path = data_dir / "slides" / "CMU-1-Small-Region.svs"
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    for number in range(SLIDES):
        patient = f"TCGA-XX-{number:04d}"
        stand_in.hold(
            path,
            f"{patient}-01A-01-TS1.svs",
            md5,
            cases=[{"submitter_id": patient, "project": {"project_id": "TCGA-LIHC"}}],
            data_format="SVS",
            experimental_strategy="Tissue Slide",
        )
    total = SLIDES * path.stat().st_size
    stand_in.pace = 2e6
    stand_in.tell()
    killed = study_in(tmp_path / "killed", stand_in.url)
    for share in (0.2, 0.6):
        kill_when(killed, lambda goal=share * total: stand_in.progress() > goal)
    stand_in.faster()
    stores = tmp_path / "killed" / "run" / "tiles"
    kill_when(killed, lambda: stores.is_dir() and any(stores.glob("*.zarr")))
    assert main(killed) == 0
    assert stand_in.sent() < 1.2 * total
    undisturbed = study_in(tmp_path / "undisturbed", stand_in.url)
    assert main(undisturbed) == 0
    one, other = (tmp_path / name for name in ("killed", "undisturbed"))
    assert (one / "cohort.csv").read_bytes() == (other / "cohort.csv").read_bytes()
    mine, theirs = stores_of(stores), stores_of(other / "run" / "tiles")
    assert len(mine) == SLIDES
    assert mine.keys() == theirs.keys()
    for slide_id in mine:
        ours, clean = open_tiles(mine[slide_id]), open_tiles(theirs[slide_id])
        assert np.array_equal(ours.coords, clean.coords)
        every = list(range(len(clean.coords)))
        assert np.array_equal(ours.tiles[every], clean.tiles[every])
