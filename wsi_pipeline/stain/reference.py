"""What slides are mapped to: fixed numbers, or an image's or another slide's own.

A fitted reference is a small JSON file, ``{"stains": …, "lab": …}``, as it stands in a store's
``stain_reference``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import StainFitError
from wsi_pipeline.stain.macenko import fit_macenko
from wsi_pipeline.stain.reinhard import LAB_REFERENCE, LabStatistics, lab_statistics
from wsi_pipeline.stain.stains import REFERENCE, Stains

BETA = 0.15


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Stains to map to by Macenko's and Vahadane's methods, and statistics by Reinhard's."""

    stains: Stains = REFERENCE
    lab: LabStatistics = LAB_REFERENCE

    def to_attributes(self) -> dict[str, Any]:
        """The numbers as JSON-able lists, exact to the last bit."""
        lab = {"mean": self.lab.mean.tolist(), "deviation": self.lab.deviation.tolist()}
        return {"stains": self.stains.to_attributes(), "lab": lab}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> "Reference":
        """Undo :meth:`to_attributes`.

        Raises:
            StainFitError: A key is missing or the values are no usable reference.
        """
        try:
            lab = attributes["lab"]
            mean, deviation = (np.array(lab[k], np.float64) for k in ("mean", "deviation"))
            stains = Stains.from_attributes(attributes["stains"])
        except (KeyError, TypeError, ValueError) as error:
            raise StainFitError(f"a stain reference needs stains and lab; {error}") from error
        if mean.shape != (3,) or deviation.shape != (3,) or not (deviation > 0).all():
            raise StainFitError(f"a stain reference's lab is {mean} ± {deviation}")
        return cls(stains=stains, lab=LabStatistics(mean=mean, deviation=deviation))


PUBLISHED = Reference()


def fit_reference(pixels: NDArray[np.uint8]) -> Reference:
    """Fit a reference to tissue.

    Args:
        pixels: (P, 3) uint8 RGB, sampled from tissue.

    Raises:
        StainFitError: They are no H&E, or too few.
    """
    fit = fit_macenko(pixels, beta=BETA)
    if fit.stains is None:
        raise StainFitError(f"no stain reference can be fitted: {', '.join(fit.flags)}")
    return Reference(stains=fit.stains, lab=lab_statistics(stained(pixels)))


def stained(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Keep the pixels that are no glass."""
    return np.asarray(pixels[(pixels < 255 * np.exp(-BETA)).any(axis=1)], np.uint8)


def read_reference(path: Path) -> Reference:
    """Read a fitted reference.

    Raises:
        StainFitError: It is no such JSON.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise StainFitError(f"{path}: no stain reference ({error})") from error
    if not isinstance(content, dict):
        raise StainFitError(f"{path}: no stain reference, which has stains and lab")
    try:
        return Reference.from_attributes(content)
    except StainFitError as error:
        raise StainFitError(f"{path}: {error}") from error
