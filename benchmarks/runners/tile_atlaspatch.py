"""AtlasPatch: its cutting within a mask of tissue, which saves each tile as PNG.

Its own mask is a network's, whose weights it fetches from a hub; here it is Otsu's on a thumbnail
of the same size. Its levels are magnifications, 0.5 µm/px being 20 ×.
"""

import time

import cv2
import numpy as np
from atlas_patch.core.config import ExtractionConfig, OutputConfig, SegmentationConfig
from atlas_patch.core.models import Slide
from atlas_patch.services.extraction import PatchExtractionService
from atlas_patch.services.wsi_loader import DefaultWSILoader
from protocol import decline, report, tile_arguments

_SIDE_PX = SegmentationConfig.thumbnail_max
_MAGNIFICATION_UM = 10.0  # µm/px × magnification


def main() -> None:
    given = tile_arguments()
    if given.stain:
        decline("normalise stains")
    begun = time.perf_counter()
    slide = Slide(path=given.slide)
    wsi = DefaultWSILoader().open(slide)
    thumbnail = np.asarray(wsi.get_thumb((_SIDE_PX, _SIDE_PX)))
    grey = cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY)
    _, mask = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY_INV + cv2.THRESH_OTSU)
    cutting = ExtractionConfig(
        patch_size=given.tile_px, target_magnification=round(_MAGNIFICATION_UM / given.mpp)
    )
    service = PatchExtractionService(cutting, OutputConfig(given.out, save_images=True))
    found = service.extract(wsi, mask.astype(np.float32), slide=slide)
    report(found.num_patches, seconds=time.perf_counter() - begun)


if __name__ == "__main__":
    main()
