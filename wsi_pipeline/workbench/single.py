"""A slide by itself: its pixels and its scale, for a notebook."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from wsi_pipeline.slides import own_mpp
from wsi_pipeline.workbench.answers import coarse_share, tile_response, told
from wsi_pipeline.workbench.pyramid import SIDE, OpenSlides, SlideFile, levels_of


class SingleSlide:
    """What the page asks of one slide."""

    def __init__(self, file: SlideFile) -> None:
        self.file = file
        self.name = file.path.rstrip("/").rsplit("/", 1)[-1]
        self.opened = OpenSlides()

    def warm(self) -> None:
        """Open the slide in the background, before the page asks for it."""
        self.opened.warm(self.file)

    def routes(self) -> list[BaseRoute]:
        """Return the addresses at which it is answered."""
        return [
            Route("/api/cohort", told(self._cohort)),
            Route("/api/slides/{slide_id}", told(self._slide)),
            Route("/slides/{slide_id}/{level:int}/{column:int}_{row:int}.jpg", told(self._pixels)),
            Route("/slides/{slide_id}/share", told(lambda _: coarse_share(self.opened, self.file))),
        ]

    def _cohort(self, _: Request) -> dict[str, Any]:
        alone = {"id": self.name, "flags": [], "predictions": []}
        return {"title": self.name, "slides": [alone], "models": [], "arrays": [], "alone": True}

    def _slide(self, _: Request) -> dict[str, Any]:
        with self.opened.use(self.file) as opened:
            info = opened.slide.info
            width, height = opened.slide.dimensions
        self.opened.warm(self.file)  # the page asks for the first tile next
        return {
            "id": self.name, "mpp": own_mpp(info), "tiles": None, "flags": [],
            "width": width, "height": height, "levels": levels_of((width, height)), "side": SIDE,
            "reader": info.reader, "alone": True,
        }  # fmt: skip

    def _pixels(self, request: Request) -> Response:
        at = {name: request.path_params[name] for name in ("level", "column", "row")}
        return tile_response(self.opened, self.file, **at)
