"""What lies on a glass slide, drawn as the scanner comes to it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from wsi_pipeline.synthetic.scene import Dye


class Glass(Protocol):
    """A slide before the scanner; sizes in level-0 pixels."""

    @property
    def width(self) -> int:
        """Level-0 columns."""

    @property
    def height(self) -> int:
        """Level-0 rows."""

    def rows(self, first: int, last: int) -> Dye:
        """The dye on rows ``first`` up to ``last``; called from top to bottom."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One drawn piece of dye as large as the slide."""

    dye: Dye

    @property
    def width(self) -> int:
        """Level-0 columns."""
        return int(self.dye.eosin.shape[1])

    @property
    def height(self) -> int:
        """Level-0 rows."""
        return int(self.dye.eosin.shape[0])

    def rows(self, first: int, last: int) -> Dye:
        """The dye on some rows."""
        return Dye(haematoxylin=self.dye.haematoxylin[first:last], eosin=self.dye.eosin[first:last])


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A square piece that is drawn when it is needed; ``x``, ``y`` is its corner."""

    x: int
    y: int
    side: int
    draw: Callable[[], Dye]


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Many pieces on an otherwise empty slide; only those on the rows asked for are in memory."""

    width: int
    height: int
    pieces: tuple[Piece, ...]
    _drawn: dict[int, Dye] = field(default_factory=dict, repr=False)

    def rows(self, first: int, last: int) -> Dye:
        """The dye on some rows; pieces above them are forgotten."""
        haematoxylin = np.zeros((last - first, self.width), np.uint8)
        eosin = np.zeros((last - first, self.width), np.uint8)
        for index, piece in enumerate(self.pieces):
            if piece.y + piece.side <= first or piece.y >= last:
                if piece.y + piece.side <= first:
                    self._drawn.pop(index, None)
                continue
            if index not in self._drawn:
                self._drawn[index] = piece.draw()
            dye = self._drawn[index]
            top, bottom = max(piece.y, first), min(piece.y + piece.side, last)
            columns = slice(piece.x, piece.x + piece.side)
            for whole, part in ((haematoxylin, dye.haematoxylin), (eosin, dye.eosin)):
                window = whole[top - first : bottom - first, columns]
                np.maximum(window, part[top - piece.y : bottom - piece.y], out=window)
        return Dye(haematoxylin=haematoxylin, eosin=eosin)
