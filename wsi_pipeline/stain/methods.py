"""Stain normalisation by name, as ``--stain`` asks for it."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import ConfigError, StainFitError
from wsi_pipeline.stain.apply import normalise
from wsi_pipeline.stain.macenko import (
    FEW_PIXELS,
    StainFit,
    fit_macenko,
    judged_fit,
    tissue_density,
)
from wsi_pipeline.stain.reinhard import LAB_REFERENCE, LabStatistics, lab_statistics, reinhard
from wsi_pipeline.stain.stains import REFERENCE, Stains, unit_rows
from wsi_pipeline.stain.tile_by_tile import TileByTileTransform
from wsi_pipeline.types import RgbTiles

Pixels = NDArray[np.uint8]

_BETA = 0.15
_MIN_PIXELS = 1000


class StainTransform(Protocol):
    """What was fitted on one slide, ready to be applied to its tiles and to be stored."""

    @property
    def method(self) -> str: ...
    @property
    def flags(self) -> tuple[str, ...]:
        """Why the tiles are left as they are; empty when all is well."""
        ...

    def apply(self, tiles: RgbTiles, out: RgbTiles | None = None) -> RgbTiles:
        """Map (N, H, W, 3) uint8 tiles; same shape and type."""
        ...

    def to_attributes(self) -> dict[str, Any]:
        """A JSON-able record from which :func:`restore_stain` rebuilds the transform."""
        ...


class Unchanged:
    """``--stain none``: tiles pass as they are."""

    method = "none"
    flags: tuple[str, ...] = ()

    def apply(self, tiles: RgbTiles, out: RgbTiles | None = None) -> RgbTiles:
        return normalise(tiles, None, out=out)

    def to_attributes(self) -> dict[str, Any]:
        return {"method": self.method, "flags": []}


class StainMatrixTransform:
    """Two stain vectors of the slide mapped to the reference ones; identity if the fit is flagged.

    ``fit.stains`` and ``target`` are what :func:`~wsi_pipeline.stain.torch.torch_normalise` takes.
    """

    def __init__(self, method: str, fit: StainFit, target: Stains = REFERENCE) -> None:
        self.method = method
        self.fit = fit
        self.target = target

    @property
    def flags(self) -> tuple[str, ...]:
        return self.fit.flags

    def apply(self, tiles: RgbTiles, out: RgbTiles | None = None) -> RgbTiles:
        return normalise(tiles, self.fit.stains, self.target, out=out)

    def to_attributes(self) -> dict[str, Any]:
        stains = self.fit.stains
        return {
            "method": self.method,
            "flags": list(self.fit.flags),
            "diagnostics": dict(self.fit.diagnostics),
            "source": None if stains is None else stains.to_attributes(),
            "target": self.target.to_attributes(),
        }


class ReinhardTransform:
    """Mean and spread in CIE Lab; identity when there is too little tissue to measure."""

    method = "reinhard"

    def __init__(self, source: LabStatistics | None, flags: tuple[str, ...] = ()) -> None:
        self.source = source
        self.flags = flags

    def apply(self, tiles: RgbTiles, out: RgbTiles | None = None) -> RgbTiles:
        if self.source is None:
            return normalise(tiles, None, out=out)
        mapped = reinhard(tiles, self.source)
        if out is None:
            return mapped
        np.copyto(out, mapped)
        return out

    def to_attributes(self) -> dict[str, Any]:
        source = self.source
        return {
            "method": self.method,
            "flags": list(self.flags),
            "source": None if source is None else _statistics_attributes(source),
            "target": _statistics_attributes(LAB_REFERENCE),
        }


def _fit_macenko(pixels: Pixels) -> StainTransform:
    return StainMatrixTransform("macenko", fit_macenko(pixels, beta=_BETA, min_pixels=_MIN_PIXELS))


def _fit_macenko_tile(pixels: Pixels) -> StainTransform:
    return TileByTileTransform(fit_macenko(pixels, beta=_BETA, min_pixels=_MIN_PIXELS))


def _fit_none(_pixels: Pixels) -> StainTransform:
    return Unchanged()


def _fit_reinhard(pixels: Pixels) -> StainTransform:
    """Statistics of tissue; what is no H&E by its stain vectors keeps its colours."""
    flags = fit_macenko(pixels, beta=_BETA, min_pixels=_MIN_PIXELS).flags
    if flags:
        return ReinhardTransform(None, flags)
    return ReinhardTransform(lab_statistics(pixels[(pixels < 255 * np.exp(-_BETA)).any(axis=1)]))


def _fit_vahadane(pixels: Pixels) -> StainTransform:
    """Sparse dictionary of two stains (Vahadane et al., IEEE TMI 2016), learnt by staintools.

    Its solver runs for a fixed time, not a fixed number of steps: repeated fits differ slightly.
    """
    try:
        from staintools.stain_extraction.vahadane_stain_extractor import VahadaneStainExtractor
    except ImportError as error:
        raise ConfigError(
            "Stain method 'vahadane' needs staintools, which is not installed: "
            "pip install 'wsi-pipeline[staintools]', or choose --stain macenko."
        ) from error
    density, fraction = tissue_density(pixels, _BETA)
    numbers = {"tissue_pixels": float(len(density)), "tissue_pixel_fraction": fraction}
    if len(density) < _MIN_PIXELS:
        fit = StainFit(stains=None, flags=(FEW_PIXELS,), diagnostics=numbers)
        return StainMatrixTransform("vahadane", fit)
    image = pixels[:, None].copy()  # staintools writes into its input
    matrix = unit_rows(VahadaneStainExtractor.get_stain_matrix(image))
    return StainMatrixTransform("vahadane", judged_fit(matrix, density, numbers))


STAIN_METHODS: Mapping[str, Callable[[Pixels], StainTransform]] = {
    "macenko": _fit_macenko,
    "macenko-tile": _fit_macenko_tile,
    "none": _fit_none,
    "reinhard": _fit_reinhard,
    "vahadane": _fit_vahadane,
}
"""Every method by name; each takes (P, 3) uint8 pixels sampled from a slide's tissue."""


def fit_stain(method: str, pixels: Pixels) -> StainTransform:
    """Fit a method, chosen by name, on pixels sampled from one slide.

    Args:
        method: a key of ``STAIN_METHODS``.
        pixels: (P, 3) uint8 RGB.

    Raises:
        ConfigError: the method is unknown, or its library is not installed.
        StainFitError: ``pixels`` is not (P, 3) uint8.
    """
    if method not in STAIN_METHODS:
        raise ConfigError(
            f"Unknown stain method {method!r}; choose one of {', '.join(STAIN_METHODS)}."
        )
    if pixels.ndim != 2 or pixels.shape[1] != 3 or pixels.dtype != np.uint8:
        raise StainFitError(
            f"Stain fitting needs (P, 3) uint8 pixels, not {pixels.shape} {pixels.dtype}."
        )
    return STAIN_METHODS[method](pixels)


def restore_stain(attributes: Mapping[str, Any]) -> StainTransform:
    """Rebuild a transform from what :meth:`StainTransform.to_attributes` stored.

    Raises:
        StainFitError: the record is incomplete or names an unknown method.
    """
    try:
        method = attributes["method"]
        flags = tuple(attributes["flags"])
        if method == "none":
            return Unchanged()
        source = attributes["source"]
        if method == "reinhard":
            return ReinhardTransform(None if source is None else _statistics(source), flags)
        if method in ("macenko", "macenko-tile", "vahadane"):
            stains = None if source is None else Stains.from_attributes(source)
            numbers = dict(attributes.get("diagnostics", {}))
            fit = StainFit(stains=stains, flags=flags, diagnostics=numbers)
            target = Stains.from_attributes(attributes["target"])
            if method == "macenko-tile":
                return TileByTileTransform(fit, target)
            return StainMatrixTransform(method, fit, target)
    except (KeyError, TypeError) as error:
        raise StainFitError(f"A stored stain record lacks {error}.") from error
    raise StainFitError(f"A stored stain record names the unknown method {method!r}.")


def _statistics_attributes(statistics: LabStatistics) -> dict[str, list[float]]:
    return {"mean": statistics.mean.tolist(), "deviation": statistics.deviation.tolist()}


def _statistics(attributes: Mapping[str, Any]) -> LabStatistics:
    return LabStatistics(
        mean=np.array(attributes["mean"], np.float64),
        deviation=np.array(attributes["deviation"], np.float64),
    )
