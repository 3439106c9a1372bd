"""LazySlide: its dataset of tile images under torch's loader, each worker saving what it reads.

LazySlide keeps coordinates and reads pixels when they are needed; it has no export of its own.
Its reader's documentation sends those who want a stain normalised to torchstain, whose numpy
backend takes the tiles as they come.
"""

import time
from pathlib import Path
from typing import Any

import lazyslide
import numpy as np
from PIL import Image
from protocol import report, tile_arguments
from torch.utils.data import DataLoader, Dataset
from torchstain.numpy.normalizers import NumpyMacenkoNormalizer
from wsidata import open_wsi


class _Macenko:
    """The transform of a tile; torchstain's own target, as with LazySlide's ``color_norm``."""

    def __init__(self) -> None:
        self._normaliser = NumpyMacenkoNormalizer()

    def __call__(self, tile: np.ndarray) -> np.ndarray:
        try:
            normal, _, _ = self._normaliser.normalize(I=tile, stains=False)
        except (ValueError, IndexError, np.linalg.LinAlgError):  # too little tissue to fit on
            return tile
        return normal


class _Saved(Dataset):
    """Tiles that are saved as they are read."""

    def __init__(self, tiles: Dataset, out: Path) -> None:
        self._tiles = tiles
        self._out = out

    def __len__(self) -> int:
        return len(self._tiles)

    def __getitem__(self, index: int) -> int:
        tile: dict[str, Any] = self._tiles[index]
        name = f"{tile['x']}_{tile['y']}.jpg"
        Image.fromarray(tile["image"]).save(self._out / name, quality=90)
        return index


def main() -> None:
    given = tile_arguments()
    begun = time.perf_counter()
    wsi = open_wsi(given.slide, store=None)
    lazyslide.pp.find_tissues(wsi)
    lazyslide.pp.tile_tissues(wsi, given.tile_px, mpp=given.mpp)
    tiles = wsi.ds.tile_images(transform=_Macenko() if given.stain else None)
    workers = given.workers if given.workers > 1 else 0
    loader = DataLoader(_Saved(tiles, given.out), batch_size=32, num_workers=workers)
    done = sum(len(batch) for batch in loader)
    report(done, seconds=time.perf_counter() - begun)


if __name__ == "__main__":
    main()
