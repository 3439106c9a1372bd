"""From each maker's file to tiles: OpenSlide against our reader, on the same real pixels.

python -m benchmarks.makers [--pixels SLIDE]

The files are written as the makers lay them out, by what writes them for the tests.
"""

import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import openslide

from benchmarks.measure import arguments, interleave, per_cpu_second
from benchmarks.slides import MPP, TILE_PX, read_patch
from wsi_pipeline.slides import open_slide
from wsi_pipeline.tiles import map_blocks, plan_grid
from wsi_pipeline.types import Region, RgbImage

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from slides_vendor.hamamatsu import Restarts, write_ndpi
from slides_vendor.leica import write_leica
from slides_vendor.philips import write_philips
from slides_vendor.ventana import Aoi, write_ventana

SIDE: Final = 8192
OFFSET: Final = 77  # of the grid, so that it lies off the native tiles
COLUMNS: Final = (SIDE - 2 * TILE_PX) // TILE_PX
ROWS: Final = 16
AREA: Final = Aoi(columns=SIDE // 256, rows=SIDE // 256)


def main() -> None:
    given = arguments(__doc__).parse_args()
    patch = read_patch(given.pixels)
    period = np.concatenate([patch, patch[:, ::-1]], axis=1)
    period = np.concatenate([period, period[::-1]])
    rgb = np.tile(period, (SIDE // len(period),) * 2 + (1,))
    with tempfile.TemporaryDirectory() as name:
        found = {
            maker: _measure(write(Path(name), rgb), given.rounds)
            for maker, write in _makers().items()
        }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "decode-makers.md").write_text(_table(found), "utf-8")
    print(_table(found))


def _makers() -> dict[str, Callable[[Path, RgbImage], Path]]:
    """What writes a file of (SIDE, SIDE, 3) into a folder, by the maker's name."""
    ndpi = partial(write_ndpi, steps=(1, 4), mpp=MPP)
    return {
        "Hamamatsu NDPI, intervals of 4,096 × 8 px": partial(
            _write, "a.ndpi", partial(ndpi, restarts=Restarts(across=2))
        ),
        "Hamamatsu NDPI, intervals of 1,024 × 8 px": partial(
            _write, "b.ndpi", partial(ndpi, restarts=Restarts(across=8))
        ),
        "Hamamatsu NDPI, 4,096 × 8 px, colours halved across": partial(
            _write, "c.ndpi", partial(ndpi, restarts=Restarts(across=2, subsampling="4:2:2"))
        ),
        "Philips TIFF": partial(_write, "a.tiff", partial(write_philips, mpp=MPP)),
        "Leica SCN": partial(_write, "a.scn", _leica),
        "Ventana BIF, without overlap": partial(
            _write, "a.bif", partial(write_ventana, mpp=MPP, areas=[AREA])
        ),
        "Ventana BIF, overlap of 7.25 px": partial(
            _write, "b.bif", partial(write_ventana, mpp=MPP, areas=[AREA], overlap=7.25)
        ),
    }


def _write(name: str, write: Callable[..., None], folder: Path, rgb: RgbImage) -> Path:
    write(folder / name, rgb=rgb)
    return folder / name


def _leica(path: Path, *, rgb: RgbImage) -> None:
    write_leica(path, mpp=MPP, regions=[((0, 0), rgb)], glass=(SIDE + 512, SIDE))


def _measure(path: Path, rounds: int) -> Mapping[str, list[float]]:
    contestants = {"OpenSlide": partial(_by_openslide, path), "ours": partial(_ours, path)}
    _require_equal(path)
    return interleave({name: per_cpu_second(run) for name, run in contestants.items()}, rounds)


def _require_equal(path: Path) -> None:
    with openslide.OpenSlide(path) as theirs, open_slide(path) as ours:
        for corner in range(OFFSET, SIDE - TILE_PX, 7 * TILE_PX):
            region = theirs.read_region((corner, corner // 2), 0, (TILE_PX, TILE_PX))
            read = ours.read(0, corner, corner // 2, TILE_PX, TILE_PX)
            assert np.array_equal(read, np.asarray(region.convert("RGB"))), path
        print(f"{path.name}: {theirs.properties['openslide.vendor']}, read by {ours.info.reader}")


def _by_openslide(path: Path) -> int:
    with openslide.OpenSlide(path) as slide:
        for row in range(ROWS):
            for column in range(COLUMNS):
                corner = (OFFSET + column * TILE_PX, OFFSET + row * TILE_PX)
                np.asarray(slide.read_region(corner, 0, (TILE_PX, TILE_PX)).convert("RGB"))
    return ROWS * COLUMNS


def _ours(path: Path) -> int:
    area = Region(x=OFFSET, y=OFFSET, width=COLUMNS * TILE_PX, height=ROWS * TILE_PX)
    with open_slide(path) as slide:
        grid = plan_grid(slide.info, MPP, MPP, tile_px=TILE_PX, region=area)
        assert len(grid) == ROWS * COLUMNS
        every = np.ones(len(grid), bool)
        return sum(map_blocks(slide, grid, every, lambda block, _: len(block.tiles), threads=0))


def _table(found: Mapping[str, Mapping[str, list[float]]]) -> str:
    lines = [
        "### Decode, by maker, native resolution, unaligned grid", "",
        "| tiles per CPU-second | OpenSlide | wsi_pipeline | × OpenSlide |", "|---|---:|---:|---:|",
    ]  # fmt: skip
    for maker, rates in found.items():
        theirs, ours = (statistics.median(rates[name]) for name in ("OpenSlide", "ours"))
        lines.append(f"| {maker} | {theirs:,.0f} | {ours:,.0f} | {ours / theirs:.2f} |")
    rounds = min(len(rates["ours"]) for rates in found.values())
    lines += ["", f"{rounds} interleaved rounds; 256 px tiles, checked for equal pixels."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
