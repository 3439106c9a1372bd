"""What the workbench answers with: JSON, pictures, and a sentence where something is wrong."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

import numpy as np
import simplejpeg
from pydantic import BaseModel, ValidationError
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wsi_pipeline.errors import WsiError
from wsi_pipeline.types import RgbImage
from wsi_pipeline.workbench.facts import sentence
from wsi_pipeline.workbench.pyramid import OpenSlides, SlideFile

QUALITY: Final = 85
A_WHILE: Final = {"Cache-Control": "private, max-age=3600"}
NOT_KEPT: Final = {"Cache-Control": "no-store"}  # of a sketch, which is better soon

Asked = TypeVar("Asked", bound=BaseModel)


def told(work: Callable[[Request], Any]) -> Callable[[Request], Response]:
    """Return a route, which a thread answers: reading takes time."""

    def answer(request: Request) -> Response:
        found = work(request)
        return found if isinstance(found, Response) else JSONResponse(found)

    return answer


def changed(
    model: type[Asked],
    work: Callable[[Request, Asked], Any],
    after: Callable[[Request], None] | None = None,
) -> Callable[[Request], Awaitable[Response]]:
    """Return a route that takes what a person wants changed, and answers with how it is now.

    ``after`` is done once the answer is on its way.
    """

    async def answer(request: Request) -> Response:
        asked = model.model_validate_json(await request.body())
        found = await run_in_threadpool(work, request, asked)
        later = None if after is None else BackgroundTask(after, request)
        return JSONResponse(found, background=later)

    return answer


def as_sentence(_: Request, error: Exception) -> Response:
    """Answer with what is wrong, on one line."""
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return JSONResponse({"error": f"{where}: {first['msg']}"}, 400)
    text = sentence(error) if isinstance(error, WsiError) else str(error)
    return JSONResponse({"error": text}, 422)


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
        lasting = opened.coarse.whole or not opened.sketched(level)
    if rgb is None:
        raise HTTPException(404, "the slide has no such tile")
    return jpeg_response(rgb, A_WHILE if lasting else NOT_KEPT)


def coarse_share(slides: OpenSlides, file: SlideFile) -> dict[str, Any]:
    """Tell how much of a slide's picture of the whole is averaged; all where none is needed."""
    with slides.use(file) as opened:
        needed = opened.sketched(0) and not opened.coarse.failed
        return {"share": opened.coarse.share if needed else 1.0}


def jpeg_response(rgb: RgbImage, keeping: Mapping[str, str] = A_WHILE) -> Response:
    """Answer with a picture."""
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), QUALITY, "RGB", "420")
    return Response(data, media_type="image/jpeg", headers=dict(keeping))
