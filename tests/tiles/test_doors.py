"""What people give `tile` in the place of a cohort table: a DICOM slide, a CT series."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from wsi_pipeline.cohort import read_cohort
from wsi_pipeline.tile import main
from wsi_pipeline.tiles import open_tiles

DICOM = "slides/CMU-1-Small-Region.dicom"
SLICE_PX = 64
AIR, LIVER = 24, 1084  # stored values: -1000 and 60 HU


def told(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str]:
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as ended:
        status = int(ended.code or 0)
    out = capsys.readouterr()
    return status, out.out + out.err


def test_a_dicom_slide_is_a_cohort_of_one_by_its_folder_or_by_a_file(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = (data_dir / DICOM).absolute()
    assert told(capsys, folder, "--run", tmp_path)[0] == 0
    assert told(capsys, folder / "level-0-frames-0-30.dcm", "--run", tmp_path)[0] == 0
    names = ["CMU-1-Small-Region", "level-0-frames-0-30"]
    assert [row.slide_id for row in read_cohort(tmp_path / "cohort.csv")] == names
    by_folder, by_file = (open_tiles(tmp_path / "tiles" / f"{name}.zarr") for name in names)
    assert len(by_folder) > 10
    assert np.array_equal(by_folder.tiles[:], by_file.tiles[:])
    monkeypatch.chdir(folder)
    status, said = told(capsys, ".", "--run", tmp_path)
    assert (status, "done earlier" in said) == (0, True), said


def test_a_file_that_only_calls_itself_dicom_is_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.dcm").write_bytes(b"slide_id,path\n" * 20)
    for name in ("a.dcm", "gone.dcm"):
        status, said = told(capsys, tmp_path / name, "--run", tmp_path / "run")
        assert status in (1, 2)
        assert name in said
        assert "Traceback" not in said
        assert "column" not in said, "it was taken for a table"


def write_slice(path: Path, number: int, **fields: Any) -> Path:
    """A square of liver in air; what sets slices apart is the row of it that starts the liver."""
    stored = np.full((SLICE_PX, SLICE_PX), AIR, "<u2")
    stored[number:] = LIVER
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    header.Modality, header.Rows, header.Columns = "CT", *stored.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit, header.PixelRepresentation = 15, 0
    header.RescaleSlope, header.RescaleIntercept = 1, -1024
    for name, value in fields.items():
        setattr(header, name, value)
    header.PixelData = stored.tobytes()
    header.save_as(path)
    return path


def stores(run: Path) -> list[Any]:
    rows = read_cohort(run / "cohort.csv")
    return [open_tiles(run / "tiles" / f"{row.slide_id}.zarr") for row in rows]


def first_rows(run: Path) -> list[int]:
    """In the order of the run's table, the row at which each slice's liver starts."""
    return [int((store.tiles[0][:, 0, 0] == 0).sum()) for store in stores(run)]


CT = ("--modality", "ct", "--tile-px", SLICE_PX)


@pytest.mark.parametrize("known", ["place", "oblique", "number"])
def test_a_ct_series_is_cut_in_the_order_of_its_slices(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], known: str
) -> None:
    folder = tmp_path / "scan"
    folder.mkdir()
    series = generate_uid()
    for place, name in ((12, "IM1"), (9, "IM2"), (3, "IM10"), (6, "IM11")):
        fields: dict[str, Any] = {"SeriesInstanceUID": series, "InstanceNumber": 40 - place}
        if known == "number":
            fields["InstanceNumber"] = place
        else:
            coronal = known == "oblique"  # its normal runs along -y: positions fall
            along = [0, -place, 0] if coronal else [0, 0, place]
            fields["ImagePositionPatient"] = along
            fields["ImageOrientationPatient"] = (
                [1, 0, 0, 0, 0, 1] if coronal else [1, 0, 0, 0, 1, 0]
            )
        write_slice(folder / f"{name}.dcm", place, **fields)
    (folder / "notes.txt").write_text("no slice")
    run = tmp_path / "run"
    status, said = told(capsys, folder, "--run", run, *CT)
    assert status == 0, said
    assert [row.slide_id for row in read_cohort(run / "cohort.csv")] == [
        f"scan-{number:03d}" for number in (1, 2, 3, 4)
    ]
    assert first_rows(run) == [3, 6, 9, 12]
    status, said = told(capsys, folder, "--run", run, *CT)
    assert "skipped: done earlier │      4" in said


def test_the_window_of_a_ct_is_the_files_or_that_of_soft_tissue_and_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "scan"
    folder.mkdir()
    window = {"WindowCenter": [60, -600], "WindowWidth": [200, 1500]}
    write_slice(folder / "a.dcm", 5, SeriesInstanceUID="1.2", InstanceNumber=1, **window)
    write_slice(folder / "b.dcm", 5, SeriesInstanceUID="1.2", InstanceNumber=2)
    run = tmp_path / "run"
    assert told(capsys, folder, "--run", run, *CT)[0] == 0
    own, default = stores(run)
    names = ("window-centre", "window-width", "window-source")
    assert [own.attributes["ct"][name] for name in names] == ["60", "200", "file"]
    assert [default.attributes["ct"][name] for name in names] == ["40", "400", "soft tissue"]
    liver = [int(store.tiles[0][-1, 0, 0]) for store in (own, default)]
    for grey, (centre, width) in zip(liver, ((60, 200), (40, 400)), strict=True):
        expected = ((60 - (centre - 0.5)) / (width - 1) + 0.5) * 255  # PS3.3 C.11.2.1.2.1
        assert abs(grey - expected) <= 1


def test_one_ct_slice_is_taken_and_ct_without_being_asked_for_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_slice(tmp_path / "one.dcm", 5, SeriesInstanceUID="1.2")
    assert told(capsys, path, "--run", tmp_path / "run", *CT)[0] == 0
    assert first_rows(tmp_path / "run") == [5]
    status, said = told(capsys, path, "--run", tmp_path / "other")
    assert status == 1
    assert "--modality ct" in said
