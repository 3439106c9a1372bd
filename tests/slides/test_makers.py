"""Each maker's native tiles: OpenSlide's pixels to the bit, or OpenSlide itself."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from slides_vendor.hamamatsu import Restarts, write_ndpi
from slides_vendor.leica import write_leica
from slides_vendor.philips import write_philips
from slides_vendor.picture import picture
from slides_vendor.ventana import Aoi, write_ventana

from wsi_pipeline.errors import SlideReadError
from wsi_pipeline.slides import Slide, open_slide
from wsi_pipeline.slides.jpeg_tiff import JpegTiffReader
from wsi_pipeline.slides.reader import flatten
from wsi_pipeline.types import RgbImage

Write = Callable[..., None]
WIDTH, HEIGHT = 1536, 1024


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A file of a maker: how it is written, what its tiles' reader must be, its levels."""

    write: Write
    suffix: str
    vendor: str
    reader: str = "jpeg-tiff"
    levels: int = 0


def ndpi(**how: object) -> Write:
    return partial(write_ndpi, steps=(1, 4), restarts=Restarts(**how))  # type: ignore[arg-type]


def sparse_philips(path: Path, *, rgb: RgbImage) -> None:
    write_philips(path, rgb=rgb)
    leave_out(path, (0, 4, 9))


def two_regions(path: Path, *, rgb: RgbImage, place: tuple[int, int] = (1201, 643)) -> None:
    regions = [((150, 203), rgb[:400, :700]), (place, rgb[:512, 700:1500])]
    write_leica(path, regions=regions, glass=(2201, 1503), planes=2)


AREAS = (Aoi(columns=3, rows=4, x=0, y=0), Aoi(column=3, columns=3, rows=2, x=1000, y=500))
KINDS = {
    "ndpi-444": Kind(write=ndpi(across=3), suffix=".ndpi", vendor="hamamatsu", levels=6),
    "ndpi-422": Kind(
        write=ndpi(across=2, subsampling="4:2:2"), suffix=".ndpi", vendor="hamamatsu", levels=6
    ),
    "ndpi-whole": Kind(
        write=ndpi(across=1, smallest=4), suffix=".ndpi", vendor="hamamatsu", levels=6
    ),
    "philips": Kind(write=write_philips, suffix=".tiff", vendor="philips", levels=3),
    "philips-sparse": Kind(write=sparse_philips, suffix=".tiff", vendor="philips", levels=3),
    "leica": Kind(write=two_regions, suffix=".scn", vendor="leica", levels=2),
    "ventana": Kind(
        write=partial(write_ventana, areas=[Aoi(columns=6, rows=4)]), suffix=".bif",
        vendor="ventana", levels=2,
    ),
    "ventana-areas": Kind(
        write=partial(write_ventana, areas=AREAS, steps=(1, 4)), suffix=".bif", vendor="ventana",
        levels=2,
    ),
}  # fmt: skip
OTHERS = {
    "a table of markers that is not there": Kind(
        write=ndpi(across=2, table=False), suffix=".ndpi", vendor="hamamatsu"
    ),
    "tiles that overlap": Kind(
        write=partial(write_ventana, areas=[Aoi(columns=6, rows=4)], overlap=7.25), suffix=".bif",
        vendor="ventana",
    ),
    "regions that overlap": Kind(
        write=partial(two_regions, place=(700, 300)), suffix=".scn", vendor="leica"
    ),
}  # fmt: skip


def leave_out(path: Path, numbers: tuple[int, ...]) -> None:
    """Make tiles of level 0 missing: no bytes are stored of them."""
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for name in ("TileByteCounts", "TileOffsets"):
            tag = tiff.pages[0].tags[name]
            tag.overwrite([0 if n in numbers else value for n, value in enumerate(tag.value)])


@pytest.fixture(scope="module")
def tissue(data_dir: Path) -> RgbImage:
    with open_slide(data_dir / "slides/CMU-1-Small-Region.svs") as slide:
        return slide.read(0, 300, 500, WIDTH, HEIGHT)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, tissue: RgbImage) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("makers")
    paths = {}
    for number, (name, kind) in enumerate((KINDS | OTHERS).items()):
        paths[name] = folder / f"{number}{kind.suffix}"
        kind.write(paths[name], rgb=tissue)
    return paths


@pytest.fixture(scope="module")
def opened(written: dict[str, Path]) -> Iterator[dict[str, tuple[Slide, openslide.OpenSlide]]]:
    slides = {name: (open_slide(written[name]), openslide.OpenSlide(written[name]))
              for name in KINDS}  # fmt: skip
    yield slides
    for pair in slides.values():
        for slide in pair:
            slide.close()


def by_openslide(
    slide: openslide.OpenSlide, level: int, place: tuple[int, int], size: tuple[int, int]
) -> RgbImage:
    """Pixels of a level from ``place`` on, which OpenSlide does not interpolate."""
    downsample = slide.level_downsamples[level]
    if downsample == int(downsample):
        x, y = (each * int(downsample) for each in place)
        return flatten(np.array(slide.read_region((x, y), level, size)))
    # Of a Leica slide it takes whole pixels, counted from the edge of each region.
    assert slide.properties["openslide.vendor"] == "leica"
    out = np.full((size[1], size[0], 3), 255, np.uint8)
    for number in range(2):
        region = f"openslide.region[{number}]"
        x, y, width, height = (
            int(slide.properties[f"{region}.{name}"]) // 4 for name in ("x", "y", "width", "height")
        )
        left, top = max(place[0], x), max(place[1], y)
        right, bottom = min(place[0] + size[0], x + width), min(place[1] + size[1], y + height)
        if left < right and top < bottom:
            corner = ceil(left * downsample), ceil(top * downsample)
            read = slide.read_region(corner, level, (right - left, bottom - top))
            x, y = left - place[0], top - place[1]
            out[y : y + bottom - top, x : x + right - left] = flatten(np.array(read))
    return out


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_pixels_are_openslides_to_the_bit(
    opened: dict[str, tuple[Slide, openslide.OpenSlide]], name: str, data: st.DataObject
) -> None:
    ours, theirs = opened[name]
    assert theirs.properties["openslide.vendor"] == KINDS[name].vendor
    assert ours.info.reader == KINDS[name].reader
    assert len(ours.level_dimensions) == KINDS[name].levels
    level = data.draw(st.integers(0, len(ours.level_dimensions) - 1))
    width, height = ours.level_dimensions[level]
    place = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    size = data.draw(st.integers(1, 500)), data.draw(st.integers(1, 400))
    read = ours.read(level, *place, *size)
    inside = min(size[0], width - place[0]), min(size[1], height - place[1])
    expected = by_openslide(theirs, level, place, inside)
    assert np.array_equal(read[: inside[1], : inside[0]], expected)
    assert (read[inside[1] :] == 255).all()
    assert (read[:, inside[0] :] == 255).all()
    assert isinstance(ours, JpegTiffReader)
    assert not ours._complained, "the pixels came from OpenSlide itself"


@pytest.mark.parametrize("name", KINDS)
def test_whole_levels_are_the_same_in_threads_too(
    opened: dict[str, tuple[Slide, openslide.OpenSlide]], name: str
) -> None:
    ours, theirs = opened[name]
    for level, (width, height) in enumerate(ours.level_dimensions):
        whole = by_openslide(theirs, level, (0, 0), (width, height))
        corners = [(x, y) for y in range(0, height, 130) for x in range(0, width, 170)]

        def same(corner: tuple[int, int], level: int = level, whole: RgbImage = whole) -> bool:
            x, y = corner
            expected = whole[y : y + 130, x : x + 170]
            read = ours.read(level, x, y, expected.shape[1], expected.shape[0])
            return np.array_equal(read, expected)

        with ThreadPoolExecutor(3) as pool:
            assert all(pool.map(same, corners * 2))


@pytest.mark.parametrize("name", OTHERS)
def test_what_cannot_be_met_to_the_bit_is_left_to_openslide(
    written: dict[str, Path], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING),
        open_slide(written[name]) as slide,
        openslide.OpenSlide(written[name]) as theirs,
    ):
        assert (slide.info.reader, slide.info.vendor) == ("openslide", OTHERS[name].vendor)
        expected = by_openslide(theirs, 0, (200, 210), (500, 400))
        assert np.array_equal(slide.read(0, 200, 210, 500, 400), expected)
    assert not caplog.records, "nothing is wrong with the file"


@pytest.mark.parametrize("name", ["ndpi-444", "philips", "leica", "ventana-areas"])
def test_a_hole_costs_the_tiles_it_lies_in_and_no_pixel_is_made_up(
    written: dict[str, Path], tmp_path: Path, name: str
) -> None:
    """OpenSlide shows some holes as even grey."""
    path = tmp_path / written[name].name
    content = bytearray(written[name].read_bytes())
    with open_slide(written[name]) as slide:
        assert isinstance(slide, JpegTiffReader)
        table = slide._levels[0][0].table
        start = int(table.offsets[table.byte_counts.argmax()]) + 900
    content[start : start + 1500] = bytes(1500)
    path.write_bytes(content)
    with open_slide(path) as ours, open_slide(written[name]) as whole:
        assert ours.info.reader == "jpeg-tiff"
        width, height = ours.dimensions
        lost = 0
        for y in range(0, height, 64):
            for x in range(0, width, 64):
                expected = whole.read(0, x, y, 64, 64)
                try:
                    assert np.array_equal(ours.read(0, x, y, 64, 64), expected)
                except SlideReadError:
                    lost += 1
    in_a_tile = (table.tile_width // 64 + 1) * (table.tile_height // 64 + 1)
    assert 0 < lost <= 2 * in_a_tile


@pytest.mark.parametrize("name", ["ndpi-444", "ndpi-422", "philips"])
def test_a_reduced_level_is_what_libjpeg_gives_at_that_size(
    written: dict[str, Path], name: str
) -> None:
    """OpenSlide decodes the levels between an NDPI's own in the same way."""
    with open_slide(written[name]) as slide:
        assert isinstance(slide, JpegTiffReader)
        reduced = slide.reduced(0, 2)
        assert reduced is not None
        out = np.empty((300, 400, 3), np.uint8)
        reduced.read_into(0, 101, 55, out)
        level = slide.read(1, 101, 55, 400, 300)
    if name.startswith("ndpi"):
        assert np.array_equal(out, level)
    assert np.abs(out.astype(int) - level).mean() < 12, "this level is every other pixel"


def test_memory_does_not_grow_with_the_slide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interval is as wide as the level, so that nothing but the limit holds it back."""
    path = tmp_path / "wide.ndpi"
    write_ndpi(path, steps=(1,), restarts=Restarts(across=1), rgb=picture(3072, 512))
    room = 3072 * 64 * 3 * 3
    monkeypatch.setattr("wsi_pipeline.slides.jpeg_tiff.REMEMBERED_BYTES", room)
    with open_slide(path) as slide, open_slide(path, reader="openslide") as theirs:
        assert isinstance(slide, JpegTiffReader)
        for y in range(0, 450, 150):
            for x in (0, 1500, 2900):
                read = slide.read(0, x, y, 144, 150)
                assert np.array_equal(read, theirs.read(0, x, y, 144, 150))
                assert len(slide._levels[0][0].memory) <= 3


def test_the_pyramid_of_an_ome_tiff_is_decoded_natively(tmp_path: Path, tissue: RgbImage) -> None:
    """OpenSlide sees level 0 of it, TiffSlide all."""
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        how = {"tile": (256, 256), "photometric": "rgb", "compression": "jpeg"}
        tiff.write(tissue, subifds=2, metadata={"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}, **how)
        for step in (2, 3):
            tiff.write(np.ascontiguousarray(tissue[::step, ::step]), subfiletype=1, **how)
    with (
        open_slide(path) as ours,
        open_slide(path, reader="tiffslide") as theirs,
        openslide.OpenSlide(path) as level_0,
    ):
        assert ours.info.reader == "jpeg-tiff"
        assert ours.mpp == 0.5
        assert ours.level_dimensions == theirs.level_dimensions
        assert len(ours.level_dimensions) == 3
        for level in range(3):
            for place in ((0, 0), (211, 143), (400, 200)):
                read = ours.read(level, *place, 300, 200)
                assert np.array_equal(read, theirs.read(level, *place, 300, 200))
                if level == 0:
                    assert np.array_equal(read, by_openslide(level_0, 0, place, (300, 200)))
        assert isinstance(ours, JpegTiffReader)
        assert not ours._complained


def test_what_is_missing_of_a_philips_slide_is_white(
    opened: dict[str, tuple[Slide, openslide.OpenSlide]],
) -> None:
    assert (opened["philips-sparse"][0].read(0, 0, 0, 256, 256) == 255).all()
