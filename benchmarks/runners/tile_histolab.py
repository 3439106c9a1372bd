"""Histolab: its grid tiler, which saves PNG, then its normaliser over what was saved."""

import time

import numpy as np
from histolab.masks import TissueMask
from histolab.slide import Slide
from histolab.stain_normalizer import MacenkoStainNormalizer
from histolab.tiler import GridTiler
from PIL import Image
from protocol import report, tile_arguments


def main() -> None:
    given = tile_arguments()
    begun = time.perf_counter()
    slide = Slide(given.slide, processed_path=given.out, use_largeimage=True)
    tiler = GridTiler(tile_size=(given.tile_px, given.tile_px), mpp=given.mpp)
    # the default mask is the box of the biggest piece alone; this one is all the tissue
    tiler.extract(slide, extraction_mask=TissueMask(), log_level="ERROR")
    paths = sorted(given.out.glob("*.png"))
    if given.stain:
        normaliser = MacenkoStainNormalizer()
        normaliser.fit(Image.open(paths[0]).convert("RGB"))
        for path in paths:
            tile = Image.open(path).convert("RGB")
            try:
                normaliser.transform(tile).save(path)
            except (ValueError, IndexError, np.linalg.LinAlgError):
                continue  # too little tissue to fit on
    report(len(paths), seconds=time.perf_counter() - begun)


if __name__ == "__main__":
    main()
