"""The native JPEG decoder: the same pixels as OpenSlide, and a way back when a file lies."""

import io
import logging
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsi_pipeline.errors import SlideOpenError, SlideReadError
from wsi_pipeline.slides import Slide, open_slide
from wsi_pipeline.slides.jpeg_tiff import JpegTiffReader
from wsi_pipeline.slides.tile_codec import without_app_markers
from wsi_pipeline.types import RgbImage


def tissue_like(width: int, height: int) -> RgbImage:
    """Coloured, textured on many scales, so that a wrong colour or place cannot hide."""
    noise = np.random.default_rng(3)
    rgb = np.zeros((height, width, 3), np.float32)
    for cells in (6, 30, 200):
        coarse = noise.normal(0, 40, (cells, cells, 3)).astype(np.float32)
        rgb += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(rgb + np.array([190, 120, 170], np.float32), 0, 255).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How a synthetic slide is stored."""

    name: str
    tile: int
    photometric: str
    subsampling: tuple[int, int] = (1, 1)
    shared_tables: bool = False


KINDS = [
    Kind(name="ycbcr420", tile=256, photometric="ycbcr", subsampling=(2, 2)),
    Kind(name="ycbcr422", tile=240, photometric="ycbcr", subsampling=(2, 1)),
    Kind(name="ycbcr444", tile=512, photometric="ycbcr"),
    Kind(name="rgb", tile=256, photometric="rgb"),
    Kind(name="tables420", tile=240, photometric="ycbcr", subsampling=(2, 2), shared_tables=True),
    Kind(name="tables_rgb", tile=512, photometric="rgb", shared_tables=True),
]
REAL = (
    "CMU-1-Small-Region.svs",
    "PDAC-tru-cut_HE3.svs",
    "TCGA-CR-7395-01A-01-TS1.svs",
    "liver_glycogen_HE.tif",
)
SIZES = ((1000, 760), (500, 380), (250, 190))


def encode(tile: RgbImage, kind: Kind) -> bytes:
    encoded = imagecodecs.jpeg8_encode(
        tile,
        level=85,
        colorspace="RGB",
        outcolorspace="RGB" if kind.photometric == "rgb" else "YCBCR",
        subsampling={(2, 2): "420", (2, 1): "422", (1, 1): "444"}[kind.subsampling],
    )
    return bytes(encoded)


def split_tables(jpeg: bytes) -> tuple[bytes, bytes]:
    """A JPEG as (its DQT and DHT segments as a stream of their own, the rest)."""
    tables, rest, at = b"", b"", 2
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4])
        if jpeg[at + 1] in (0xDB, 0xC4):
            tables += jpeg[at:end]
        elif not 0xE0 <= jpeg[at + 1] <= 0xEF:
            rest += jpeg[at:end]
        at = end
    return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + rest + jpeg[at:]


def tiles_of(rgb: RgbImage, kind: Kind) -> Iterator[bytes]:
    side = kind.tile
    for y in range(0, rgb.shape[0], side):
        for x in range(0, rgb.shape[1], side):
            part = rgb[y : y + side, x : x + side]
            pad = ((0, side - part.shape[0]), (0, side - part.shape[1]), (0, 0))
            jpeg = encode(np.pad(part, pad, mode="edge"), kind)
            yield split_tables(jpeg)[1] if kind.shared_tables else jpeg


def write_slide(path: Path, kind: Kind) -> Path:
    """A generic pyramidal TIFF whose tiles are stored as ``kind`` says."""
    rgb = tissue_like(*SIZES[0])
    with tifffile.TiffWriter(path) as tiff:
        for level, size in enumerate(SIZES):
            pixels = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
            tables = split_tables(encode(pixels[: kind.tile, : kind.tile], kind))[0]
            tiff.write(
                tiles_of(pixels, kind),
                shape=pixels.shape,
                dtype=np.uint8,
                tile=(kind.tile, kind.tile),
                photometric=kind.photometric,
                compression="jpeg",
                subsampling=kind.subsampling,
                jpegtables=tables if kind.shared_tables else None,
                subfiletype=1 if level else 0,
                metadata=None,
            )
    return path


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("jpeg")
    return {kind.name: write_slide(folder / f"{kind.name}.tif", kind) for kind in KINDS}


Pair = tuple[Slide, Slide]


@pytest.fixture(scope="module")
def pairs(written: dict[str, Path], data_dir: Path) -> Iterator[dict[str, Pair]]:
    """The same slides opened natively and by OpenSlide."""
    paths = written | {name: data_dir / "slides" / name for name in REAL}
    opened = {
        name: (open_slide(path), open_slide(path, reader="openslide"))
        for name, path in paths.items()
    }
    yield opened
    for pair in opened.values():
        for slide in pair:
            slide.close()


@pytest.mark.parametrize("name", [*(kind.name for kind in KINDS), *REAL])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_pixels_are_openslides_to_the_bit(
    pairs: dict[str, Pair], name: str, data: st.DataObject
) -> None:
    fast, reference = pairs[name]
    assert (fast.info.reader, reference.info.reader) == ("jpeg-tiff", "openslide")
    exact = [k for k, ds in enumerate(fast.info.level_downsamples) if ds == int(ds)]
    level = data.draw(st.sampled_from(exact))
    width, height = fast.info.level_dimensions[level]
    x, y = data.draw(st.integers(-300, width)), data.draw(st.integers(-300, height))
    size = data.draw(st.integers(1, 600)), data.draw(st.integers(1, 600))
    assert np.array_equal(fast.read(level, x, y, *size), reference.read(level, x, y, *size))
    assert isinstance(fast, JpegTiffReader)
    assert not fast._complained, "the pixels came from OpenSlide itself"


def test_uneven_levels_give_the_pixels_that_are_stored(data_dir: Path) -> None:
    path = data_dir / "slides/liver_glycogen_HE.tif"
    with open_slide(path) as slide, tifffile.TiffFile(path) as tiff:
        for level in (1, 2):
            assert slide.info.level_downsamples[level] % 1 != 0
            stored = tiff.pages[level].asarray()
            read = slide.read(level, 301, 203, 600, 600)
            assert np.array_equal(read, stored[203:803, 301:901])


def test_what_it_says_is_openslides_but_for_the_reader(pairs: dict[str, Pair]) -> None:
    fast, reference = (slide.info for slide in pairs["CMU-1-Small-Region.svs"])
    assert fast.properties == reference.properties
    assert fast.associated == reference.associated
    assert fast.level_dimensions == reference.level_dimensions
    assert "simplejpeg" in fast.reader_version
    label = pairs["CMU-1-Small-Region.svs"][0].associated_image("label")
    assert np.array_equal(label, pairs["CMU-1-Small-Region.svs"][1].associated_image("label"))


def test_threads_inside_and_outside_change_nothing(
    written: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsi_pipeline.slides.jpeg_tiff.FEW", 4)
    corners = [(x, y) for y in range(-50, 700, 130) for x in range(-50, 950, 170)]
    with open_slide(written["ycbcr420"]) as one, open_slide(written["ycbcr420"], threads=3) as more:
        alone = [one.read(0, x, y, 300, 290) for x, y in corners]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda at: more.read(0, at[0], at[1], 300, 290), corners))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_each_tile_is_decoded_once(
    written: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    decode = JpegTiffReader._decode
    with open_slide(written["ycbcr420"]) as slide:

        def count(reader: JpegTiffReader, level: int, number: int, out: RgbImage) -> None:
            decoded.append(number)
            decode(reader, level, number, out)

        monkeypatch.setattr(JpegTiffReader, "_decode", count)
        slide.read(0, 10, 10, 900, 700)
        assert sorted(decoded) == list(range(12))
        # Neighbouring reads off the tiles' grid share the tiles they cut.
        decoded.clear()
        for y in range(0, 760, 190):
            for x in range(0, 1000, 250):
                slide.read(0, x, y, 250, 190)
        assert len(decoded) == len(set(decoded)) <= 12


def test_memory_for_shared_tiles_is_bounded(
    written: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsi_pipeline.slides.jpeg_tiff.REMEMBERED_BYTES", 256 * 256 * 3 * 2)
    with open_slide(written["ycbcr420"]) as slide:
        assert isinstance(slide, JpegTiffReader)
        for x in range(0, 900, 130):
            slide.read(0, x, 5, 100, 700)
        held = len(slide._levels[0][0].memory)
    assert 0 < held <= 2


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("kind", KINDS[:3])
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_a_reduced_level_is_what_libjpeg_gives_at_that_size(
    written: dict[str, Path], kind: Kind, factor: int, data: st.DataObject
) -> None:
    """Pillow's draft mode is another road to the same scaled decoding."""
    with open_slide(written[kind.name]) as slide, tifffile.TiffFile(written[kind.name]) as tiff:
        assert isinstance(slide, JpegTiffReader)
        reduced = slide.reduced(0, factor)
        assert reduced is not None
        width, height = (each // factor for each in slide.info.dimensions)
        x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
        size = data.draw(st.integers(1, height - y)), data.draw(st.integers(1, width - x))
        out = np.empty((*size, 3), np.uint8)
        reduced.read_into(0, x, y, out)
        side = kind.tile // factor
        page, rows = tiff.pages[0], []
        for row in range(-(-SIZES[0][1] // kind.tile)):
            across = -(-SIZES[0][0] // kind.tile)
            rows.append([drafted(page, row * across + column, side) for column in range(across)])
    expected = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    assert np.array_equal(out, expected[y : y + out.shape[0], x : x + out.shape[1]])


def drafted(page: tifffile.TiffPage, number: int, side: int) -> RgbImage:
    """A native tile decoded by Pillow to (side, side, 3)."""
    start, size = page.dataoffsets[number], page.databytecounts[number]
    page.parent.filehandle.seek(start)
    image = Image.open(io.BytesIO(page.parent.filehandle.read(size)))
    image.draft("RGB", (side, side))
    assert image.size == (side, side)
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(
    ("name", "gone", "most"), [("rgb", (128, 128), 1), ("tables420", (120, 0), 4)]
)
def test_a_reduced_level_is_near_the_mean_also_where_openslide_helps(
    written: dict[str, Path], tmp_path: Path, name: str, gone: tuple[int, int], most: int
) -> None:
    path = damaged(written[name], tmp_path / "missing.tif", "TileByteCounts", 0)
    with open_slide(path) as slide:
        assert isinstance(slide, JpegTiffReader)
        reduced = slide.reduced(0, 2)
        assert reduced is not None
        out = np.empty((380, 500, 3), np.uint8)
        reduced.read_into(0, 0, 0, out)
        mean = cv2.resize(slide.read(0, 0, 0, 1000, 760), (500, 380), interpolation=cv2.INTER_AREA)
    assert np.abs(out.astype(int) - mean).mean() < most, "noise in the colours"
    assert (out[gone[0] : gone[0] + 120, gone[1] : gone[1] + 120] == 255).all(), "the missing tile"


def test_changed_colours_have_no_reduced_level(written: dict[str, Path]) -> None:
    with open_slide(written["rgb"]) as slide:
        assert isinstance(slide, JpegTiffReader)
        slide.recolour = lambda rgb: rgb
        assert slide.reduced(0, 2) is None


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("name", [KINDS[0].name, KINDS[4].name, REAL[0]])
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_averages_of_native_tiles_are_those_of_the_pixels_read(
    pairs: dict[str, Pair], name: str, factor: int, data: st.DataObject
) -> None:
    reader, _ = pairs[name]
    level = data.draw(st.integers(0, len(reader.info.level_dimensions) - 1))
    averaged = reader.averaged(level, factor)
    assert averaged is not None
    sizes = [extent // factor for extent in reader.info.level_dimensions[level]]
    width, height = (data.draw(st.integers(1, min(size, 300))) for size in sizes)
    x, y = (data.draw(st.integers(0, n - m)) for n, m in zip(sizes, (width, height), strict=True))
    out = np.zeros((height, width, 3), np.uint8)
    averaged.read_into(level, x, y, out)
    pixels = reader.read(level, *(factor * each for each in (x, y, width, height)))
    whole = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(out, whole)


def test_pixels_that_do_not_go_into_native_tiles_are_not_averaged_there(
    pairs: dict[str, Pair],
) -> None:
    reader = pairs[KINDS[0].name][0]
    assert reader.averaged(0, 3) is None
    assert reader.averaged(0, 4) is not None


def damaged(path: Path, copy: Path, name: str, value: int) -> Path:
    """A copy in which one entry of a tile table of level 0 is overwritten."""
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[0].tags[name]
        size = {3: 2, 4: 4, 16: 8}[int(tag.dtype)]
        at = tag.valueoffset + 5 * size
    content = bytearray(path.read_bytes())
    content[at : at + size] = struct.pack({2: "<H", 4: "<I", 8: "<Q"}[size], value)
    copy.write_bytes(content)
    return copy


def test_a_missing_tile_is_what_openslide_makes_of_it(
    written: dict[str, Path], tmp_path: Path
) -> None:
    path = damaged(written["ycbcr420"], tmp_path / "missing.tif", "TileByteCounts", 0)
    with open_slide(path) as fast, open_slide(path, reader="openslide") as reference:
        assert fast.info.reader == "jpeg-tiff"
        read = fast.read(0, 0, 0, 1000, 760)
        assert np.array_equal(read, reference.read(0, 0, 0, 1000, 760))
    assert (read[256:512, 256:512] == 255).all()


def test_tables_that_point_outside_the_file_are_not_trusted(
    written: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = damaged(written["rgb"], tmp_path / "far.tif", "TileOffsets", 2**31)
    with caplog.at_level(logging.WARNING), open_slide(path) as slide:
        assert slide.info.reader == "openslide"
        assert "far.tif: not read by jpeg-tiff, because some tiles lie beyond" in caplog.text
        with pytest.raises(SlideReadError, match=r"far\.tif"):
            slide.read(0, 256, 256, 100, 100)
    with pytest.raises(SlideOpenError, match=r"does not apply, because some tiles lie beyond"):
        open_slide(path, reader="jpeg-tiff")


def test_a_damaged_tile_is_never_passed_on_as_the_decoder_left_it(
    written: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "cut.tif"
    with tifffile.TiffFile(written["ycbcr420"]) as tiff:
        page = tiff.pages[0]
        start, size = page.dataoffsets[5], page.databytecounts[5]
    content = bytearray(written["ycbcr420"].read_bytes())
    content[start + size // 2 : start + size] = bytes(size - size // 2)
    path.write_bytes(content)
    with open_slide(path) as fast, open_slide(written["ycbcr420"]) as whole:
        assert fast.info.reader == "jpeg-tiff"
        with pytest.raises(SlideReadError, match=r"near x=256, y=256 \(a hole of 1024"):
            fast.read(0, 200, 200, 400, 400)
        assert np.array_equal(fast.read(0, 512, 0, 400, 700), whole.read(0, 512, 0, 400, 700))


def test_colours_that_contradict_the_tag_follow_openslide(tmp_path: Path) -> None:
    """A JFIF marker outranks Adobe's in libjpeg; the TIFF tag must win over both."""
    lying = Kind(name="lying", tile=256, photometric="rgb")
    honest = Kind(name="honest", tile=256, photometric="ycbcr", subsampling=(1, 1))
    rgb = tissue_like(512, 512)
    with tifffile.TiffWriter(tmp_path / "lying.tif") as tiff:
        tiff.write(
            tiles_of(rgb, honest),
            shape=rgb.shape,
            dtype=np.uint8,
            tile=(256, 256),
            photometric=lying.photometric,
            compression="jpeg",
            metadata=None,
        )
    with (
        open_slide(tmp_path / "lying.tif", reader="jpeg-tiff") as fast,
        open_slide(tmp_path / "lying.tif", reader="openslide") as reference,
    ):
        assert np.array_equal(fast.read(0, 0, 0, 512, 512), reference.read(0, 0, 0, 512, 512))


@pytest.mark.parametrize(
    ("name", "said", "reader"),
    [
        ("broken/boxes.tiff", "not JPEG", "openslide"),
        ("CMU-1-Small-Region.dicom", "the format is dicom", "dicom"),
    ],
)
def test_other_slides_are_left_to_others(
    data_dir: Path, name: str, said: str, reader: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), open_slide(data_dir / "slides" / name) as slide:
        assert slide.info.reader == reader
    assert not caplog.records
    with pytest.raises(SlideOpenError, match=said):
        open_slide(data_dir / "slides" / name, reader="jpeg-tiff")


def test_an_unreadable_slide_fails_on_read_in_our_words(data_dir: Path) -> None:
    with (
        open_slide(data_dir / "slides/broken/unreadable.svs") as slide,
        pytest.raises(SlideReadError, match=r"unreadable\.svs: level 0 cannot be decoded"),
    ):
        slide.read(0, 0, 0, 16, 16)


def test_application_markers_are_cut_and_the_rest_kept() -> None:
    jpeg = encode(tissue_like(64, 64), KINDS[0])
    bare = without_app_markers(jpeg)
    assert b"JFIF" in jpeg
    assert b"JFIF" not in bare
    assert jpeg.endswith(bare[-200:])
    assert np.array_equal(
        imagecodecs.jpeg8_decode(b"\xff\xd8" + bare), imagecodecs.jpeg8_decode(jpeg)
    )
    tables, _ = split_tables(jpeg)
    assert without_app_markers(tables) == tables[2:-2]
    with pytest.raises(ValueError, match="start marker"):
        without_app_markers(b"BM not a jpeg")
