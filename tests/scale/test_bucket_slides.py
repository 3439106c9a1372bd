"""Slides in a bucket are those that the same files in a folder are, or refused in a sentence."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from scale.object_store import ObjectStore
from scale.runs import QUICK, Study, digests, do

from wsi_pipeline.cli import main
from wsi_pipeline.cohort import read_cohort
from wsi_pipeline.errors import CohortError, ConfigError
from wsi_pipeline.events import Event, SlideFailed, SlideSkipped
from wsi_pipeline.pipeline.resolve_cohort import resolve_cohort
from wsi_pipeline.slides import open_slide, slide_digest
from wsi_pipeline.tiles import open_tiles
from wsi_pipeline.verbs import VERBS
from wsi_pipeline.verbs.tiles import TileConfig

SMALL = "CMU-1-Small-Region.svs"
FROZEN = "TCGA-CR-7395-01A-01-TS1.svs"
ODD = ("a b", "c#d", "e%20f", "g+h&c=d", "i?j", "k*[1]{x}", "肝-ä", "'q'", " begins", "l\\m",
       "~n|o")  # fmt: skip

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def client(server: ObjectStore) -> Iterator[Any]:
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket="slides")
    yield client
    server.refuses = lambda method, path: False
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="slides"):
        for item in page.get("Contents", ()):
            client.delete_object(Bucket="slides", Key=item["Key"])
    client.delete_bucket(Bucket="slides")


@pytest.fixture(scope="module")
def tiff(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small slide; the tests of names need no other."""
    path = tmp_path_factory.mktemp("tiff") / "a.tif"
    pixels = np.random.default_rng(0).integers(90, 220, (512, 512, 3), np.uint8)
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="rgb", resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER",
    )  # fmt: skip
    return path.read_bytes()


def config(**settings: object) -> TileConfig:
    return TileConfig.from_mapping({"run": "never", **settings}, "test")


def failed(events: list[Event]) -> dict[str, str]:
    return {event.slide_id: event.error for event in events if isinstance(event, SlideFailed)}


def test_tiles_are_those_of_a_run_on_the_same_files(
    client: Any, data_dir: Path, tmp_path: Path
) -> None:
    """Real slides, by a prefix, by a table with --slides, in shards, and through a cache."""
    names = {f"P{k}/{name}": data_dir / "slides" / name for k, name in enumerate((SMALL, FROZEN))}
    for name, path in names.items():
        (tmp_path / "here" / name).parent.mkdir(parents=True)
        (tmp_path / "here" / name).symlink_to(path)
        client.upload_file(str(path), "slides", f"some/{name}")
    table = tmp_path / "cohort.csv"
    rows = [f"{Path(name).stem},{name},p{k},hcc,x" for k, name in enumerate(names)]
    table.write_text("\n".join(["slide_id,path,patient_id,label,cohort", *rows]))
    do("tile", cohort=tmp_path / "here", run=tmp_path / "local", **ASKED)
    do("tile", cohort="s3://slides/some/", run=tmp_path / "prefix", **ASKED)
    for shard in ("1/2", "2/2"):
        do("tile", cohort=table, slides="s3://slides/some", run=tmp_path / "table", shard=shard,
           **ASKED)  # fmt: skip
    do("tile", cohort="s3://slides", run=tmp_path / "cached", cache=tmp_path / "cache", **ASKED)
    for other in ("prefix", "table", "cached"):
        for name in map(Path, names):
            mine = open_tiles(tmp_path / "local" / "tiles" / f"{name.stem}.zarr")
            theirs = open_tiles(tmp_path / other / "tiles" / f"{name.stem}.zarr")
            assert np.array_equal(mine.coords, theirs.coords), (other, name)
            assert np.array_equal(mine.tiles[:], theirs.tiles[:]), (other, name)
    row = read_cohort(tmp_path / "table" / "cohort.csv")[0]
    assert row.locate() == f"s3://slides/some/P0/{SMALL}"
    assert row.locate(tmp_path / "here") == tmp_path / "here" / "P0" / SMALL
    again = do("tile", cohort="s3://slides/some", run=tmp_path / "prefix", **ASKED)
    assert sum(isinstance(event, SlideSkipped) for event in again) == 2
    assert not failed(do("verify", run=tmp_path / "prefix"))
    client.upload_file(str(data_dir / "slides" / SMALL), "slides", f"some/P1/{FROZEN}")
    stage = VERBS["tile"]
    events = list(stage.run(config(cohort="s3://slides/some", run=tmp_path / "prefix", **ASKED)))
    assert list(failed(events)) == [Path(FROZEN).stem], "another object: another entity tag"


ASKED = {"mpp": 1.0, "mpp_default": 0.5, "tile_px": 128}


def test_slides_are_encoded_and_scored_from_a_bucket(
    client: Any, data_dir: Path, tmp_path: Path
) -> None:
    client.upload_file(str(data_dir / "slides" / SMALL), "slides", f"some/{SMALL}")
    settings = tmp_path / "tile.toml"
    settings.write_text("mpp = 4.0\ntile_px = 64\n")
    how = {"source": "slide", "encoder": "test_resnet", "weights": "random", "device": "cpu"}
    for cohort, run in (("s3://slides/some", "there"), (data_dir / "slides" / SMALL, "here")):
        do("extract", cohort=cohort, run=tmp_path / run, tile_settings=settings, **how)
    from wsi_pipeline.api import open_run

    mine, theirs = (
        open_run(tmp_path / run).features()[Path(SMALL).stem] for run in ("here", "there")
    )
    assert np.array_equal(mine.features[:], theirs.features[:])


def test_new_slides_are_scored_from_a_bucket(client: Any, study: Study, tmp_path: Path) -> None:
    new = sorted(study.slides.rglob("*.svs"))[:2]
    folder = tmp_path / "new"
    folder.mkdir()
    for path in new:
        (folder / path.name).symlink_to(path)
        client.upload_file(str(path), "slides", f"new/{path.name}")
    for slides, run in ((folder, "here"), ("s3://slides/new", "there")):
        do("predict", run=tmp_path / run, model=study.model, new_slides=slides, **QUICK)
    mine, theirs = (digests(tmp_path / run) for run in ("here", "there"))
    (table,) = [name for name in mine if name.endswith("/slides.csv")]
    assert mine[table] == theirs[table]
    rows = (tmp_path / "there" / table).read_text().splitlines()[1:]
    assert {row.partition(",")[0] for row in rows} == {path.stem for path in new}


def test_ids_and_what_is_no_slide_are_told_as_in_a_folder(
    client: Any, tiff: bytes, tmp_path: Path
) -> None:
    keys = ["P1/HE.tif", "P2/HE.tif", "P2/HE2.tif", ".hidden/a.tif", "P1/.b.tif", "notes.txt",
            "run/cohort.csv"]  # fmt: skip
    for key in keys:
        client.put_object(Bucket="slides", Key=f"some/{key}", Body=tiff)
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(tiff)
    client.put_object(Bucket="slides", Key="some/", Body=b"")  # as a console makes folders
    client.put_object(Bucket="slides", Key="some_other/c.tif", Body=tiff)
    there = resolve_cohort(config(cohort="s3://slides/some"))
    here = resolve_cohort(config(cohort=tmp_path))
    assert [row.slide_id for row in there.slides] == ["P1-HE", "P2-HE", "HE2"]
    assert [(row.slide_id, row.path) for row in there.slides] == [
        (row.slide_id, row.path) for row in here.slides
    ]
    assert there.events == here.events == []
    (one,) = resolve_cohort(config(cohort="s3://slides/some/P2/HE.tif")).slides
    assert (one.slide_id, one.locate()) == ("HE", "s3://slides/some/P2/HE.tif")


def test_a_listing_of_several_pages(
    client: Any, server: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 10 keys each here, of 1,000 in life."""
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    for number in range(35):
        client.put_object(Bucket="slides", Key=f"many/{number:04d}.tif", Body=b"x")
    before = len(server.requests)
    assert len(resolve_cohort(config(cohort="s3://slides/many")).slides) == 35
    assert len(server.requests) - before == 4
    parts = [resolve_cohort(config(cohort="s3://slides/many", shard=f"{k}/4")) for k in range(1, 5)]
    assert sum(len(part.slides) for part in parts) == 35


def test_odd_keys_are_read_or_refused(client: Any, tiff: bytes) -> None:
    for name in (*ODD, "a::b", "a?versionId=1", "a//b", "./c", "n" * 300):
        client.put_object(Bucket="slides", Key=f"odd/{name}.tif", Body=tiff)
    resolved = resolve_cohort(config(cohort="s3://slides/odd"))
    assert len(resolved.slides) == len(ODD)
    for row in resolved.slides:
        url = str(row.locate())
        assert slide_digest(url)
        with open_slide(url) as slide:
            assert slide.read(0, 0, 0, 8, 8).shape == (8, 8, 3)
    said = failed(resolved.events)
    assert len(said) == 5
    assert all(" rename it" in text and "s3://slides/odd/" in text for text in said.values())


def test_formats_that_cannot_be_read_by_ranges_are_named(client: Any, tiff: bytes) -> None:
    series = b"\0" * 128 + b"DICM" + b"\0" * 60
    for key, body in {
        "a.tif": tiff, "b.mrxs": b"x", "b/Data.dat": b"x", "c.vsi": b"x", "_c_/s/frame.tif": tiff,
        "d/1.dcm": series, "d/2.dcm": series, "e/IM1": series, "e/IM2": series, "f/README": b"x",
        "g.png": b"x", "h.tif": b"",
    }.items():  # fmt: skip
        client.put_object(Bucket="slides", Key=f"mixed/{key}", Body=body)
    resolved = resolve_cohort(config(cohort="s3://slides/mixed"))
    assert [row.slide_id for row in resolved.slides] == ["a"]
    said = failed(resolved.events)
    assert sorted(said) == ["b.mrxs", "c.vsi", "d", "e", "g.png", "h.tif"]
    assert said["d"] == (
        "s3://slides/mixed/d is a slide of several files, which are read from a disk alone; copy "
        "them here (aws s3 sync) and name that folder"
    )
    assert "give --cache DIR" in said["g.png"]
    assert "is empty" in said["h.tif"]
    cached = resolve_cohort(config(cohort="s3://slides/mixed", cache="never"))
    assert [row.slide_id for row in cached.slides] == ["a", "g"]


def test_rows_of_a_table_that_are_not_in_the_bucket(
    client: Any, tiff: bytes, tmp_path: Path
) -> None:
    client.put_object(Bucket="slides", Key="t/a.tif", Body=tiff)
    client.put_object(Bucket="slides", Key="t/d/1.dcm", Body=b"x")
    table = tmp_path / "cohort.csv"
    head = "slide_id,path,patient_id,label,cohort\n"
    table.write_text(f"{head}a,a.tif,p,hcc,x\nb,b.tif,p,hcc,x\nd,d,p,hcc,x\n")
    resolved = resolve_cohort(config(cohort=table, slides="s3://slides/t"))
    assert [row.slide_id for row in resolved.slides] == ["a"]
    said = failed(resolved.events)
    assert said["b"] == "no object s3://slides/t/b.tif; put it there, or take the row out"
    assert "several files" in said["d"]
    table.write_text(f"{head}b,b.tif,p,hcc,x\n")
    with pytest.raises(CohortError, match="none of its slides can be used"):
        resolve_cohort(config(cohort=table, slides="s3://slides/t"))


def test_what_a_bucket_says_is_one_sentence(
    client: Any, server: ObjectStore, tiff: bytes, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    client.put_object(Bucket="slides", Key="some/a.tif", Body=tiff)
    client.put_object(Bucket="slides", Key="notes/a.txt", Body=tiff)

    def said(url: str, *more: str) -> str:
        assert main(["tile", url, "--run", "run", *more]) == 2
        told = capsys.readouterr().err.strip()
        assert len(told.splitlines()) == 1, told
        return told

    assert "s3://slides/nowhere: there is no slide in this folder" in said("s3://slides/nowhere")
    assert "s3://slides/notes: there is no slide" in said("s3://slides/notes")
    assert "there is no such bucket" in said("s3://nobody/a")
    assert "a cohort table is read from this machine" in said("s3://slides/cohort.csv")
    assert "CT are read from a disk" in said("s3://slides/some", "--modality", "ct")
    for url in ("gs://bucket/slides", "https://example.org/slides", "s3:/bucket/slides"):
        assert "is a URL" in said(url)
    server.refuses = lambda method, path: True
    assert "access is refused" in said("s3://slides/some")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "Could not connect" in said("s3://slides/some")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    assert "nonsense" in said("s3://slides/some")
    assert not (tmp_path / "s3:").exists()
    assert not (tmp_path / "run" / "tiles").exists()


def test_who_takes_no_slides_in_a_bucket_refuses(tmp_path: Path) -> None:
    for verb in ("verify", "repair", "report", "view", "qc", "import_features"):
        with pytest.raises(ConfigError, match="is a URL"):
            VERBS[verb].config_class.from_mapping({"slides": "s3://bucket/slides"}, "test")
    with pytest.raises(ConfigError, match="tile and extract the new slides there"):
        VERBS["predict"].config_class.from_mapping(
            {"run": "s3://bucket/run", "new_slides": "s3://bucket/slides"}, "test"
        )
    for verb, name in (("tile", "slides"), ("extract", "cohort"), ("predict", "new_slides")):
        with pytest.raises(ConfigError, match=rf"{name}.*is a URL"):
            VERBS[verb].config_class.from_mapping(
                {"run": "r", "cohort": "c", name: "gs://bucket/a"}, "test"
            )
