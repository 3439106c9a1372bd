"""Local copies of slides: whole or not used, bounded, shared by processes, read ahead."""

import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from slides.cache_work import SIZE, copy_slowly, read, read_all

from wsi_pipeline import tile
from wsi_pipeline.errors import ConfigError, SlideReadError
from wsi_pipeline.slides import SlideCache, open_slide
from wsi_pipeline.slides import cache as cache_module
from wsi_pipeline.tiles import open_tiles

GB = 10**9


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """Four files of a share."""
    folder = tmp_path / "share"
    folder.mkdir()
    for name in "abcd":
        (folder / f"{name}.svs").write_bytes(name.encode() * SIZE)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("[!.]*/slide/*"))


def test_a_slide_is_copied_once(share: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = SlideCache(folder, GB)
    first = read(cache, share / "a.svs")
    assert first.is_relative_to(folder)
    monkeypatch.setattr(cache_module, "_copy", None)
    assert read(SlideCache(folder, GB), share / "a.svs") == first


def test_the_longest_unused_go_and_none_that_is_in_use(share: Path, folder: Path) -> None:
    cache = SlideCache(folder, int(2.5 * SIZE))
    for name in ("a", "b", "a", "c"):
        read(cache, share / f"{name}.svs")
        time.sleep(0.01)
    assert kept(folder) == ["a.svs", "c.svs"]
    with cache.local(share / "a.svs"), cache.local(share / "c.svs"):
        with cache.local(share / "d.svs") as found:
            assert found == share / "d.svs", "there is no room: it is read where it lies"
        assert kept(folder) == ["a.svs", "c.svs"]
    read(cache, share / "d.svs")
    assert "d.svs" in kept(folder)
    assert sum(path.stat().st_size for path in folder.rglob("*.svs")) <= 2.5 * SIZE
    assert read(SlideCache(folder, SIZE // 2), share / "b.svs") == share / "b.svs"


def test_what_was_read_ahead_is_not_driven_out_by_more_of_it(share: Path, folder: Path) -> None:
    cache = SlideCache(folder, int(2.5 * SIZE))
    assert cache.read_ahead(share / "a.svs")
    assert cache.read_ahead(share / "b.svs")
    assert not cache.read_ahead(share / "c.svs"), "it waits for room"
    read(cache, share / "a.svs")
    assert cache.read_ahead(share / "c.svs"), "and has it when one was used"
    assert kept(folder) == ["b.svs", "c.svs"]
    read(cache, share / "d.svs")
    assert kept(folder) == ["c.svs", "d.svs"], "a slide's own turn goes before"


@pytest.mark.parametrize("damage", ["cut short", "touched", "gone", "no entry"])
def test_a_copy_that_is_not_as_it_was_written_is_made_anew(
    share: Path, folder: Path, damage: str
) -> None:
    cache = SlideCache(folder, GB)
    path = read(cache, share / "a.svs")
    match damage:
        case "cut short":
            os.truncate(path, 1000)
        case "touched":
            path.write_bytes(b"x" * SIZE)
        case "gone":
            path.unlink()
        case "no entry":
            (path.parent.parent / "entry.json").write_text("{")
    read(cache, share / "a.svs")


def test_a_slide_that_changed_at_its_source_is_copied_again(share: Path, folder: Path) -> None:
    cache, path = SlideCache(folder, GB), share / "a.svs"
    read(cache, path)
    path.write_bytes(b"z" * SIZE)
    read(cache, path)


def test_what_changes_while_it_is_copied_is_not_kept(
    share: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, copy = share / "a.svs", cache_module._copy

    def disturbed(part: cache_module._Part, target: Path) -> None:
        copy(part, target)
        path.write_bytes(b"z" * SIZE)

    monkeypatch.setattr(cache_module, "_copy", disturbed)
    with pytest.raises(SlideReadError, match="changed while it was copied"):
        read(SlideCache(folder, GB), path)
    assert kept(folder) == []
    assert not list(folder.glob(".partial-*"))


def test_a_process_that_is_killed_leaves_nothing_that_is_trusted(share: Path, folder: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=copy_slowly, args=(folder, share / "a.svs")
    )
    process.start()
    deadline = time.monotonic() + 30
    while not list(folder.glob(".partial-*/*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.join()
    (left,) = folder.glob(".partial-*")
    assert kept(folder) == []
    cache = SlideCache(folder, int(1.5 * SIZE))
    read(cache, share / "b.svs")
    assert not left.exists(), "what it had begun made room"
    read(cache, share / "a.svs")


def test_several_processes_share_a_folder(share: Path, folder: Path) -> None:
    paths = sorted(share.glob("*.svs"))
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(target=read_all, args=(folder, paths[number:] + paths[:number]))
        for number in range(3)
    ]
    for process in others:
        process.start()
    for process in others:
        process.join()
    assert [process.exitcode for process in others] == [0, 0, 0]
    assert sum(path.stat().st_size for path in folder.rglob("*.svs")) <= 2.5 * SIZE


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="no files can be written there"):
        SlideCache(tmp_path / "file", GB)


class Quiet(SimpleHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name there)
        pass


@pytest.fixture
def web(data_dir: Path) -> Iterator[str]:
    Quiet.asked = []
    handler = partial(Quiet, directory=str(data_dir / "slides"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_slides_of_a_server_and_of_several_files(
    web: str, data_dir: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("aiohttp", reason="fsspec's HTTP client, of the extra url")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    cache, name = SlideCache(folder, GB), "CMU-1-Small-Region.svs"
    for _ in range(2):
        with cache.local(f"{web}/{name}") as found:
            assert Path(found).read_bytes() == (data_dir / "slides" / name).read_bytes()
    assert len(Quiet.asked) == 1
    series = data_dir / "slides" / "CMU-1-Small-Region.dicom"
    with cache.local(series) as found, open_slide(found) as ours, open_slide(series) as theirs:
        assert Path(found).is_relative_to(folder)
        assert ours.info.level_dimensions == theirs.info.level_dimensions


def test_tiles_through_a_cache_are_the_same_and_slides_are_read_ahead(
    data_dir: Path, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next slide is copied while one is cut; what was cut before is not copied again."""
    share = tmp_path / "share"
    share.mkdir()
    for number in range(3):
        name = f"{number}.svs"
        shutil.copy(data_dir / "slides" / "CMU-1-Small-Region.svs", share / name)
        os.utime(share / name, (number, number))
    plain, cached = tmp_path / "plain", tmp_path / "cached"
    assert tile.main([str(share), f"--run={plain}"]) == 0
    by: list[tuple[str, str]] = []
    copy = cache_module._copy

    def noted(part: cache_module._Part, target: Path) -> None:
        by.append((part.name, threading.current_thread().name))
        copy(part, target)

    monkeypatch.setattr(cache_module, "_copy", noted)
    command = [str(share), f"--run={cached}", f"--cache={folder}", "--cache-gb=0.005"]
    assert tile.main(command) == 0
    assert sorted(name for name, _ in by) == ["0.svs", "1.svs", "2.svs"]
    assert ("1.svs", "read-ahead") in by
    for number in range(3):
        one, other = (open_tiles(run / "tiles" / f"{number}.zarr") for run in (plain, cached))
        assert (one.tiles[:] == other.tiles[:]).all()
        assert one.attributes["slide_digest"] == other.attributes["slide_digest"]
    by.clear()
    shutil.rmtree(folder)
    assert tile.main(command) == 0
    assert by == []
