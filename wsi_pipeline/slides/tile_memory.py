"""Decoded native tiles between the reads that share them, in memory that goes round."""

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Final

import numpy as np

from wsi_pipeline.types import RgbImage

_VECTOR_BYTES: Final = 32  # of a register that libjpeg-turbo writes at once


@dataclass(slots=True)
class _Kept:
    pixels: RgbImage
    left: int  # pixels that nobody has asked for yet
    users: int = 0


class TileMemory:
    """Native tiles of a level, kept until all of their pixels have been copied once.

    A grid without overlap is done with a tile by then; so each is decoded once, and hardly more
    than the row on which two rows of the grid meet is kept. Tiles that are never asked for whole
    leave when room is short, the longest unused first. What a tile occupied serves the next, which
    spares the page faults of new memory and is likely still in a cache.

    Several threads may use it: between ``take`` and ``give_back`` a tile does not change.

    Args:
        width, height: Of a tile.
        room: Tiles kept, at most.
    """

    def __init__(self, width: int, height: int, room: int) -> None:
        self._shape = (height, width, 3)
        self._room = room
        self._lock = Lock()
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._free: list[RgbImage] = []

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, number: int) -> tuple[RgbImage, bool]:
        """Take a tile, to be given back.

        Returns:
            (height, width, 3) uint8, and whether it is that tile; else it is to be decoded into it.
        """
        with self._lock:
            kept = self._kept.get(number)
            if kept is not None:
                kept.users += 1
                self._kept.move_to_end(number)
                return kept.pixels, True
            if self._free:
                return self._free.pop(), False
        return _unaligned(self._shape), False

    def give_back(self, number: int, pixels: RgbImage, copied: int, whole: int) -> None:
        """Give back what was taken; it is kept if something of it is left to ask for.

        Args:
            number: Which tile it is.
            pixels: As taken, and decoded.
            copied: How many of its pixels were copied.
            whole: How many can be asked for; a tile may reach beyond the level. 0 lets it go.
        """
        with self._lock:
            kept = self._kept.get(number)
            if kept is None:
                if copied >= whole:
                    self._free.append(pixels)
                    return
                kept = self._kept[number] = _Kept(pixels, whole)
            elif kept.pixels is pixels:
                kept.users -= 1
            else:  # another thread has decoded the same
                self._free.append(pixels)
            kept.left -= copied
            if kept.left <= 0 and not kept.users:
                self._drop(number)
            elif len(self._kept) > self._room:
                self._make_room()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()
            self._free.clear()

    def _make_room(self) -> None:
        while len(self._kept) > self._room:
            unused = (number for number, kept in self._kept.items() if not kept.users)
            number = next(unused, None)
            if number is None:
                return
            self._drop(number)

    def _drop(self, number: int) -> None:
        self._free.append(self._kept.pop(number).pixels)


def _unaligned(shape: tuple[int, int, int]) -> RgbImage:
    """Return a new uint8 array that begins between two multiples of 32 bytes.

    Where rows begin at such a multiple, libjpeg-turbo writes past the caches, and whoever copies
    the tile next waits for the memory: a quarter of the time of decoding it.
    """
    size = shape[0] * shape[1] * shape[2]
    memory = np.empty(size + _VECTOR_BYTES, np.uint8)
    skipped = (_VECTOR_BYTES // 2 - memory.ctypes.data) % _VECTOR_BYTES
    return memory[skipped : skipped + size].reshape(shape)
