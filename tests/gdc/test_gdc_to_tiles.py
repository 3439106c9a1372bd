"""From a manifest to tiles in two commands, with real slides served by the stand-in."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from wsi_pipeline import download, init, run, tile
from wsi_pipeline.cohort import CohortSlide, read_cohort, write_cohort
from wsi_pipeline.slides import find_slides
from wsi_pipeline.tiles import open_tiles

SLIDES = {
    "CMU-1-Small-Region.svs": "TCGA-XX-0001-01A-01-TS1.svs",
    "TCGA-CR-7395-01A-01-TS1.svs": "TCGA-CR-7395-01A-01-TS1.svs",
}


def test_download_then_tile(
    data_dir: Path, stand_in: Any, manifest: Callable[..., Path], tmp_path: Path
) -> None:
    entries = []
    for name, served_as in SLIDES.items():
        path = data_dir / "slides" / name
        entries.append(stand_in.hold(path, served_as, hashlib.md5(path.read_bytes()).hexdigest()))
    stand_in.tell()
    slides, run = tmp_path / "slides", tmp_path / "run"
    assert (
        download.main([str(manifest(entries)), f"--out={slides}", f"--server={stand_in.url}"]) == 0
    )
    rows = [
        CohortSlide(
            slide_id=Path(entry.filename).stem,
            path=entry.relative_path.as_posix(),
            patient_id=entry.filename[:12],
            label="hcc",
            cohort="tcga",
            mpp=None if "XX" in entry.filename else 0.5,
        )
        for entry in entries
    ]
    write_cohort(tmp_path / "cohort.csv", rows)
    command = [str(tmp_path / "cohort.csv"), f"--slides={slides}", f"--run={run}"]
    assert tile.main(command) == 0
    for row in rows:
        store = open_tiles(run / "tiles" / f"{row.slide_id}.zarr")
        assert store.tiles[0].shape == (256, 256, 3)
        assert len(store.coords) > 20


def test_only_slides_are_found_in_a_folder_of_downloads(
    stand_in: Any, manifest: Callable[..., Path], tmp_path: Path
) -> None:
    """Reports, logs and notes beside the slides are not taken for slides."""
    entries = [stand_in.add(100), stand_in.add(200)]
    stand_in.tell()
    slides = tmp_path / "slides"
    assert (
        download.main([str(manifest(entries)), f"--out={slides}", f"--server={stand_in.url}"]) == 0
    )
    assert len(list(slides.rglob("*.*"))) > 4
    assert sorted(find_slides(slides).paths) == sorted(slides / e.relative_path for e in entries)


def test_a_whole_study_is_planned_before_anything_is_there(
    stand_in: Any, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """``wsi init`` and ``wsi run --dry-run``: the query is asked, the rest waits for it."""
    slide = "TCGA-DD-AAAA-01A-01-TS1"
    case = {"submitter_id": slide[:12], "project": {"project_id": "TCGA-LIHC"}}
    stand_in.add(
        5_000_000,
        f"{slide}.svs",
        cases=[case],
        data_format="SVS",
        experimental_strategy="Tissue Slide",
    )
    stand_in.tell()
    monkeypatch.chdir(tmp_path)
    assert init.main(["liver"]) == 0
    study = tmp_path / "liver.toml"
    text = study.read_text().replace("[download]", f'[download]\nserver = "{stand_in.url}"')
    study.write_text(text)
    assert run.main(["liver.toml", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "1 files, 5.00 MB (5000000 bytes); 5.00 MB to fetch" in said
    assert "download: about 0 s (20 MB a second, assumed)" in said
    assert "tile: can be planned once download has made manifests/liver_gdc.csv" in said
    assert "tile: about 75 tiles, 15 MB" in said, "by the size of the files"
    assert "extract: about 75 tiles" in said
    assert "report: can be planned once download has made slides" in said
    assert not (tmp_path / "slides").exists()


def test_slides_of_ones_own_join_the_cohort(
    data_dir: Path, stand_in: Any, tmp_path: Path, capsys: Any
) -> None:
    """Their files are found from wherever the table goes, and looked for before the first byte."""
    slide = "TCGA-DD-AAAA-01A-01-TS1"
    case = {"submitter_id": slide[:12], "project": {"project_id": "TCGA-LIHC"}}
    stand_in.add(1000, f"{slide}.svs", cases=[case], data_format="SVS",
                 experimental_strategy="Tissue Slide")  # fmt: skip
    stand_in.tell()
    own = tmp_path / "own"
    own.mkdir()
    (own / "A.csv").write_text("row,column,core_id,patient_id,label\n")
    row = CohortSlide(slide_id="A", path="A.svs", cohort="tma", tma_map="A.csv")
    write_cohort(own / "cohort.csv", [row])
    made = tmp_path / "made" / "cohort.csv"
    command = ["--project=TCGA-LIHC", f"--server={stand_in.url}", f"--cohort-out={made}"]
    command += [f"--out={tmp_path / 'slides'}", f"--add-cohort={own / 'cohort.csv'}"]
    assert download.main(command) == 2
    assert f"A: no file {own / 'A.svs'}; nothing was fetched" in capsys.readouterr().err
    assert stand_in.sent() == 0
    (own / "A.svs").write_bytes(b"")
    assert download.main(command) == 0
    theirs, ours = read_cohort(made)
    assert (theirs.slide_id, ours.slide_id) == (slide, "A")
    assert ours.locate(tmp_path / "slides") == own / "A.svs"
    assert ours.tma_map == str(own / "A.csv")
    write_cohort(own / "cohort.csv", [replace(row, slide_id=slide)])
    assert download.main(command) == 2
    assert "is an id of the source's slides too" in capsys.readouterr().err
