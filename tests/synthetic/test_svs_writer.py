"""The SVS files are what readers of Aperio slides expect."""

from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import tifffile
from tiffslide import TiffSlide

from wsi_pipeline.synthetic.associated import label_image, macro_image
from wsi_pipeline.synthetic.svs import SvsHeader, write_svs
from wsi_pipeline.types import RgbImage

WIDTH, HEIGHT = 1100, 900  # neither is a multiple of the tile or of the reductions


def picture() -> RgbImage:
    """Smooth colours, different in every direction, that JPEG keeps within a few levels."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    red, green = 255 * x / WIDTH, 255 * y / HEIGHT
    return np.stack([red, green, 255 - (red + green) / 2], axis=2).astype(np.uint8)


def write(path: Path) -> None:
    header = SvsHeader(
        width=WIDTH, height=HEIGHT, mpp=0.25, objective_power=40, quality=90,
        properties=(("ImageID", "7"),),
    )  # fmt: skip
    image = picture()
    label = label_image("SYN-TEST")
    bands = (image[top : top + 512] for top in range(0, HEIGHT, 512))
    write_svs(path, header, bands, lambda thumbnail: (label, macro_image(thumbnail, label)))


@pytest.fixture(scope="module")
def svs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("svs") / "slide.svs"
    write(path)
    return path


def test_openslide_takes_it_for_aperio(svs: Path) -> None:
    with openslide.OpenSlide(svs) as slide:
        properties = dict(slide.properties)
        assert properties[openslide.PROPERTY_NAME_VENDOR] == "aperio"
        assert float(properties[openslide.PROPERTY_NAME_MPP_X]) == 0.25
        assert float(properties[openslide.PROPERTY_NAME_MPP_Y]) == 0.25
        assert properties[openslide.PROPERTY_NAME_OBJECTIVE_POWER] == "40"
        assert properties["aperio.ImageID"] == "7"
        assert slide.level_dimensions == ((1100, 900), (275, 225), (68, 56))
        assert set(slide.associated_images) == {"label", "macro", "thumbnail"}
        assert slide.associated_images["label"].size == (400, 400)


def test_every_level_shows_the_same_picture(svs: Path) -> None:
    image = picture().astype(int)
    with openslide.OpenSlide(svs) as slide:
        for level, (width, height) in enumerate(slide.level_dimensions):
            got = np.array(slide.read_region((0, 0), level, (width, height)).convert("RGB"))
            factor = round(slide.level_downsamples[level])
            want = cv2.resize(
                image[: height * factor, : width * factor].astype(np.uint8),
                (width, height),
                interpolation=cv2.INTER_AREA,
            )
            error = np.abs(got.astype(int) - want)
            assert error.mean() < 1.5
            assert error[-4:, -4:].max() < 12, "padding must not bleed into the last pixels"


def test_tiffslide_reads_the_same_pixels(svs: Path) -> None:
    with TiffSlide(svs) as tiff, openslide.OpenSlide(svs) as slide:
        assert tiff.properties["tiffslide.mpp-x"] == 0.25
        ours = np.asarray(tiff.read_region((300, 200), 0, (256, 256)).convert("RGB"))
        theirs = np.asarray(slide.read_region((300, 200), 0, (256, 256)).convert("RGB"))
    assert np.abs(ours.astype(int) - theirs).max() <= 3


def test_layout_of_the_directories(svs: Path) -> None:
    with tifffile.TiffFile(svs) as tiff:
        pages = list(tiff.pages)
        assert [page.is_tiled for page in pages] == [True, False, True, True, False, False]
        assert [int(page.subfiletype) for page in pages] == [0, 0, 0, 0, 1, 9]
        assert {int(page.compression) for page in pages} == {7}
        assert all(page.tags["YCbCrSubSampling"].value == (2, 2) for page in pages)
        assert not any("DateTime" in page.tags for page in pages)
        assert all(page.description.startswith("Aperio Image Library") for page in pages)


def test_equal_pixels_give_equal_bytes(svs: Path, tmp_path: Path) -> None:
    again = tmp_path / "elsewhere.svs"
    write(again)
    assert again.read_bytes() == svs.read_bytes()
