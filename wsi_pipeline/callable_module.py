"""Modules that are also a function of the public interface.

``wsi_pipeline.tiles`` is a room and ``wsi_pipeline.train`` a verb's module, and a user who writes
``wsi_pipeline.tiles(slide)`` means the function of the interface. Python keeps one name for both,
and which of the two it held would depend on what was imported before. So the module is it, and can
be called.
"""

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any, Final

INTERFACE: Final = "wsi_pipeline.api"


class _CallableModule(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _function_of(self)(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(_function_of(self))


def make_callable(name: str) -> None:
    """Let the module of this name be called as the interface's function called like it."""
    if name != "__main__":
        sys.modules[name].__class__ = _CallableModule


def _function_of(module: ModuleType) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(
        import_module(INTERFACE), module.__name__.rpartition(".")[2]
    )
    return function
