"""The workbench's web application: routes, and the guard before them.

It answers this machine alone, and who knows the token: that comes once in the address and is a
cookie from then on. Nothing is loaded from elsewhere.
"""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
import simplejpeg
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from wsi_pipeline.errors import SlideError, StoreError, WsiError
from wsi_pipeline.reporting import scanned_tile
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.tiles import TileStore
from wsi_pipeline.types import RgbImage
from wsi_pipeline.workbench.deciding import Choice, decide
from wsi_pipeline.workbench.facts import RunFacts, sentence
from wsi_pipeline.workbench.pyramid import SIDE, OpenSlides, SlideFile, levels_of

COOKIE: Final = "wsi-token"
QUALITY: Final = 85
STRANGER: Final = (
    "Open the address that `wsi view` printed: it holds a token, which works once. If it was used "
    "by another browser, start `wsi view` again."
)
A_WHILE: Final = {"Cache-Control": "private, max-age=3600"}
POLICY: Final = "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'"
STATIC: Final = resources.files("wsi_pipeline.workbench") / "static"


class Guard:
    """Lets through who came with the token and speaks to this machine by its own name.

    The token opens the door once and is a cookie of that browser from then on. The name is looked
    at because a page elsewhere may have its own name lead here; the origin, because a browser sends
    cookies along with what other pages ask for.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token: str | None = token
        self._session = secrets.token_urlsafe(24)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._answer(Request(scope)) if scope["type"] == "http" else None
        await (self._app if answer is None else answer)(scope, receive, send)

    def _answer(self, request: Request) -> Response | None:
        """Return what keeps a request from the application; None lets it through."""
        host = request.headers.get("host", "")
        if host.rpartition(":")[0] not in ("127.0.0.1", "localhost"):
            return Response("This address is for this machine alone.", 403)
        origin = request.headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return Response("Another page asked for this.", 403)
        known = secrets.compare_digest(request.cookies.get(COOKIE, ""), self._session)
        given = request.query_params.get("token")
        if given is None or known:
            return None if known else Response(STRANGER, 403)
        if self._token is None or not secrets.compare_digest(given, self._token):
            return Response(STRANGER, 403)
        self._token = None
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, self._session, httponly=True, samesite="strict")
        return answer


def workbench_app(run: Path, slides: Path | None, token: str) -> ASGIApp:
    """Return the application for one run folder.

    Args:
        run: The run folder.
        slides: Folder the cohort table's paths start from; None: the table's own.
        token: Who comes with it first may look and decide.
    """
    bench = _Bench(RunFacts(RunFolder(run), slides))

    @asynccontextmanager
    async def living(_: Starlette) -> AsyncIterator[None]:
        yield
        bench.opened.close()

    app = Starlette(
        routes=[
            Route("/", _page),
            Route("/api/cohort", _told(bench.cohort)),
            Route("/api/slides/{slide_id}", _told(bench.slide)),
            Route("/api/slides/{slide_id}/tiles", _told(bench.tiles)),
            Route("/api/slides/{slide_id}/tiles/{row:int}", _told(bench.tile)),
            Route("/api/slides/{slide_id}/decisions", bench.decide, methods=["POST"]),
            Route("/slides/{slide_id}/{level:int}/{column:int}_{row:int}.jpg", _told(bench.pixels)),
            Route("/tiles/{slide_id}/{row:int}/{how}.jpg", _told(bench.tile_picture)),
            Route("/thumbnails/{slide_id}.jpg", _told(bench.thumbnail)),
            Mount("/static", StaticFiles(directory=str(STATIC))),
        ],
        exception_handlers={WsiError: _as_sentence, HTTPException: _as_sentence},
        lifespan=living,
    )
    return Guard(app, token)


def _told(work: Callable[[Request], Any]) -> Callable[[Request], Response]:
    """Return a route, which a thread answers: reading takes time."""

    def answer(request: Request) -> Response:
        found = work(request)
        return found if isinstance(found, Response) else JSONResponse(found)

    return answer


async def _page(_: Request) -> Response:
    headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}
    return Response((STATIC / "index.html").read_text("utf-8"), media_type="text/html",
                    headers=headers)  # fmt: skip


def _as_sentence(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code)
    text = sentence(error) if isinstance(error, WsiError) else str(error)
    return JSONResponse({"error": text}, 422)


class _Bench:
    """What the routes share."""

    def __init__(self, facts: RunFacts) -> None:
        self.facts = facts
        self.opened = OpenSlides()
        self._table: tuple[object, dict[str, Any]] | None = None
        self._files: dict[str, SlideFile] = {}  # a table and a store are not read for each tile

    def cohort(self, _: Request) -> dict[str, Any]:
        """Tell the table; hundreds of stores are not opened again while the run is as it was."""
        state = self.facts.state()
        if self._table is None or self._table[0] != state:
            self._table = (state, self.facts.table())
        return self._table[1]

    def slide(self, request: Request) -> dict[str, Any]:
        """Tell a slide's size and resolution, whether its pixels are here, and what is decided."""
        slide_id = request.path_params["slide_id"]
        store, damaged = self._store(slide_id)
        about = {} if store is None else store.attributes
        told: dict[str, Any] = {
            "id": slide_id,
            "mpp": about.get("mpp_native"),
            "tiles": None if store is None else len(store),
            "counts": about.get("counts", {}),
            "flags": list(about.get("flags", ())),
            "damaged": damaged,
            "decided": self.facts.decided(slide_id, store),
            "thumbnail": self.facts.folder.thumbnail(slide_id).exists(),
        }
        file = self.facts.file_of(slide_id, store)
        if isinstance(file, str):
            return told | {"missing": file}
        try:
            with self.opened.use(file) as opened:
                width, height = opened.slide.dimensions
                reader = opened.slide.info.reader
        except SlideError as error:
            return told | {"missing": sentence(error)}
        known = (about.get("level0_width", width), about.get("level0_height", height))
        if known != (width, height):
            other = f"{file.path} is another slide: {width} × {height} px, not {known[0]} × "
            return told | {"missing": other + str(known[1])}
        levels = levels_of((width, height))
        return told | {"width": width, "height": height, "levels": levels, "side": SIDE,
                       "reader": reader}  # fmt: skip

    def tiles(self, request: Request) -> dict[str, Any]:
        return self.facts.tiles(request.path_params["slide_id"])

    def tile(self, request: Request) -> dict[str, Any]:
        return self.facts.tile(request.path_params["slide_id"], request.path_params["row"])

    async def decide(self, request: Request) -> Response:
        asked = await request.json()
        slide_id, place = request.path_params["slide_id"], asked.get("place")
        choice = asked.get("choice")
        if choice not in ("keep", "drop", "undo") or not (place is None or len(place) == 2):
            raise HTTPException(400, "a decision is keep, drop or undo, of a place x, y or of none")
        at = None if place is None else (int(place[0]), int(place[1]))
        await run_in_threadpool(decide, self.facts.folder, Choice(slide_id, at, choice))
        return JSONResponse(self.facts.decided(slide_id, self._store(slide_id)[0]))

    def pixels(self, request: Request) -> Response:
        """Answer with a tile of the slide's pyramid."""
        at = dict(request.path_params)
        return tile_response(self.opened, self._file(at.pop("slide_id")), **at)

    def tile_picture(self, request: Request) -> Response:
        """Answer with a tile ``stored``, or as ``scanned``."""
        at = request.path_params
        store = self.facts.store(at["slide_id"])
        if store is None or not 0 <= at["row"] < len(store):
            raise HTTPException(404, "the slide has no such tile")
        if at["how"] == "stored":
            return _jpeg(np.asarray(store.tiles[at["row"]]))
        if at["how"] != "scanned" or store.attributes.get("straightened") is not None:
            raise HTTPException(404, "there is no such picture of a tile")
        with self.opened.use(self._file(at["slide_id"])) as opened:
            return _jpeg(scanned_tile(opened.slide, store, at["row"]))

    def thumbnail(self, request: Request) -> Response:
        path = self.facts.folder.thumbnail(request.path_params["slide_id"])
        if not path.exists():
            raise HTTPException(404, "the slide has no thumbnail")
        return FileResponse(path, headers=A_WHILE)

    def _store(self, slide_id: str) -> tuple[TileStore | None, str | None]:
        """Open a slide's tiles; damaged ones are told of, and do not keep the slide from sight."""
        try:
            return self.facts.store(slide_id), None
        except StoreError as error:
            return None, sentence(error)

    def _file(self, slide_id: str) -> SlideFile:
        if slide_id not in self._files:
            file = self.facts.file_of(slide_id, self._store(slide_id)[0])
            if isinstance(file, str):
                raise HTTPException(404, file)
            self._files[slide_id] = file
        return self._files[slide_id]


def tile_response(
    slides: OpenSlides, file: SlideFile, level: int, column: int, row: int
) -> Response:
    """Answer with a tile of a slide's pyramid.

    Raises:
        HTTPException: The slide has no such tile.
        SlideError: It cannot be read.
    """
    with slides.use(file) as opened:
        rgb = opened.tile(level, column, row)
    if rgb is None:
        raise HTTPException(404, "the slide has no such tile")
    return _jpeg(rgb)


def _jpeg(rgb: RgbImage) -> Response:
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), QUALITY, "RGB", "420")
    return Response(data, media_type="image/jpeg", headers=A_WHILE)
