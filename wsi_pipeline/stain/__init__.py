"""Stain normalisation: fit on a slide, apply to tiles."""

from wsi_pipeline.stain.apply import normalise
from wsi_pipeline.stain.macenko import StainFit, fit_macenko
from wsi_pipeline.stain.methods import (
    BACKENDS,
    STAIN_METHODS,
    StainMatrixTransform,
    StainMethod,
    StainTransform,
    backed,
    fit_stain,
    restore_stain,
)
from wsi_pipeline.stain.reference import PUBLISHED, Reference, fit_reference, read_reference
from wsi_pipeline.stain.sample import PixelSampler, sample_pixels
from wsi_pipeline.stain.stains import REFERENCE, Stains, density_map

__all__ = [
    "BACKENDS",
    "PUBLISHED",
    "REFERENCE",
    "STAIN_METHODS",
    "PixelSampler",
    "Reference",
    "StainFit",
    "StainMatrixTransform",
    "StainMethod",
    "StainTransform",
    "Stains",
    "backed",
    "density_map",
    "fit_macenko",
    "fit_reference",
    "fit_stain",
    "normalise",
    "read_reference",
    "restore_stain",
    "sample_pixels",
]
