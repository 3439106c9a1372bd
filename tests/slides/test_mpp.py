"""The resolution is found where formats put it, checked, and never guessed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.errors import MppError
from wsi_pipeline.slides import SlideInfo, open_slide, resolve_mpp
from wsi_pipeline.slides.mpp import find_mpp
from wsi_pipeline.types import Region

INFO = SlideInfo(
    path="a.svs",
    reader="openslide",
    reader_version="4",
    vendor="aperio",
    level_dimensions=((20_000, 10_000),),
    level_downsamples=(1.0,),
    mpp_x=None,
    mpp_y=None,
    mpp_source=None,
    objective_power=None,
    bounds=Region(x=0, y=0, width=20_000, height=10_000),
    properties={},
    associated=(),
)


def with_mpp(x: float, y: float | None = None, power: float | None = None) -> SlideInfo:
    return replace(
        INFO, mpp_x=x, mpp_y=x if y is None else y, mpp_source="aperio.MPP", objective_power=power
    )


def test_missing_mpp_is_refused_with_the_remedy(data_dir: Path) -> None:
    with (
        open_slide(data_dir / "slides/TCGA-CR-7395-01A-01-TS1.svs") as slide,
        pytest.raises(MppError, match=r"does not say its resolution.*mpp column.*--mpp-default"),
    ):
        resolve_mpp(slide.info)
    assert resolve_mpp(INFO, 0.5).source == "override"


def test_objective_power_is_suggested_not_used() -> None:
    with pytest.raises(MppError, match=r"40x suggests about 0\.25"):
        resolve_mpp(replace(INFO, objective_power=40.0))


def test_scanner_values_are_found(data_dir: Path) -> None:
    for name, mpp in [
        ("CMU-1-Small-Region.svs", 0.499),
        ("CMU-1-Small-Region.dicom", 0.499),
        ("PDAC-tru-cut_HE3.svs", 0.263018),
    ]:
        with open_slide(data_dir / "slides" / name) as slide:
            found = resolve_mpp(slide.info)
        assert found.mpp == pytest.approx(mpp)
        assert found.source == "openslide.mpp-x"


def test_print_resolution_is_no_scale(data_dir: Path) -> None:
    for reader in ("openslide", "tiffslide"):
        with open_slide(data_dir / "slides/broken/boxes.tiff", reader=reader) as slide:
            assert slide.info.mpp is None
            with pytest.raises(MppError, match="72 dpi, which is a print size"):
                resolve_mpp(slide.info)


@pytest.mark.parametrize(
    ("info", "said"),
    [
        (with_mpp(0.02), r"says 0\.02 µm/px, which no slide scanner has"),
        (with_mpp(30.0), "says 30 µm/px"),
        (with_mpp(0.25, 0.27), r"0\.25 µm/px across but 0\.27 down"),
        (
            with_mpp(2.5, power=40),
            r"says 2\.5 µm/px, but its objective of 40x suggests about 0\.25",
        ),
        (with_mpp(0.05, power=20), "unit is probably wrong"),
        (
            replace(with_mpp(2.5), bounds=Region(x=0, y=0, width=100_000, height=90_000)),
            "makes the scan 250 mm wide and 225 mm long",
        ),
    ],
)
def test_implausible_values_are_refused_with_what_was_found(info: SlideInfo, said: str) -> None:
    with pytest.raises(MppError, match=said) as refusal:
        resolve_mpp(info)
    assert "aperio.MPP" in str(refusal.value)
    assert resolve_mpp(info, override=0.25).mpp == 0.25


@pytest.mark.parametrize("override", [0.0, -1.0, 0.01, 40.0, float("nan")])
def test_an_impossible_override_is_refused(override: float) -> None:
    with pytest.raises(MppError, match="value given"):
        resolve_mpp(with_mpp(0.25), override)


@given(mpp=st.floats(0.1, 4.0), skew=st.floats(0, 0.04))
def test_plausible_values_are_taken_as_they_are(mpp: float, skew: float) -> None:
    resolved = resolve_mpp(with_mpp(mpp, mpp * (1 + skew)))
    assert mpp <= resolved.mpp <= mpp * 1.04
    assert resolved.source == "aperio.MPP"


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"aperio.MPP": "0.2527"}, 0.2527),
        ({"aperio.MPP": "0,2527"}, 0.2527),  # a scanner with a decimal comma
        ({"aperio.MPP": "unknown"}, None),
        ({"aperio.MPP": "0"}, None),
        ({"ome.PhysicalSizeX": "0.5", "ome.PhysicalSizeY": "0.5"}, 0.5),
        (_tags := {"tiff.XResolution": "40000", "tiff.YResolution": "40000"}, None),
        ({**_tags, "tiff.ResolutionUnit": "centimeter"}, 0.25),
        ({**_tags, "tiff.ResolutionUnit": "inch"}, 0.635),
        ({**_tags, "tiff.ResolutionUnit": "none"}, None),
        ({"tiff.XResolution": "96", "tiff.YResolution": "96", "tiff.ResolutionUnit": "inch"}, None),
    ],
)
def test_fields_of_the_formats(properties: dict[str, str], expected: float | None) -> None:
    found = find_mpp(properties)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert found.x == pytest.approx(expected)


def test_the_scanner_outranks_the_tags() -> None:
    tags = {"tiff.XResolution": "72", "tiff.YResolution": "72", "tiff.ResolutionUnit": "inch"}
    found = find_mpp({"openslide.vendor": "aperio", "aperio.MPP": "0.25", **tags})
    assert found is not None
    assert (found.x, found.source) == (0.25, "aperio.MPP")


def test_ome_tiff_and_tagged_tiff(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    metadata = {"PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25}
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, photometric="rgb", metadata=metadata)
    with open_slide(tmp_path / "a.ome.tif", reader="tiffslide") as slide:
        assert resolve_mpp(slide.info).mpp == pytest.approx(0.25)
        assert slide.info.mpp_source == "ome.PhysicalSizeX"
    tifffile.imwrite(
        tmp_path / "b.tif", pixels, photometric="rgb", resolution=(20000, 20000), resolutionunit=3
    )
    for reader in ("tiffslide", "image"):
        with open_slide(tmp_path / "b.tif", reader=reader) as slide:
            assert resolve_mpp(slide.info).mpp == pytest.approx(0.5)


def test_ome_tiff_is_understood_by_every_reader(tmp_path: Path) -> None:
    pixels = np.zeros((300, 300, 3), np.uint8)
    metadata = {"PhysicalSizeX": 0.25, "PhysicalSizeY": 250.0, "PhysicalSizeYUnit": "nm"}
    path = tmp_path / "tiled.ome.tif"
    tifffile.imwrite(
        path, pixels, photometric="rgb", metadata=metadata, tile=(128, 128), compression="jpeg"
    )
    for reader in ("openslide", "tiffslide", "auto"):
        with open_slide(path, reader=reader) as slide:
            assert resolve_mpp(slide.info).mpp == pytest.approx(0.25)


DICOM = "dicom.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing"


@pytest.mark.parametrize(
    ("properties", "said"),
    [
        (
            {"tiff.XResolution": "40000", "tiff.YResolution": "40000",
             "tiff.ResolutionUnit": "inch"},
            r"its aperio\.MPP says 0\.25 µm/px, but its tiff\.XResolution \(40000.* says 0\.635",
        ),
        ({"ome.PhysicalSizeX": "0.5", "ome.PhysicalSizeY": "0.5"}, r"PhysicalSizeX says 0\.5"),
        ({"ome.PhysicalSizeX": "0.25", "ome.PhysicalSizeY": "0.5"}, r"PhysicalSizeX says 0\.5"),
        ({f"{DICOM}[0]": "0.0005", f"{DICOM}[1]": "0.0005"}, r"PixelSpacing\[1\] says 0\.5"),
        (
            {"dicom.ImagedVolumeWidth": "10", "dicom.ImagedVolumeHeight": "10",
             "dicom.TotalPixelMatrixColumns": "20000", "dicom.TotalPixelMatrixRows": "20000"},
            r"dicom\.ImagedVolumeWidth says 0\.5",
        ),
    ],
)  # fmt: skip
def test_fields_that_contradict_each_other_are_both_named(
    properties: dict[str, str], said: str
) -> None:
    info = replace(with_mpp(0.25), properties={"aperio.MPP": "0.25", **properties})
    with pytest.raises(MppError, match=said) as refusal:
        resolve_mpp(info)
    assert "--mpp-default" in str(refusal.value)
    assert resolve_mpp(info, override=0.5).mpp == 0.5


@pytest.mark.parametrize(
    "properties",
    [
        {"tiff.XResolution": "72", "tiff.YResolution": "72", "tiff.ResolutionUnit": "inch"},
        {"tiff.XResolution": "40400", "tiff.YResolution": "40400",
         "tiff.ResolutionUnit": "centimeter"},
        {"tiff.XResolution": "5000", "tiff.YResolution": "5000",
         "tiff.ResolutionUnit": "centimeter", "openslide.vendor": "leica"},
    ],
)  # fmt: skip
def test_print_sizes_and_an_overviews_tags_contradict_nothing(properties: dict[str, str]) -> None:
    info = replace(with_mpp(0.25), properties={"aperio.MPP": "0.25", **properties})
    assert resolve_mpp(info).mpp == 0.25


def test_hamamatsu_and_leica_speak_through_openslide() -> None:
    """OpenSlide reads both from the resolution of the image itself; no small file of either."""
    for vendor, name in (("hamamatsu", "ndpi"), ("leica", "scn")):
        found = find_mpp(
            {"openslide.vendor": vendor, "openslide.mpp-x": "0.4531", "openslide.mpp-y": "0.4532"}
        )
        assert found is not None, name
        assert (found.x, found.y, found.source) == (0.4531, 0.4532, "openslide.mpp-x")


def test_an_svs_whose_tags_disagree_is_refused_whichever_reader_opens_it(tmp_path: Path) -> None:
    path = tmp_path / "resaved.svs"
    tifffile.imwrite(
        path, np.zeros((256, 256, 3), np.uint8), photometric="rgb", tile=(256, 256),
        compression="jpeg", metadata=None, resolution=(40000, 40000), resolutionunit=3,
        description="Aperio Image Library v12\r\n256x256 (256x256) JPEG|AppMag = 20|MPP = 0.5",
    )  # fmt: skip
    for reader in ("auto", "openslide", "tiffslide"):
        with (
            open_slide(path, reader=reader) as slide,
            pytest.raises(MppError, match=r"says 0\.5 µm/px, but its tiff\.XResolution.* 0\.25"),
        ):
            resolve_mpp(slide.info)
