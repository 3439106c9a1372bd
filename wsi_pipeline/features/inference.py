"""A network made ready for inference: batch norms folded away, or run by OpenVINO.

A convolution followed by a batch norm with frozen statistics is one affine map, hence one
convolution. The graph is traced only to find the pairs; the model itself is edited, so that its
own forward runs (and ``torch.compile`` sees ordinary modules).

OpenVINO is an optional extra that gives the same features from a CPU in less time. The network is
converted once for each size of tile, about four seconds; forward passes in several threads run side
by side, one core each, as torch's do here.
"""

import threading
from typing import Any, Final

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from wsi_pipeline.errors import EncoderError

TOLERANCE: Final = 1e-4  # relative; beyond it what was made ready is not the same encoder


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


class OpenVinoModel(nn.Module):
    """Takes (B, 3, H, W) float32 of always the same B and returns (B, D) float32.

    Args:
        model: In eval mode; kept, to be converted for tiles of another size.
        lanes: Threads that call it at a time.

    Raises:
        EncoderError: OpenVINO is not installed.
    """

    def __init__(self, model: nn.Module, lanes: int) -> None:
        super().__init__()
        try:
            import openvino
        except ImportError:
            raise EncoderError(
                "--kernels openvino: OpenVINO is not installed; pip install "
                "'wsi-pipeline[openvino]', or leave the flag out"
            ) from None
        self._source = [model]  # in a list, so that it is no submodule with weights of its own
        self._openvino: Any = openvino
        self._core = openvino.Core()
        self._lanes = lanes
        self._compiled: dict[tuple[int, ...], Any] = {}
        self._lock = threading.Lock()
        self._own = threading.local()

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        request = self._request(planes)
        request.infer([planes.contiguous().numpy()])
        return torch.from_numpy(request.get_output_tensor().data.copy())

    def _request(self, planes: torch.Tensor) -> Any:
        """Return this thread's own request for tiles of this size."""
        if not hasattr(self._own, "requests"):
            self._own.requests = {}
        own: dict[tuple[int, ...], Any] = self._own.requests
        shape = tuple(planes.shape)
        if shape not in own:
            with self._lock:
                if shape not in self._compiled:
                    self._compiled[shape] = self._convert(planes)
            own[shape] = self._compiled[shape].create_infer_request()
        return own[shape]

    def _convert(self, planes: torch.Tensor) -> Any:
        """Convert the network for this shape, and see that it gives the same."""
        (model,) = self._source
        probe = torch.rand(planes.shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            expected = model(probe)
        converted = self._openvino.convert_model(model, example_input=probe)
        converted.reshape(list(planes.shape))
        how = {
            "INFERENCE_PRECISION_HINT": "f32",  # else processors that can take half precision do
            "NUM_STREAMS": self._lanes,
            "INFERENCE_NUM_THREADS": self._lanes,
        }
        compiled = self._core.compile_model(converted, "CPU", how)
        found = torch.from_numpy(compiled([probe.numpy()])[0])
        difference = relative_difference(expected, found)
        if difference > TOLERANCE:
            raise EncoderError(
                f"--kernels openvino: its features differ from torch's by {difference:.1e}; "
                "leave the flag out for this encoder"
            )
        return compiled
