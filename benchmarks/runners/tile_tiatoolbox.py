"""TIAToolbox: a sliding window over its morphological tissue mask, one process."""

import time

import numpy as np
from protocol import report, tile_arguments
from tiatoolbox.tools.patchextraction import SlidingWindowPatchExtractor
from tiatoolbox.tools.stainnorm import MacenkoNormalizer
from tiatoolbox.utils.misc import imwrite
from tiatoolbox.wsicore.wsireader import WSIReader


def main() -> None:
    given = tile_arguments()
    begun = time.perf_counter()
    patches = SlidingWindowPatchExtractor(
        input_img=WSIReader.open(given.slide),
        input_mask="morphological",
        patch_size=(given.tile_px, given.tile_px),
        resolution=given.mpp,
        units="mpp",
        within_bound=True,
    )
    normaliser = MacenkoNormalizer()
    if given.stain:
        normaliser.fit(patches[0])
    for index, tile in enumerate(patches):
        if given.stain:
            tile = _normalised(normaliser, tile)
        x, y = patches.coordinate_list[index][:2]
        imwrite(given.out / f"{x}_{y}.jpg", tile)
    report(len(patches), seconds=time.perf_counter() - begun)


def _normalised(normaliser: MacenkoNormalizer, tile: np.ndarray) -> np.ndarray:
    try:
        return normaliser.transform(tile)
    except (ValueError, IndexError, np.linalg.LinAlgError):  # too little tissue to fit on
        return tile


if __name__ == "__main__":
    main()
