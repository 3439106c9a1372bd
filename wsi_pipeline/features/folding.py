"""Batch normalisation folded into the convolution before it, for inference.

A convolution followed by a batch norm with frozen statistics is one affine map, hence one
convolution. The graph is traced only to find the pairs; the model itself is edited, so that its
own forward runs (and ``torch.compile`` sees ordinary modules).
"""

from typing import Final

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

TOLERANCE: Final = 1e-4  # largest relative difference that folding may make


class _Tracer(fx.Tracer):
    """Keeps convolutions and norms whole, whichever package's subclass they are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | nn.BatchNorm2d) or super().is_leaf_module(
            m, module_qualified_name
        )


def fold_batch_norms(model: nn.Module) -> int:
    """Fold every batch norm that directly follows a convolution of its own; edits ``model``.

    Args:
        model: In eval mode. Models whose forward cannot be traced are left as they are.

    Returns:
        The number of batch norms folded.
    """
    pairs = _pairs(model)
    for conv_name, norm_name in pairs:
        conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps,
            norm.weight, norm.bias,
        )  # fmt: skip
        parent, _, child = norm_name.rpartition(".")
        setattr(model.get_submodule(parent), child, _what_remains(norm))
    return len(pairs)


def _pairs(model: nn.Module) -> list[tuple[str, str]]:
    tracer = _Tracer()
    try:
        graph = tracer.trace(model)
    except Exception:  # noqa: BLE001  tracing runs the model's own code, which may raise anything
        return []
    modules = dict(model.named_modules())
    calls: dict[int, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            key = id(modules[str(node.target)])
            calls[key] = calls.get(key, 0) + 1
    pairs = []
    for node in graph.nodes:
        if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
            continue
        before = node.args[0]
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        conv, norm = modules[str(before.target)], modules[str(node.target)]
        if _foldable(conv, norm) and calls[id(conv)] == calls[id(norm)] == 1:
            pairs.append((str(before.target), str(node.target)))
    return pairs


def _foldable(conv: nn.Module, norm: nn.Module) -> bool:
    return (
        isinstance(conv, nn.Conv2d)
        and isinstance(norm, nn.BatchNorm2d)
        and norm.running_mean is not None
        # a convolution that rewrites its weights in forward (weight standardisation) cannot be set
        and type(conv).__name__ in ("Conv2d", "Conv2dSame")
    )


def _what_remains(norm: nn.BatchNorm2d) -> nn.Module:
    """Return what follows the normalisation inside ``norm``: timm's norms carry the activation."""
    rest = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]
    rest = [module for module in rest if not isinstance(module, nn.Identity)]
    return nn.Sequential(*rest) if rest else nn.Identity()


def relative_difference(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return max |first - second| / max |first|."""
    scale = first.abs().max().clamp_min(torch.finfo(first.dtype).tiny)
    return float((first - second).abs().max() / scale)
