"""The encoder at work: uint8 tiles in, float32 features out."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from wsi_pipeline.errors import EncoderError
from wsi_pipeline.features.resample import pillow_resize, tensor_resize
from wsi_pipeline.types import RgbTiles

Precision = Literal["fp32", "bf16", "fp16"]
Kernels = Literal["torch", "compiled", "openvino"]
DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
RESIZERS: Final = {"pillow": pillow_resize, "tensor": tensor_resize}
BATCH_SIZES: Final = {"cpu": 8, "mps": 64, "cuda": 256}  # tiles of one forward pass


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """The way from uint8 tiles to the encoder's input.

    Attributes:
        mean: Subtracted from pixels scaled to [0, 1], one value a channel (RGB).
        std: Divides what is left.
        input_px: Side of what the network sees; None feeds the tiles as they are, which
            convolutional networks take at any size. Transformers with fixed position embeddings
            need their own.
        interpolation: ``bicubic`` or ``bilinear``, antialiased; used only where tiles are resized.
        resize_px: Side the tiles are resized to; the centre of ``input_px`` is cut from them. None:
            ``input_px``, and nothing is cut off.
        resampling: Whose arithmetic resizes: ``pillow`` and ``tensor`` (torchvision's on uint8)
            round to whole grey levels as published transforms do, ``float`` does not round.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    input_px: int | None = None
    interpolation: str = "bicubic"
    resize_px: int | None = None
    resampling: Literal["pillow", "tensor", "float"] = "float"

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready data; the newer ones only where they are used."""
        values = asdict(self) | {"mean": list(self.mean), "std": list(self.std)}
        if self.resize_px is None:
            del values["resize_px"]
        if self.resampling == "float":
            del values["resampling"]
        return values


@dataclass(frozen=True, kw_only=True)
class EncoderModel:
    """What a factory of encoders returns.

    Attributes:
        model: Takes (B, 3, H, W) float32 and returns (B, D), in eval mode.
        preprocess: How tiles become its input.
        tag: Names network and weights; another tag is another encoder.
        pooling: What of the network's tokens is the feature; auto: the network pools by itself.
        provenance: Anything worth recording, JSON-ready.
    """

    model: nn.Module
    preprocess: Preprocess
    tag: str
    pooling: str = "auto"
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Where and how a network runs; ``batch_size`` None chooses by device.

    ``kernels`` are torch's own, those of ``torch.compile``, or OpenVINO's on a CPU: the features
    are the same but for rounding.
    """

    device: torch.device
    precision: Precision = "fp32"
    batch_size: int | None = None
    kernels: Kernels = "torch"


class Pending:
    """Features under way on the device or in lanes; :meth:`result` waits for them."""

    def __init__(
        self,
        parts: "Sequence[torch.Tensor | Future[torch.Tensor]]",
        smaller: "Callable[[torch.OutOfMemoryError], Pending]",
    ) -> None:
        """``smaller`` begins anew with smaller batches, where a lane ran out of memory."""
        self._parts = parts
        self._smaller = smaller

    def result(self) -> NDArray[np.float32]:
        """Return the (B, D) features; the tiles' memory may be reused from here on."""
        try:
            done = [part.result() if isinstance(part, Future) else part for part in self._parts]
        except torch.OutOfMemoryError as error:
            return self._smaller(error).result()
        parts = [part.float().cpu().numpy() for part in done]
        return np.concatenate(parts) if len(parts) != 1 else parts[0]


class Encoder:
    """A frozen network that turns tiles into features.

    Tiles are always fed in batches of ``batch_size``, the last one filled up with blanks, and on a
    CPU each batch belongs to one thread, several batches running side by side: kernels differ in
    the last bit between batch sizes and thread counts. So a tile's feature depends neither on its
    neighbours, nor on the number of cores, nor on where a run was interrupted. (Threads within a
    kernel, which wait for each other at every layer, are no faster.)

    Attributes:
        name: As asked for, ``densenet121``.
        tag: Name and weights, ``densenet121.ra_in1k``; another tag is another encoder.
        dim: Length D of a feature.
        preprocess: What the weights expect of their input.
        provenance: Weights' source, precision and versions, JSON-ready.
        device: Where it runs.
        precision: Of the convolutions and products; features are float32 in any case.
        batch_size: Tiles of one forward pass; halves when memory runs out, and stays so.
        lanes: Forward passes side by side; 1 on anything but a CPU.
    """

    def __init__(self, name: str, built: EncoderModel, runtime: Runtime) -> None:
        self.name = name
        self.tag = built.tag
        self.preprocess = built.preprocess
        self.device = runtime.device
        self.precision = runtime.precision
        self.batch_size = runtime.batch_size or BATCH_SIZES[runtime.device.type]
        self.lanes = torch.get_num_threads() if runtime.device.type == "cpu" else 1
        self._pool = ThreadPoolExecutor(self.lanes, "lane", torch.set_num_threads, (1,))
        self._model = built.model.to(runtime.device)
        self._scale, self._shift = _scaling(built.preprocess, runtime.device)
        self.dim = self._measure_dim()
        self._parameters = sum(each.numel() for each in self._model.parameters())
        self.provenance = built.provenance | {
            "encoder": name,
            "encoder_tag": built.tag,
            "preprocess": built.preprocess.as_dict(),
            "precision": runtime.precision,
            "torch": torch.__version__,
        }
        if runtime.kernels == "compiled":
            self._compile()
        if runtime.kernels == "openvino":
            self._convert()

    @property
    def model(self) -> nn.Module:
        """The network as it runs: takes (B, 3, H, W) float32, channels last; returns (B, D)."""
        return self._model

    @property
    def parameters(self) -> int:
        """How many numbers the network has learned."""
        return self._parameters

    def encode(self, tiles: RgbTiles | torch.Tensor) -> NDArray[np.float32]:
        """Encode tiles.

        Args:
            tiles: (B, H, W, 3) uint8 RGB, any B.

        Returns:
            (B, D) float32.

        Raises:
            EncoderError: A single tile does not fit into the device's memory.
        """
        with self.at_work():
            return self.submit(tiles).result()

    def __call__(self, tiles: RgbTiles | torch.Tensor) -> NDArray[np.float32]:
        """Encode tiles, as :meth:`encode` does."""
        return self.encode(tiles)

    def __repr__(self) -> str:
        return f"<Encoder {self.tag}: {self.dim} features, on {self.device} in {self.precision}>"

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Lend the processor's cores to the lanes; what is submitted must be fetched inside."""
        if self.device.type != "cpu":
            yield
            return
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def submit(self, tiles: RgbTiles | torch.Tensor) -> Pending:
        """Start encoding; this returns while the device, or the lanes, still work.

        The tiles must stay as they are until :meth:`Pending.result` has returned.
        """
        batch = torch.as_tensor(tiles)
        if batch.dtype != torch.uint8 or batch.ndim != 4 or batch.shape[-1] != 3:
            raise EncoderError(
                f"{self.tag}: tiles must be (B, H, W, 3) uint8, not {tuple(batch.shape)} "
                f"{str(batch.dtype).removeprefix('torch.')}"
            )
        if not len(batch):
            nothing = torch.empty((0, self.dim), dtype=torch.float32)
            return Pending([nothing], lambda _: self.submit(batch))

        def smaller(error: torch.OutOfMemoryError) -> Pending:
            self._shrink(error)
            return self.submit(batch)

        try:
            return Pending(self._forward(batch), smaller)
        except torch.OutOfMemoryError as error:
            return smaller(error)

    def _forward(self, batch: torch.Tensor) -> Sequence["torch.Tensor | Future[torch.Tensor]"]:
        chunks = torch.split(batch, self.batch_size)
        if self.device.type != "cpu":
            return [self._run(chunk) for chunk in chunks]
        return [self._pool.submit(self._run, chunk) for chunk in chunks]

    def _run(self, tiles: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), self._numerics():
            pixels = tiles.to(self.device, non_blocking=True)
            if len(pixels) < self.batch_size:
                blanks = pixels.new_zeros((self.batch_size - len(pixels), *pixels.shape[1:]))
                pixels = torch.cat([pixels, blanks])
            features: torch.Tensor = self._model(self._prepare(pixels))
            if features.ndim != 2:
                raise EncoderError(
                    f"{self.tag}: the network returns {tuple(features.shape)} for a batch; an "
                    "encoder must return pooled features (B, D). Say --pooling class, mean or "
                    "class+mean"
                )
            return features[: len(tiles)].float()

    def _prepare(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, H, W, 3) uint8 on the device → normalised (B, 3, h, w) float32, channels last."""
        planes = see(pixels, self.preprocess)
        return planes.mul_(self._scale).add_(self._shift)

    @contextmanager
    def _numerics(self) -> Iterator[None]:
        """Half precision where asked, true float32 otherwise, and always the same kernels."""
        with ExitStack() as stack:
            if self.device.type == "cuda":
                exact = self.precision == "fp32"
                stack.enter_context(
                    torch.backends.cudnn.flags(
                        enabled=True, benchmark=False, deterministic=True, allow_tf32=not exact
                    )
                )
            if self.precision != "fp32":
                stack.enter_context(torch.autocast(self.device.type, DTYPES[self.precision]))
            yield

    def _shrink(self, error: torch.OutOfMemoryError) -> None:
        if self.batch_size == 1:
            raise EncoderError(
                f"{self.tag}: one tile does not fit into the memory of {self.device}; free some, "
                "or use --device cpu"
            ) from error
        self.batch_size //= 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _compile(self) -> None:
        """Compile for full batches of the usual tiles, now rather than in the first slide."""
        self._model.compile(dynamic=False)
        side = self.preprocess.input_px or 256
        try:
            self.encode(torch.zeros((self.batch_size, side, side, 3), dtype=torch.uint8))
        except RuntimeError as error:  # whatever torch's compiler or the C++ one behind it raises
            reason = str(error).strip().partition("\n")[0][:300]
            raise EncoderError(
                f"{self.tag}: torch.compile failed ({reason}); run without --kernels compiled"
            ) from error

    def _convert(self) -> None:
        """Hand the network over to OpenVINO."""
        from wsi_pipeline.features.inference import OpenVinoModel

        if self.device.type != "cpu":
            raise EncoderError(f"--kernels openvino: it is for the CPU, not for {self.device}")
        self._model = OpenVinoModel(self._model, self.lanes)

    def _measure_dim(self) -> int:
        size = self.preprocess.input_px or 256
        with torch.inference_mode():
            blank = torch.zeros((1, size, size, 3), dtype=torch.uint8, device=self.device)
            return int(self._model(self._prepare(blank)).shape[-1])


def see(pixels: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    """Resize and crop as an encoder's publisher does.

    Args:
        pixels: (B, H, W, 3) uint8.
        preprocess: Whose ``mean`` and ``std`` are not used here.

    Returns:
        (B, 3, h, w) float32 grey levels, channels last, of memory of its own.

    Raises:
        EncoderError: The tiles are not square, and the recipe resizes square ones.
    """
    side = preprocess.resize_px or preprocess.input_px
    if side is not None and pixels.shape[1:3] != (side, side):
        pixels = _resize(pixels, side, preprocess)
    inner = preprocess.input_px
    if side is not None and inner is not None and inner < side:
        edge = round((side - inner) / 2)
        pixels = pixels[:, edge : edge + inner, edge : edge + inner]
    planes = pixels.permute(0, 3, 1, 2)  # a view of (B, H, W, 3) is channels-last
    return planes.float().contiguous(memory_format=torch.channels_last)


def _resize(pixels: torch.Tensor, side: int, preprocess: Preprocess) -> torch.Tensor:
    """(B, H, W, 3) uint8 → (B, side, side, 3), uint8 but with ``float`` arithmetic."""
    how = preprocess.interpolation
    if preprocess.resampling == "float":
        planes = functional.interpolate(
            pixels.permute(0, 3, 1, 2).float(), (side, side), mode=how, antialias=True
        )
        return planes.clamp_(0, 255).permute(0, 2, 3, 1)
    if pixels.shape[1] != pixels.shape[2]:
        raise EncoderError(f"tiles must be square to be resized, not {tuple(pixels.shape[1:3])}")
    return RESIZERS[preprocess.resampling](pixels, side, how)


def _scaling(preprocess: Preprocess, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return factor and summand that take grey levels 0–255 to the network's input."""
    mean = torch.tensor(preprocess.mean, dtype=torch.float32, device=device)
    std = torch.tensor(preprocess.std, dtype=torch.float32, device=device)
    return (1 / (255 * std)).reshape(1, 3, 1, 1), (-mean / std).reshape(1, 3, 1, 1)


def choose_device(asked: str) -> torch.device:
    """Resolve ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    Raises:
        EncoderError: The device is unknown or not there.
    """
    available: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
        "cpu": lambda: True,
    }
    if asked == "auto":
        return torch.device(next(name for name, there in available.items() if there()))
    try:
        device = torch.device(asked)
    except RuntimeError:
        device = None
    if device is None or device.type not in available:
        raise EncoderError(f"--device {asked}: unknown; use auto, cpu, cuda, cuda:N or mps")
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if not available[device.type]() or (device.index or 0) >= count:
        raise EncoderError(f"--device {asked}: not available to this torch; use auto or cpu")
    return device


def choose_precision(
    asked: str, device: torch.device, published: Precision | None = None
) -> Precision:
    """Resolve ``auto``: bfloat16 on a GPU that has it, float16 on one that has not, else float32.

    An encoder whose publisher computes in float32 does so on a GPU too.

    Raises:
        EncoderError: Half precision is asked for where there is no GPU.
    """
    if asked == "auto":
        if device.type != "cuda" or published == "fp32":
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if asked == "fp32":
        return "fp32"
    if asked not in ("bf16", "fp16"):
        raise EncoderError(f"--precision {asked}: unknown; use auto, fp32, bf16 or fp16")
    if device.type == "cpu":
        raise EncoderError(
            f"--precision {asked}: half precision is for GPUs and slower than fp32 on a CPU; "
            "use auto or fp32"
        )
    return "bf16" if asked == "bf16" else "fp16"
