"""The workbench on this machine's own address: for ``wsi view``, and within a notebook."""

import secrets
import socket
from html import escape
from pathlib import Path
from threading import Thread
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from wsi_pipeline.errors import ConfigError, SlideOpenError
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.slides import open_slide
from wsi_pipeline.workbench.app import slide_app, workbench_app

HOST: Final = "127.0.0.1"
HEIGHT_PX: Final = 640


def listen(port: int) -> socket.socket:
    """Return a socket that listens on this machine alone; port 0 takes any that is free.

    Raises:
        ConfigError: The port is taken.
    """
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()  # who asks before the server has started waits
    except OSError as error:
        listening.close()
        raise ConfigError(f"port {port}: {error.strerror}; choose another --port") from error
    return listening


def server_of(app: ASGIApp) -> uvicorn.Server:
    """Return what serves an application, silently."""
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))


class View:
    """A slide or a run in a notebook: shown where it is the last line of a cell.

    Attributes:
        url: Its address on this machine, which holds the token.
        height: Of the frame, px.
    """

    def __init__(self, app: ASGIApp, token: str, height: int) -> None:
        listening = listen(0)
        self.url = f"http://{HOST}:{listening.getsockname()[1]}/{token}/"
        self.height = height
        self._server = server_of(app)
        self._thread = Thread(target=self._server.run, args=([listening],), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving it."""
        self._server.should_exit = True
        self._thread.join()

    def _repr_html_(self) -> str:
        return (
            f'<iframe src="{escape(self.url)}" title="wsi_pipeline" width="100%" '
            f'height="{self.height}" style="border: 0" allow="fullscreen"></iframe>'
        )

    def __repr__(self) -> str:
        return f"<View {self.url}>"


def show(shown: str | Path, slides: str | Path | None = None, height: int = HEIGHT_PX) -> View:
    """Serve a run folder, or a slide, for a notebook.

    Args:
        shown: A run folder, a slide or its URL.
        slides: Folder that a run's cohort table starts from; None: the table's own.
        height: Of the frame, px.

    Raises:
        SlideOpenError: It is neither.
    """
    token = secrets.token_urlsafe(24)
    folder = RunFolder(Path(shown))
    if any(part.exists() for part in (folder.cohort, folder.tiles, folder.features)):
        start = None if slides is None else Path(slides)
        return View(workbench_app(folder.root, start, token, embedded=True), token, height)
    try:
        open_slide(shown).close()
    except SlideOpenError as error:
        raise SlideOpenError(f"{error}; and it is no run folder, which has a cohort.csv") from None
    return View(slide_app(str(shown), token, embedded=True), token, height)
