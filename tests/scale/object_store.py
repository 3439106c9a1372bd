"""An S3 server of our own (moto's), which can be made slow, to throttle, and to refuse."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

BUSY = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code>"
    b"<Message>Please reduce your request rate.</Message></Error>"
)
REFUSED = (
    b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
)
Answer = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass
class ObjectStore:
    """What the server does besides: ``delay_s`` before each answer, every n-th refused."""

    address: str = ""
    delay_s: float = 0.0
    busy_every: int = 0
    refuses: Callable[[str, str], bool] = lambda method, path: False
    requests: list[tuple[str, str]] = field(default_factory=list)

    def wrap(self, answer: Answer) -> Answer:
        def wrapped(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
            method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
            self.requests.append((method, path))
            time.sleep(self.delay_s)
            if self.refuses(method, path):
                return self._say(start, "403 Forbidden", REFUSED, environ)
            if self.busy_every and len(self.requests) % self.busy_every == 0:
                return self._say(start, "503 Slow Down", BUSY, environ)
            return answer(environ, start)

        return wrapped

    def _say(
        self, start: Callable[..., Any], status: str, body: bytes, environ: dict[str, Any]
    ) -> Iterable[bytes]:
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextmanager
def serve() -> Iterator[ObjectStore]:
    """Serve from a port of its own; the process's environment points there meanwhile."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, *_: Any, **__: Any) -> None: ...

    store = ObjectStore()
    app = store.wrap(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    Thread(target=server.serve_forever, daemon=True).start()
    store.address = f"http://127.0.0.1:{server.server_port}"
    before = {name: os.environ.get(name) for name in store.environment()}
    os.environ.update(store.environment())
    try:
        yield store
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        server.shutdown()
        server.server_close()
