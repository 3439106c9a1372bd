"""A dry run says everything about a folder in one table, quickly, and writes nothing."""

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from wsi_pipeline.events import Event, Planned, SlideDone, SlideFailed, StageStarted
from wsi_pipeline.pipeline.tile import run
from wsi_pipeline.tile import main
from wsi_pipeline.verbs.tiles import TileConfig

SVS = "slides/CMU-1-Small-Region.svs"


def dry(cohort: Path, tmp_path: Path, **settings: Any) -> list[Event]:
    return list(run(TileConfig(cohort=cohort, run=tmp_path / "run", dry_run=True, **settings)))


def rows(events: list[Event]) -> dict[Any, Any]:
    return {event.row["slide"]: event.row for event in events if isinstance(event, Planned)}


@pytest.fixture
def folder(data_dir: Path, tmp_path: Path) -> Path:
    slides = tmp_path / "slides"
    slides.mkdir()
    for source in (SVS, "slides/TCGA-CR-7395-01A-01-TS1.svs", "slides/broken/broken.svs"):
        shutil.copy(data_dir / source, slides)
    (slides / "series").symlink_to(data_dir / "slides/CMU-1-Small-Region.dicom")
    tiles = sorted((data_dir / "liver_tiles").rglob("*.jpg"))[:6]
    liver = np.concatenate([cv2.imread(str(tile)) for tile in tiles], axis=1)
    framed = cv2.copyMakeBorder(
        liver, 256, 256, 256, 256, cv2.BORDER_CONSTANT, value=(244, 243, 245)
    )
    cv2.imwrite(str(slides / "flat.png"), framed)
    cv2.imwrite(str(slides / "empty.png"), np.full((900, 900, 3), 244, np.uint8))
    return slides


def test_one_row_a_slide_and_the_reason_where_it_would_be_refused(
    folder: Path, tmp_path: Path
) -> None:
    events = dry(folder, tmp_path)
    assert isinstance(events[0], StageStarted)
    assert events[0].total == 6
    table = rows(events)
    small = table["CMU-1-Small-Region"]
    expected = {
        "reader": "jpeg-tiff", "vendor": "aperio", "size": "2220×2967", "levels": 1,
        "compression": "JPEG", "µm/px": 0.499, "from": "openslide.mpp-x", "level": 0,
        "places": 88, "refused": None,
    }  # fmt: skip
    assert {key: small[key] for key in expected} == expected
    assert 18 <= small["tiles ≈"] <= 24  # 21 come
    assert small["MB ≈"] == round(small["tiles ≈"] * 256 * 256 * 3 / 1e6)
    dicom = table["series"]
    assert (dicom["vendor"], dicom["places"], dicom["µm/px"]) == ("dicom", 88, 0.499)
    assert dicom["compression"].startswith("JPEG Baseline")
    assert dicom["tiles ≈"] == pytest.approx(small["tiles ≈"], abs=5)
    jpeg2000 = table["TCGA-CR-7395-01A-01-TS1"]
    assert jpeg2000["compression"] == "JPEG 2000 (33005)"
    assert jpeg2000["refused"] == "the file does not say its resolution"
    assert table["broken"]["reader"] is None
    assert "cannot open it" in table["broken"]["refused"]
    failed = {event.slide_id: event.error for event in events if isinstance(event, SlideFailed)}
    refused = {slide for slide, row in table.items() if row["refused"]}
    assert failed.keys() == refused
    assert "--mpp-default" in failed["TCGA-CR-7395-01A-01-TS1"]
    assert not (tmp_path / "run").exists()


def test_tiles_are_counted_where_tissue_is(folder: Path, tmp_path: Path) -> None:
    table = rows(dry(folder, tmp_path, mpp_override=0.5))
    assert (table["flat"]["places"], table["flat"]["tiles ≈"]) == (8 * 3, 6)
    assert table["empty"]["tiles ≈"] == 0
    assert table["flat"]["from"] == "override"
    unknown = rows(dry(folder, tmp_path, unknown_mpp=True))
    assert unknown["flat"]["from"] == "unknown"
    assert unknown["flat"]["tiles ≈"] == 6
    coarse = rows(dry(folder, tmp_path, mpp_override=0.5, mpp=0.25))
    assert "coarser than the 0.25 µm/px asked for" in coarse["flat"]["refused"]


def test_what_it_foresees_is_what_comes(data_dir: Path, tmp_path: Path) -> None:
    """On skin, needle biopsies in fragments, and liver; tiles kept, after the background rule."""
    only = tmp_path / "only"
    only.mkdir()
    for name in (
        "slides/CMU-1-Small-Region.svs",
        "slides/PDAC-tru-cut_HE3.svs",
        "real_liver/liver_margin_ink.tif",
    ):
        (only / Path(name).name).symlink_to(data_dir / name)
    foreseen = rows(dry(only, tmp_path, mpp_default=0.25))
    asked = TileConfig(cohort=only, run=tmp_path / "run", stain="none", mpp_default=0.25)
    done = [event for event in run(asked) if isinstance(event, SlideDone)]
    assert len(done) == 3
    for event in done:
        kept = event.counts["tiles kept"]
        assert foreseen[event.slide_id]["tiles ≈"] == pytest.approx(kept, rel=0.15), event.slide_id


def test_a_file_cut_short_is_found_before_it_is_cut(data_dir: Path, tmp_path: Path) -> None:
    only = tmp_path / "only"
    only.mkdir()
    whole = (data_dir / "slides" / "PDAC-tru-cut_HE3.svs").read_bytes()
    (only / "short.svs").write_bytes(whole[: len(whole) * 9 // 10])
    (failed,) = [event for event in dry(only, tmp_path) if isinstance(event, SlideFailed)]
    assert failed.slide_id == "short"
    assert "short" in failed.error


def test_the_command_prints_the_table_and_says_that_slides_fail(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main([str(folder), "--run", str(tmp_path / "run"), "--dry-run"])
    printed = capsys.readouterr().out
    assert status == 1
    assert "nothing was written" in printed
    assert "broken" in printed
