"""Stain normalisation by name, as ``--stain`` asks for it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import ConfigError, StainFitError
from wsi_pipeline.registry import Registry
from wsi_pipeline.stain.apply import normalise
from wsi_pipeline.stain.macenko import (
    FEW_PIXELS,
    StainFit,
    fit_macenko,
    judged_fit,
    tissue_density,
)
from wsi_pipeline.stain.reference import BETA, PUBLISHED, Reference, stained
from wsi_pipeline.stain.reinhard import LAB_REFERENCE, LabStatistics, lab_statistics, reinhard
from wsi_pipeline.stain.stains import REFERENCE, Stains, unit_rows
from wsi_pipeline.stain.staintools import (
    StaintoolsReinhard,
    macenko_matrix,
    require_staintools,
    restore_reinhard,
    vahadane_matrix,
)
from wsi_pipeline.stain.tile_by_tile import TileByTileTransform
from wsi_pipeline.types import RgbTiles

Pixels = NDArray[np.uint8]

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
    """A slide's two stain vectors mapped to the reference ones; identity if the fit is flagged."""

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

    def __init__(
        self,
        source: LabStatistics | None,
        flags: tuple[str, ...] = (),
        target: LabStatistics = LAB_REFERENCE,
    ) -> None:
        self.source = source
        self.flags = flags
        self.target = target

    def apply(self, tiles: RgbTiles, out: RgbTiles | None = None) -> RgbTiles:
        if self.source is None:
            return normalise(tiles, None, out=out)
        mapped = reinhard(tiles, self.source, self.target)
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
            "target": _statistics_attributes(self.target),
        }


def _fit_macenko(pixels: Pixels, reference: Reference) -> StainTransform:
    fit = fit_macenko(pixels, beta=BETA, min_pixels=_MIN_PIXELS)
    return StainMatrixTransform("macenko", fit, reference.stains)


def _fit_macenko_tile(pixels: Pixels, reference: Reference) -> StainTransform:
    fit = fit_macenko(pixels, beta=BETA, min_pixels=_MIN_PIXELS)
    return TileByTileTransform(fit, reference.stains)


def _fit_reinhard(pixels: Pixels, reference: Reference) -> StainTransform:
    """Statistics of tissue; what is no H&E by its stain vectors keeps its colours."""
    flags = fit_macenko(pixels, beta=BETA, min_pixels=_MIN_PIXELS).flags
    source = None if flags else lab_statistics(stained(pixels))
    return ReinhardTransform(source, flags, reference.lab)


def _fit_staintools_reinhard(pixels: Pixels, reference: Reference) -> StainTransform:
    flags = fit_macenko(pixels, beta=BETA, min_pixels=_MIN_PIXELS).flags
    return StaintoolsReinhard(reference.lab, flags)


def _fit_matrix(
    method: str, extract: Callable[[Pixels], NDArray[np.float64]]
) -> Callable[[Pixels, Reference], StainTransform]:
    """Judge the (2, 3) stain matrix that ``extract`` finds, as our own fit is judged."""

    def fit(pixels: Pixels, reference: Reference) -> StainTransform:
        density, fraction = tissue_density(pixels, BETA)
        numbers = {"tissue_pixels": float(len(density)), "tissue_pixel_fraction": fraction}
        if len(density) < _MIN_PIXELS:
            found = StainFit(stains=None, flags=(FEW_PIXELS,), diagnostics=numbers)
        else:
            found = judged_fit(unit_rows(extract(pixels)), density, numbers)
        return StainMatrixTransform(method, found, reference.stains)

    return fit


def _restore_matrix(attributes: Mapping[str, Any]) -> StainTransform:
    fit, target = _restored_fit(attributes)
    return StainMatrixTransform(attributes["method"], fit, target)


def _restore_tile_by_tile(attributes: Mapping[str, Any]) -> StainTransform:
    return TileByTileTransform(*_restored_fit(attributes))


def _restored_fit(attributes: Mapping[str, Any]) -> tuple[StainFit, Stains]:
    source = attributes["source"]
    fit = StainFit(
        stains=None if source is None else Stains.from_attributes(source),
        flags=tuple(attributes["flags"]),
        diagnostics=dict(attributes.get("diagnostics", {})),
    )
    return fit, Stains.from_attributes(attributes["target"])


def _restore_reinhard(attributes: Mapping[str, Any]) -> StainTransform:
    source = attributes["source"]
    known = None if source is None else _statistics(source)
    target = _statistics(attributes["target"])
    return ReinhardTransform(known, tuple(attributes["flags"]), target)


@dataclass(frozen=True, kw_only=True)
class StainMethod:
    """One method: how it is fitted on (P, 3) uint8 pixels of a slide's tissue, and restored."""

    fit: Callable[[Pixels, Reference], StainTransform]
    restore: Callable[[Mapping[str, Any]], StainTransform]


def _own(name: str, function: object) -> StainMethod:
    """Wrap a user's function of (P, 3) pixels.

    It returns a stain matrix, (2, 3) with rows H and E in optical density, which is judged and
    stored as ours are; or a :class:`StainTransform`, whose stored record ``function.restore``
    takes back, if it has such a thing.

    Raises:
        ConfigError: It cannot be called.
    """
    if not callable(function):
        raise ConfigError(f"Stain method {name!r} is no function of (P, 3) pixels.")

    def fit(pixels: Pixels, reference: Reference) -> StainTransform:
        found = function(pixels.copy())
        if not isinstance(found, np.ndarray | Sequence):
            return cast("StainTransform", found)
        matrix = np.asarray(found, np.float64)
        if matrix.shape != (2, 3):
            raise StainFitError(f"{name} gave a stain matrix {matrix.shape}, not (2, 3).")
        return _fit_matrix(name, lambda _: matrix)(pixels, reference)

    return StainMethod(fit=fit, restore=getattr(function, "restore", _restore_matrix))


STAIN_METHODS: Final = Registry(
    "stain method",
    {
        "macenko": StainMethod(fit=_fit_macenko, restore=_restore_matrix),
        "macenko-tile": StainMethod(fit=_fit_macenko_tile, restore=_restore_tile_by_tile),
        "reinhard": StainMethod(fit=_fit_reinhard, restore=_restore_reinhard),
        "vahadane": StainMethod(
            fit=_fit_matrix("vahadane", vahadane_matrix), restore=_restore_matrix
        ),
        "none": StainMethod(fit=lambda *_: Unchanged(), restore=lambda _: Unchanged()),
        "staintools-macenko": StainMethod(
            fit=_fit_matrix("staintools-macenko", macenko_matrix), restore=_restore_matrix
        ),
        "staintools-reinhard": StainMethod(fit=_fit_staintools_reinhard, restore=restore_reinhard),
    },
    wrap=_own,
)
"""Every method by name; a user's own is named ``module:function``."""

BACKENDS: Final = {"own": "", "staintools": "staintools-"}
"""Who computes a method, and what its name begins with then."""


def backed(method: str, backend: str) -> str:
    """Return the name of a method as ``backend`` has it.

    Raises:
        ConfigError: It has no such method, or is not installed.
    """
    own = backend == "own" or method in ("vahadane", "none")
    name = method if own else f"{BACKENDS[backend]}{method}"
    if not own and name not in STAIN_METHODS:
        raise ConfigError(f"{backend} has no stain method {method!r}: macenko, reinhard, vahadane")
    if name == "vahadane" or name.startswith(BACKENDS["staintools"]):
        require_staintools(method)
    return name


def fit_stain(method: str, pixels: Pixels, reference: Reference = PUBLISHED) -> StainTransform:
    """Fit a method, chosen by name, on pixels sampled from one slide.

    Args:
        method: a key of ``STAIN_METHODS``, or ``module:function``.
        pixels: (P, 3) uint8 RGB.
        reference: what to map to.

    Raises:
        ConfigError: the method is unknown, or its library is not installed.
        StainFitError: ``pixels`` is not (P, 3) uint8.
    """
    chosen = STAIN_METHODS.choose(method)
    if pixels.ndim != 2 or pixels.shape[1] != 3 or pixels.dtype != np.uint8:
        raise StainFitError(
            f"Stain fitting needs (P, 3) uint8 pixels, not {pixels.shape} {pixels.dtype}."
        )
    return chosen.fit(pixels, reference)


def restore_stain(attributes: Mapping[str, Any]) -> StainTransform:
    """Rebuild a transform from what :meth:`StainTransform.to_attributes` stored.

    Raises:
        StainFitError: the record is incomplete or names an unknown method.
    """
    try:
        return STAIN_METHODS.choose(attributes["method"]).restore(attributes)
    except (KeyError, TypeError) as error:
        raise StainFitError(f"A stored stain record lacks {error}.") from error
    except ConfigError as error:
        raise StainFitError(f"A stored stain record is of no use: {error}") from error


def _statistics_attributes(statistics: LabStatistics) -> dict[str, list[float]]:
    return {"mean": statistics.mean.tolist(), "deviation": statistics.deviation.tolist()}


def _statistics(attributes: Mapping[str, Any]) -> LabStatistics:
    return LabStatistics(
        mean=np.array(attributes["mean"], np.float64),
        deviation=np.array(attributes["deviation"], np.float64),
    )
