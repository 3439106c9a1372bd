"""Is the answer the bytes that were asked for? Decided from its header, before a byte is kept."""

import re
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final

import urllib3

from wsi_pipeline.gdc.client import read_error
from wsi_pipeline.gdc.retry import TransientError

CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
PAGES: Final = ("text/html", "application/json", "application/xhtml+xml")


@dataclass(frozen=True, kw_only=True)
class Body:
    """The response carries the file's bytes ``start`` up to ``end``.

    ``framed``: it says its own length, so that its connection can be used again.
    """

    start: int
    end: int
    framed: bool = True


def check_body(response: urllib3.BaseHTTPResponse, start: int, end: int, size: int) -> Body:
    """Check the header of an answer to a request for bytes ``start`` up to ``end``.

    A 206 may bring less than asked, never other bytes; a 200 is the whole file, whatever was asked.

    Args:
        response: Its status is 2xx or 416.
        start: First byte asked for.
        end: One past the last.
        size: The file's size as the manifest says.

    Raises:
        TransientError: It is something else; the message says what.
    """
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding not in ("identity", ""):
        raise TransientError(f"the server sent {encoding}-encoded data although none was asked for")
    status = response.status
    if status == HTTPStatus.PARTIAL_CONTENT:
        body = _partial(response, start, end, size)
    elif status == HTTPStatus.OK:
        body = Body(start=0, end=size)
    elif status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        offered = response.headers.get("Content-Range", "")
        raise TransientError(
            f"the server has no bytes {start}-{end - 1} ({offered or 'no Content-Range'}), though "
            f"the manifest says {size} bytes"
        )
    else:
        raise TransientError(f"HTTP {status} instead of 200 or 206")
    _check_page(response)
    length = _length(response)
    if length is not None and length != body.end - body.start:
        raise TransientError(
            f"the server offers {length} bytes where {body.end - body.start} belong "
            f"(the manifest says {size} in all)"
        )
    return replace(body, framed=length is not None)


def _partial(response: urllib3.BaseHTTPResponse, start: int, end: int, size: int) -> Body:
    text = response.headers.get("Content-Range", "")
    match = CONTENT_RANGE.fullmatch(text.strip())
    if match is None:
        raise TransientError(f"HTTP 206 with Content-Range {text!r}")
    first, last = int(match[1]), int(match[2])
    if match[3] not in ("*", str(size)):
        raise TransientError(f"the server has {match[3]} bytes, the manifest says {size}")
    if first != start or not first <= last < end:
        raise TransientError(f"asked for bytes {start}-{end - 1}, offered {first}-{last}")
    return Body(start=first, end=last + 1)


def _check_page(response: urllib3.BaseHTTPResponse) -> None:
    """Catch a maintenance page or a JSON error that comes with status 200."""
    kind = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
    if kind not in PAGES:
        return
    if "attachment" in response.headers.get("Content-Disposition", "").lower():
        return  # a file that happens to be of this type
    what = "JSON" if kind.endswith("json") else "an HTML page"
    raise TransientError(f"{what} instead of the file: {read_error(response) or 'empty'}")


def _length(response: urllib3.BaseHTTPResponse) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() else None
