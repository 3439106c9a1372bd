"""Other readers of slides as contestants: how fast they are, and whether their pixels are equal."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import openslide

from benchmarks.contest import Ready, peers_for, run_peer
from benchmarks.slides import TILE_PX

COMPARED: Final = 8  # tiles across


def reading_peers(
    path: Path, corner: int, across: int, folder: Path, only: Sequence[str] | None
) -> tuple[dict[str, Callable[[], float]], list[str]]:
    """Return readers that can read a square of tiles, and notes on their pixels or why they cannot.

    Args:
        path: The slide.
        corner: Level-0 x and y of the first tile.
        across: Tiles of a row, and rows.
        folder: Where the peers' environments lie.
        only: The peers that take part; None lets all.
    """
    found, notes = peers_for("decode", folder, only)
    contestants = {}
    for ready in found:
        try:
            notes.append(f"{ready.peer.name} {_compared(ready, path, corner)}")
        except (RuntimeError, ValueError, OSError) as error:
            notes.append(f"{ready.peer.name} did not run: {error}")
            continue
        contestants[ready.peer.name] = _contestant(ready, [str(path), str(corner), str(across)])
    return contestants, notes


def _contestant(ready: Ready, asked: list[str]) -> Callable[[], float]:
    def rate() -> float:
        figures = run_peer(ready, "decode", asked).figures
        return figures["tiles"] / figures["cpu_seconds"]

    return rate


def _compared(ready: Ready, path: Path, corner: int) -> str:
    """Say in words how its pixels differ from OpenSlide's on the first tiles."""
    with tempfile.TemporaryDirectory() as name:
        kept = Path(name) / "tiles.npy"
        run_peer(ready, "decode", [str(path), str(corner), str(COMPARED), "--keep", str(kept)])
        theirs = np.load(kept)
    corners = [corner + TILE_PX * step for step in range(COMPARED)]
    with openslide.OpenSlide(path) as slide:
        regions = [
            slide.read_region((x, y), 0, (TILE_PX, TILE_PX)).convert("RGB")
            for y in corners
            for x in corners
        ]
    off = np.abs(np.stack([np.asarray(each, np.int16) for each in regions]) - theirs)
    if not off.any():
        return "has OpenSlide's pixels"
    most, mean = off.max(), off.mean()
    return f"has other pixels than OpenSlide: by {most} levels at most, {mean:.2g} in the mean"
