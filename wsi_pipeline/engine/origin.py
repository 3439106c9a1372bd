"""Which code made an artifact."""

import platform
from collections.abc import Sequence
from functools import cache
from importlib import metadata

from wsi_pipeline import __version__


@cache
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def provenance(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of this package, of Python and of the ``packages`` that did the work."""
    return {
        "wsi_pipeline": __version__,
        "python": platform.python_version(),
        **{package: _version(package) for package in packages},
    }
