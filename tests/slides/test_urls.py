"""Slides behind URLs: HTTP with Range and S3, against servers of our own on loopback."""

import re
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from wsi_pipeline.errors import SlideOpenError
from wsi_pipeline.events import Planned
from wsi_pipeline.pipeline.tile import run
from wsi_pipeline.slides import open_slide, resolve_mpp, slide_digest
from wsi_pipeline.verbs.tiles import TileConfig

SMALL = "CMU-1-Small-Region.svs"
LARGE = "PDAC-tru-cut_HE3.svs"
NEEDED = "needed for slides behind URLs: pip install 'wsi-pipeline[url]'"


class Shelf(BaseHTTPRequestHandler):
    """Serves files with Range, as object stores do; under ``/deaf/`` it does not know Range."""

    folder: Path
    sent = 0

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        name = self.path.rsplit("/", 1)[-1]
        if self.path.startswith("/failing/"):
            self.send_error(500)
            return
        if not (self.folder / name).is_file():
            self.send_error(404)
            return
        content = (self.folder / name).read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        deaf = self.path.startswith("/deaf/")
        first, last = 0, len(content) - 1
        if asked and not deaf:
            first, last = int(asked[1]), min(int(asked[2] or last), last)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        else:
            self.send_response(200)
        if not deaf:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        if body:
            Shelf.sent += last - first + 1
            with suppress(ConnectionError):  # a client that has seen enough
                self.wfile.write(content[first : last + 1])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def http(data_dir: Path) -> Iterator[str]:
    pytest.importorskip("aiohttp", reason=f"aiohttp is {NEEDED}")
    Shelf.folder = data_dir / "slides"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shelf)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def s3(data_dir: Path) -> Iterator[str]:
    """A bucket with one slide on moto's server; the address and credentials are in the process."""
    s3fs = pytest.importorskip("s3fs", reason=f"s3fs is {NEEDED}")
    moto = pytest.importorskip("moto.server", reason="moto[server] stands in for S3")
    import boto3

    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="slides")
        client.upload_file(str(data_dir / "slides" / SMALL), "slides", SMALL)
        s3fs.S3FileSystem.clear_instance_cache()  # another test's remembers another address
        yield "s3://slides"
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def check_small(url: str, data_dir: Path) -> None:
    with open_slide(url) as remote, open_slide(data_dir / "slides" / SMALL) as local:
        assert remote.info.reader == "tiffslide"
        assert remote.info.dimensions == local.info.dimensions
        assert resolve_mpp(remote.info).mpp == 0.499
        for x, y in ((0, 0), (900, 1200), (2100, 2900)):
            assert np.array_equal(remote.read(0, x, y, 300, 200), local.read(0, x, y, 300, 200))
        assert np.array_equal(remote.associated_image("label"), local.associated_image("label"))


def test_over_http_the_pixels_are_the_same(http: str, data_dir: Path) -> None:
    check_small(f"{http}/{SMALL}", data_dir)


def test_over_http_only_what_is_needed_is_fetched(http: str, data_dir: Path) -> None:
    Shelf.sent = 0
    with open_slide(f"{http}/{LARGE}") as slide:
        width, height = slide.info.level_dimensions[-1]
        slide.read(len(slide.info.level_dimensions) - 1, width // 2, height // 2, 256, 256)
    assert 0 < Shelf.sent < (data_dir / "slides" / LARGE).stat().st_size


@pytest.mark.parametrize(
    "path", ["missing.svs", "failing/a.svs", f"deaf/{LARGE}", "broken/broken.svs"]
)
def test_what_a_server_cannot_give_is_refused(http: str, path: str) -> None:
    url = f"{http}/{path}" if not path.startswith("broken") else f"{http}/README.md"
    with pytest.raises(SlideOpenError, match=re.escape(url)):
        open_slide(url)


def test_a_server_that_is_not_there_is_named(http: str) -> None:
    with pytest.raises(SlideOpenError, match=r"127\.0\.0\.1:9"):
        open_slide("http://127.0.0.1:9/a.svs")
    with pytest.raises(SlideOpenError, match="cannot be reached"):
        slide_digest("http://127.0.0.1:9/a.svs")
    with pytest.raises(SlideOpenError, match="cannot be reached"):
        slide_digest(f"{http}/failing/a.svs")


def test_over_s3_the_pixels_are_the_same(s3: str, data_dir: Path) -> None:
    check_small(f"{s3}/{SMALL}", data_dir)
    assert len(slide_digest(f"{s3}/{SMALL}")) == 32


def test_what_is_not_in_the_bucket_is_refused(s3: str) -> None:
    for url in (f"{s3}/missing.svs", "s3://nobody/a.svs"):
        with pytest.raises(SlideOpenError, match=re.escape(url)):
            open_slide(url)
        with pytest.raises(SlideOpenError, match=re.escape(url)):
            slide_digest(url)


def test_a_cohort_table_may_name_urls(http: str, tmp_path: Path) -> None:
    table = tmp_path / "cohort.csv"
    table.write_text(f"slide_id,path,patient_id,label,cohort\na,{http}/{SMALL},p,normal,x\n")
    events = list(run(TileConfig(cohort=table, run=tmp_path / "run", dry_run=True)))
    (row,) = [event.row for event in events if isinstance(event, Planned)]
    assert (row["reader"], row["places"], row["refused"]) == ("tiffslide", 88, None)
