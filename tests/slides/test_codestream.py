"""JPEG 2000 without its finest resolutions: what OpenJPEG gives when told to leave them out."""

import io
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import correlate1d
from slides_fuzz.seeds import write_svs_jpeg2000

from wsi_pipeline.slides import open_slide
from wsi_pipeline.slides.codestream import UnorderedError, recentred, without_finest
from wsi_pipeline.slides.reader import DamagedError, SlideReader
from wsi_pipeline.slides.tile_table import TileTable
from wsi_pipeline.types import RgbImage


def by_pillow(stream: bytes, levels: int) -> RgbImage:
    """Pillow hands ``reduce`` to OpenJPEG itself."""
    image = Image.open(io.BytesIO(stream))
    image.reduce = levels
    return np.asarray(image)


@pytest.fixture(scope="module")
def real(data_dir: Path) -> list[bytes]:
    """Three tiles of a scanner's own JPEG 2000."""
    with tifffile.TiffFile(data_dir / "slides/TCGA-CR-7395-01A-01-TS1.svs") as tiff:
        page = tiff.pages.first
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))[100:200:40]
        return [tiff.filehandle.seek(at) and tiff.filehandle.read(size) for at, size in places]


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_scanners_tiles(real: list[bytes], levels: int) -> None:
    for stream in real:
        smaller = imagecodecs.jpeg2k_decode(without_finest(stream, levels))
        assert smaller.shape == (256 >> levels, 256 >> levels, 3)
        assert np.array_equal(smaller, by_pillow(stream, levels))


@settings(max_examples=25, deadline=None)
@given(
    reversible=st.booleans(),
    mct=st.booleans(),
    resolutions=st.integers(2, 6),
    size=st.tuples(st.sampled_from([64, 96, 136]), st.sampled_from([64, 72, 160])),
    levels=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_any_codestream_that_is_ordered_by_resolution(
    *, reversible: bool, mct: bool, resolutions: int, size: tuple[int, int], levels: int, seed: int
) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (size[0] // 8, size[1] // 8, 3), np.uint8)
    rgb = np.asarray(Image.fromarray(noise).resize(size[::-1], Image.Resampling.BICUBIC))
    stream = bytes(
        imagecodecs.jpeg2k_encode(
            rgb, codecformat="j2k", level=0 if reversible else 45, reversible=reversible, mct=mct,
            resolutions=resolutions,
        )
    )  # fmt: skip
    if levels >= resolutions:
        with pytest.raises(UnorderedError, match="resolutions to leave out"):
            without_finest(stream, levels)
    else:
        smaller = imagecodecs.jpeg2k_decode(without_finest(stream, levels))
        assert np.array_equal(smaller, by_pillow(stream, levels))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_header_is_refused_or_decodes_to_something(
    real: list[bytes], data: st.DataObject
) -> None:
    stream = bytearray(real[0])
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, 140))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del stream[data.draw(st.integers(0, 300)) :]
    try:
        assert without_finest(bytes(stream), 1)
    except DamagedError:
        return


def test_layers_before_resolutions_and_several_tiles_are_refused(real: list[bytes]) -> None:
    at = real[0].index(b"\xff\x52")
    layered = bytearray(real[0])
    layered[at + 6 : at + 8] = (2).to_bytes(2)
    with pytest.raises(UnorderedError, match="not ordered by resolution"):
        without_finest(bytes(layered), 1)
    tiled = bytearray(real[0])
    tiled[24:28] = (128).to_bytes(4)
    with pytest.raises(UnorderedError, match="several tiles"):
        without_finest(bytes(tiled), 1)


def cubic(rgb: RgbImage, offset: float) -> RgbImage:
    """Catmull and Rom's cubic at an offset to the right and below, by SciPy's means alone."""
    taps = [-0.5, 1.5, -1.5, 0.5], [1, -2.5, 2, -0.5], [-0.5, 0, 0.5, 0], [0, 1, 0, 0]
    weights = np.array([offset**3, offset**2, offset, 1]) @ np.array(taps)
    for axis in (0, 1):
        rgb = correlate1d(rgb.astype(float), weights, axis=axis, mode="nearest", origin=-1)
    return rgb


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_pixels_are_moved_to_where_the_means_lie(levels: int) -> None:
    """A smooth picture without its finest resolutions is then that of its means."""
    y, x = np.mgrid[:256, :256]
    waves = [np.sin(x / 19) + np.cos(y / 23), np.cos((x + y) / 29), np.sin((x - 2 * y) / 31)]
    rgb = np.stack([np.rint(128 + 50 * wave) for wave in waves], axis=-1).astype(np.uint8)
    stream = bytes(imagecodecs.jpeg2k_encode(rgb, codecformat="j2k", level=0, reversible=False))
    side, factor = 256 >> levels, 1 << levels
    mean = rgb.reshape(side, factor, side, factor, 3).mean((1, 3))
    bare = imagecodecs.jpeg2k_decode(without_finest(stream, levels))
    moved = recentred(bare, levels)
    inside = (slice(4, -4), slice(4, -4))
    assert np.abs(moved - mean)[inside].mean() < 0.4 < 0.8 < np.abs(bare - mean)[inside].mean()
    exact = cubic(bare, (1 - 1 / factor) / 2)
    assert np.abs(moved - exact)[inside].max() < 1.5, "taps are rounded to 128ths"


def test_a_reduced_pixel_is_the_same_wherever_a_rectangle_begins(tmp_path: Path) -> None:
    write_svs_jpeg2000(tmp_path / "a.svs")
    with open_slide(tmp_path / "a.svs") as slide, tifffile.TiffFile(tmp_path / "a.svs") as tiff:
        assert isinstance(slide, SlideReader)
        reduced = slide.reduced(0, 2)
        assert reduced is not None
        out = np.empty((260, 350, 3), np.uint8)
        reduced.read_into(0, 0, 0, out)
        part = np.empty((97, 131, 3), np.uint8)
        for x, y in ((0, 0), (63, 1), (100, 130), (350 - 131, 260 - 97)):
            reduced.read_into(0, x, y, part)
            assert np.array_equal(part, out[y : y + 97, x : x + 131])
        page, bare = tiff.pages.first, np.empty((320, 384, 3), np.uint8)
        for number, (at, size) in enumerate(
            zip(page.dataoffsets, page.databytecounts, strict=True)
        ):
            row, column = divmod(number, 6)
            tiff.filehandle.seek(at)
            tile = by_pillow(tiff.filehandle.read(size), 1)
            bare[64 * row : 64 * row + 64, 64 * column : 64 * column + 64] = tile
        expected = recentred(bare[:260, :350], 1)
        assert np.array_equal(out, expected)


def test_each_tile_of_a_reduced_level_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a grid that is the native tiles' own, too, where each rectangle needs its neighbours'."""
    decoded: list[int] = []
    stored = TileTable.stored
    write_svs_jpeg2000(tmp_path / "a.svs")
    with open_slide(tmp_path / "a.svs") as slide:
        assert isinstance(slide, SlideReader)
        reduced = slide.reduced(0, 2)
        assert reduced is not None
        monkeypatch.setattr(
            TileTable, "stored",
            lambda self, files, number: decoded.append(number) or stored(self, files, number),
        )  # fmt: skip
        out = np.empty((64, 64, 3), np.uint8)
        for y in range(0, 256, 64):
            for x in range(0, 320, 64):
                reduced.read_into(0, x, y, out)
    assert sorted(decoded) == list(range(30))
