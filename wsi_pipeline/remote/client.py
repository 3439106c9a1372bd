"""A server over HTTP: whole answers with retries, and raw byte streams."""

import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import quote, urljoin

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationParseError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
)
from urllib3.util import Url, parse_url

from wsi_pipeline.errors import DownloadError, UsageError
from wsi_pipeline.remote.proxies import secrets_of_the_environment
from wsi_pipeline.remote.retry import (
    CROWDED_STATUSES,
    RETRIED_STATUSES,
    Health,
    Patience,
    RefusedError,
    RetryPolicy,
    StoppedError,
    TransientError,
    parse_retry_after,
)
from wsi_pipeline.remote.wire import Leash, Pace, Wire

MAX_REDIRECTS: Final = 5
MAX_ERROR_BODY: Final = 4096
MAX_SAID: Final = 200
MAX_MESSAGE: Final = 500
READ_BYTES: Final = 1 << 16
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
TELLING: Final = 16  # characters of a secret in a row that give it away
LEAST_SECRET: Final = 4  # a shorter one would hide half of every sentence
Answer = TypeVar("Answer")
HIDDEN: Final = "(hidden)"
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1", "[::1]"})


class NoWayError(DownloadError):
    """Nothing can come from here: a proxy that lets nobody through, a certificate not believed."""


class Client:
    """One server, a pool of connections; safe to use from many threads.

    ``stop`` ends every wait; :meth:`abort` also wakes the reads that are under way.

    Args:
        server: Its address.
        secret_headers: Sent to this server alone; their values are shown nowhere.
        advice: What to tell a user besides, by status that refuses.
        policy: When to try again.
        timeout_s: Seconds without a byte that end a try.
        stop: Set to end everything.

    Raises:
        UsageError: The server's address is none, or a secret would go over the line unencrypted.
    """

    def __init__(
        self,
        server: str,
        *,
        secret_headers: Mapping[str, str] | None = None,
        advice: Mapping[int, str] | None = None,
        policy: RetryPolicy | None = None,
        timeout_s: float = 60.0,
        stop: threading.Event | None = None,
    ) -> None:
        self.policy = policy or RetryPolicy()
        self.timeout_s = timeout_s
        self.stop = stop or threading.Event()
        self.health = Health()
        self.server = server
        self._secret_headers = dict(secret_headers or {})
        self._advice = dict(advice or {})
        self._base = _base(server)
        if self._secret_headers and not _is_private(self._base):
            raise UsageError(f"{server}: a token is sent over https:// alone")
        secrets = [*self._secret_headers.values(), *secrets_of_the_environment()]
        self._hidden = Secrets(secrets)
        self._wire = Wire(timeout_s)

    def __enter__(self) -> "Client":
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
        return self._asked(path, body, _json)

    def read(self, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        """Return the whole answer to a GET of ``path``, or to a POST of ``body`` to it.

        Raises:
            RefusedError, TransientError: See :meth:`ask`.
        """
        return self._asked(path, body, bytes)

    def _asked(
        self, path: str, body: Mapping[str, Any] | None, understand: Callable[[bytes], Answer]
    ) -> Answer:
        patience = Patience(self.policy, self.health)
        while True:
            begun = patience.now()
            try:
                with self._open("GET" if body is None else "POST", path, body=body) as answer:
                    self._refuse_status(answer)
                    found = understand(self._read_all(answer))
                self.health.answered()
                return found
            except TransientError as error:
                self.wait(patience.failed(error, begun))

    def wait(self, seconds: float) -> None:
        """Pause before another try.

        Raises:
            StoppedError: Meanwhile.
        """
        if self.stop.wait(seconds):
            raise StoppedError("stopped while waiting for another try")

    @contextmanager
    def stream(
        self, path: str, first: int | None, last: int | None, leash: Leash | None = None
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """Open ``path`` for raw reading, with ``Range: bytes=first-last`` unless both are None.

        The status has been checked to be 2xx or 416. ``leash`` cuts the connection.

        Raises:
            RefusedError, TransientError: See :meth:`ask`; also for what breaks while reading.
        """
        headers = {} if first is None else {"Range": f"bytes={first}-{last}"}
        with self._open("GET", path, headers=headers, leash=leash) as response:
            if response.status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                self._refuse_status(response)
            yield response

    @contextmanager
    def _open(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        leash: Leash | None = None,
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """Follow redirects; secret headers stay with the server they were given for."""
        url = f"{self._base.url.rstrip('/')}/{path}"
        with self._errors():
            for _ in range(MAX_REDIRECTS + 1):
                if self.stop.is_set():
                    raise StoppedError("stopped")
                sent = {**(headers or {}), **self._secrets_for(url)}
                with self._wire.request(
                    method, url, headers=sent, body=body, leash=leash
                ) as response:
                    target = response.headers.get("Location")
                    if not (response.status in REDIRECTS and target):
                        yield response
                        return
                url = _redirected(url, target)
            raise RefusedError(f"{path}: more than {MAX_REDIRECTS} redirects, the last to {url}")

    def _secrets_for(self, url: str) -> dict[str, str]:
        there, base = parse_url(url), self._base
        same = (there.scheme, there.host, there.port) == (base.scheme, base.host, base.port)
        return self._secret_headers if same else {}

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Say what went wrong in our words and errors; whatever a server said, without secrets."""
        try:
            try:
                yield
            except ReadTimeoutError:
                raise TransientError(f"nothing came for {self.timeout_s:g} s") from None
            except HTTPError as error:
                if self.stop.is_set():
                    raise StoppedError("stopped") from None
                raise _connection_error(error) from None
        except DownloadError as error:
            text = self._hidden.hide(str(error))
            error.args = (text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]} …",)
            raise

    def _read_all(self, response: urllib3.BaseHTTPResponse) -> bytes:
        pace, parts = Pace(self.timeout_s), []
        while chunk := response.read1(READ_BYTES, decode_content=True):
            pace.add(len(chunk))
            parts.append(chunk)
        data = b"".join(parts)
        length = response.headers.get("Content-Length", "")
        if length.isdigit() and not _encoded(response) and len(data) < int(length):
            raise TransientError(f"the connection closed {int(length) - len(data)} bytes short")
        return data

    def _refuse_status(self, response: urllib3.BaseHTTPResponse) -> None:
        status = response.status
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return
        said = self._hidden.hide(read_error(response, self.timeout_s))[:MAX_SAID]
        message = f"HTTP {status} {response.reason or ''}".strip() + (f": {said}" if said else "")
        if status in RETRIED_STATUSES or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            asked = parse_retry_after(response.headers.get("Retry-After"))
            raise TransientError(message, asked, crowded=status in CROWDED_STATUSES)
        self.health.answered()
        if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            raise NoWayError(f"{message}; {PROXY_ADVICE}")
        advice = self._advice.get(status)
        raise RefusedError(f"{message}; {advice}" if advice else message, status)


class Secrets:
    """Takes out of a text what must not be shown: whole, quoted for a URL, or a stretch of it."""

    def __init__(self, secrets: Iterable[str]) -> None:
        real = [one for one in secrets if len(one) >= LEAST_SECRET]
        forms = {form for one in real for form in (one, quote(one, safe=""))}
        self._secrets = sorted(forms, key=len, reverse=True)

    def hide(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        for secret in self._secrets:
            text = _without(text, secret)
        return text


def _without(text: str, secret: str) -> str:
    """Return ``text`` with every stretch that is long enough to be from ``secret`` masked."""
    least = min(TELLING, len(secret))
    parts, at = [], 0
    while at < len(text):
        end = at + least
        if text[at:end] not in secret or len(text) < end:
            parts.append(text[at])
            at += 1
            continue
        while end < len(text) and text[at : end + 1] in secret:
            end += 1
        parts.append(HIDDEN)
        at = end
    return "".join(parts)


PROXY_ADVICE: Final = (
    "the proxy asks for a name and a password: give them in its address, "
    "https_proxy=http://NAME:PASSWORD@HOST:PORT"
)
CERTIFICATE_ADVICE: Final = (
    "the server's certificate is not signed by an authority known here; where a proxy opens "
    "encrypted connections, name its certificate in REQUESTS_CA_BUNDLE"
)


def _connection_error(error: HTTPError) -> DownloadError:
    """Return our error for one of urllib3's: worth another try, or of a kind that stays."""
    said = str(error.args[0]) if error.args else type(error).__name__
    said = re.sub(r"^\w+\(host=.*?\): ", "", said)  # the connection's own name says nothing
    whole = f"{said} {error.__cause__ or ''}"
    if "CERTIFICATE_VERIFY_FAILED" in whole or "certificate verify failed" in whole:
        return NoWayError(CERTIFICATE_ADVICE)
    if "407" in whole and "unnel" in whole:
        return NoWayError(f"HTTP 407; {PROXY_ADVICE}")
    broken = isinstance(error, NewConnectionError | ProtocolError)
    crowded = broken and not isinstance(error, ConnectTimeoutError)
    return TransientError(f"connection: {said}", crowded=crowded)


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
    return " ".join(text.split())


def read_error(response: urllib3.BaseHTTPResponse, timeout_s: float) -> str:
    """Return what ``response``'s body says, reading no more than a few kilobytes of it."""
    data, pace = b"", Pace(timeout_s)
    try:
        while len(data) < MAX_ERROR_BODY and (chunk := response.read1(MAX_ERROR_BODY)):
            pace.add(len(chunk))
            data += chunk
    except (HTTPError, TransientError):
        return error_text(data)
    return error_text(data[:MAX_ERROR_BODY])


def _encoded(response: urllib3.BaseHTTPResponse) -> bool:
    return response.headers.get("Content-Encoding", "identity").lower() not in ("identity", "")


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        raise TransientError(f"not JSON but: {error_text(data) or 'nothing'}") from None


def _redirected(url: str, target: str) -> str:
    try:
        new = urljoin(url, target)
        scheme = parse_url(new).scheme
    except (LocationParseError, ValueError):
        raise RefusedError(f"redirected to {target[:80]!r}, which is no address") from None
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


def _is_private(url: Url) -> bool:
    """Tell whether nobody on the way can read along."""
    return url.scheme == "https" or url.host in LOOPBACK
