"""An encoder's network run by OpenVINO: the same features from a CPU in less time.

An optional extra. The network is converted once for each size of tile, about four seconds; forward
passes in several threads run side by side, one core each, as torch's do here.
"""

import threading
from typing import Any

import torch
from torch import nn

from wsi_pipeline.errors import EncoderError
from wsi_pipeline.features.folding import relative_difference

TOLERANCE = 1e-4  # relative; beyond it the converted network is not the same encoder


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
