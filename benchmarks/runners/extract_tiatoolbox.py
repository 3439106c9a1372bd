"""TIAToolbox's deep feature extractor with one of its own backbones, written to Zarr."""

import time

import zarr
from bare_forward import forward_seconds
from protocol import extract_arguments, report
from tiatoolbox.models.architecture.vanilla import CNNBackbone
from tiatoolbox.models.engine.deep_feature_extractor import DeepFeatureExtractor


def main() -> None:
    given = extract_arguments()
    model = CNNBackbone(given.encoder).eval()
    begun = time.perf_counter()
    extractor = DeepFeatureExtractor(
        model=model, batch_size=given.batch_size, num_workers=1, device="cpu", verbose=False
    )
    stores = extractor.run(
        images=[given.slide],
        patch_mode=False,
        input_resolutions=[{"units": "mpp", "resolution": given.mpp}],
        patch_input_shape=(given.tile_px, given.tile_px),
        save_dir=given.out / "features",
        output_type="zarr",
    )
    seconds = time.perf_counter() - begun
    tiles = zarr.open(str(stores[given.slide]), mode="r")["coordinates"].shape[0]
    bare = forward_seconds(model, tiles, given.tile_px, given.batch_size)
    report(tiles, seconds=seconds, forward_seconds=bare)


if __name__ == "__main__":
    main()
