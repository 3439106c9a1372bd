"""Decoded native tiles between the reads that share them, in memory that goes round."""

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Final

import numpy as np

from wsi_pipeline.types import RgbImage

Key = tuple[int, int]  # level, number of the tile

_VECTOR_BYTES: Final = 32  # of a register that libjpeg-turbo writes at once


@dataclass(slots=True)
class _Kept:
    pixels: RgbImage
    left: int  # pixels that nobody has asked for yet
    users: int = 1


class TileMemory:
    """Native tiles that are kept until all of their pixels have been copied once.

    A grid without overlap is done with a tile by then; so each is decoded once, and hardly more
    than the row on which two rows of the grid meet is kept. Tiles that are never asked for whole
    leave when room is short, the longest unused first. What a tile occupied serves the next, which
    spares the page faults of new memory and is likely still in a cache.

    Several threads may use it: between ``take`` and ``give_back`` a tile does not change.

    Args:
        room: Bytes of tiles kept, at most.
    """

    def __init__(self, room: int) -> None:
        self._lock = Lock()
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        self._free: dict[tuple[int, int], list[RgbImage]] = {}
        self._room = room

    @property
    def kept_bytes(self) -> int:
        """Bytes of the tiles that are kept."""
        with self._lock:
            return sum(kept.pixels.nbytes for kept in self._kept.values())

    def take(self, key: Key) -> RgbImage | None:
        """Return a tile that is kept, to be given back; or None."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is None:
                return None
            kept.users += 1
            self._kept.move_to_end(key)
            return kept.pixels

    def blank(self, height: int, width: int) -> RgbImage:
        """Return (height, width, 3) uint8 to decode a tile into."""
        with self._lock:
            free = self._free.get((height, width))
            if free:
                return free.pop()
        return _unaligned(height, width)

    def keep(self, key: Key, pixels: RgbImage, whole: int) -> None:
        """Keep what was a blank, and take it.

        Args:
            key: Which tile it is.
            pixels: (h, w, 3) uint8.
            whole: How many of its pixels can be asked for; a tile may reach beyond the level.
        """
        with self._lock:
            if key in self._kept:  # another thread has decoded the same
                return
            self._kept[key] = _Kept(pixels, whole)
            self._room -= pixels.nbytes

    def give_back(self, key: Key, pixels: RgbImage, copied: int) -> None:
        """Give back a tile that was taken, of which so many pixels were copied."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is None or kept.pixels is not pixels:
                self._let_go(pixels)
                return
            kept.users -= 1
            kept.left -= copied
            if kept.left <= 0 and not kept.users:
                self._drop(key)
            elif self._room < 0:
                self._make_room()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._room += sum(kept.pixels.nbytes for kept in self._kept.values())
            self._kept.clear()
            self._free.clear()

    def _make_room(self) -> None:
        for key in [key for key, kept in self._kept.items() if not kept.users]:
            if self._room >= 0:
                break
            self._drop(key)

    def _drop(self, key: Key) -> None:
        pixels = self._kept.pop(key).pixels
        self._room += pixels.nbytes
        self._let_go(pixels)

    def _let_go(self, pixels: RgbImage) -> None:
        self._free.setdefault(pixels.shape[:2], []).append(pixels)


def _unaligned(height: int, width: int) -> RgbImage:
    """Return new (height, width, 3) that begins between two multiples of 32 bytes.

    Where rows begin at such a multiple, libjpeg-turbo writes past the caches, and whoever copies
    the tile next waits for the memory: a quarter of the time of decoding it.
    """
    memory = np.empty(height * width * 3 + _VECTOR_BYTES, np.uint8)
    skipped = (_VECTOR_BYTES // 2 - memory.ctypes.data) % _VECTOR_BYTES
    return memory[skipped : skipped + height * width * 3].reshape(height, width, 3)
