"""The workbench's web application, and the guard before it.

It answers this machine alone, and who knows the token: that comes once in the address and is a
cookie from then on. Nothing is loaded from elsewhere.
"""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from wsi_pipeline.errors import WsiError
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.workbench.answers import as_sentence
from wsi_pipeline.workbench.bench import Bench
from wsi_pipeline.workbench.facts import RunFacts
from wsi_pipeline.workbench.pyramid import SlideFile
from wsi_pipeline.workbench.single import SingleSlide

COOKIE: Final = "wsi-token"
STRANGER: Final = (
    "Open the address that `wsi view` printed: it holds a token, which works once. If it was used "
    "by another browser, start `wsi view` again."
)
POLICY: Final = "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'"
KINDS: Final = {"js": "text/javascript", "css": "text/css", "txt": "text/plain"}
STATIC: Final = resources.files("wsi_pipeline.workbench") / "static"


class Guard:
    """Lets through who came with the token and speaks to this machine by its own name.

    The token opens the door once and is a cookie of that browser from then on. The name is looked
    at because a page elsewhere may have its own name lead here; the origin, because a browser sends
    cookies along with what other pages ask for. Within a notebook, whose page is another site to
    the browser, there are no cookies: there the token stays in the address.
    """

    def __init__(self, app: ASGIApp, token: str, *, embedded: bool = False) -> None:
        self._app = app
        self._token: str | None = None if embedded else token
        self._session = token if embedded else secrets.token_urlsafe(24)
        self._embedded = embedded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            answer, scope = self._answer(Request(scope)), self._within(scope)
        else:
            answer = None
        await (self._app if answer is None else answer)(scope, receive, send)

    def _within(self, scope: Scope) -> Scope:
        """Take the token out of an address that holds it."""
        first, _, rest = scope["path"].lstrip("/").partition("/")
        return {**scope, "path": f"/{rest}"} if self._embedded and self._is(first) else scope

    def _is(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self._session.encode())

    def _answer(self, request: Request) -> Response | None:
        """Return what keeps a request from the application; None lets it through."""
        host = request.headers.get("host", "")
        if host.rpartition(":")[0] not in ("127.0.0.1", "localhost"):
            return Response("This address is for this machine alone.", 403)
        origin = request.headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return Response("Another page asked for this.", 403)
        if self._embedded:
            known = self._is(request.url.path.lstrip("/").partition("/")[0])
            return None if known else Response(STRANGER, 403)
        known = self._is(request.cookies.get(COOKIE, ""))
        given = request.query_params.get("token")
        if given is None or known:
            return None if known else Response(STRANGER, 403)
        if self._token is None or not secrets.compare_digest(given.encode(), self._token.encode()):
            return Response(STRANGER, 403)
        self._token = None
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, self._session, httponly=True, samesite="strict")
        return answer


def workbench_app(run: Path, slides: Path | None, token: str, *, embedded: bool = False) -> ASGIApp:
    """Return the application for one run folder.

    Args:
        run: The run folder.
        slides: Folder the cohort table's paths start from; None: the table's own.
        token: Who comes with it first may look and decide.
        embedded: It stays part of the address: for a notebook.
    """
    bench = Bench(RunFacts(RunFolder(run), slides))
    return _guarded(bench, token, embedded=embedded)


def slide_app(path: str, token: str, *, embedded: bool = False) -> ASGIApp:
    """Return the application for one slide, which belongs to no run.

    Args:
        path: The slide, or its URL.
        token, embedded: As in :func:`workbench_app`.
    """
    return _guarded(SingleSlide(SlideFile(path)), token, embedded=embedded)


def _guarded(shown: Bench | SingleSlide, token: str, *, embedded: bool) -> ASGIApp:
    @asynccontextmanager
    async def living(_: Starlette) -> AsyncIterator[None]:
        shown.warm()
        yield
        shown.opened.close()

    app = Starlette(
        routes=[
            Route("/", _page),
            *shown.routes(),
            Route("/static/{name}", _static),
        ],
        exception_handlers={
            WsiError: as_sentence, HTTPException: as_sentence, ValidationError: as_sentence
        },
        lifespan=living,
    )  # fmt: skip
    return Guard(app, token, embedded=embedded)


@cache
def _file(name: str) -> tuple[bytes, str] | None:
    """Return one of the page's files and its type, held in memory: there are few."""
    kind = KINDS.get(name.rpartition(".")[2])
    found = STATIC / name
    return (found.read_bytes(), kind) if kind and "/" not in name and found.is_file() else None


async def _static(request: Request) -> Response:
    found = _file(request.path_params["name"])
    if found is None:
        raise HTTPException(404, "the page has no such file")
    return Response(found[0], media_type=found[1], headers={"Cache-Control": "no-cache"})


async def _page(_: Request) -> Response:
    headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}
    return Response((STATIC / "index.html").read_text("utf-8"), media_type="text/html",
                    headers=headers)  # fmt: skip
