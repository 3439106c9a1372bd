"""Connections: pooled, through the proxy that the environment names, and shut from outside.

urllib3 hands a body over as it left the socket, with one copy: on loopback that is faster than
curl, and leaves the cores to the digest.
"""

import os
import socket
import threading
import urllib.request
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

import certifi
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util import parse_url

KEPT_ALIVE: Final = 64
HEADERS: Final = {"User-Agent": "wsi-pipeline", "Accept-Encoding": "identity"}


class Wire:
    """A pool of connections, safe to use from many threads.

    The environment's ``http_proxy``, ``https_proxy``, ``no_proxy`` and ``SSL_CERT_FILE`` count.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout = urllib3.Timeout(connect=timeout_s, read=timeout_s)
        self._sockets = _OpenSockets()
        self._pool = cache(self._make_pool)

    @contextmanager
    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """Send one request and yield its answer, the body unread and undecoded.

        Args:
            method: ``GET`` or ``POST``.
            url: Absolute.
            headers: Besides those that every request has.
            body: Sent as JSON.

        Raises:
            urllib3.exceptions.HTTPError: The connection failed.
        """
        response = self._pool(_proxy(url)).request(
            method,
            url,
            headers={**HEADERS, **headers},
            json=body,
            timeout=self._timeout,
            retries=False,
            redirect=False,
            preload_content=False,
            decode_content=False,
            enforce_content_length=False,  # who reads knows how long it should be
        )
        try:
            yield response
        finally:
            response.close()  # a body read to its end has gone back to the pool before

    def shut(self) -> None:
        """End every connection, now and later; reads blocked in them return at once."""
        self._sockets.shut()

    def close(self) -> None:
        self._pool.cache_clear()

    def _make_pool(self, proxy: str | None) -> urllib3.PoolManager:
        settings: dict[str, Any] = {
            "maxsize": KEPT_ALIVE,
            "ca_certs": os.environ.get("SSL_CERT_FILE") or certifi.where(),
        }
        pool = urllib3.ProxyManager(proxy, **settings) if proxy else urllib3.PoolManager(**settings)
        pool.pool_classes_by_scheme = self._sockets.pool_classes()
        return pool


class _OpenSockets:
    """Remembers each connection's socket as it is made, to wake the reads blocked in it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._ended = False

    def pool_classes(self) -> dict[str, type[HTTPConnectionPool]]:
        """Return urllib3's pools, whose connections tell of their sockets here."""
        sockets = self

        class Plain(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                sockets.add(self.sock)

        class Secure(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                sockets.add(self.sock)

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        return {"http": PlainPool, "https": SecurePool}

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


def _proxy(url: str) -> str | None:
    """Return the proxy that the environment names for ``url``."""
    there = parse_url(url)
    proxies = urllib.request.getproxies()
    if urllib.request.proxy_bypass(there.host or ""):
        return None
    return proxies.get(there.scheme or "") or proxies.get("all")
