"""Files as each scanner's maker lays them out, small, told apart and decoded by OpenSlide."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openslide
import pytest
from slides_vendor.hamamatsu import write_ndpi
from slides_vendor.leica import write_leica
from slides_vendor.mirax import write_mirax
from slides_vendor.philips import write_philips
from slides_vendor.picture import PICTURE, level_of
from slides_vendor.ventana import write_ventana

from wsi_pipeline.errors import MppError
from wsi_pipeline.slides import find_slides, open_slide, resolve_mpp, slide_digest
from wsi_pipeline.tile import main
from wsi_pipeline.tiles import find_store, open_tiles
from wsi_pipeline.types import Region


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A maker's format: how it is written, and what must be read from it."""

    write: Callable[..., None]
    suffix: str
    vendor: str
    mpp: float
    size: tuple[int, int] = (768, 512)
    origin: tuple[int, int] = (0, 0)
    steps: tuple[int, ...] = (1,)
    reader: str = "jpeg-tiff"


KINDS = [
    Kind(write=write_philips, suffix=".tiff", vendor="philips", mpp=0.25, steps=(1, 2, 4)),
    Kind(
        write=write_leica, suffix=".scn", vendor="leica", mpp=0.5, size=(1536, 1024),
        origin=(256, 256), steps=(1, 4),
    ),
    Kind(write=write_ventana, suffix=".bif", vendor="ventana", mpp=0.25, steps=(1, 2)),
    Kind(write=write_ndpi, suffix=".ndpi", vendor="hamamatsu", mpp=0.5, steps=(1, 2, 4)),
    Kind(
        write=write_mirax, suffix=".mrxs", vendor="mirax", mpp=0.25, size=(2048, 1536),
        origin=(512, 256), reader="openslide",
    ),
]  # fmt: skip
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.vendor)


@each_kind
def test_it_is_known_for_what_it_is(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / f"slide{kind.suffix}"
    kind.write(path)
    assert openslide.OpenSlide.detect_format(path) == kind.vendor
    with open_slide(path) as slide:
        info = slide.info
        assert (info.reader, info.vendor) == (kind.reader, kind.vendor)
        assert info.dimensions == kind.size
        assert info.bounds == Region(x=kind.origin[0], y=kind.origin[1], width=768, height=512)
        assert resolve_mpp(info).mpp == pytest.approx(kind.mpp)
        assert resolve_mpp(info).source == "openslide.mpp-x"
        for level, step in enumerate(kind.steps):
            assert info.level_downsamples[level] == pytest.approx(step)
            x, y = (side // step for side in kind.origin)
            read = slide.read(level, x, y, 768 // step, 512 // step)
            difference = np.abs(read.astype(int) - level_of(step))
            assert difference.mean() < 6, f"level {level}"
    assert find_slides(tmp_path).paths == [path], "a MIRAX slide's folder holds no slide of its own"


@each_kind
@pytest.mark.parametrize("mpp", [0.02, 25.0])
def test_a_resolution_that_no_scanner_has_is_refused(
    kind: Kind, mpp: float, tmp_path: Path
) -> None:
    path = tmp_path / f"slide{kind.suffix}"
    kind.write(path, mpp=mpp)
    with open_slide(path) as slide, pytest.raises(MppError, match=f"{mpp:g}"):
        resolve_mpp(slide.info)


@each_kind
def test_it_is_cut_from_the_scanned_part(kind: Kind, tmp_path: Path) -> None:
    """Tiles of level 0, with coordinates of the whole glass however small the scanned part."""
    slides = tmp_path / "slides"
    slides.mkdir()
    kind.write(slides / f"slide{kind.suffix}")
    run = tmp_path / "run"
    flags = ["--mpp", str(kind.mpp), "--stain=none", "--max-background-fraction=1",
             "--min-tissue-fraction=0"]  # fmt: skip
    assert main([str(slides), "--run", str(run), *flags]) == 0
    path = find_store(run / "tiles", "slide")
    assert path is not None
    store = open_tiles(path)
    assert len(store) == 6
    for index, (x, y) in enumerate(store.coords):
        left, top = x - kind.origin[0], y - kind.origin[1]
        drawn = PICTURE[top : top + 256, left : left + 256].astype(int)
        assert np.abs(store.tiles[index] - drawn).mean() < 6
    assert store.attributes["slide_digest"] == slide_digest(slides / f"slide{kind.suffix}")


def test_a_mirax_slide_is_its_whole_folder(tmp_path: Path) -> None:
    path = tmp_path / "slide.mrxs"
    write_mirax(path)
    before = slide_digest(path)
    data = tmp_path / "slide" / "Data0000.dat"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 255
    data.write_bytes(content)
    assert slide_digest(path) != before
