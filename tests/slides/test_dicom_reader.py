"""DICOM frames decoded natively: OpenSlide's pixels, however a writer stores them, or OpenSlide."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.encaps import generate_frames
from slides_vendor.dicom import Writer, write_dicom

from wsi_pipeline.errors import SlideOpenError, SlideReadError
from wsi_pipeline.slides import Slide, open_slide
from wsi_pipeline.slides.dicom_frames import FrameTable
from wsi_pipeline.slides.dicom_reader import DicomReader
from wsi_pipeline.types import RgbImage

WRITERS = [
    Writer(name="422"),
    Writer(name="420-unequal-sides", subsampling="420", tile=(240, 200), offsets="extended"),
    Writer(name="rgb", photometric="RGB", subsampling="444", offsets="none"),
    Writer(name="fragments", fragments=3),
    Writer(name="sparse", sparse=True),
    Writer(name="concatenation", parts=3, offsets="none"),
    Writer(name="sparse-concatenation", sparse=True, parts=2, offsets="extended"),
    Writer(name="jpeg2000", photometric="YBR_ICT", subsampling=None),
    Writer(name="jpeg2000-lossless", photometric="YBR_RCT", subsampling=None, lossless=True),
    Writer(name="jpeg2000-rgb", photometric="RGB", subsampling=None, tile=(300, 300)),
]
by_name = {writer.name: writer for writer in WRITERS}
Pair = tuple[Slide, Slide]


@pytest.fixture(scope="module")
def tissue(data_dir: Path) -> RgbImage:
    with open_slide(data_dir / "slides/CMU-1-Small-Region.svs") as slide:
        return slide.read(0, 700, 900, 760, 520)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, tissue: RgbImage) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("dicom")
    return {w.name: write_dicom(folder / w.name, w, tissue, (1, 2, 4)) for w in WRITERS}


@pytest.fixture(scope="module")
def pairs(written: dict[str, Path]) -> Iterator[dict[str, Pair]]:
    """The same slides opened natively and by OpenSlide."""
    opened = {n: (open_slide(p), open_slide(p, reader="openslide")) for n, p in written.items()}
    yield opened
    for pair in opened.values():
        for slide in pair:
            slide.close()


@pytest.mark.parametrize("name", by_name)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_pixels_are_openslides_to_the_bit(
    pairs: dict[str, Pair], name: str, data: st.DataObject
) -> None:
    fast, reference = pairs[name]
    assert isinstance(fast, DicomReader)
    assert fast.info.level_downsamples == (1, 2, 4)
    level = data.draw(st.integers(0, 2))
    width, height = fast.info.level_dimensions[level]
    x, y = data.draw(st.integers(-100, width)), data.draw(st.integers(-100, height))
    size = data.draw(st.integers(1, 500)), data.draw(st.integers(1, 500))
    assert np.array_equal(fast.read(level, x, y, *size), reference.read(level, x, y, *size))
    assert not fast._complained, "the pixels came from OpenSlide itself"


@pytest.mark.parametrize("name", ["422", "sparse", "jpeg2000"])
def test_the_pixels_are_the_pictures(pairs: dict[str, Pair], tissue: RgbImage, name: str) -> None:
    """Against what went in, not against another reader; missing frames are white."""
    read = pairs[name][0].read(0, 0, 0, 760, 520)
    away = np.abs(read.astype(int) - tissue).max(axis=2)
    white = (read == 255).all(axis=2)
    assert (away[~white] > 60).mean() < 0.001
    assert (white.mean() > 0.1) == (name == "sparse")


def test_a_real_slide_is_openslides_to_the_bit_and_its_small_levels_are_its_own(
    data_dir: Path,
) -> None:
    path = data_dir / "slides/CMU-1-Small-Region.dicom"
    with open_slide(path) as fast, open_slide(path, reader="openslide") as reference:
        assert (fast.info.reader, fast.info.path) == ("dicom", str(path))
        assert fast.info.properties == reference.info.properties
        for place in ((333, 777, 1100, 900), (1700, 2400, 600, 600)):
            assert np.array_equal(fast.read(0, *place), reference.read(0, *place))
        small = pydicom.dcmread(path / "level-1-frames-0-9.dcm")
        frame = next(generate_frames(small.PixelData, number_of_frames=9))
        assert np.array_equal(fast.read(1, 0, 0, 500, 500), simplejpeg.decode_jpeg(frame))


def test_each_frame_is_decoded_once(
    written: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    stored = FrameTable.stored
    with open_slide(written["concatenation"], threads=2) as slide:
        monkeypatch.setattr(
            FrameTable, "stored",
            lambda self, files, number: decoded.append(number) or stored(self, files, number),
        )  # fmt: skip
        for y in range(0, 520, 130):
            for x in range(0, 760, 190):
                slide.read(0, x, y, 190, 130)
    assert sorted(decoded) == list(range(9))


def test_a_damaged_frame_costs_its_own_pixels(
    written: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "holed"
    shutil.copytree(written["422"], folder)
    path = folder / "level-0-part-0.dcm"
    content = bytearray(path.read_bytes())
    at = content.index(b"\xff\xda", len(content) * 2 // 5) + 1000  # within some frame's samples
    content[at : at + 4096] = bytes(4096)
    path.write_bytes(content)
    lost = []
    with (
        caplog.at_level(logging.WARNING),
        open_slide(written["422"]) as whole,
        open_slide(folder) as slide,
    ):
        assert slide.info.reader == "dicom"
        for y in range(0, 520, 256):
            for x in range(0, 760, 256):
                try:
                    read = slide.read(0, x, y, 256, 256)
                except SlideReadError:  # never OpenSlide's pixels, which are shifted here
                    lost.append((x, y))
                else:
                    assert np.array_equal(read, whole.read(0, x, y, 256, 256))
    assert len(lost) == 1
    assert not caplog.records, "OpenSlide was not asked for it"


def _changed(folder: Path, copy: Path, **values: object) -> Path:
    """A copy of a slide with other values in the headers of level 0."""
    shutil.copytree(folder, copy)
    for path in copy.glob("level-0-*"):
        data = pydicom.dcmread(path)
        for name, value in values.items():
            setattr(data, name, value)
        data.save_as(path)
    return copy


def _twice_in_one_place(folder: Path, copy: Path) -> Path:
    shutil.copytree(folder, copy)
    path = copy / "level-0-part-0.dcm"
    data = pydicom.dcmread(path)
    groups = data.PerFrameFunctionalGroupsSequence
    groups[1].PlanePositionSlideSequence = groups[0].PlanePositionSlideSequence
    data.save_as(path)
    return copy


def test_what_is_not_sure_is_left_to_openslide(
    written: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    twice = _twice_in_one_place(written["sparse"], tmp_path / "twice")
    cut = tmp_path / "cut"
    shutil.copytree(written["422"], cut)
    content = (cut / "level-0-part-0.dcm").read_bytes()
    (cut / "level-0-part-0.dcm").write_bytes(content[: len(content) * 2 // 3])
    wrong = tmp_path / "wrong"
    shutil.copytree(written["420-unequal-sides"], wrong)
    path = wrong / "level-0-part-0.dcm"
    data = pydicom.dcmread(path)
    table = np.frombuffer(data.ExtendedOffsetTable, "<u8").copy()
    table[[3, 4]] = table[[4, 3]]
    data.ExtendedOffsetTable = table.tobytes()
    data.save_as(path)
    for folder, said in (
        (twice, "several frames for one place"),
        (cut, "beyond the end of the file"),
        (wrong, "offsets of its frames cannot be true"),
    ):
        with caplog.at_level(logging.WARNING), open_slide(folder) as slide:
            assert slide.info.reader == "openslide"
        with pytest.raises(SlideOpenError, match=f"does not apply, because .*{said}"):
            open_slide(folder, reader="dicom")
    assert "cut: not read by dicom" in caplog.text
    assert "twice" not in caplog.text, "a slide of several planes is nothing suspicious"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}, "SamplesPerPixel"),
        ({"PhotometricInterpretation": "YBR_FULL"}, "photometric interpretation YBR_FULL"),
        ({"TotalPixelMatrixFocalPlanes": 3}, "FocalPlanes"),
        ({"NumberOfOpticalPaths": 2}, "2 optical paths"),
    ],
)
def test_other_kinds_of_pixels_are_refused_by_name(
    written: dict[str, Path], tmp_path: Path, values: dict[str, object], said: str
) -> None:
    folder = _changed(written["422"], tmp_path / "other", **values)
    with pytest.raises(SlideOpenError, match=said):
        open_slide(folder)


def test_raw_frames_are_openslides(written: dict[str, Path], data_dir: Path) -> None:
    with pytest.raises(SlideOpenError, match="neither baseline JPEG nor JPEG 2000"):
        open_slide(data_dir / "slides/broken/highdicom_sm_image.dcm", reader="dicom")
    with pytest.raises(SlideOpenError, match="because it is no DICOM"):
        open_slide(data_dir / "slides/CMU-1-Small-Region.svs", reader="dicom")
