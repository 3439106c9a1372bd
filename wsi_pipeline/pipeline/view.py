"""A run folder in a browser, on this machine alone, until it is stopped."""

import secrets
import socket
import sys
import webbrowser
from collections.abc import Iterator
from typing import Final

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.events import Event
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.verbs.runs import ViewConfig

HOST: Final = "127.0.0.1"


def run(config: ViewConfig) -> Iterator[Event]:
    """Serve ``config.run`` until Ctrl-C.

    Raises:
        ConfigError: There is no run folder, the port is taken, or the server is not installed.
    """
    folder = RunFolder(config.run)
    if not any(part.exists() for part in (folder.cohort, folder.tiles, folder.features)):
        raise ConfigError(
            f"{config.run}: no run folder; it has no cohort.csv, tiles or features. Cut slides "
            "first: python -m wsi_pipeline.tile"
        )
    try:
        import uvicorn

        from wsi_pipeline.workbench import workbench_app
    except ImportError as error:
        raise ConfigError(
            f"{error.name} is not installed: pip install 'wsi-pipeline[view]'"
        ) from error
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, config.port))
    except OSError as error:
        listening.close()
        raise ConfigError(f"port {config.port}: {error.strerror}; choose another --port") from error
    token = secrets.token_urlsafe(24)
    address = f"http://{HOST}:{listening.getsockname()[1]}/?token={token}"
    sys.stdout.write(f"{address}\n(Ctrl-C ends it)\n")  # no event: logs are for others to read
    sys.stdout.flush()
    if config.browser:
        webbrowser.open(address)
    app = workbench_app(config.run, config.slides, token)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    server.run(sockets=[listening])
    yield from ()
