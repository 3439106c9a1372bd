"""Things chosen by name: one table of each kind, and a user's own as ``module:function``.

A registry is a table that one can read, ``name -> entry``; flags, checks before work and the rooms
all ask it. An unknown name is met with the nearest known one, before the first slide is opened.
"""

import difflib
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar, cast

from wsi_pipeline.errors import ConfigError

Entry = TypeVar("Entry")


class Registry(Mapping[str, Entry], Generic[Entry]):
    """A read-only table of what can be chosen by name.

    Args:
        what: One entry's kind in a sentence, such as ``stain method``.
        entries: Name to entry, in the order in which they are shown.
        wrap: Makes an entry of what a user's ``module:function`` names; None takes no such names.
    """

    def __init__(
        self,
        what: str,
        entries: Mapping[str, Entry],
        wrap: Callable[[str, object], Entry] | None = None,
    ) -> None:
        self.what = what
        self._entries = MappingProxyType(dict(entries))
        self._wrap = wrap

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def takes_own(self) -> bool:
        """Whether a user's own is taken, named ``module:function``."""
        return self._wrap is not None

    def choose(self, name: str) -> Entry:
        """Return the entry of ``name``, importing a user's own.

        Raises:
            ConfigError: There is none; the sentence offers the nearest name.
        """
        if name in self._entries:
            return self._entries[name]
        if self._wrap is not None and ":" in name:
            return self._wrap(name, import_named(self.what, name))
        own = "" if self._wrap is None else ", or module:function for your own"
        raise ConfigError(f"{unknown(self.what, name, self._entries)}{own}")

    def check(self, name: str) -> str:
        """Return ``name`` if it can be chosen; for validators of settings.

        Raises:
            ConfigError: As :meth:`choose`.
        """
        self.choose(name)
        return name


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Say that ``name`` is unknown: the nearest known word first, then all of them."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"there is no {what} {name!r}; {hint}Known: {', '.join(names)}"


def load(name: str) -> Any:
    """Import what ``module:name`` of ours names; where there is none, that is a bug."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def import_named(what: str, name: str) -> object:
    """Import what ``module:function`` names.

    Raises:
        ConfigError: The module or the name in it cannot be imported.
    """
    try:
        return cast("object", load(name))
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{what} {name!r}: cannot import it: {error}") from error
