"""LazySlide's feature extraction with a model of timm, written to its Zarr store."""

import time

import lazyslide
from bare_forward import allow_any_torchvision, forward_seconds
from protocol import extract_arguments, report
from wsidata import open_wsi


def main() -> None:
    given = extract_arguments()
    allow_any_torchvision()
    from lazyslide_models import TimmModel

    model = TimmModel(given.encoder, pretrained=False)
    begun = time.perf_counter()
    wsi = open_wsi(given.slide, store=str(given.out / "features.zarr"))
    lazyslide.pp.find_tissues(wsi)
    lazyslide.pp.tile_tissues(wsi, given.tile_px, mpp=given.mpp)
    lazyslide.tl.feature_extraction(
        wsi,
        model,
        model_name=given.encoder,
        device="cpu",
        batch_size=given.batch_size,
        num_workers=1,
        pbar=False,
    )
    wsi.write()
    seconds = time.perf_counter() - begun
    tiles = len(wsi.shapes["tiles"])
    bare = forward_seconds(model.model, tiles, model.img_size[0], given.batch_size)
    report(tiles, seconds=seconds, forward_seconds=bare)


if __name__ == "__main__":
    main()
