"""Headers that would make a library divide by zero or take all memory are refused before it."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from slides_fuzz.seeds import write_svs_jpeg2000
from slides_fuzz.tags import set_tag

from wsi_pipeline.errors import SlideOpenError, SlideReadError
from wsi_pipeline.slides import open_slide
from wsi_pipeline.slides.tiff_header import read_directories

WIDTH, HEIGHT, SAMPLES, TILE_WIDTH, TILE_HEIGHT, TILE_BYTES = 256, 257, 277, 322, 323, 325


def written(path: Path, *, big: bool = False, byteorder: str = "<") -> Path:
    with tifffile.TiffWriter(path, bigtiff=big, byteorder=byteorder) as tiff:
        for step in (1, 2, 4):
            tiff.write(
                np.full((300, 400, 3), 200, np.uint8)[::step, ::step], tile=(128, 112),
                photometric="rgb", compression="deflate", metadata=None,
                description=f"1:{step}",
            )  # fmt: skip
    return path


def tail_to_head(path: Path) -> None:
    data = bytearray(path.read_bytes())
    first = struct.unpack_from("<I", data, 4)[0]
    second = struct.unpack_from("<I", data, first + 2 + 12 * data[first])[0]
    struct.pack_into("<I", data, second + 2 + 12 * data[second], first)
    path.write_bytes(data)


@pytest.mark.parametrize("reader", ["auto", "openslide", "tiffslide", "image"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: set_tag(path, TILE_HEIGHT, 0), "tiles of 112 × 0 px"),
        (lambda path: set_tag(path, TILE_WIDTH, 1, 1), "tiles of 1 × 128 px"),
        (lambda path: set_tag(path, TILE_WIDTH, 1 << 20), "tiles of 1048576 × 128 px"),
        (lambda path: set_tag(path, WIDTH, (1 << 31) - 1), "says 2147483647 × 300 px"),
        (lambda path: set_tag(path, HEIGHT, 0), "says 400 × 0 px"),
        (lambda path: set_tag(path, WIDTH, 100), "lists 12 tiles, and 100 × 300 px have 3"),
        (
            lambda path: set_tag(path, HEIGHT, 65535),
            r"of the 2048 tiles of 400 × 65535 px it lists 12",
        ),
        (lambda path: set_tag(path, TILE_BYTES, 1 << 30, 2), "takes 1073741824 bytes"),
        (lambda path: set_tag(path, SAMPLES, 65535), "65535 channels"),
        (tail_to_head, "go round in a circle"),
    ],
)
def test_each_is_refused_by_every_reader(
    tmp_path: Path, reader: str, change: Callable[[Path], None], said: str
) -> None:
    path = written(tmp_path / "hostile.tif")
    change(path)
    with pytest.raises(SlideOpenError, match=said):
        open_slide(path, reader=reader)


def test_more_pixels_than_the_bytes_can_hold_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "sparse.tif", shape=(40_000, 40_000, 3), dtype=np.uint8, tile=(1024, 1024),
        photometric="rgb", compression="deflate", metadata=None, data=iter([b"x"] * 1600),
    )  # fmt: skip
    with pytest.raises(SlideOpenError, match=r"bytes cannot hold the 40000 × 40000 px"):
        open_slide(tmp_path / "sparse.tif")


def test_pictures_of_different_shapes_are_no_pyramid(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "album.tif") as tiff:
        for kind, shape in ((0, (900, 500, 3)), (1, (400, 800, 3))):  # 1: a reduced image
            tiff.write(
                np.zeros(shape, np.uint8), tile=(128, 128), photometric="rgb", metadata=None,
                subfiletype=kind,
            )  # fmt: skip
    with pytest.raises(SlideOpenError, match="levels are of different shapes"):
        open_slide(tmp_path / "album.tif", reader="openslide")


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_headers_of_every_layout_are_understood(tmp_path: Path, big: bool, byteorder: str) -> None:
    path = written(tmp_path / "a.tif", big=big, byteorder=byteorder)
    first, second, _ = read_directories(path)
    assert (first.width, first.height, first.tile_width, first.tile_height) == (400, 300, 112, 128)
    assert (first.compression, first.samples, first.tiled) == (32946, 3, True)
    assert (second.width, second.height) == (200, 150)
    with tifffile.TiffFile(path) as tiff:
        assert first.largest_bytes == max(tiff.pages[0].databytecounts)


def test_what_is_no_tiff_has_no_directories(tmp_path: Path) -> None:
    for content in (b"", b"II", b"II*\0", b"II*\0\xff\xff\xff\xff", b"\x89PNG\r\n\x1a\n" * 9):
        (tmp_path / "no.tif").write_bytes(content)
        assert read_directories(tmp_path / "no.tif") == ()


@pytest.mark.parametrize("reader", ["auto", "openslide", "tiffslide"])
@pytest.mark.parametrize("compression", [33003, 33005])
def test_a_jpeg_2000_tile_that_claims_to_be_huge_is_never_decoded(
    tmp_path: Path, reader: str, compression: int
) -> None:
    path = tmp_path / "tiles.svs"
    write_svs_jpeg2000(path, compression)
    data = bytearray(path.read_bytes())
    second = data.find(b"\xff\x4f\xff\x51", data.find(b"\xff\x4f\xff\x51") + 1)
    struct.pack_into(">II", data, second + 8, 1 << 20, 255)
    path.write_bytes(data)
    with (
        open_slide(path, reader=reader) as slide,
        pytest.raises(SlideReadError, match="the image is 1048576 × 255, not 128 × 128"),
    ):
        slide.read(0, 0, 0, 700, 520)
