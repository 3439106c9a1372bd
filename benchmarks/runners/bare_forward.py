"""The forward pass alone: what an extraction would cost if reading and writing were free."""

import importlib.util
import time
from functools import cache
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def forward_seconds(model: torch.nn.Module, tiles: int, side_px: int, batch_size: int) -> float:
    """Time a model over as many random tensors as there were tiles, all of them in memory.

    Args:
        model: In evaluation mode, on the CPU.
        tiles: How many inputs.
        side_px: Side of an input, as the peer's transform leaves it.
        batch_size: As in the extraction; the last batch holds what is left.
    """
    inputs = torch.rand(tiles, 3, side_px, side_px).split(batch_size)
    with torch.inference_mode():
        model(inputs[0])  # warm-up
        begun = time.perf_counter()
        for batch in inputs:
            model(batch)
        return time.perf_counter() - begun


@cache  # keeps the library object alive: its declarations vanish with it
def allow_any_torchvision() -> torch.library.Library | None:
    """Let timm be imported where torchvision is compiled for CUDA and torch is not.

    Two operators are missing then, and their absence ends the import; nobody here calls them.
    """
    spec = importlib.util.find_spec("torchvision")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        try:
            torch.ops.load_library(str(next(Path(folder).glob("_C*.so"))))
        except (OSError, StopIteration):
            continue
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema)
    return library
