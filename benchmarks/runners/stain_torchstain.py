"""Torchstain's Macenko normaliser, its numpy backend, tile by tile."""

import time

import numpy as np
from protocol import report, stain_arguments
from torchstain.numpy.normalizers import NumpyMacenkoNormalizer


def main() -> None:
    given = stain_arguments()
    tiles = np.load(given.tiles)
    normaliser = NumpyMacenkoNormalizer()
    normaliser.fit(tiles[0])
    begun = time.process_time()
    for _ in range(given.repeat):
        for tile in tiles:
            try:
                normaliser.normalize(I=tile, stains=False)
            except (ValueError, IndexError, np.linalg.LinAlgError):
                continue  # too little tissue to fit on
    report(len(tiles) * given.repeat, cpu_seconds=time.process_time() - begun)


if __name__ == "__main__":
    main()
