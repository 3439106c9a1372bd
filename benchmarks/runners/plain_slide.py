"""Where the plain loop finds tissue: Otsu's threshold on the thumbnail, the tutorials' way."""

from pathlib import Path

import cv2
import numpy as np
import openslide
from PIL import Image

_THUMBNAIL_PX = 1024
_MIN_TISSUE = 0.5


class PlainSlide:
    """A slide and the grid of its tissue tiles.

    Attributes:
        coords: (x, y) of the tiles' top-left corners at level 0.
    """

    def __init__(self, path: Path, mpp: float, tile_px: int) -> None:
        self._slide = openslide.OpenSlide(path)
        self._tile_px = tile_px
        own_mpp = float(self._slide.properties[openslide.PROPERTY_NAME_MPP_X])
        self._read_px = round(tile_px * mpp / own_mpp)
        self.coords = self._tissue()

    def tile(self, x: int, y: int) -> Image.Image:
        """Read one tile at level 0 and shrink it."""
        region = self._slide.read_region((x, y), 0, (self._read_px, self._read_px)).convert("RGB")
        return region.resize((self._tile_px, self._tile_px), Image.Resampling.LANCZOS)

    def _tissue(self) -> list[tuple[int, int]]:
        width, height = self._slide.dimensions
        thumbnail = self._slide.get_thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
        grey = cv2.cvtColor(np.asarray(thumbnail), cv2.COLOR_RGB2GRAY)
        _, mask = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY_INV + cv2.THRESH_OTSU)
        scale = mask.shape[1] / width
        coords = []
        for y in range(0, height - self._read_px + 1, self._read_px):
            for x in range(0, width - self._read_px + 1, self._read_px):
                left, top = int(x * scale), int(y * scale)
                right, bottom = int((x + self._read_px) * scale), int((y + self._read_px) * scale)
                if mask[top : bottom + 1, left : right + 1].mean() >= _MIN_TISSUE:
                    coords.append((x, y))
        return coords
