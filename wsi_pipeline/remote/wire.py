"""Connections: pooled, through the proxy that the environment names, and shut from outside.

urllib3 hands a body over as it left the socket, with one copy: on loopback that is faster than
curl, and leaves the cores to the digest.
"""

import json
import socket
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.util import make_headers

from wsi_pipeline.errors import UsageError
from wsi_pipeline.remote.proxies import Proxy, proxy_for, tls_context
from wsi_pipeline.remote.retry import TransientError

KEPT_ALIVE: Final = 64
HEADERS: Final = {"User-Agent": "wsi-pipeline", "Accept-Encoding": "identity"}
MIN_BYTES_PER_S: Final = 1024.0


class Leash:
    """One request's connection, to be cut from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._copy: socket.socket | None = None
        self._is_cut = False
        self.expired = False

    def hold(self, opened: socket.socket, *, copied: bool = False) -> None:
        """Take the socket that is used now; of a ``copied`` one the leash is the owner."""
        with self._lock:
            self._drop_copy()
            self._socket = opened
            self._copy = opened if copied else None
            if self._is_cut:
                _shut(opened)

    def cut(self) -> None:
        with self._lock:
            self._is_cut = True
            if self._socket is not None:
                _shut(self._socket)

    def release(self) -> None:
        """Let go: the connection may be another request's by now."""
        with self._lock:
            self._socket = None
            self._drop_copy()

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Cut the connection unless the block ends within ``seconds``."""
        timer = threading.Timer(seconds, self._expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _expire(self) -> None:
        self.expired = True
        self.cut()

    def _drop_copy(self) -> None:
        if self._copy is not None:
            self._copy.close()
        self._copy = None


class Wire:
    """A pool of connections, safe to use from many threads.

    Raises:
        UsageError: The environment names certificates that cannot be used.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._sockets = _OpenSockets()
        self._tls = tls_context()
        self._pool = cache(self._make_pool)

    @contextmanager
    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
        leash: Leash | None = None,
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """Send one request and yield its answer, the body unread and undecoded.

        Args:
            method: ``GET`` or ``POST``.
            url: Absolute.
            headers: Besides those that every request has.
            body: Sent as JSON.
            leash: To cut the connection by; cut by itself while the header is overdue.

        Raises:
            urllib3.exceptions.HTTPError: The connection failed.
            TransientError: The header did not come, or came drop by drop, in twice the timeout.
        """
        leash = leash or Leash()
        more = {} if body is None else {"Content-Type": "application/json"}
        limit_s = 2 * self._timeout_s
        response: urllib3.BaseHTTPResponse | None
        with self._sockets.on(leash):
            try:
                with leash.within(limit_s):
                    response = self._pool(proxy_for(url)).request(
                        method,
                        url,
                        headers={**HEADERS, **more, **headers},
                        body=None if body is None else json.dumps(body).encode(),
                        timeout=urllib3.Timeout(connect=self._timeout_s, read=self._timeout_s),
                        retries=False,
                        redirect=False,
                        preload_content=False,
                        decode_content=False,
                        enforce_content_length=False,  # who reads knows how long it should be
                    )
            except urllib3.exceptions.HTTPError:
                leash.release()
                if not leash.expired:
                    raise
                response = None
        if leash.expired or response is None:  # a header cut short may still look like one
            leash.release()
            raise TransientError(f"the header of the answer was not complete after {limit_s:g} s")
        try:
            yield response
        finally:
            leash.release()
            response.close()  # a body read to its end has gone back to the pool before

    def shut(self) -> None:
        """End every connection, now and later; reads blocked in them return at once."""
        self._sockets.shut()

    def close(self) -> None:
        self._pool.cache_clear()

    def _make_pool(self, proxy: Proxy | None) -> urllib3.PoolManager:
        settings: dict[str, Any] = {"maxsize": KEPT_ALIVE, "ssl_context": self._tls}
        if proxy is None:
            pool = urllib3.PoolManager(**settings)
        elif proxy.is_socks:
            pool = _socks_pool(proxy, settings)
        else:
            known = proxy.credentials
            pool = urllib3.ProxyManager(
                proxy.url,
                proxy_headers=make_headers(proxy_basic_auth=known) if known else None,
                proxy_ssl_context=self._tls,
                **settings,
            )
        pool.pool_classes_by_scheme = self._sockets.told_of(pool.pool_classes_by_scheme)
        return pool


class Pace:
    """Notices a server that keeps a connection alive with a trickle."""

    def __init__(self, window_s: float, min_bytes_per_s: float = MIN_BYTES_PER_S) -> None:
        self._window_s = window_s
        self._least = min_bytes_per_s * window_s
        self._begun = time.monotonic()
        self._bytes = 0

    def add(self, count: int) -> None:
        """Take note of ``count`` bytes.

        Raises:
            TransientError: Too few have come since the last look.
        """
        self._bytes += count
        now = time.monotonic()
        if now - self._begun < self._window_s:
            return
        if self._bytes < self._least:
            raise TransientError(f"only {self._bytes} bytes in {now - self._begun:.0f} s")
        self._begun, self._bytes = now, 0


class _OpenSockets:
    """Remembers each connection's socket as it is made, to wake the reads blocked in it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._ended = False
        self._here = threading.local()

    @contextmanager
    def on(self, leash: Leash) -> Iterator[None]:
        """Put what this thread opens or uses in the block on ``leash``."""
        self._here.leash = leash
        try:
            yield
        finally:
            self._here.leash = None

    def told_of(self, pools: Mapping[str, Any]) -> dict[str, Any]:
        """Return urllib3's pools with connections that tell of their sockets here."""
        return {scheme: self._announcing_pool(pool) for scheme, pool in pools.items()}

    def _announcing_pool(self, pool: type[HTTPConnectionPool]) -> type[HTTPConnectionPool]:
        connection = self._announcing(pool.ConnectionCls)  # type: ignore[arg-type]
        return type(pool.__name__, (pool,), {"ConnectionCls": connection})

    def _announcing(self, base: type[HTTPConnection]) -> type[HTTPConnection]:
        sockets = self

        class Telling(base):  # type: ignore[misc, valid-type]
            def _new_conn(self) -> socket.socket:
                opened: socket.socket = super()._new_conn()
                leash = sockets.leash
                if leash is not None:
                    leash.hold(opened.dup(), copied=True)  # TLS will take the socket itself away
                return opened

            def connect(self) -> None:
                super().connect()
                sockets.add(self.sock)

            def request(self, *args: Any, **kwargs: Any) -> None:
                super().request(*args, **kwargs)
                leash = sockets.leash
                if leash is not None and self.sock is not None:
                    leash.hold(self.sock)

        return Telling

    @property
    def leash(self) -> Leash | None:
        return getattr(self._here, "leash", None)

    def add(self, opened: socket.socket) -> None:
        with self._lock:
            self._sockets.add(opened)
            ended = self._ended
        if ended:
            _shut(opened)

    def shut(self) -> None:
        with self._lock:
            self._ended = True
            opened = list(self._sockets)
        for each in opened:
            _shut(each)


def _shut(opened: socket.socket) -> None:
    try:
        socket.socket.shutdown(opened, socket.SHUT_RDWR)
    except OSError:
        return  # it had ended by itself


def _socks_pool(proxy: Proxy, settings: Mapping[str, Any]) -> urllib3.PoolManager:
    try:
        from urllib3.contrib.socks import SOCKSProxyManager
    except ImportError:
        raise UsageError(
            f"{proxy.url}: a SOCKS proxy needs PySocks: pip install 'wsi-pipeline[socks]'"
        ) from None
    return SOCKSProxyManager(
        proxy.url, username=proxy.name, password=proxy.password, **dict(settings)
    )
