"""slide2vec with an encoder of timm that is registered as its documentation says; tiles by hs2p."""

import time

import torch
from bare_forward import allow_any_torchvision, forward_seconds
from protocol import extract_arguments, report


def main() -> None:
    given = extract_arguments()
    allow_any_torchvision()
    import timm
    from hs2p import TilingConfig
    from slide2vec import (
        ExecutionOptions,
        Model,
        Pipeline,
        PreprocessingConfig,
        TorchTileEncoder,
        register_encoder,
    )

    network = timm.create_model(given.encoder, pretrained=False, num_classes=0)
    config = timm.data.resolve_model_data_config(network)

    class Encoder(TorchTileEncoder):
        def __init__(self, *, output_variant: str | None = None) -> None:
            super().__init__(
                network, encode_dim=network.num_features, input_size=given.tile_px,
                mean=config["mean"], std=config["std"], output_variant=output_variant,
            )  # fmt: skip

    register_encoder(
        "benchmark", encode_dim=network.num_features, input_size=given.tile_px,
        supports_variable_input_size=True, supported_spacing_um=None,
        default_spacing_um=given.mpp, precision="fp32",
    )(Encoder)  # fmt: skip
    manifest = given.out / "slides.csv"
    manifest.write_text(f"sample_id,image_path\nslide,{given.slide.resolve()}\n")
    begun = time.perf_counter()
    model = Model.from_preset("benchmark", device="cpu")
    tiling = TilingConfig(
        backend="openslide", requested_spacing_um=given.mpp, requested_tile_size_px=given.tile_px,
        tolerance=0.05, overlap=0.0,
    )  # fmt: skip
    execution = ExecutionOptions(
        output_dir=given.out / "run", batch_size=given.batch_size, num_workers_per_gpu=1,
        num_gpus=1, precision="fp32",
    )  # fmt: skip
    Pipeline(
        model=model, preprocessing=PreprocessingConfig(tiling=tiling), execution=execution
    ).run(manifest_path=manifest)
    seconds = time.perf_counter() - begun
    tiles = len(torch.load(next((given.out / "run").rglob("*.pt"))))
    bare = forward_seconds(network.eval(), tiles, given.tile_px, given.batch_size)
    report(tiles, seconds=seconds, forward_seconds=bare)


if __name__ == "__main__":
    main()
