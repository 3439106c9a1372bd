"""A run folder in a browser, on this machine alone, until it is stopped."""

import secrets
import sys
import webbrowser
from collections.abc import Iterator

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.events import Event
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.verbs.runs import ViewConfig


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
        from wsi_pipeline.workbench import HOST, listen, server_of, workbench_app
    except ImportError as error:
        raise ConfigError(
            f"{error.name} is not installed: pip install 'wsi-pipeline[view]'"
        ) from error
    listening = listen(config.port)
    token = secrets.token_urlsafe(24)
    address = f"http://{HOST}:{listening.getsockname()[1]}/?token={token}"
    sys.stdout.write(f"{address}\n(Ctrl-C ends it)\n")  # no event: logs are for others to read
    sys.stdout.flush()
    if config.browser:
        webbrowser.open(address)
    server_of(workbench_app(config.run, config.slides, token)).run(sockets=[listening])
    yield from ()
