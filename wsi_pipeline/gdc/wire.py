"""Below the HTTP client: the size of its reads, and its sockets, to wake blocked reads."""

import socket
import threading
import weakref
from collections.abc import Mapping
from typing import Any, Final

import httpcore

READ_BYTES: Final = 1 << 20  # in memory, 256 KiB reach 0.4 of curl, 1 MiB 0.7, 4 MiB 0.5


class OpenSockets:
    """Remembers each connection as it is made; :meth:`trace` is an httpx ``trace`` extension."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._ended = False

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event not in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            return
        opened = info["return_value"].get_extra_info("socket")
        with self._lock:
            self._sockets.add(opened)
            ended = self._ended
        if ended:
            _shut(opened)

    def shut(self) -> None:
        """End every connection, now and later; reads blocked in them return at once."""
        with self._lock:
            self._ended = True
            opened = list(self._sockets)
        for each in opened:
            _shut(each)


def read_in_large_blocks() -> None:
    """Let HTTP/1.1 connections read ``READ_BYTES`` at a time instead of 64 KiB.

    Much of what a byte costs here is cost per read; the size is a class attribute of httpcore's
    connections and can be set nowhere else. On a slow line a read still returns what there is.
    """
    httpcore.HTTP11Connection.READ_NUM_BYTES = READ_BYTES


def _shut(opened: socket.socket) -> None:
    try:
        socket.socket.shutdown(opened, socket.SHUT_RDWR)
    except OSError:
        return  # it had ended by itself
