"""Where a slide's tiles lie for a viewer, which may not count pixels as the coords do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import StoreError
from wsi_pipeline.types import Coords, Region


@dataclass(frozen=True, kw_only=True)
class SlideFrame:
    """A slide as its tiles see it.

    Attributes:
        area: What is worth showing, in the frame of the coords: a core's region, else the scanned
            bounds.
        origin: Level-0 (x, y) from which a viewer counts. QuPath, like other programs on
            OpenSlide, shows the scanned bounds and nothing beside them, so it is their corner.
        mpp: µm per level-0 pixel; None where it is unknown.
        matrix: (2, 3), takes level-0 (x, y, 1) of the file to the frame of the coords, where the
            slide was turned; None where both are the same.
    """

    area: Region
    origin: tuple[int, int] = (0, 0)
    mpp: float | None = None
    matrix: NDArray[np.float64] | None = None

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> Self:
        """Read the frame from the attributes of a tile store or a feature store.

        Raises:
            StoreError: They do not tell the slide's size.
        """
        bounds = attributes.get("bounds_level0")
        width, height = (int(attributes.get(f"level0_{side}") or 0) for side in ("width", "height"))
        if bounds is None and not (width and height):
            name = attributes.get("slide_id") or attributes.get("name") or "the slide"
            raise StoreError(f"{name}: its store does not tell the slide's size")
        whole = Region(**bounds) if bounds else Region(x=0, y=0, width=width, height=height)
        region, turned = attributes.get("region_level0"), attributes.get("straightened")
        mpp = attributes.get("mpp_native") or attributes.get("mpp_level0")
        return cls(
            area=Region(**region) if region else whole,
            origin=(0, 0) if turned and not region else (whole.x, whole.y),
            mpp=None if mpp is None else float(mpp),
            matrix=np.array(turned["matrix"], np.float64) if turned else None,
        )

    def rings(self, coords: Coords, side: float) -> NDArray[np.float64]:
        """Return the corners of tiles, (N, 4, 2), clockwise, where a viewer shows them."""
        steps = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * side
        corners = coords[:, None, :] + steps
        if self.matrix is not None:
            turn, shift = self.matrix[:, :2], self.matrix[:, 2]
            corners = (corners - shift) @ np.linalg.inv(turn).T
        return np.asarray(corners - np.asarray(self.origin), np.float64)
