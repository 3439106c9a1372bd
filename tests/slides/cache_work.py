"""What the processes do that share a cache in the tests."""

import time
from pathlib import Path

from wsi_pipeline.slides import SlideCache
from wsi_pipeline.slides import cache as cache_module

SIZE = 300_000  # of a slide, bytes
GB = 10**9


def read(cache: SlideCache, path: Path) -> Path:
    """Read a slide through the cache; return where."""
    with cache.local(path) as found:
        assert Path(found).read_bytes() == path.read_bytes()
        assert Path(found).name == path.name
        return Path(found)


def copy_slowly(folder: Path, path: Path) -> None:
    cache_module.BLOCK = 1000
    opened = cache_module._opened

    def slow(source: str) -> object:
        time.sleep(0.5)
        return opened(source)

    cache_module._opened = slow  # type: ignore[assignment]
    with SlideCache(folder, GB).local(path):
        pass


def read_all(folder: Path, paths: list[Path]) -> None:
    cache = SlideCache(folder, int(2.5 * SIZE))
    for path in paths * 5:
        read(cache, path)
