"""timm, importable beside any build of torchvision.

timm imports torchvision at its top, and torchvision declares shape functions for two of its
compiled operators while it is imported. The registry's torchvision is compiled for CUDA: beside a
CPU-only torch its library cannot be loaded, the operators are missing and the import dies with
``operator torchvision::nms does not exist``. We use neither operator, so declaring their schemas is
enough. Where the library loads, nothing is declared: a second declaration would be an error.
"""

import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import torch

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@cache
def import_timm() -> ModuleType:
    """Return the timm module.

    Raises:
        ImportError: timm or torchvision is not installed, or is broken in another way.
    """
    if "torchvision" not in sys.modules:
        _declare_missing_operators()
    return importlib.import_module("timm")


@cache  # keeps the library object alive: its declarations vanish with it
def _declare_missing_operators() -> torch.library.Library | None:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or _load_operators(spec.submodule_search_locations or ()):
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in SCHEMAS:
        if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
            library.define(schema)  # type: ignore[no-untyped-call]
    return library


def _load_operators(folders: list[str] | tuple[str, ...]) -> bool:
    """Load torchvision's compiled operators; False where they do not fit this torch."""
    for folder in folders:
        for path in sorted(Path(folder).glob("_C*.so")) + sorted(Path(folder).glob("_C*.pyd")):
            try:
                torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
            except OSError:
                continue
            return True
    return False
