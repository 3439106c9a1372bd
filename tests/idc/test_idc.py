"""The Imaging Data Commons: its real table where it is installed, buckets of moto's server."""

import csv
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from wsi_pipeline import download, run, tile
from wsi_pipeline.cohort import read_cohort
from wsi_pipeline.errors import UsageError
from wsi_pipeline.gdc import GdcQuery
from wsi_pipeline.idc import IdcObject, Series, index_path, read_index, select_series
from wsi_pipeline.slides import find_slides, open_slide

duckdb = pytest.importorskip("duckdb", reason="the IDC's table is read by duckdb, of the extra idc")
moto = pytest.importorskip("moto.server", reason="the bucket is moto's, of the extra dev")
boto3 = pytest.importorskip("boto3", reason="the bucket is filled by boto3, which moto brings")

ROOT = Path(__file__).parents[2]
BUCKET = "idc-open-data"
QUICK = ("--source=idc", "--first-wait-s=0.01", "--attempts=2", "--timeout-s=5")


def uuid(number: int) -> str:
    return f"{number:08d}-0000-4000-8000-000000000000"


def row(number: int, description: str, instances: int = 1, **changes: Any) -> dict[str, Any]:
    values = {
        "collection_id": "tcga_lihc",
        "PatientID": f"TCGA-DD-{number:04d}",
        "SeriesInstanceUID": f"1.2.3.{number}",
        "SeriesDescription": description,
        "instanceCount": instances,
        "series_size_MB": 1.5,
        "license_short_name": "CC BY 3.0",
        "source_DOI": "10.5281/zenodo.12690002",
        "aws_bucket": BUCKET,
        "crdc_series_uuid": uuid(number),
        "PatientSex": None,
        "PatientAge": None,
        "Modality": "SM",
    }
    return values | changes


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes rows in the columns of the IDC's own table."""

    def write(*rows: dict[str, Any]) -> Path:
        path = tmp_path / "idc_index.parquet"
        source = tmp_path / "index.csv"
        with source.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        with duckdb.connect() as base:
            base.execute(
                f"COPY (SELECT * FROM read_csv('{source}', header=true, all_varchar=true)) "
                f"TO '{path}' (FORMAT parquet)"
            )
        return path

    return write


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    client = boto3.client(
        "s3",
        endpoint_url=server,
        region_name="us-east-1",
        aws_access_key_id="nobody",
        aws_secret_access_key="nothing",
    )
    client.create_bucket(Bucket=BUCKET)
    yield client
    for item in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=item["Key"])
    client.delete_bucket(Bucket=BUCKET)


def upload(s3: Any, folder: Path, number: int) -> int:
    """Put a real DICOM slide into the bucket, one object a level."""
    files = sorted(folder.glob("*.dcm"))
    for file in files:
        s3.put_object(
            Bucket=BUCKET,
            Key=f"{uuid(number)}/{file.name}",
            Body=file.read_bytes(),
            ACL="public-read",
        )
    return len(files)


@pytest.fixture
def slide(data_dir: Path) -> Path:
    return data_dir / "slides" / "CMU-1-Small-Region.dicom"


def test_from_a_question_to_tiles(
    s3: Any,
    server: str,
    slide: Path,
    table: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A real DICOM slide comes from the bucket and is cut, two commands in all."""
    count = upload(s3, slide, 1)
    index = table(row(1, "Frozen HE TP TS1", count), row(2, "FFPE HE TP DX1"))
    out, cohort, manifest = (tmp_path / name for name in ("slides", "cohort.csv", "s5cmd.txt"))
    command = [*QUICK, "--project=TCGA-LIHC", "--recipe=frozen-only", f"--server={server}"]
    command += [f"--idc-index={index}", f"--out={out}", f"--cohort-out={cohort}"]
    assert download.main([*command, f"--manifest-out={manifest}"]) == 0
    said = capsys.readouterr().out
    assert "TCGA-LIHC: CC BY 3.0; cite https://doi.org/10.5281/zenodo.12690002" in said
    assert "left out: 1 slides, FFPE, not in recipe frozen-only" in said
    (found,) = read_cohort(cohort)
    assert (found.slide_id, found.patient_id, found.preservation, found.site, found.licence) == (
        "TCGA-DD-0001-Frozen-HE-TP-TS1-00000001",
        "TCGA-DD-0001",
        "frozen",
        "DD",
        "CC BY 3.0",
    )
    assert manifest.read_text() == f"cp s3://{BUCKET}/{uuid(1)}/* {found.slide_id}/\n"
    for file in slide.glob("*.dcm"):
        assert (out / found.path / file.name).read_bytes() == file.read_bytes()
    with open_slide(out / found.path) as ours, open_slide(slide) as theirs:
        assert ours.info.level_dimensions == theirs.info.level_dimensions
    folder = tmp_path / "run"
    assert tile.main([str(cohort), f"--slides={out}", f"--run={folder}"]) == 0
    assert (folder / "tiles" / f"{found.slide_id}.zarr").is_dir()
    assert download.main(command) == 0
    assert "there already, verified" in capsys.readouterr().out


def test_a_series_that_the_bucket_has_otherwise_costs_itself_alone(
    s3: Any,
    server: str,
    slide: Path,
    table: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    count = upload(s3, slide, 1)
    upload(s3, slide, 2)
    index = table(row(1, "Frozen HE TP TS1", count), row(2, "Frozen HE NT TS1", count + 1))
    out = tmp_path / "slides"
    command = [*QUICK, "--project=tcga_lihc", f"--server={server}", f"--idc-index={index}"]
    assert download.main([*command, f"--out={out}"]) == 1
    assert f"the bucket has {count} objects, the table says {count + 1}" in capsys.readouterr().out
    assert len(list(out.rglob("*.dcm"))) == count


def upload_in_parts(s3: Any, data: bytes, part: int) -> str:
    key = f"{uuid(1)}/level.dcm"
    begun = s3.create_multipart_upload(Bucket=BUCKET, Key=key, ACL="public-read")["UploadId"]
    parts = []
    for number, at in enumerate(range(0, len(data), part), start=1):
        chunk = data[at : at + part]
        tag = s3.upload_part(Bucket=BUCKET, Key=key, UploadId=begun, PartNumber=number, Body=chunk)[
            "ETag"
        ]
        parts.append({"ETag": tag, "PartNumber": number})
    s3.complete_multipart_upload(
        Bucket=BUCKET, Key=key, UploadId=begun, MultipartUpload={"Parts": parts}
    )
    return key


def test_an_object_in_parts_of_unusual_length_comes_twice_and_the_same(
    s3: Any, server: str, table: Callable[..., Path], tmp_path: Path
) -> None:
    """No digest to compare with can be made of it: two downloads must give the same bytes."""
    data = bytes(range(256)) * ((11 << 20) // 256)
    upload_in_parts(s3, data, 11 << 19)
    index = table(row(1, "Frozen HE TP TS1"))
    out = tmp_path / "slides"
    command = [*QUICK, "--project=TCGA-LIHC", f"--server={server}", f"--idc-index={index}"]
    assert download.main([*command, f"--out={out}"]) == 0
    (path,) = out.rglob("level.dcm")
    assert path.read_bytes() == data
    with (out / "download_report.csv").open(newline="") as file:
        (found,) = csv.DictReader(file)
    assert int(found["received_bytes"]) == 2 * len(data)
    assert download.main([*command, f"--out={out}"]) == 0
    with (out / "download_report.csv").open(newline="") as file:
        (found,) = csv.DictReader(file)
    assert found["status"] == "present"


def test_an_object_that_came_damaged_is_not_kept(
    s3: Any, server: str, slide: Path, table: Callable[..., Path], tmp_path: Path
) -> None:
    """It was uploaded in parts, so that its digest is one of digests; a flipped byte is found."""
    data = b"\0" * 128 + b"DICM" + bytes(range(256)) * ((10 << 20) // 256)
    key = upload_in_parts(s3, data, 5 << 20)
    index = table(row(1, "Frozen HE TP TS1"))
    command = [*QUICK, "--project=TCGA-LIHC", f"--server={server}", f"--idc-index={index}"]
    command += [f"--out={tmp_path / 'slides'}"]
    assert download.main(command) == 0
    (path,) = (tmp_path / "slides").rglob("level.dcm")
    assert path.read_bytes() == data
    etag = s3.head_object(Bucket=BUCKET, Key=key)["ETag"].strip('"')
    file = IdcObject(
        id="x", filename="level.dcm", md5="", size=len(data), bucket=BUCKET, key=key, etag=etag
    )
    assert file.is_content(path, "")
    damaged = bytearray(data)
    damaged[7_000_000] ^= 1
    path.write_bytes(damaged)
    assert not file.is_content(path, "")


def test_a_series_of_which_an_object_fails_is_no_slide_until_it_is_whole(
    s3: Any, server: str, slide: Path, table: Callable[..., Path], tmp_path: Path
) -> None:
    """What came is set aside, and nothing that lacks a level is there to be cut."""
    count = upload(s3, slide, 1)
    name = min(file.name for file in slide.glob("*.dcm"))
    s3.put_object_acl(Bucket=BUCKET, Key=f"{uuid(1)}/{name}", ACL="private")
    index = table(row(1, "Frozen HE TP TS1", count))
    out, cohort = tmp_path / "slides", tmp_path / "cohort.csv"
    command = [*QUICK, "--project=TCGA-LIHC", f"--server={server}", f"--idc-index={index}"]
    command += [f"--out={out}", f"--cohort-out={cohort}"]
    s3.delete_object(Bucket=BUCKET, Key=f"{uuid(1)}/{name}")
    s3.put_object(Bucket=BUCKET, Key=f"{uuid(1)}/{name}.moved", Body=b"x", ACL="private")
    assert download.main(command) == 1
    (found,) = read_cohort(cohort)
    assert find_slides(out).paths == []
    assert len(list((out / ".coming" / found.path).glob("*.dcm"))) == count - 1
    s3.delete_object(Bucket=BUCKET, Key=f"{uuid(1)}/{name}.moved")
    upload(s3, slide, 1)
    assert download.main(command) == 0
    assert find_slides(out).paths == [out / found.path]
    assert not (out / ".coming").exists()
    with (out / "download_report.csv").open(newline="") as file:
        told = Counter(each["status"] for each in csv.DictReader(file))
    assert told == {"present": count - 1, "downloaded": 1}
    (out / found.path / name).unlink()
    assert download.main(command) == 0
    assert (out / found.path / name).is_file()


STUDY = """
[study]
run = "{folder}/run"
cohort = "{folder}/cohort.csv"
slides = "{folder}/slides"

[download]
source = "idc"
server = "{server}"
idc_index = "{index}"
project = ["TCGA-LIHC"]
recipe = "frozen-only"
out = "{folder}/slides"
cohort_out = "{folder}/cohort.csv"

[tile]
"""


def test_series_pass_through_a_small_disk(
    s3: Any, server: str, slide: Path, table: Callable[..., Path], tmp_path: Path, capsys: Any
) -> None:
    """A series is cut when all of its objects are there, and goes with all of them."""
    count, size = upload(s3, slide, 1), sum(f.stat().st_size for f in slide.glob("*.dcm"))
    upload(s3, slide, 2)
    index = table(row(1, "Frozen HE TP TS1", count), row(2, "Frozen HE NT TS1", count))
    study = tmp_path / "study.toml"
    study.write_text(STUDY.format(folder=tmp_path, server=server, index=index))
    command = [str(study), "--delete-after-tiling", f"--disk-gb={1.5 * size / 1e9:.6f}"]
    assert run.main(command) == 0
    assert len(list((tmp_path / "run" / "tiles").glob("*.zarr"))) == 2
    assert not list((tmp_path / "slides").rglob("*.dcm"))
    capsys.readouterr()
    assert run.main(command) == 0
    assert "cut, and deleted after tiling" in capsys.readouterr().out
    with (tmp_path / "slides" / "download_report.csv").open(newline="") as file:
        told = list(csv.DictReader(file))
    assert {each["status"] for each in told} == {"skipped"}
    assert sum(int(each["received_bytes"]) for each in told) == 0


@pytest.mark.parametrize(
    ("description", "collection", "sample_type", "preservation"),
    [
        ("FFPE HE TP DX1", "tcga_lihc", "Primary Tumor", "FFPE"),
        ("Frozen HE NT TS1", "tcga_lihc", "Solid Tissue Normal", "frozen"),
        ("Frozen HE  TS1", "tcga_lihc", None, "frozen"),
        ("PG PE HE", "gtex", "Solid Tissue Normal", "FFPE"),
        ("FZ  HE", "gtex", "Solid Tissue Normal", "frozen"),
        ("HE tumor", "cptac_luad", "Primary Tumor", None),
        ("HE normal", "cptac_luad", "Solid Tissue Normal", None),
    ],
)
def test_what_a_description_says(
    description: str, collection: str, sample_type: str | None, preservation: str | None
) -> None:
    series = Series(
        collection=collection,
        patient_id="P",
        series_uid="1.2",
        description=description,
        instances=1,
        megabytes=1.0,
        licence="CC BY 4.0",
        doi="",
        bucket=BUCKET,
        uuid=uuid(1),
    )
    assert (series.record.sample_type, series.record.preservation) == (sample_type, preservation)


def test_series_by_a_list(table: Callable[..., Path], tmp_path: Path) -> None:
    """GTEx's table does not say the organ: the user's list does."""
    index = table(*(row(n, "PG PE HE", collection_id="gtex") for n in range(5)))
    found = read_index(index, ["GTEX"], [uuid(3), "1.2.3.1"])
    assert [series.uuid for series in found] == [uuid(3), uuid(1)]
    with pytest.raises(UsageError, match=r"1 series are not among those of GTEX.*9\.9"):
        read_index(index, ["GTEX"], ["9.9"])
    listed = tmp_path / "liver.txt"
    listed.write_text(f"# liver\n{uuid(2)}\n")
    command = [*QUICK, "--project=GTEX", f"--idc-index={index}", f"--series={listed}"]
    cohort = tmp_path / "c.csv"
    assert download.main([*command, f"--cohort-out={cohort}"]) == 0
    (slide,) = read_cohort(cohort)
    assert (slide.cohort, slide.preservation, slide.sample_type) == (
        "gtex",
        "FFPE",
        "Solid Tissue Normal",
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--project=TCGA-LIHCC"], "there is no collection 'tcga_lihcc'; did you mean 'tcga_lihc'"),
        (["--primary-site=liver"], "knows no organs"),
        (["--project=TCGA-LIHC", "--idc-index={lost}"], "there is no such table of the IDC"),
        (["--project=TCGA-LIHC", "--idc-index={other}"], "not the IDC's table of series"),
        (["manifest.txt"], "the IDC takes --project or --query, and no manifest"),
        (["--project=TCGA-LIHC", "--recipe=diagnostic"], "the IDC has no slide for recipe"),
    ],
)
def test_wrong_requests(
    flags: list[str],
    said: str,
    table: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    index = table(row(1, "Frozen HE TP TS1"))
    other = tmp_path / "other.parquet"
    other.write_text("no table")
    given = [flag.format(lost=tmp_path / "lost", other=other) for flag in flags]
    if not any("--idc-index" in flag for flag in given):
        given.append(f"--idc-index={index}")
    assert download.main([*QUICK, *given, f"--out={tmp_path / 'slides'}"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.skipif(
    find_spec("idc_index_data") is None,
    reason="the IDC's real table is not installed (pip install idc-index-data, 80 MB)",
)
class TestTheRealTable:
    """Counted against what the GDC says of the same slides."""

    def chosen(self, project: str, recipe: str) -> Any:
        query = GdcQuery.make(
            ROOT / "stages" / "gdc_tcga_liver.toml", {"projects": [project], "recipe": recipe}
        )
        return select_series(read_index(index_path(), [project]), query)

    @pytest.mark.parametrize(
        ("project", "slides", "patients", "frozen", "diagnostic"),
        [
            ("TCGA-LIHC", 870, 377, {"hcc": 399, "normal": 89}, {"hcc": 379}),
            ("TCGA-CHOL", 110, 51, {"cca": 51, "normal": 20}, {"cca": 39}),
        ],
    )
    def test_counts(
        self,
        project: str,
        slides: int,
        patients: int,
        frozen: dict[str, int],
        diagnostic: dict[str, int],
    ) -> None:
        found = read_index(index_path(), [project])
        assert (len(found), len({series.patient_id for series in found})) == (slides, patients)
        for recipe, labels in (("frozen-only", frozen), ("diagnostic", diagnostic)):
            selection = self.chosen(project, recipe)
            assert Counter(slide.label for slide in selection.slides) == labels
        assert {series.licence for series in found} == {"CC BY 3.0"}
        assert len({series.slide_id for series in found}) == slides

    def test_size_and_gtex(self) -> None:
        liver = read_index(index_path(), ["TCGA-LIHC", "TCGA-CHOL"])
        assert round(sum(series.megabytes for series in liver) / 1000) == 741
        gtex = read_index(index_path(), ["GTEX"])
        assert len(gtex) == 25503
        assert Counter(s.record.preservation for s in gtex) == {"FFPE": 25351, "frozen": 152}
