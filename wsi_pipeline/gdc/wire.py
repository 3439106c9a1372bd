"""The sockets under an HTTP client, so that a blocked read can be woken from another thread."""

import socket
import threading
import weakref
from collections.abc import Mapping
from typing import Any


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


def _shut(opened: socket.socket) -> None:
    try:
        socket.socket.shutdown(opened, socket.SHUT_RDWR)
    except OSError:
        return  # it had ended by itself
