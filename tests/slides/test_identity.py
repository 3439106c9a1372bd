"""Which slides a folder holds, and when two slides are the same."""

import shutil
from pathlib import Path

import fsspec
import pytest

from wsi_pipeline.errors import SlideOpenError
from wsi_pipeline.slides import find_slides, slide_digest


def test_slides_are_found_in_a_fixed_order(data_dir: Path) -> None:
    folder = data_dir / "slides"
    names = [str(path.relative_to(folder)) for path in find_slides(folder).paths]
    assert names == [
        "CMU-1-Small-Region.dicom",
        "CMU-1-Small-Region.svs",
        "PDAC-tru-cut_HE3.svs",
        "TCGA-CR-7395-01A-01-TS1.svs",
        "broken/boxes.tiff",
        "broken/boxes_0.dcm",
        "broken/broken.svs",
        "broken/highdicom_sm_image.dcm",
        "broken/small.svs",
        "broken/unopenable.tiff",
        "broken/unreadable.svs",
        "broken/😐.svs",
        "liver_glycogen_HE.tif",
        "liver_glycogen_PAS.tif",
    ]


def test_hidden_files_companions_and_strangers_are_left_out(tmp_path: Path) -> None:
    for name in (
        "b/2.SVS",
        "a/1.ndpi",
        "a/.1.ndpi",
        ".hidden/3.svs",
        "m.mrxs",
        "m/Dat0001.dat",
        "m/preview.jpg",
        "v.vsi",
        "_v_/stack1/frame.tif",
        "notes.txt",
        "c.svs.partial",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = [str(path.relative_to(tmp_path)) for path in find_slides(tmp_path).paths]
    assert found == ["a/1.ndpi", "b/2.SVS", "m.mrxs", "v.vsi"]
    with pytest.raises(SlideOpenError, match="no such folder"):
        find_slides(tmp_path / "nowhere")


def test_a_copy_has_the_same_digest_and_a_change_another(data_dir: Path, tmp_path: Path) -> None:
    original = data_dir / "slides/CMU-1-Small-Region.svs"
    digest = slide_digest(original)
    copy = tmp_path / "renamed.svs"
    copy.write_bytes(original.read_bytes())
    assert slide_digest(copy) == digest
    assert slide_digest(str(copy)) == digest
    content = bytearray(original.read_bytes())
    copy.write_bytes(content[:-1])
    assert slide_digest(copy) != digest
    content[0] ^= 1
    copy.write_bytes(content)
    assert slide_digest(copy) != digest


def test_a_large_file_is_sampled_at_head_tail_and_between(tmp_path: Path) -> None:
    path = tmp_path / "large.svs"
    size = 40_000_000
    with path.open("wb") as file:
        file.truncate(size)
    digest = slide_digest(path)
    for position in (0, size - 1, (size - 65536) * 30 // 65 + 100):
        with path.open("r+b") as file:
            file.seek(position)
            file.write(b"!")
        changed = slide_digest(path)
        assert changed != digest
        digest = changed


def test_slides_of_several_files_are_digested_whole(data_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dicom"
    shutil.copytree(data_dir / "slides/CMU-1-Small-Region.dicom", folder)
    digest = slide_digest(folder)
    assert digest == slide_digest(data_dir / "slides/CMU-1-Small-Region.dicom")
    assert digest == slide_digest(folder / "level-5-frames-0-1.dcm")
    (folder / "level-11-frames-0-1.dcm").chmod(0o600)
    (folder / "level-11-frames-0-1.dcm").unlink()
    assert slide_digest(folder) != digest

    (tmp_path / "m.mrxs").write_bytes(b"index")
    (tmp_path / "m").mkdir()
    (tmp_path / "m/Dat0000.dat").write_bytes(b"pixels")
    mirax = slide_digest(tmp_path / "m.mrxs")
    (tmp_path / "m/Dat0000.dat").write_bytes(b"pixelz")
    assert slide_digest(tmp_path / "m.mrxs") != mirax


def test_a_url_is_known_by_its_size(tmp_path: Path) -> None:
    with fsspec.open("memory://bucket/a.svs", "wb") as file:
        file.write(b"1234")
    digest = slide_digest("memory://bucket/a.svs")
    with fsspec.open("memory://bucket/a.svs", "wb") as file:
        file.write(b"12345")
    assert slide_digest("memory://bucket/a.svs") != digest
    with pytest.raises(SlideOpenError, match="cannot be reached"):
        slide_digest("memory://bucket/missing.svs")
    with pytest.raises(SlideOpenError, match="cannot be read"):
        slide_digest(tmp_path / "missing.svs")
