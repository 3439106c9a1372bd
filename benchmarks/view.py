"""How long a browser waits for a tile of a slide: the workbench, and OpenSlide's DeepZoomGenerator.

python -m benchmarks.view SLIDE [SLIDE ...] [--tiles 300]

Both answer through the same framework and encode JPEG at the same quality; each tile is asked for
once, in an order that jumps over all levels, which no cache helps.
"""

import argparse
import io
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

from wsi_pipeline.workbench import QUALITY, SIDE, OpenSlides, SlideFile, levels_of, tile_response

PATH = "/{level:int}/{column:int}_{row:int}.jpg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slides", nargs="+", type=Path)
    parser.add_argument("--tiles", type=int, default=300)
    given = parser.parse_args()
    print("| Slide | px | server | median, ms | 95 %, ms | first tile, ms |")
    print("|---|---|---|---:|---:|---:|")
    for path in given.slides:
        with openslide.OpenSlide(path) as slide:
            width, height = slide.dimensions
        asked = _places((width, height), given.tiles)
        for name, make in {"workbench": _ours, "DeepZoomGenerator": _theirs}.items():
            waited = _wait(make(path), asked)
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
