"""The methods of staintools, the reference implementation, behind ``--stain-backend staintools``.

Macenko's and Vahadane's stains are extracted by it and applied and judged by us; Reinhard's
transfer is its own, tile by tile. Its background is a lightness of 0.8; glass is not spared.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.stain.reinhard import LabStatistics
from wsi_pipeline.types import RgbTiles

Pixels = NDArray[np.uint8]

MISSING = (
    "needs staintools, which is not installed: pip install --no-deps staintools spams-bin (its own "
    "list of dependencies brings a second OpenCV), or choose --stain macenko."
)


def require_staintools(method: str) -> None:
    """Refuse a method of staintools where that is not installed, before any slide is opened.

    Raises:
        ConfigError: As said.
    """
    if any(find_spec(name) is None for name in ("staintools", "spams")):
        raise ConfigError(f"Stain method {method!r} {MISSING}")


def macenko_matrix(pixels: Pixels) -> NDArray[np.float64]:
    """Return the (2, 3) stain matrix of (P, 3) pixels.

    Raises:
        ConfigError: staintools is not installed.
    """
    try:
        from staintools.stain_extraction.macenko_stain_extractor import MacenkoStainExtractor
    except ImportError as error:
        raise ConfigError(f"Stain method 'macenko' of staintools {MISSING}") from error
    image = pixels[:, None].copy()  # staintools writes into its input
    return np.asarray(MacenkoStainExtractor.get_stain_matrix(image), np.float64)


def vahadane_matrix(pixels: Pixels) -> NDArray[np.float64]:
    """Return the (2, 3) matrix of a sparse dictionary (Vahadane et al., IEEE TMI 2016).

    The solver runs for a fixed time, not a fixed number of steps: repeated fits differ slightly.

    Raises:
        ConfigError: staintools is not installed.
    """
    try:
        from staintools.stain_extraction.vahadane_stain_extractor import VahadaneStainExtractor
    except ImportError as error:
        raise ConfigError(f"Stain method 'vahadane' {MISSING}") from error
    image = pixels[:, None].copy()
    return np.asarray(VahadaneStainExtractor.get_stain_matrix(image), np.float64)


class StaintoolsReinhard:
    """Mean and spread in CIE Lab of each tile moved to the reference's."""

    method = "staintools-reinhard"

    def __init__(self, target: LabStatistics, flags: tuple[str, ...] = ()) -> None:
        self.target = target
        self.flags = flags

    def apply(self, tiles: RgbTiles, out: RgbTiles | None = None) -> RgbTiles:
        """Map (N, H, W, 3) uint8 tiles; as they are where the slide is no H&E.

        Raises:
            ConfigError: staintools is not installed.
        """
        try:
            from staintools.reinhard_color_normalizer import ReinhardColorNormalizer
        except ImportError as error:
            raise ConfigError(f"Stain method 'reinhard' of staintools {MISSING}") from error
        mapped = np.empty_like(tiles) if out is None else out
        normaliser = ReinhardColorNormalizer()
        normaliser.target_means = self.target.mean
        normaliser.target_stds = self.target.deviation
        for tile, result in zip(tiles, mapped, strict=True):
            even = tile.reshape(-1, 3).std(axis=0).min() == 0
            result[...] = tile if self.flags or even else normaliser.transform(tile.copy())
        return mapped

    def to_attributes(self) -> dict[str, Any]:
        target = {
            "mean": self.target.mean.tolist(),
            "deviation": self.target.deviation.tolist(),
        }
        return {"method": self.method, "flags": list(self.flags), "target": target}


def restore_reinhard(attributes: Mapping[str, Any]) -> StaintoolsReinhard:
    """Undo ``to_attributes``."""
    target = {name: np.array(values, np.float64) for name, values in attributes["target"].items()}
    return StaintoolsReinhard(LabStatistics(**target), tuple(attributes["flags"]))
