"""Questions to the stand-in: paging, labels, faults of the answer, ids that moved."""

import io
import tarfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from wsi_pipeline.cohort import read_cohort
from wsi_pipeline.download import main
from wsi_pipeline.errors import DownloadError
from wsi_pipeline.gdc import ManifestEntry, find_files, gdc_client, read_manifest, resolve
from wsi_pipeline.remote import Client, RefusedError, RetryPolicy

QUICK = ("--first-wait-s=0.01", "--attempts=3", "--timeout-s=2")
IN_LIHC = {"op": "in", "content": {"field": "cases.project.project_id", "value": ["TCGA-LIHC"]}}
QUERY = """
projects = ["TCGA-LIHC", "TCGA-CHOL"]
[[labels.classes]]
label = "hcc"
project = "TCGA-LIHC"
morphologies = ["8170/3"]
[[labels.classes]]
label = "cca"
project = "TCGA-CHOL"
"""


def case(project: str, code: str, sample_type: str, patient: str) -> dict[str, Any]:
    return {
        "submitter_id": patient,
        "project": {"project_id": project},
        "samples": [{"sample_type": sample_type}],
        "diagnoses": [{"morphology": code}],
    }


def add(stand_in: Any, patient: str, section: str, project: str, code: str) -> ManifestEntry:
    kind = "Solid Tissue Normal" if section.startswith("11") else "Primary Tumor"
    strategy = "Diagnostic Slide" if "DX" in section else "Tissue Slide"
    entry: ManifestEntry = stand_in.add(
        100 + len(stand_in.files),
        f"{patient}-{section}.svs",
        cases=[case(project, code, kind, patient)],
        data_format="SVS",
        experimental_strategy=strategy,
    )
    return entry


@pytest.fixture
def client(stand_in: Any) -> Client:
    return gdc_client(stand_in.url, policy=RetryPolicy(attempts=3, first_wait_s=0.01), timeout_s=2)


def test_query_makes_manifest_and_cohort_and_fetches(stand_in: Any, tmp_path: Path) -> None:
    hcc = add(stand_in, "TCGA-DD-AAAA", "01A-01-TS1", "TCGA-LIHC", "8170/3")
    normal = add(stand_in, "TCGA-DD-AAAA", "11A-01-TS1", "TCGA-LIHC", "8170/3")
    cca = add(stand_in, "TCGA-W5-BBBB", "01A-01-BS1", "TCGA-CHOL", "8160/3")
    add(stand_in, "TCGA-DD-CCCC", "01A-01-TS1", "TCGA-LIHC", "8171/3")
    add(stand_in, "TCGA-DD-AAAA", "01Z-00-DX1", "TCGA-LIHC", "8170/3")
    add(stand_in, "TCGA-A1-DDDD", "01A-01-TS1", "TCGA-BRCA", "8500/3")
    stand_in.tell()
    query = tmp_path / "query.toml"
    query.write_text(QUERY)
    command = [
        f"--query={query}",
        f"--server={stand_in.url}",
        f"--manifest-out={tmp_path / 'm.txt'}",
        f"--cohort-out={tmp_path / 'c.csv'}",
        f"--out={tmp_path / 'slides'}",
    ]
    assert main([*command, *QUICK]) == 0
    assert set(read_manifest(tmp_path / "m.txt").entries) == {hcc, normal, cca}
    slides = read_cohort(tmp_path / "c.csv")
    assert [(s.patient_id, s.label, s.site, s.preservation, s.sample_type) for s in slides] == [
        ("TCGA-DD-AAAA", "hcc", "DD", "frozen", "Primary Tumor"),
        ("TCGA-DD-AAAA", "normal", "DD", "frozen", "Solid Tissue Normal"),
        ("TCGA-W5-BBBB", "cca", "W5", "frozen", "Primary Tumor"),
    ]
    assert all((tmp_path / "slides" / slide.path).is_file() for slide in slides)
    assert main([*command, *QUICK, "--recipe=diagnostic"]) == 0
    assert [slide.preservation for slide in read_cohort(tmp_path / "c.csv")] == ["FFPE"]


def test_query_that_finds_nothing(
    stand_in: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for project in ("TCGA-LIHC", "TCGA-CHOL"):
        stand_in.add(1, "reads.bam", cases=[{"project": {"project_id": project}}])
    stand_in.tell()
    query = tmp_path / "query.toml"
    query.write_text(QUERY)
    command = [f"--query={query}", f"--server={stand_in.url}", f"--cohort-out={tmp_path / 'c.csv'}"]
    assert main([*command, *QUICK]) == 2
    assert "finds no slide for recipe frozen-only" in capsys.readouterr().err
    assert not (tmp_path / "c.csv").exists()


def test_every_page_is_read(stand_in: Any, client: Client) -> None:
    for number in range(1203):
        stand_in.files.append(
            {
                "file_id": f"00000000-0000-4000-8000-{number:012d}",
                "cases": [{"project": {"project_id": "TCGA-LIHC"}}],
            }
        )
    stand_in.tell()
    found = find_files(client, IN_LIHC)
    assert len({hit["file_id"] for hit in found.hits}) == 1203
    assert found.warnings == ()
    assert len(stand_in.log("/files")) == 3


def test_pages_that_repeat_a_file(stand_in: Any, client: Client) -> None:
    """A hit that comes twice counts once, and the shortfall is told."""
    ids = ["a", "b", "b"]
    stand_in.files += [
        {"file_id": i, "cases": [{"project": {"project_id": "TCGA-LIHC"}}]} for i in ids
    ]
    stand_in.tell()
    found = find_files(client, IN_LIHC)
    assert [hit["file_id"] for hit in found.hits] == ["a", "b"]
    assert found.warnings == ("the server counts 3 files, but only 2 different ones came",)


def test_fields_the_server_does_not_know(stand_in: Any, client: Client) -> None:
    stand_in.add(10, cases=[{"project": {"project_id": "TCGA-LIHC"}}])
    stand_in.tell()
    found = find_files(client, IN_LIHC, ("file_id", "no_such_field"))
    assert found.warnings == ("fields: unrecognized values: ['no_such_field']",)
    assert len(found.hits) == 1


def test_unknown_filter_is_refused_at_once(stand_in: Any, client: Client) -> None:
    stand_in.add(1)
    stand_in.tell()
    with pytest.raises(RefusedError, match=r"HTTP 400.*unrecognized field nonsense"):
        find_files(client, {"op": "in", "content": {"field": "nonsense", "value": ["x"]}})
    assert len(stand_in.log("/files")) == 1


@pytest.mark.parametrize("do", ["html_200", "status", "stall_headers"])
def test_questions_are_repeated(stand_in: Any, client: Client, do: str) -> None:
    client.timeout_s = 0.3
    stand_in.faults.append({"match": "/files", "do": do, "status": 503, "seconds": 0.1})
    stand_in.tell()
    assert find_files(client, IN_LIHC).hits == ()
    stand_in.faults[0]["first"] = None
    stand_in.faults[0]["do"] = "html_200"
    stand_in.tell()
    with pytest.raises(DownloadError, match="under maintenance"):
        find_files(client, IN_LIHC)
    assert len(stand_in.log("/files")) == 3


def moved(entry: ManifestEntry, **changes: Any) -> ManifestEntry:
    values = {"id": entry.id, "filename": entry.filename, "md5": entry.md5, "size": entry.size}
    return ManifestEntry(**(values | changes))


OLD = "11111111-1111-4111-8111-111111111111"
OLDER = "22222222-2222-4222-8222-222222222222"
LOST = "33333333-3333-4333-8333-333333333333"


def superseded(old: str, now: ManifestEntry) -> dict[str, Any]:
    return {"id": old, "latest_id": now.id, "latest_filename": now.filename, "version": "1"}


def test_ids_that_moved(stand_in: Any, client: Client) -> None:
    current, same, other, newer = (stand_in.add(100 + n) for n in range(4))
    stand_in.versions = [superseded(OLD, same), superseded(OLDER, newer)]
    stand_in.tell()
    asked = [
        current,
        moved(same, id=OLD),
        moved(other, id=LOST),
        moved(newer, id=OLDER, md5="0" * 32),
        moved(other, id="44444444-4444-4444-8444-444444444444", filename="absent.svs"),
    ]
    found = resolve(client, asked)
    assert [(each.kind, each.now.id if each.now else None) for each in found] == [
        ("current", current.id),
        ("moved", same.id),
        ("moved", other.id),
        ("new version", newer.id),
        ("gone", None),
    ]


def test_withdrawn_file_comes_under_its_new_id(
    stand_in: Any, manifest: Any, tmp_path: Path
) -> None:
    now = stand_in.add(5000)
    stand_in.tell()
    out = tmp_path / "slides"
    asked = moved(now, id=LOST)
    command = [str(manifest([asked])), f"--out={out}", f"--server={stand_in.url}", *QUICK]
    assert main([*command, "--resolve=off"]) == 1
    assert main(command) == 0
    assert (out / asked.relative_path).stat().st_size == 5000
    assert (out / "download_report.csv").read_text().count(now.id) == 1


def test_new_version_is_taken_on_request_only(
    stand_in: Any, manifest: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now, gone = stand_in.add(5000), moved(stand_in.add(1), id=LOST, filename="gone.svs")
    stand_in.tell()
    out = tmp_path / "slides"
    asked = moved(now, id=OLD, md5="0" * 32)
    path = str(manifest([asked, gone]))
    command = [path, f"--out={out}", f"--server={stand_in.url}", *QUICK]
    assert main(command) == 1
    assert f"only a new version exists, {now.id}" in capsys.readouterr().out
    assert not list(out.rglob("*.svs"))
    fresh = tmp_path / "fresh.txt"
    assert main([*command, "--resolve=latest", f"--manifest-out={fresh}"]) == 1  # gone.svs is
    assert read_manifest(fresh).entries == (now,)
    assert (out / now.relative_path).stat().st_size == 5000


def test_the_kimianet_subset_was_superseded(data_dir: Path, stand_in: Any) -> None:
    """Its 38 slides are in today's records under other ids, with other bytes of the same size."""
    folder = data_dir / "gdc"
    for project in ("LIHC", "CHOL"):
        table = folder / f"TCGA-{project}_slides_manifest_2022-12_from_slideflow.tsv"
        for entry in read_manifest(table).entries:
            stand_in.files.append(
                {
                    "file_id": entry.id,
                    "file_name": entry.filename,
                    "md5sum": entry.md5,
                    "file_size": entry.size,
                }
            )
    stand_in.tell()
    asked = read_manifest(folder / "KimiaNet_LIHC_CHOL_subset.txt").entries
    with gdc_client(stand_in.url) as client:
        found = resolve(client, asked)
    assert {each.kind for each in found} == {"new version"}
    assert all(each.now is not None and each.now.size == each.entry.size for each in found)


def test_the_proxy_of_the_environment_is_used(
    stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in.tell()
    monkeypatch.setenv("http_proxy", stand_in.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with gdc_client("http://gdc.invalid") as client:  # a name that nobody but a proxy answers for
        assert client.ask("status")["status"] == "OK"
    monkeypatch.setenv("http_proxy", "http://gdc.invalid")
    with gdc_client(stand_in.url) as client:  # past the proxy
        assert client.ask("status")["status"] == "OK"


def test_controlled_access(stand_in: Any, manifest: Any, tmp_path: Path) -> None:
    closed, opened = stand_in.add(1000, access="controlled"), stand_in.add(1000)
    stand_in.tokens.append("good")
    stand_in.tell()
    token = tmp_path / "token"
    token.write_text("bad")
    token.chmod(0o600)
    out = tmp_path / "slides"
    command = [str(manifest([closed, opened])), f"--out={out}", f"--server={stand_in.url}", *QUICK]
    assert main(command) == 1
    report = (out / "download_report.csv").read_text()
    assert "HTTP 403 FORBIDDEN: You don't have access to the data; controlled-access" in report
    assert not (out / closed.relative_path).exists()
    assert (out / opened.relative_path).exists()
    assert len([record for record in stand_in.log() if record["status"] == 403]) == 1

    (out / opened.relative_path).unlink()
    assert main([*command, f"--token-file={token}"]) == 1
    assert not (out / opened.relative_path).exists(), "a bad token is refused for open files too"
    token.write_text("good\n")
    assert main([*command, f"--token-file={token}"]) == 0


class TestTheStandIn:
    """It answers as the GDC does, where the downloader itself does not ask."""

    def ask(self, stand_in: Any, path: str, body: Any = None) -> httpx.Response:
        if body is None:
            return httpx.get(stand_in.url + path, trust_env=False)
        return httpx.post(stand_in.url + path, json=body, trust_env=False)

    def test_answers(self, stand_in: Any) -> None:
        first, second = stand_in.add(300, data_format="SVS"), stand_in.add(20)
        for _ in range(12):
            stand_in.add(1)
        stand_in.tell()
        assert self.ask(stand_in, "/status").json()["status"] == "OK"
        listing = self.ask(stand_in, "/files").json()["data"]
        assert listing["pagination"] == {
            "count": 10,
            "total": 14,
            "size": 10,
            "from": 0,
            "sort": "",
            "page": 1,
            "pages": 2,
        }
        assert (
            "md5sum" not in self.ask(stand_in, "/files?fields=file_name").json()["data"]["hits"][0]
        )
        one = self.ask(stand_in, f"/files/{first.id}").json()["data"]
        assert (one["file_name"], one["data_format"]) == (first.filename, "SVS")
        rows = self.ask(stand_in, f"/files/versions/{first.id},{second.id}").json()
        assert [row["latest_id"] for row in rows] == [first.id, second.id]
        assert self.ask(stand_in, "/files/versions", {"ids": ["x"]}).status_code == 404
        text = self.ask(stand_in, "/v0/manifest", {"ids": [first.id]}).text
        assert text.splitlines()[1].split("\t")[:2] == [first.id, first.filename]
        every = self.ask(stand_in, "/files", {"return_type": "manifest"}).text
        assert len(every.splitlines()) == 15

    def test_facets(self, stand_in: Any) -> None:
        for site in ("Liver", "Colon", "Liver"):
            stand_in.add(1, cases=[{"primary_site": site}])
        stand_in.tell()
        found = self.ask(stand_in, "/files?facets=cases.primary_site&size=0").json()["data"]
        assert found["hits"] == []
        assert found["aggregations"]["cases.primary_site"]["buckets"] == [
            {"doc_count": 2, "key": "Liver"},
            {"doc_count": 1, "key": "Colon"},
        ]

    def test_what_goes_with_a_file(self, stand_in: Any) -> None:
        """Index files and annotations come in a tar, plain or packed, beside the manifest."""
        index = stand_in.add(30, "reads.bam.bai")
        note = {"annotation_id": "n", "category": "Item flagged DNU", "notes": "do not use"}
        file = stand_in.add(
            300, "reads.bam", index_files=[{"file_id": index.id}], annotations=[note]
        )
        stand_in.tell()
        path = f"/data/{file.id}?related_files=true"
        with tarfile.open(fileobj=io.BytesIO(self.ask(stand_in, path).content), mode="r:gz") as tar:
            assert tar.getnames() == [
                "annotations.txt",
                "MANIFEST.txt",
                f"{file.id}/reads.bam",
                f"{index.id}/reads.bam.bai",
            ]
            member = tar.extractfile("annotations.txt")
            assert member is not None
            assert b"Item flagged DNU" in member.read()
        plain = self.ask(stand_in, f"/data/{file.id}?tarfile").content
        with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as tar:
            assert len(tar.getnames()) == 3
        assert self.ask(stand_in, "/annotations").json()["data"]["hits"] == [note]

    def test_data(self, stand_in: Any) -> None:
        first, second = stand_in.add(300), stand_in.add(20)
        stand_in.tell()
        raw = self.ask(stand_in, "/data", {"ids": [first.id]})
        assert (len(raw.content), raw.headers["content-md5"]) == (300, first.md5)
        assert raw.headers["content-disposition"] == f"attachment; filename={first.filename}"
        packed = self.ask(stand_in, "/data", {"ids": [first.id, second.id]}).content
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            assert tar.getnames() == [
                "MANIFEST.txt",
                f"{first.id}/{first.filename}",
                f"{second.id}/{second.filename}",
            ]
        url = f"{stand_in.url}/data/{first.id}"
        part = httpx.get(url, headers={"Range": "bytes=290-"}, trust_env=False)
        assert (part.status_code, part.headers["content-range"]) == (206, "bytes 290-299/300")
        assert part.content == raw.content[290:]
        beyond = httpx.get(url, headers={"Range": "bytes=300-"}, trust_env=False)
        assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */300")
