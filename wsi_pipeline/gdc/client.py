"""The GDC's HTTP interface: JSON questions with retries, and raw byte streams."""

import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urljoin

import urllib3
from urllib3.exceptions import HTTPError, LocationParseError, ReadTimeoutError
from urllib3.util import Url, parse_url

from wsi_pipeline.errors import UsageError
from wsi_pipeline.gdc.retry import (
    RETRIED_STATUSES,
    Patience,
    RefusedError,
    RetryPolicy,
    StoppedError,
    TransientError,
    parse_retry_after,
)
from wsi_pipeline.gdc.wire import Wire

GDC_API: Final = "https://api.gdc.cancer.gov"
MAX_REDIRECTS: Final = 5
MAX_ERROR_BODY: Final = 4096
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class GdcClient:
    """One server, one token, a pool of connections; safe to use from many threads.

    ``stop`` ends every wait; :meth:`abort` also wakes the reads that are under way.
    """

    def __init__(
        self,
        server: str = GDC_API,
        *,
        token: str | None = None,
        policy: RetryPolicy | None = None,
        timeout_s: float = 60.0,
        stop: threading.Event | None = None,
    ) -> None:
        self.policy = policy or RetryPolicy()
        self.timeout_s = timeout_s
        self.stop = stop or threading.Event()
        self._token = token
        self._base = _base(server)
        self._wire = Wire(timeout_s)

    def __enter__(self) -> "GdcClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._wire.close()

    def abort(self) -> None:
        """Stop everything now: no new request, no further wait, blocked reads fail."""
        self.stop.set()
        self._wire.shut()

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return the JSON answer to a GET of ``path``, or to a POST of ``body`` to it.

        Raises:
            RefusedError: The server said no.
            TransientError: It could not answer within the retry policy.
        """
        patience = Patience(policy=self.policy, stop=self.stop)
        for attempt in patience.attempts(lambda: 0):
            with attempt, self._open("POST" if body is not None else "GET", path, body=body) as got:
                _refuse_status(got)
                return _json(got)
        raise StoppedError("stopped")  # not reached: attempts end in a result or an error

    @contextmanager
    def stream(
        self, path: str, first: int | None, last: int | None
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """Open ``path`` for raw reading, with ``Range: bytes=first-last`` unless both are None.

        The status has been checked to be 2xx or 416.

        Raises:
            RefusedError, TransientError: See :meth:`ask`; also for what breaks while reading.
        """
        headers = {} if first is None else {"Range": f"bytes={first}-{last}"}
        with self._open("GET", path, headers=headers) as response:
            if response.status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                _refuse_status(response)
            yield response

    @contextmanager
    def _open(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """Follow redirects; the token stays with the server it was given for."""
        url = f"{self._base.url.rstrip('/')}/{path}"
        with self._errors():
            for _ in range(MAX_REDIRECTS + 1):
                if self.stop.is_set():
                    raise StoppedError("stopped")
                sent = {**(headers or {}), **self._token_for(url)}
                with self._wire.request(method, url, headers=sent, body=body) as response:
                    target = response.headers.get("Location")
                    if not (response.status in REDIRECTS and target):
                        yield response
                        return
                url = _redirected(url, target)
            raise RefusedError(f"{path}: more than {MAX_REDIRECTS} redirects, the last to {url}")

    def _token_for(self, url: str) -> dict[str, str]:
        there, base = parse_url(url), self._base
        same = (there.scheme, there.host, there.port) == (base.scheme, base.host, base.port)
        return {"X-Auth-Token": self._token} if self._token and same else {}

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except ReadTimeoutError:
            raise TransientError(f"nothing came for {self.timeout_s:g} s") from None
        except HTTPError as error:
            if self.stop.is_set():
                raise StoppedError("stopped") from None
            said = error.args[0] if error.args else type(error).__name__
            raise TransientError(f"connection: {said}") from None


def error_text(data: bytes) -> str:
    """Return what an error body says: the GDC's message, or an HTML page's title."""
    text = data.decode("utf-8", "replace").strip()
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if isinstance(value, dict):
        text = str(value.get("message") or value.get("error") or text)
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    text = title.group(1) if title else re.sub(r"<[^>]*>", " ", text)
    return " ".join(text.split())[:200]


def read_error(response: urllib3.BaseHTTPResponse) -> str:
    """Return what ``response``'s body says, reading no more than a few kilobytes of it."""
    data = b""
    try:
        while len(data) < MAX_ERROR_BODY and (chunk := response.read1(MAX_ERROR_BODY)):
            data += chunk
    except HTTPError:
        return error_text(data)
    return error_text(data[:MAX_ERROR_BODY])


def _refuse_status(response: urllib3.BaseHTTPResponse) -> None:
    status = response.status
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return
    said = read_error(response)
    message = f"HTTP {status} {response.reason or ''}".strip() + (f": {said}" if said else "")
    if status in RETRIED_STATUSES or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise TransientError(message, parse_retry_after(response.headers.get("Retry-After")))
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        message += "; controlled-access files need --token-file, and an expired token is refused "
        message += "even for open files"
    raise RefusedError(message, status)


def _json(response: urllib3.BaseHTTPResponse) -> Any:
    data = response.read(decode_content=True)
    try:
        return json.loads(data)
    except ValueError:
        raise TransientError(f"not JSON but: {error_text(data) or 'nothing'}") from None


def _redirected(url: str, target: str) -> str:
    new = urljoin(url, target)
    try:
        scheme = parse_url(new).scheme
    except LocationParseError as error:
        raise RefusedError(f"redirected to {target[:80]!r}: {error}") from None
    if scheme not in ("http", "https") or (url.startswith("https:") and scheme == "http"):
        raise RefusedError(f"redirected from {url} to {new}, which is not safe to follow")
    return new


def _base(server: str) -> Url:
    try:
        url = parse_url(server)
    except LocationParseError as error:
        raise UsageError(f"server {server!r}: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise UsageError(f"server {server!r} is no http:// or https:// address")
    return url
