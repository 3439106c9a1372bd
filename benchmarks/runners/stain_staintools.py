"""Staintools' Macenko normaliser, tile by tile."""

import time

import numpy as np
import staintools
from protocol import report, stain_arguments
from staintools.miscellaneous.exceptions import TissueMaskException


def main() -> None:
    given = stain_arguments()
    tiles = np.load(given.tiles)
    normaliser = staintools.StainNormalizer(method="macenko")
    normaliser.fit(tiles[0])
    begun = time.process_time()
    for _ in range(given.repeat):
        for tile in tiles:
            try:
                normaliser.transform(tile)
            except TissueMaskException:  # too little tissue to fit on
                continue
    report(len(tiles) * given.repeat, cpu_seconds=time.process_time() - begun)


if __name__ == "__main__":
    main()
