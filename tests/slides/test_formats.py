"""One file of each kind that we can make: read with the reader that suits it, pixel for pixel."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import tifffile
from PIL import Image
from slides_fuzz.seeds import (
    PICTURE,
    to_ycbcr,
    write_ome,
    write_pyramid,
    write_svs,
    write_svs_jpeg2000,
)
from slides_fuzz.tags import set_tag

from wsi_pipeline.errors import MppError
from wsi_pipeline.slides import compression_of, open_slide, resolve_mpp
from wsi_pipeline.tiles import plan_grid


def close_to_picture(read: np.ndarray, tolerance: float) -> bool:
    return float(np.abs(read.astype(int) - PICTURE).mean()) < tolerance


@pytest.mark.parametrize(("compression", "reader"), [(33005, "jpeg-tiff"), (33003, "openslide")])
def test_svs_in_both_kinds_of_jpeg_2000(tmp_path: Path, compression: int, reader: str) -> None:
    path = tmp_path / "a.svs"
    write_svs_jpeg2000(path, compression)
    with open_slide(path) as slide:
        assert slide.info.vendor == "aperio"
        assert slide.info.reader == reader
        assert resolve_mpp(slide.info).mpp == 0.499
        read = slide.read(0, 0, 0, 700, 520)
    assert close_to_picture(read, 3.0)
    assert not close_to_picture(to_ycbcr(PICTURE), 30.0), "a wrong colour space would show"
    assert compression_of(path, (700, 520)) == f"JPEG 2000 ({compression})"


def test_svs_in_jpeg(tmp_path: Path) -> None:
    write_svs(tmp_path / "a.svs")
    with open_slide(tmp_path / "a.svs") as slide:
        assert (slide.info.reader, slide.info.vendor) == ("jpeg-tiff", "aperio")
        assert slide.info.level_dimensions == ((700, 520), (175, 130))
        assert slide.info.associated == ("label", "macro", "thumbnail")
        assert close_to_picture(slide.read(0, 0, 0, 700, 520), 8.0)


@pytest.mark.parametrize(
    ("compression", "big", "reader"),
    [("deflate", False, "openslide"), ("lzw", True, "openslide"), ("jpeg", True, "jpeg-tiff")],
)
def test_pyramids_in_tiff_and_bigtiff(
    tmp_path: Path, compression: str, big: bool, reader: str
) -> None:
    path = tmp_path / "a.tif"
    write_pyramid(path, compression, big=big)
    assert path.read_bytes()[2] == (43 if big else 42)
    with open_slide(path) as slide:
        assert slide.info.reader == reader
        assert list(slide.info.level_dimensions) == [
            (700, 520),
            (350, 260),
            (175, 130),
        ]
        assert resolve_mpp(slide.info).mpp == pytest.approx(0.5)
        for level, step in ((0, 1), (1, 2), (2, 4)):
            width, height = slide.info.level_dimensions[level]
            read = slide.read(level, 0, 0, width, height).astype(int)
            difference = np.abs(read - PICTURE[::step, ::step])
            assert difference.mean() < (8.0 if compression == "jpeg" else 1e-9)


def test_the_pyramid_of_an_ome_tiff_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    write_ome(path)
    with open_slide(path) as slide:
        assert slide.info.reader == "tiffslide"
        assert slide.info.level_dimensions == ((700, 520), (350, 260))
        assert resolve_mpp(slide.info).mpp == 0.5
        assert np.array_equal(slide.read(0, 0, 0, 700, 520), PICTURE)
        assert np.array_equal(slide.read(1, 3, 5, 100, 90), PICTURE[::2, ::2][5:95, 3:103])


def write_tiles(path: Path, side: int, compression: str) -> None:
    """A TIFF in tiles of any side; tifffile itself writes multiples of 16 only."""
    pad = [(0, -length % side) for length in PICTURE.shape[:2]]
    padded = np.pad(PICTURE, (*pad, (0, 0)), mode="edge")
    tiles = []
    for y in range(0, padded.shape[0], side):
        for x in range(0, padded.shape[1], side):
            tile = np.ascontiguousarray(padded[y : y + side, x : x + side])
            jpeg = simplejpeg.encode_jpeg(tile, 90, colorsubsampling="444")
            tiles.append(jpeg if compression == "jpeg" else zlib.compress(tile.tobytes()))
    nearest = -(-side // 16) * 16
    tifffile.imwrite(
        path, data=iter(tiles), shape=PICTURE.shape, dtype=np.uint8, tile=(nearest, nearest),
        photometric="ycbcr" if compression == "jpeg" else "rgb", metadata=None,
        compression=compression, subsampling=(1, 1) if compression == "jpeg" else None,
    )  # fmt: skip
    if side != nearest:
        set_tag(path, 322, side)
        set_tag(path, 323, side)


@pytest.mark.parametrize("side", [240, 254, 256, 512, 1024])
@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_native_tiles_of_every_size(tmp_path: Path, side: int, compression: str) -> None:
    path = tmp_path / "a.tif"
    write_tiles(path, side, compression)
    with open_slide(path) as slide:
        assert slide.info.reader == ("jpeg-tiff" if compression == "jpeg" else "openslide")
        whole = slide.read(0, 0, 0, 700, 520)
        for x, y, width, height in ((0, 0, 700, 520), (237, 250, 300, 99), (690, 510, 10, 10)):
            read = slide.read(0, x, y, width, height)
            assert np.array_equal(read, whole[y : y + height, x : x + width])
    if compression == "jpeg":
        assert close_to_picture(whole, 6.0)
    else:
        assert np.array_equal(whole, PICTURE)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_crops_of_unknown_resolution_are_taken_at_native_pixels(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"crop{suffix}"
    Image.fromarray(np.tile(PICTURE, (2, 2, 1))[:856, :856]).save(path)
    with open_slide(path) as slide:
        assert slide.info.dimensions == (856, 856)
        assert slide.info.reader == "image" if suffix != ".tif" else slide.info.mpp is None
        with pytest.raises(MppError, match="does not say its resolution"):
            resolve_mpp(slide.info)
        grid = plan_grid(slide.info, None)
    assert (grid.columns, grid.rows, grid.flags) == (3, 3, ("mpp_unknown",))
