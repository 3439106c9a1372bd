"""How long a browser waits for a tile of a slide: the workbench, and OpenSlide's DeepZoomGenerator.

python -m benchmarks.view [SLIDE ...] [--tiles 300] [--made 100000] [--patch SLIDE]

Both answer through the same framework and encode JPEG at the same quality; each tile is asked for
once, in an order that jumps over all levels, which no cache helps. ``--made`` also measures scans
of that side that repeat real tissue: one with small levels, and one whose coarsest level is a
quarter, all of which has to be averaged for a coarse tile.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
from openslide.deepzoom import DeepZoomGenerator
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from benchmarks.slides import Scan, read_patch, write_scan
from wsi_pipeline.workbench import QUALITY, SIDE, OpenSlides, SlideFile, levels_of, tile_response

HUGE = 60_000  # px, of a slide on which a coarse tile of theirs takes seconds …
THEIRS = 40  # … so that fewer are asked for
PATH = "/{level:int}/{column:int}_{row:int}.jpg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slides", nargs="*", type=Path)
    parser.add_argument("--tiles", type=int, default=300)
    parser.add_argument("--made", type=int, default=0)
    parser.add_argument("--patch", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = _made(Path(folder), given.made, given.patch) if given.made else []
        _measure([*given.slides, *made], given.tiles)


def _made(folder: Path, side: int, source: Path | None) -> list[Path]:
    """Write scans of a side with and without small levels."""
    patch, found = read_patch(source), []
    for name, downsamples in (("made, levels to 1/64", (1, 4, 16, 64)), ("made, to 1/4", (1, 4))):
        scan = Scan(side=side // 64 * 64, downsamples=downsamples)
        found.append(write_scan(folder / f"{name.replace('/', ' of ')}.svs", scan, patch))
    return found


def _measure(slides: list[Path], tiles: int) -> None:
    print("| Slide | px | server | median, ms | 95 %, ms | first tile, ms |")
    print("|---|---|---|---:|---:|---:|")
    for path in slides:
        with openslide.OpenSlide(path) as slide:
            width, height = slide.dimensions
        asked = _places((width, height), tiles)
        for name, make in {"workbench": _ours, "DeepZoomGenerator": _theirs}.items():
            most = asked if name == "workbench" or width < HUGE else asked[:THEIRS]
            waited = _wait(make(path), most)
            median, late = np.percentile(waited, [50, 95])
            print(f"| {path.name} | {width} × {height} | {name} | {median:.1f} | {late:.1f} | "
                  f"{waited[0]:.0f} |")  # fmt: skip


def _places(size: tuple[int, int], count: int) -> list[tuple[int, int, int]]:
    rng = np.random.default_rng(0)
    top, places = levels_of(size), []
    for _ in range(count):
        level = int(rng.integers(max(0, top - 7), top + 1))
        scale = SIDE * 2 ** (top - level)
        places.append((level, *(int(rng.integers(-(-side // scale))) for side in size)))
    return places


def _wait(app: Starlette, places: list[tuple[int, int, int]]) -> list[float]:
    """Ask for each tile; return the milliseconds."""
    waited = []
    with TestClient(app) as client:
        for level, column, row in places:
            begun = time.perf_counter()
            answer = client.get(f"/{level}/{column}_{row}.jpg")
            waited.append(1000 * (time.perf_counter() - begun))
            assert answer.status_code == 200, answer.text
    return waited


def _ours(path: Path) -> Starlette:
    slides, file = OpenSlides(), SlideFile(str(path))

    def answer(request: Request) -> Response:
        return tile_response(slides, file, **request.path_params)

    return _app(answer)


def _theirs(path: Path) -> Starlette:
    generator = DeepZoomGenerator(openslide.OpenSlide(path), SIDE, 0)

    def answer(request: Request) -> Response:
        at, out = request.path_params, io.BytesIO()
        tile = generator.get_tile(at["level"], (at["column"], at["row"]))
        tile.save(out, "JPEG", quality=QUALITY)
        return Response(out.getvalue(), media_type="image/jpeg")

    return _app(answer)


def _app(answer: Callable[[Request], Response]) -> Starlette:
    return Starlette(routes=[Route(PATH, answer)])


if __name__ == "__main__":
    main()
