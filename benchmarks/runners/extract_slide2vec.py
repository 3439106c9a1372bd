"""slide2vec with an encoder of timm that is registered as its documentation says; tiles by hs2p."""

import time

from bare_forward import allow_any_torchvision, forward_seconds
from protocol import extract_arguments, report


def main() -> None:
    given = extract_arguments()
    allow_any_torchvision()
    from hs2p import TilingConfig
    from slide2vec import (
        ExecutionOptions,
        Model,
        Pipeline,
        PreprocessingConfig,
        TimmTileEncoder,
        register_encoder,
    )

    made = []

    class Encoder(TimmTileEncoder):
        def __init__(self, *, output_variant: str | None = None) -> None:
            super().__init__(given.encoder, output_variant=output_variant, pretrained=False)
            made.append(self._model)

    width = _width(given.encoder)
    register_encoder(
        "benchmark", encode_dim=width, input_size=given.tile_px,
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
    tiles = _tiles(given.out / "run")
    bare = forward_seconds(made[0].eval(), tiles, given.tile_px, given.batch_size)
    report(tiles, seconds=seconds, forward_seconds=bare)


def _width(encoder: str) -> int:
    import timm

    return timm.create_model(encoder, pretrained=False, num_classes=0).num_features


def _tiles(run) -> int:
    import torch

    path = next(run.rglob("*.pt"))
    return len(torch.load(path))


if __name__ == "__main__":
    main()
