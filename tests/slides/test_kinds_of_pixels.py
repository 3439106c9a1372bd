"""TIFFs whose samples are not 8-bit RGB: shown in their colours, or refused with the reason."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from slides_fuzz.seeds import PICTURE

from wsi_pipeline.errors import SlideOpenError
from wsi_pipeline.slides import open_slide

GREY = cv2.cvtColor(PICTURE, cv2.COLOR_RGB2GRAY)
PALETTE = Image.fromarray(PICTURE).quantize(256)
COLOURS = np.zeros((256, 3), np.uint16)
COLOURS[: len(PALETTE.getpalette() or ()) // 3] = np.reshape(PALETTE.getpalette(), (-1, 3))
YCBCR = cv2.cvtColor(PICTURE, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
FULL = np.full_like(GREY, 255)

Kind = tuple[NDArray[Any], NDArray[Any], dict[str, Any]]  # as stored, as seen, and what says so
SEEN: dict[str, Kind] = {
    "RGB": (PICTURE, PICTURE, {"photometric": "rgb"}),
    "RGB in planes": (
        np.moveaxis(PICTURE, 2, 0).copy(),
        PICTURE,
        {"photometric": "rgb", "planarconfig": "separate"},
    ),
    "RGB of 16 bit": (PICTURE.astype(np.uint16) * 257, PICTURE, {"photometric": "rgb"}),
    "RGB and alpha": (np.dstack([PICTURE, FULL]), PICTURE,
                      {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
    "grey": (GREY, np.dstack([GREY] * 3), {"photometric": "minisblack"}),
    "grey, white is 0": (255 - GREY, np.dstack([GREY] * 3), {"photometric": "miniswhite"}),
    "palette": (np.asarray(PALETTE), COLOURS[np.asarray(PALETTE)],
                {"photometric": "palette", "colormap": COLOURS.T * 257}),
    "CMYK": (np.dstack([255 - PICTURE, 0 * FULL]), PICTURE, {"photometric": "separated"}),
    "YCbCr, not packed as JPEG": (YCBCR, PICTURE, {"photometric": "ycbcr"}),
}  # fmt: skip
REFUSED: dict[str, tuple[NDArray[Any], str, dict[str, Any]]] = {
    "signed": ((GREY // 2).astype(np.int8), "signed or floating", {"photometric": "minisblack"}),
    "floating": (PICTURE.astype(np.float32), "signed or floating", {"photometric": "rgb"}),
    "16-bit grey": (GREY.astype(np.uint16) * 16, "16-bit grey", {"photometric": "minisblack"}),
    "L*a*b*": (PICTURE, r"L\*a\*b\*", {"photometric": "icclab"}),
    "a fourth channel": (np.dstack([PICTURE, GREY]), "not said to be alpha",
                         {"photometric": "rgb", "extrasamples": ["unspecified"]}),
    "channels": (np.stack([GREY, 255 - GREY, GREY]), "3 pictures of 700 × 520 px",
                 {"photometric": "minisblack"}),
    "focal planes": (np.stack([PICTURE, PICTURE]), "2 pictures of 700 × 520 px",
                     {"photometric": "rgb"}),
}  # fmt: skip

stored_in = pytest.mark.parametrize(
    "layout", [{"tile": (256, 256)}, {}, {"rowsperstrip": 64}], ids=["tiles", "a strip", "strips"]
)


@stored_in
@pytest.mark.parametrize("kind", SEEN)
def test_colours_are_those_that_were_stored(
    tmp_path: Path, kind: str, layout: dict[str, Any]
) -> None:
    stored, seen, said = SEEN[kind]
    tifffile.imwrite(tmp_path / "a.tif", stored, **said, **layout)
    with open_slide(tmp_path / "a.tif") as slide:
        read = slide.read(0, 0, 0, 700, 520)
    assert np.abs(read - seen.astype(np.int64)).mean() < 1
    assert seen.std() > 10, "other colours would show"


@stored_in
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_colour_is_refused(tmp_path: Path, kind: str, layout: dict[str, Any]) -> None:
    stored, why, said = REFUSED[kind]
    tifffile.imwrite(tmp_path / "a.tif", stored, **said, **layout)
    with pytest.raises(SlideOpenError, match=why) as refused:
        open_slide(tmp_path / "a.tif")
    assert str(tmp_path / "a.tif") in str(refused.value)


def test_of_a_fourth_channel_something_must_be_said(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.dstack([PICTURE, GREY]), photometric="rgb", tile=(256, 256),
                     extrasamples=["unassalpha"], metadata=None)  # fmt: skip
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages.first.tags["ExtraSamples"].offset
    with path.open("r+b") as file:
        file.seek(at)
        file.write((339).to_bytes(2, "little"))  # SampleFormat, of unsigned integers
        file.seek(at + 8)
        file.write((1).to_bytes(4, "little"))
    with pytest.raises(SlideOpenError, match="not said to be alpha"):
        open_slide(path)


@pytest.mark.parametrize(
    "kind", ["grey, white is 0", "palette", "CMYK", "YCbCr, not packed as JPEG"]
)
def test_tiffslide_alone_refuses_what_it_would_take_for_rgb(tmp_path: Path, kind: str) -> None:
    stored, _, said = SEEN[kind]
    tifffile.imwrite(tmp_path / "a.tif", stored, **said, tile=(256, 256))
    with pytest.raises(SlideOpenError, match="takes for RGB"):
        open_slide(tmp_path / "a.tif", "tiffslide")


def test_a_mask_of_full_size_is_no_second_picture(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(PICTURE, photometric="rgb", tile=(256, 256))
        tiff.write(GREY > 128, photometric="minisblack", subfiletype=4, tile=(256, 256))
        tiff.write(GREY, photometric="minisblack", tile=(256, 256))
    with open_slide(tmp_path / "a.tif") as slide:
        assert np.array_equal(slide.read(0, 0, 0, 700, 520), PICTURE)


def test_three_planes_of_a_pyramid_are_colours_for_who_says_so(tmp_path: Path) -> None:
    planes = np.moveaxis(PICTURE, 2, 0)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tiff:
        said = {"photometric": "minisblack", "tile": (128, 128)}
        tiff.write(planes, metadata={"axes": "CYX"}, subifds=1, **said)
        tiff.write(planes[:, ::2, ::2], subfiletype=1, **said)
    with pytest.raises(SlideOpenError, match=r"3 pictures of .* the tiffslide reader"):
        open_slide(tmp_path / "a.ome.tif")
    with open_slide(tmp_path / "a.ome.tif", "tiffslide") as slide:
        assert slide.level_dimensions == ((700, 520), (350, 260))
        assert np.array_equal(slide.read(0, 0, 0, 700, 520), PICTURE)


@pytest.mark.parametrize(("stack", "axes"), [(PICTURE, "ZYXS"), (GREY, "ZYX")])
def test_tiffslide_alone_refuses_focal_planes(
    tmp_path: Path, stack: NDArray[Any], axes: str
) -> None:
    tifffile.imwrite(
        tmp_path / "a.ome.tif", np.stack([stack] * 3), metadata={"axes": axes}, tile=(128, 128),
        photometric="rgb" if axes.endswith("S") else "minisblack",
    )  # fmt: skip
    with pytest.raises(SlideOpenError, match=r"no support|not supported"):
        open_slide(tmp_path / "a.ome.tif", "tiffslide")
