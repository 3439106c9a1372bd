"""What all runners that only read share: tiles from a grid one after the other, timed."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from protocol import report

TILE_PX = 256
Read = Callable[[int, int], np.ndarray]  # level-0 (x, y) → (256, 256, 3) uint8


def measure(open_slide: Callable[[Path], Read]) -> None:
    """Read a square of tiles, row by row, and report processor seconds of all threads.

    The command line is SLIDE, the level-0 corner of the first tile, tiles across; with ``--keep``
    the tiles are saved to that file instead, to be compared.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("slide", type=Path)
    parser.add_argument("corner", type=int)
    parser.add_argument("across", type=int)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    corners = [given.corner + TILE_PX * step for step in range(given.across)]
    if given.keep is not None:
        read = open_slide(given.slide)
        np.save(given.keep, np.stack([read(x, y) for y in corners for x in corners]))
        report(len(corners) ** 2)
        return
    begun = time.process_time()
    read = open_slide(given.slide)
    for y in corners:
        for x in corners:
            read(x, y)
    report(len(corners) ** 2, cpu_seconds=time.process_time() - begun)
