"""Is a slide's artifact the one that is asked for? Compared by content, never by mere existence."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from wsi_pipeline.errors import StoreMismatchError
from wsi_pipeline.settings import differences

SETTING: Final = "config."  # how resolved settings begin, once mappings are told key by key


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
        f"pass --overwrite to make it anew{_as_before(_flat(stored), _flat(asked))}, or choose "
        "another run folder"
    )


def _as_before(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Name the flags that go on as the artifact was begun; nothing if flags alone cannot."""
    changed = [key for key in stored.keys() | asked.keys() if stored.get(key) != asked.get(key)]
    if any(not key.startswith(SETTING) or stored.get(key) is None for key in changed):
        return ""
    flags = [_flag(key.removeprefix(SETTING), stored[key]) for key in sorted(changed)]
    return f", {' '.join(flags)} to go on as it was begun"


def _flag(setting: str, value: Any) -> str:
    name = setting.replace("_", "-")
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name} {','.join(map(str, value)) if isinstance(value, list) else value}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
