"""Tiles decoded at their own size: near the average, the same however read, and recorded."""

from pathlib import Path

import numpy as np
import pytest

from wsi_pipeline.tile import main
from wsi_pipeline.tiles import SlideRequest, TileSettings, TileStore, cut_slide, open_tiles
from wsi_pipeline.tiles.settings import WHOLE_SLIDE
from wsi_pipeline.types import Region

SLIDE = "real_liver/liver_tumour_gaps.tif"  # JPEG tiles of 256 px, taken as 0.25 µm/px


def cut(
    path: Path, store: Path, request: SlideRequest = WHOLE_SLIDE, threads: int = 1, **given: object
) -> TileStore:
    asked = {"mpp_default": 0.25, "stain": "none", "codec": "none"} | given
    cut_slide(path, store, TileSettings.model_validate(asked), request, threads=threads)
    return open_tiles(store)


def test_scaled_tiles_are_those_of_the_average_but_for_a_grey_level(
    data_dir: Path, tmp_path: Path
) -> None:
    area = cut(data_dir / SLIDE, tmp_path / "area.zarr")
    scaled = cut(data_dir / SLIDE, tmp_path / "scaled.zarr", resample="scaled")
    again = cut(data_dir / SLIDE, tmp_path / "again.zarr", threads=3, resample="scaled")
    assert (area.attributes["resampled"], scaled.attributes["resampled"]) == ("area", "scaled")
    assert np.array_equal(area.coords, scaled.coords)
    away = np.abs(area.tiles[:].astype(int) - scaled.tiles[:])
    assert 0 < away.mean() < 1
    assert np.array_equal(scaled.tiles[:], again.tiles[:])


def test_where_no_factor_fits_scaled_is_the_average(data_dir: Path, tmp_path: Path) -> None:
    area = cut(data_dir / SLIDE, tmp_path / "area.zarr", mpp=0.6)
    scaled = cut(data_dir / SLIDE, tmp_path / "scaled.zarr", mpp=0.6, resample="scaled")
    assert scaled.attributes["resampled"] == "area"
    assert np.array_equal(area.tiles[:], scaled.tiles[:])


@pytest.mark.parametrize(("left", "by"), [(2000, "scaled"), (2001, "area")])
def test_tiles_that_begin_between_two_pixels_are_averaged(
    data_dir: Path, tmp_path: Path, left: int, by: str
) -> None:
    region = Region(x=left, y=4000, width=4000, height=4000)
    store = cut(
        data_dir / SLIDE, tmp_path / "s.zarr", SlideRequest(region=region), resample="scaled"
    )
    assert store.attributes["resampled"] == by
    assert (store.coords[:, 0] % 512 == left % 512).all()


@pytest.mark.parametrize("first", ["area", "scaled"])
def test_a_store_made_the_other_way_is_not_taken_for_done(
    data_dir: Path, tmp_path: Path, first: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {"area": "scaled", "scaled": "area"}[first]
    words = [str(data_dir / SLIDE), f"--run={tmp_path}/run", "--mpp-default=0.25", "--stain=none"]
    assert main([*words, f"--resample={first}"]) == 0
    assert main([*words, f"--resample={other}"]) == 1
    said = capsys.readouterr()
    assert "resample" in said.out + said.err
