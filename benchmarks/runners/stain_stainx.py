"""StainX's Macenko normaliser on the CPU, tile by tile."""

import time

import numpy as np
import torch
from protocol import report, stain_arguments
from stainx import Macenko


def main() -> None:
    given = stain_arguments()
    torch.set_num_threads(1)
    tiles = np.load(given.tiles)
    normaliser = Macenko(device="cpu")
    normaliser.fit(_batch(tiles[0]))
    begun = time.process_time()
    for _ in range(given.repeat):
        for tile in tiles:
            try:
                normaliser.transform(_batch(tile))
            except (RuntimeError, ValueError):  # too little tissue to fit on
                continue
    report(len(tiles) * given.repeat, cpu_seconds=time.process_time() - begun)


def _batch(tile: np.ndarray) -> torch.Tensor:
    """A tile as StainX takes it: (1, 3, H, W) uint8."""
    return torch.from_numpy(tile).permute(2, 0, 1).unsqueeze(0)


if __name__ == "__main__":
    main()
