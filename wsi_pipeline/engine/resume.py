"""Is a slide's artifact the one that is asked for? Compared by content, never by mere existence."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsi_pipeline.errors import StoreMismatchError
from wsi_pipeline.settings import differences


def is_done(
    path: Path,
    stored: Mapping[str, Any] | None,
    asked: Mapping[str, Any],
    *,
    overwrite: bool,
) -> bool:
    """Decide whether ``path`` can be kept.

    Args:
        path: The artifact, for the message.
        stored: What the artifact says it was made from (resolved settings, input digest); None
            when there is no artifact.
        asked: The same, as asked now. Nested mappings are compared key by key.
        overwrite: Whether a different artifact may be made anew.

    Returns:
        True if the artifact is what is asked for, False if it has to be made.

    Raises:
        StoreMismatchError: It was made differently and ``overwrite`` is not set.
    """
    if stored is None:
        return False
    changed = differences(_flat(stored), _flat(asked))
    if not changed:
        return True
    if overwrite:
        return False
    raise StoreMismatchError(
        f"{path}: was made with other settings or from another input ({'; '.join(changed)}); "
        "pass --overwrite to make it anew, or choose another run folder"
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
