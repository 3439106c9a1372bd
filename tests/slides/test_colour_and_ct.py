"""ICC profiles are recorded and, on request, applied; a CT slice is refused or read as asked."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image, ImageCms
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.pixels import apply_rescale, apply_windowing
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from wsi_pipeline.errors import ConfigError, MppError, SlideOpenError
from wsi_pipeline.events import SlideDone
from wsi_pipeline.pipeline.tile import run
from wsi_pipeline.slides import open_slide, resolve_mpp
from wsi_pipeline.types import RgbImage
from wsi_pipeline.verbs.tiles import TileConfig

JPEG2000 = "slides/TCGA-CR-7395-01A-01-TS1.svs"


def swapping_profile() -> bytes:
    """sRGB with red and blue exchanged: its effect cannot be overlooked."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = profile.find(b"rXYZ"), profile.find(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


@pytest.fixture(scope="module")
def pixels() -> RgbImage:
    return np.random.default_rng(2).integers(0, 255, (200, 260, 3), dtype=np.uint8)


@pytest.fixture
def coloured(tmp_path: Path, pixels: RgbImage) -> list[Path]:
    """The same picture with a profile, in the forms that each reader opens."""
    profile = swapping_profile()
    Image.fromarray(pixels).save(tmp_path / "flat.png", icc_profile=profile)
    tifffile.imwrite(
        tmp_path / "tiled.tif", pixels, photometric="rgb", tile=(128, 128), iccprofile=profile,
        compression="deflate", metadata=None,
    )  # fmt: skip
    return [tmp_path / "flat.png", tmp_path / "tiled.tif"]


def test_a_profile_is_recorded_and_left_alone(coloured: list[Path], pixels: RgbImage) -> None:
    for path in coloured:
        with open_slide(path) as slide:
            assert slide.info.properties["icc.description"]
            assert "icc.applied" not in slide.info.properties
            assert np.array_equal(slide.read(0, 0, 0, 260, 200), pixels)


@pytest.mark.parametrize("reader", ["auto", "openslide", "tiffslide"])
def test_every_reader_applies_it_on_request(
    coloured: list[Path], pixels: RgbImage, reader: str
) -> None:
    with open_slide(coloured[1], reader=reader, icc="apply") as slide:
        assert slide.info.properties["icc.applied"] == "to sRGB"
        read = slide.read(0, -10, -10, 100, 100)
    assert np.abs(read[10:, 10:].astype(int) - pixels[:90, :90, ::-1]).max() <= 3
    assert (read[:10] == 255).all(), "outside stays white"


def test_a_flat_picture_too(coloured: list[Path], pixels: RgbImage) -> None:
    with open_slide(coloured[0], icc="apply") as slide:
        read = slide.read(0, 0, 0, 260, 200)
    assert np.abs(read.astype(int) - pixels[..., ::-1]).max() <= 3


def test_a_real_scanners_profile(data_dir: Path) -> None:
    with (
        open_slide(data_dir / JPEG2000) as kept,
        open_slide(data_dir / JPEG2000, icc="apply") as applied,
    ):
        assert "sRGB" in kept.info.properties["icc.description"]
        before, after = (slide.read(0, 2000, 1500, 200, 200) for slide in (kept, applied))
    expected = ImageCms.profileToProfile(
        Image.fromarray(before),
        ImageCms.ImageCmsProfile(io.BytesIO(_stored_profile(data_dir / JPEG2000))),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert np.array_equal(after, np.asarray(expected))


def _stored_profile(path: Path) -> bytes:
    with tifffile.TiffFile(path) as tiff:
        return bytes(tiff.pages.first.tags["InterColorProfile"].value)


def test_a_slide_without_a_profile_is_as_it_is(data_dir: Path) -> None:
    path = data_dir / "slides/CMU-1-Small-Region.svs"
    with open_slide(path) as kept, open_slide(path, icc="apply") as applied:
        assert "icc.applied" not in applied.info.properties
        assert np.array_equal(kept.read(0, 500, 500, 99, 99), applied.read(0, 500, 500, 99, 99))


def test_a_damaged_profile_matters_only_when_it_is_applied(
    tmp_path: Path, pixels: RgbImage
) -> None:
    Image.fromarray(pixels).save(tmp_path / "flat.png", icc_profile=b"no profile" * 20)
    with open_slide(tmp_path / "flat.png") as slide:
        assert slide.info.properties["icc.description"] == "unreadable"
    with pytest.raises(SlideOpenError, match=r"flat\.png: its ICC profile cannot be used"):
        open_slide(tmp_path / "flat.png", icc="apply")


def write_ct(path: Path, stored: np.ndarray, **fields: Any) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    header.Modality, header.SeriesInstanceUID = "CT", generate_uid()
    header.Rows, header.Columns = stored.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit, header.PixelRepresentation = 15, 0
    header.RescaleSlope, header.RescaleIntercept = 1, -1024
    header.PixelSpacing = [0.7, 0.7]
    for name, value in fields.items():
        setattr(header, name, value)
    header.PixelData = stored.astype("<u2").tobytes()
    header.save_as(path)
    return path


@pytest.fixture(scope="module")
def stored() -> np.ndarray:
    return np.random.default_rng(4).integers(0, 2500, (300, 280)).astype(np.uint16)


@pytest.mark.parametrize("window", [(60, 200), ([50, -600], [350, 1500]), None])
def test_a_ct_slice_is_shown_through_its_window(
    tmp_path: Path, stored: np.ndarray, window: Any
) -> None:
    fields = {"WindowCenter": window[0], "WindowWidth": window[1]} if window else {}
    path = write_ct(tmp_path / "slice.dcm", stored, **fields)
    header = pydicom.dcmread(path)
    if window is None:
        header.WindowCenter, header.WindowWidth = 40, 400
    shown = apply_windowing(apply_rescale(header.pixel_array, header), header)
    low, high = (-1024, 65535 - 1024)  # what pydicom stretches the window to
    grey = np.rint((shown - low) / (high - low) * 255)
    with open_slide(path, modality="ct") as slide:
        read = slide.read(0, 0, 0, 280, 300)
        assert slide.info.vendor == "dicom-ct"
        assert slide.info.properties["ct.pixel-spacing-mm"] == "0.7 0.7"
        with pytest.raises(MppError):
            resolve_mpp(slide.info)
    assert (read[..., 0] == read[..., 2]).all()
    assert np.abs(read[..., 0].astype(int) - grey).max() <= 1


def test_hounsfield_units_at_the_windows_edges(tmp_path: Path) -> None:
    units = np.array([[-2000, -160, 40, 239, 3000]])  # soft tissue: 40 ± 200
    path = write_ct(
        tmp_path / "s.dcm", units + 2048, RescaleIntercept=-2048, WindowCenter=40, WindowWidth=400
    )
    with open_slide(path, modality="ct") as slide:
        assert slide.read(0, 0, 0, 5, 1)[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_ct_is_refused_unless_asked_for_and_only_ct_is_taken(
    tmp_path: Path, data_dir: Path, stored: np.ndarray
) -> None:
    path = write_ct(tmp_path / "slice.dcm", stored)
    with pytest.raises(SlideOpenError, match=r"modality CT, not slide.*--modality ct"):
        open_slide(path)
    for other, said in (
        (data_dir / "slides/broken/boxes_0.dcm", "modality SM, not CT"),
        (data_dir / "slides/CMU-1-Small-Region.svs", "no DICOM file"),
        (write_ct(tmp_path / "frames.dcm", stored, NumberOfFrames=2), "several CT slices"),
    ):
        with pytest.raises(SlideOpenError, match=said):
            open_slide(other, modality="ct")
    with pytest.raises(SlideOpenError, match="holds 2 DICOM files; name one"):
        open_slide(tmp_path, modality="ct")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(SlideOpenError, match="cannot be decoded"):
        open_slide(path, modality="ct")
    with pytest.raises(ConfigError):
        open_slide("s3://bucket/a.dcm", modality="ct")


def test_the_tile_stage_takes_ct_slices_as_asked(tmp_path: Path, stored: np.ndarray) -> None:
    folder = tmp_path / "scan"
    folder.mkdir()
    write_ct(folder / "slice.dcm", stored)
    table = tmp_path / "cohort.csv"
    table.write_text("slide_id,path,patient_id,label,cohort\nct1,scan/slice.dcm,p,normal,x\n")
    settings = {"cohort": table, "run": tmp_path / "run", "dry_run": True}
    (row,) = [e.row for e in run(TileConfig(**settings, modality="ct")) if hasattr(e, "row")]
    assert (row["reader"], row["size"], row["places"]) == ("ct", "280×300", 1)
    (row,) = [e.row for e in run(TileConfig(**settings)) if hasattr(e, "row")]
    assert "modality CT" in row["refused"]


def test_ct_slices_give_tiles_by_default(tmp_path: Path, stored: np.ndarray) -> None:
    folder = tmp_path / "scans" / "one"
    folder.mkdir(parents=True)
    write_ct(folder / "slice.dcm", stored)
    settings = {"cohort": tmp_path / "scans", "run": tmp_path / "run", "modality": "ct"}
    (done,) = [event for event in run(TileConfig(**settings)) if isinstance(event, SlideDone)]
    assert done.counts["tiles kept"] == 1
    assert done.flags == ("mpp_unknown", "all_tissue")
    stained = TileConfig(**settings, tissue_method="otsu")
    assert (stained.tissue_method, stained.stain) == ("otsu", "none")
    assert TileConfig(cohort=tmp_path, run=tmp_path).stain == "macenko"
