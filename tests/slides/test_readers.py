"""Every reader obeys one protocol, and refuses in one sentence what it cannot use."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pydicom
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import generate_frames
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from wsi_pipeline.errors import ConfigError, SlideOpenError, SlideReadError
from wsi_pipeline.slides import Slide, jpeg_tiff, open_slide, tiffslide_reader, tile_table
from wsi_pipeline.types import Region, RgbImage

SMALL_SVS = "slides/CMU-1-Small-Region.svs"


def white_padded(level: RgbImage, x: int, y: int, width: int, height: int) -> RgbImage:
    """Cut from a whole level, white outside: the reference for ``Slide.read``."""
    canvas = np.full((height, width, 3), 255, np.uint8)
    for row in range(height):
        for column in range(width):
            if 0 <= y + row < level.shape[0] and 0 <= x + column < level.shape[1]:
                canvas[row, column] = level[y + row, x + column]
    return canvas


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RgbImage]:
    pixels = np.random.default_rng(7).integers(0, 255, (37, 53, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("picture") / "crop.png"
    Image.fromarray(pixels).save(path)
    return path, pixels


@settings(max_examples=60, deadline=None)
@given(
    x=st.integers(-40, 60),
    y=st.integers(-40, 60),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
)
def test_reading_across_the_border_pads_with_white(
    picture: tuple[Path, RgbImage], x: int, y: int, width: int, height: int
) -> None:
    path, pixels = picture
    with open_slide(path) as slide:
        read = slide.read(0, x, y, width, height)
    assert np.array_equal(read, white_padded(pixels, x, y, width, height))


@pytest.mark.parametrize("reader", ["openslide", "tiffslide"])
def test_reading_across_the_border_of_every_level(data_dir: Path, reader: str) -> None:
    with open_slide(data_dir / "slides/broken/boxes.tiff", reader=reader) as slide:
        for level, (width, height) in enumerate(slide.info.level_dimensions):
            whole = slide.read(level, 0, 0, width, height)
            for x, y in [(-9, -9), (width - 11, 3), (5, height - 11), (width + 1, 0), (-70, -70)]:
                read = slide.read(level, x, y, 24, 20)
                assert np.array_equal(read, white_padded(whole, x, y, 24, 20))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_pixel_is_the_same_in_whatever_rectangle_it_is_read(
    data_dir: Path, data: st.DataObject
) -> None:
    # Level 1 of the JPEG 2000 slide has a downsample of 2.0005.
    with open_slide(data_dir / "slides/TCGA-CR-7395-01A-01-TS1.svs", reader="openslide") as slide:
        whole = _level_one_corner(slide)
        x, y = data.draw(st.integers(0, 500)), data.draw(st.integers(0, 500))
        width, height = data.draw(st.integers(1, 99)), data.draw(st.integers(1, 99))
        read = slide.read(1, 900 + x, 700 + y, width, height)
    assert np.array_equal(read, whole[y : y + height, x : x + width])


_CORNERS: list[RgbImage] = []


def _level_one_corner(slide: Slide) -> RgbImage:
    if not _CORNERS:
        _CORNERS.append(slide.read(1, 900, 700, 600, 600))
    return _CORNERS[0]


def test_openslide_pixels_arrive_unchanged(data_dir: Path) -> None:
    path = data_dir / SMALL_SVS
    expected = np.asarray(openslide.OpenSlide(path).read_region((700, 900), 0, (311, 257)))
    with open_slide(path, reader="openslide") as slide:
        read = slide.read(0, 700, 900, 311, 257)
    assert np.array_equal(read, expected[..., :3])
    assert read.flags.c_contiguous


def test_readers_agree_on_a_slide(data_dir: Path) -> None:
    with (
        open_slide(data_dir / SMALL_SVS, reader="openslide") as one,
        open_slide(data_dir / SMALL_SVS, reader="tiffslide") as other,
    ):
        assert one.info.level_dimensions == other.info.level_dimensions
        assert one.info.mpp == pytest.approx(other.info.mpp)
        assert one.info.objective_power == other.info.objective_power
        assert set(one.info.associated) <= set(other.info.associated) | {"thumbnail"}
        assert np.array_equal(one.read(0, 800, 900, 300, 300), other.read(0, 800, 900, 300, 300))


def test_svs_and_dicom_of_one_scan_agree(data_dir: Path) -> None:
    folder = data_dir / "slides/CMU-1-Small-Region.dicom"
    with (
        open_slide(data_dir / SMALL_SVS) as svs,
        open_slide(folder) as whole,
        open_slide(folder / "level-3-frames-0-1.dcm") as part,
    ):
        assert svs.info.dimensions == whole.info.dimensions == part.info.dimensions
        assert svs.info.mpp == pytest.approx(whole.info.mpp) == part.info.mpp
        # Another JPEG compression of the same scan, its wrong colour label seen through.
        difference = svs.read(0, 500, 1000, 500, 500).astype(int) - whole.read(
            0, 500, 1000, 500, 500
        )
        assert np.abs(difference).mean() < 6
        assert "YCbCr" in whole.info.properties["repair.colour"]


def test_mislabelled_dicom_frames_equal_the_jpeg_decoder(data_dir: Path) -> None:
    folder = data_dir / "slides/CMU-1-Small-Region.dicom"
    frames = generate_frames(
        pydicom.dcmread(folder / "level-0-frames-0-30.dcm").PixelData, number_of_frames=30
    )
    with open_slide(folder) as slide:
        read = slide.read(0, 500, 1000, 500, 500)
    assert np.array_equal(read, imagecodecs.jpeg8_decode(list(frames)[11]))


def test_properties_and_associated_images(data_dir: Path) -> None:
    with open_slide(data_dir / SMALL_SVS) as slide:
        assert slide.info.associated == ("label", "macro", "thumbnail")
        assert slide.info.properties["aperio.AppMag"] == "20"
        assert slide.info.vendor == "aperio"
        assert slide.info.objective_power == 20
        label = slide.associated_image("label")
        assert label.shape == (463, 387, 3)
        assert label.std() > 10
        with pytest.raises(SlideReadError, match=r"no associated image 'lable' .*label, macro"):
            slide.associated_image("lable")
        with pytest.raises(SlideReadError, match=r"level 3 .* levels 0 to 0"):
            slide.read(3, 0, 0, 10, 10)


@pytest.mark.parametrize("max_px", [64, 300, 5000])
def test_thumbnail_fits_and_shows_the_slide(data_dir: Path, max_px: int) -> None:
    with open_slide(data_dir / SMALL_SVS) as slide:
        thumbnail = slide.thumbnail(max_px)
        width, height = slide.info.dimensions
        assert max(thumbnail.shape) == min(max_px, height)
        assert thumbnail.shape[1] / thumbnail.shape[0] == pytest.approx(width / height, rel=0.03)
        assert thumbnail.mean() == pytest.approx(slide.read(0, 0, 0, width, height).mean(), abs=1.0)


def test_transparency_is_white(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[0, 0] = (10, 20, 30, 255)
    pixels[0, 1] = (0, 100, 200, 128)
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    with open_slide(tmp_path / "clear.png") as slide:
        read = slide.read(0, 0, 0, 4, 4)
    assert read[0, 0].tolist() == [10, 20, 30]
    assert read[0, 1].tolist() == [127, 177, 227]
    assert (read[1:] == 255).all()


@pytest.mark.parametrize("mode", ["L", "P", "CMYK"])
def test_pictures_of_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGB", (20, 10), (204, 204, 204)).convert(mode)
    path = tmp_path / ("grey.jpg" if mode == "CMYK" else "grey.png")
    image.save(path)
    with open_slide(path) as slide:
        read = slide.read(0, 0, 0, 20, 10)
    assert read.shape == (10, 20, 3)
    assert np.abs(read.astype(int) - 204).max() <= 2


def test_flat_tiff_is_opened_and_a_striped_one_too(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (90, 70, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "strips.tif", pixels, photometric="rgb", rowsperstrip=8)
    Image.fromarray(pixels).save(tmp_path / "lzw.tif", compression="tiff_lzw")
    for name in ("strips.tif", "lzw.tif"):
        with open_slide(tmp_path / name) as slide:
            assert np.array_equal(slide.read(0, 0, 0, 70, 90), pixels)


def test_threads_read_the_same_pixels(data_dir: Path) -> None:
    corners = [(x, y) for y in range(0, 2400, 480) for x in range(0, 1900, 380)]
    with open_slide(data_dir / SMALL_SVS, reader="openslide") as slide:
        alone = [slide.read(0, x, y, 300, 300) for x, y in corners]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda at: slide.read(0, at[0], at[1], 300, 300), corners))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_a_url_is_read_through_fsspec(data_dir: Path) -> None:
    path = data_dir / SMALL_SVS
    with open_slide(f"file://{path}") as remote, open_slide(path, reader="openslide") as local:
        assert remote.info.reader == "tiffslide"
        assert np.array_equal(remote.read(0, 9, 9, 99, 99), local.read(0, 9, 9, 99, 99))


def test_a_slide_that_fails_on_read_says_so_every_time(data_dir: Path) -> None:
    with open_slide(data_dir / "slides/broken/unreadable.svs", reader="openslide") as slide:
        for _ in range(2):
            with pytest.raises(SlideReadError, match=r"unreadable\.svs: level 0 cannot be decoded"):
                slide.read(0, 0, 0, 16, 16)


@pytest.mark.parametrize("reader", ["auto", "openslide", "tiffslide", "image"])
@pytest.mark.parametrize("name", ["broken.svs", "unopenable.tiff"])
def test_broken_files_are_refused_in_one_sentence(data_dir: Path, name: str, reader: str) -> None:
    with pytest.raises(SlideOpenError, match=name) as refusal:
        open_slide(data_dir / "slides/broken" / name, reader=reader)
    assert_one_sentence(str(refusal.value))


def assert_one_sentence(message: str) -> None:
    assert "\n" not in message
    assert message.endswith(".")
    assert ". " not in message


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("nothing.svs", None, "no such file"),
        ("empty.svs", b"", "empty"),
        ("letter.txt", b"Dear colleague", "cannot open"),
        ("page.svs", b"<html>Sign in</html>" * 50, "cannot open"),
        ("cut.png", b"\x89PNG\r\n\x1a\n", "cut short"),
        ("cut.tif", b"II*\x00\x08\x00\x00\x00", "cannot open"),
    ],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_what_is_no_slide_is_refused(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SlideOpenError, match=said) as refusal:
        open_slide(tmp_path / name)
    assert_one_sentence(str(refusal.value))


def test_a_picture_cut_short_fails_on_read(tmp_path: Path) -> None:
    Image.effect_noise((300, 300), 50).save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(content[: len(content) // 2])
    with (
        open_slide(tmp_path / "half.jpg") as slide,
        pytest.raises(SlideReadError, match=r"half\.jpg"),
    ):
        slide.read(0, 0, 0, 10, 10)


def test_a_huge_picture_and_deep_pixels_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (300, 300)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(SlideOpenError, match="too large"):
        open_slide(tmp_path / "huge.png")
    monkeypatch.undo()
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(SlideOpenError, match="8-bit"):
        open_slide(tmp_path / "deep.png")


def write_ct(path: Path) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    header.Modality = "CT"
    header.SeriesInstanceUID = generate_uid()
    header.save_as(path)


def test_other_dicom_and_folders_are_refused(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "ct").mkdir()
    write_ct(tmp_path / "ct" / "slice.dcm")
    for path in (tmp_path / "ct", tmp_path / "ct" / "slice.dcm"):
        with pytest.raises(SlideOpenError, match=r"modality CT, not slide microscopy"):
            open_slide(path)
    with pytest.raises(SlideOpenError, match="holds no DICOM files"):
        open_slide(tmp_path)
    with pytest.raises(SlideOpenError, match=r"holds 2 DICOM series.*for example boxes_0\.dcm"):
        open_slide(data_dir / "slides/broken")


def test_unknown_readers_are_refused(data_dir: Path) -> None:
    with pytest.raises(ConfigError, match="no slide reader 'bioformats'; Known: auto, jpeg"):
        open_slide(data_dir / SMALL_SVS, reader="bioformats")
    with pytest.raises(ConfigError, match="only the tiffslide reader"):
        open_slide("s3://bucket/slide.svs", reader="openslide")
    with pytest.raises(ConfigError, match="reads modality slide, not ct"):
        open_slide(data_dir / SMALL_SVS, reader="image", modality="ct")
    with pytest.raises(ConfigError, match="reads modality ct, not slide"):
        open_slide(data_dir / SMALL_SVS, reader="ct")


def test_a_bug_of_ours_does_not_read_as_a_damaged_file(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = data_dir / SMALL_SVS
    with open_slide(path, reader="tiffslide") as slide, monkeypatch.context() as patched:
        patched.setattr(tiffslide_reader.TiffSlideReader, "_region", None)
        with pytest.raises(TypeError):
            slide.read(0, 0, 0, 8, 8)
    with open_slide(path, reader="jpeg-tiff") as slide, monkeypatch.context() as patched:
        patched.setattr(jpeg_tiff, "covering", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            slide.read(0, 0, 0, 8, 8)
    monkeypatch.setattr(tiffslide_reader, "number", None)
    with pytest.raises(TypeError):
        open_slide(path, reader="tiffslide")
    monkeypatch.setattr(tile_table, "_level_table", None)
    with pytest.raises(TypeError):
        open_slide(path, reader="jpeg-tiff")


def test_the_scanned_part_of_a_mirax_slide_is_honoured(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No MIRAX file is small enough to keep, so its bounds are put into another slide's."""
    bounds = {"x": "200", "y": "300", "width": "800", "height": "640"}
    real = openslide.OpenSlide.properties.fget
    monkeypatch.setattr(
        openslide.OpenSlide,
        "properties",
        property(
            lambda slide: (
                dict(real(slide)) | {f"openslide.bounds-{key}": v for key, v in bounds.items()}
            )
        ),
    )
    with open_slide(data_dir / SMALL_SVS, reader="openslide") as slide:
        assert slide.info.bounds == Region(x=200, y=300, width=800, height=640)
        assert slide.info.dimensions == (2220, 2967)
        thumbnail = slide.thumbnail(1000)
        assert np.array_equal(thumbnail, slide.read(0, 200, 300, 800, 640))
