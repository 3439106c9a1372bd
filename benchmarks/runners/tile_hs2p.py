"""hs2p: its batch call for one slide, with the tiles saved as JPEG in a TAR."""

import time

from hs2p import SegmentationConfig, SlideSpec, TilingConfig, tile_slides
from protocol import decline, report, tile_arguments


def main() -> None:
    given = tile_arguments()
    if given.stain:
        decline("normalise stains")
    begun = time.perf_counter()
    artifacts = tile_slides(
        [SlideSpec(sample_id="slide", image_path=given.slide)],
        tiling=TilingConfig(
            backend="openslide",
            requested_spacing_um=given.mpp,
            requested_tile_size_px=given.tile_px,
            tolerance=0.05,
            overlap=0.0,
        ),
        segmentation=SegmentationConfig(method="hsv", downsample=64),
        output_dir=given.out,
        num_workers=given.workers,
        save_tiles=True,
    )
    report(sum(each.num_tiles for each in artifacts), seconds=time.perf_counter() - begun)


if __name__ == "__main__":
    main()
