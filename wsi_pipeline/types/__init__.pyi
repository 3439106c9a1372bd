from .arrays import Coords, Floats, Mask, RgbImage, RgbTiles
from .plain import CLINICAL, LONGEST_ID, Icc, Modality, Region

__all__ = [
    "CLINICAL",
    "LONGEST_ID",
    "Coords",
    "Floats",
    "Icc",
    "Mask",
    "Modality",
    "Region",
    "RgbImage",
    "RgbTiles",
]
