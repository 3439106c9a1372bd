"""Encoders: what comes out depends on the tile alone, and is what the model's authors meant."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from wsi_pipeline.errors import EncoderError
from wsi_pipeline.features import EncoderModel, Preprocess, load_encoder, register_encoder
from wsi_pipeline.features.encoder import Encoder, Runtime, choose_device, choose_precision
from wsi_pipeline.features.inference import fold_batch_norms, relative_difference
from wsi_pipeline.features.weights import import_timm

GREY = Preprocess(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def tiles(count: int, side: int = 64, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def encoder_of(model: nn.Module, preprocess: Preprocess = GREY, batch_size: int = 4) -> Encoder:
    built = EncoderModel(model=model, preprocess=preprocess, tag="mine.v1")
    return Encoder("mine", built, Runtime(device=torch.device("cpu"), batch_size=batch_size))


class ChannelMeans(nn.Module):
    """Returns what it is fed, averaged over the tile: (B, 3)."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean(dim=(2, 3))


def test_a_timm_models_features_are_those_timm_itself_computes() -> None:
    encoder = load_encoder("test_resnet", "random", "cpu", batch_size=4)
    timm = import_timm()
    torch.manual_seed(0)
    model = timm.create_model("test_resnet")
    model.reset_classifier(0)
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    batch = tiles(5)
    pixels = torch.stack([transform(Image.fromarray(tile)) for tile in batch])
    assert pixels.shape[-1] == 160  # of 64 px, by way of 168
    with torch.inference_mode():
        expected = model.eval()(pixels)
    found = encoder.encode(batch)
    assert found.shape == (5, encoder.dim) == expected.shape
    assert found.dtype == np.float32
    assert relative_difference(expected, torch.from_numpy(found)) < 1e-4


def test_features_do_not_depend_on_neighbours_or_threads() -> None:
    encoder = load_encoder("test_resnet", "random", "cpu", batch_size=4)
    batch = tiles(11)
    together = encoder.encode(batch)
    apart = [encoder.encode(batch[start:stop]) for start, stop in ((0, 1), (1, 7), (7, 11))]
    assert np.array_equal(together, np.concatenate(apart))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        single = load_encoder("test_resnet", "random", "cpu", batch_size=4)
        torch.set_num_threads(2)
        double = load_encoder("test_resnet", "random", "cpu", batch_size=4)
        assert (single.lanes, double.lanes) == (1, 2)
        assert np.array_equal(single.encode(batch), double.encode(batch))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_batch_size_changes_features_by_rounding_only(batch_size: int) -> None:
    batch = tiles(6)
    reference = load_encoder("test_resnet", "random", "cpu", batch_size=4).encode(batch)
    found = load_encoder("test_resnet", "random", "cpu", batch_size=batch_size).encode(batch)
    np.testing.assert_allclose(found, reference, rtol=0, atol=1e-5 * np.abs(reference).max())


def test_no_tiles_give_no_features() -> None:
    assert encoder_of(ChannelMeans()).encode(tiles(0)).shape == (0, 3)


def test_pixels_reach_the_network_as_its_weights_expect() -> None:
    batch = np.stack([np.full((32, 32, 3), level, np.uint8) for level in (0, 255, 51)])
    found = encoder_of(ChannelMeans()).encode(batch)
    expected = (np.array([0, 1, 0.2]) - 0.5) / 0.25
    np.testing.assert_allclose(found, np.repeat(expected[:, None], 3, axis=1), atol=1e-5)


def test_colour_channels_keep_their_order() -> None:
    preprocess = Preprocess(mean=(0.0, 0.1, 0.2), std=(1.0, 1.0, 1.0))
    red = np.zeros((1, 8, 8, 3), np.uint8)
    red[..., 0] = 255
    found = encoder_of(ChannelMeans(), preprocess).encode(red)
    np.testing.assert_allclose(found[0], [1.0, -0.1, -0.2], atol=1e-6)


def test_fixed_input_sizes_are_met_and_others_fed_as_they_are() -> None:
    vit = load_encoder("test_vit", "random", "cpu", batch_size=2)
    assert vit.preprocess.input_px == 160
    assert vit.encode(tiles(1, 256)).shape == (1, vit.dim)
    seen: list[tuple[int, ...]] = []

    class Notes(ChannelMeans):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(pixels.shape[2:]))
            return super().forward(pixels)

    encoder_of(Notes()).encode(tiles(1, 96))
    resized = Preprocess(mean=GREY.mean, std=GREY.std, input_px=40)
    encoder_of(Notes(), resized).encode(tiles(1, 96))
    assert seen[1] == (96, 96)
    assert seen[-1] == (40, 40)


def test_channels_last_reaches_the_network_without_a_copy() -> None:
    layouts: list[bool] = []

    class Notes(ChannelMeans):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            layouts.append(pixels.is_contiguous(memory_format=torch.channels_last))
            return super().forward(pixels)

    encoder_of(Notes()).encode(tiles(4))
    assert all(layouts)


class Hungry(ChannelMeans):
    """Runs out of memory with more than ``limit`` tiles at once."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.sizes: list[int] = []

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(pixels))
        if len(pixels) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory (pretended)")
        return super().forward(pixels)


def test_out_of_memory_halves_the_batch_and_remembers() -> None:
    model = Hungry(limit=3)
    encoder = encoder_of(model, batch_size=16)
    batch = tiles(10)
    assert np.allclose(encoder.encode(batch), encoder_of(ChannelMeans()).encode(batch))
    assert encoder.batch_size == 2
    model.sizes.clear()
    encoder.encode(batch)
    assert max(model.sizes) == 2


def test_a_tile_that_never_fits_is_refused() -> None:
    model = Hungry(limit=1)
    encoder = encoder_of(model, batch_size=2)
    model.limit = 0
    with pytest.raises(EncoderError, match="one tile does not fit"):
        encoder.encode(tiles(1))


@pytest.mark.parametrize("name", ["densenet121", "test_resnet"])
def test_openvino_gives_the_same_features(name: str) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    batch = tiles(9)
    how = {"weights": "random", "device": "cpu", "batch_size": 4}
    expected = load_encoder(name, **how).encode(batch)
    encoder = load_encoder(name, **how, kernels="openvino")
    found = encoder.encode(batch)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    apart = [encoder.encode(batch[start:stop]) for start, stop in ((0, 1), (1, 9))]
    assert np.array_equal(found, np.concatenate(apart))
    other = np.ascontiguousarray(batch[:, :32, :32])
    assert encoder.encode(other).shape == (9, encoder.dim)


def test_openvino_is_refused_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EncoderError, match=r"pip install 'wsi-pipeline\[openvino\]'"):
        load_encoder("test_resnet", "random", "cpu", kernels="openvino")


def test_a_compiler_that_fails_is_named_before_any_slide() -> None:
    class Uncompilable(ChannelMeans):
        compiled = False

        def compile(self, **how: object) -> None:
            self.compiled = True

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            if self.compiled:
                raise RuntimeError("no working C++ compiler found")
            return super().forward(pixels)

    built = EncoderModel(model=Uncompilable(), preprocess=GREY, tag="mine.v1")
    runtime = Runtime(device=torch.device("cpu"), batch_size=1, kernels="compiled")
    with pytest.raises(EncoderError, match=r"no working C.* run without --kernels compiled"):
        Encoder("mine", built, runtime)


@pytest.mark.parametrize("wrong", [np.zeros((2, 8, 8, 3)), np.zeros((2, 3, 8, 8), np.uint8)])
def test_anything_but_uint8_rgb_tiles_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(EncoderError, match=r"\(B, H, W, 3\) uint8"):
        encoder_of(ChannelMeans()).encode(wrong)


def test_a_network_that_does_not_pool_is_refused() -> None:
    with pytest.raises(EncoderError, match="pooled"):
        encoder_of(nn.Identity()).encode(tiles(1))


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "densenet121"])
def test_folding_batch_norms_changes_nothing_but_the_speed(name: str) -> None:
    torch.manual_seed(1)
    model = import_timm().create_model(name, num_classes=0).eval().requires_grad_(False)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:  # fresh statistics would make every norm the identity
        norm.running_mean.normal_(0, 0.2)
        norm.running_var.uniform_(0.5, 2)
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(0, 0.2)
    pixels = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        before = model(pixels)
        folded = fold_batch_norms(model)
        after = model(pixels)
    left = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert folded > len(norms) / 3
    assert folded + left == len(norms)
    assert relative_difference(before, after) < 1e-4


def test_a_norm_whose_convolution_is_used_twice_stays() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.norm.running_mean.fill_(0.3)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            raw = self.conv(pixels)
            return (self.norm(raw) + raw).mean(dim=(2, 3))

    model = Shared().eval()
    assert fold_batch_norms(model) == 0
    assert isinstance(model.norm, nn.BatchNorm2d)


def test_an_encoder_of_your_own_is_one_registered_function() -> None:
    def build(weights: str) -> EncoderModel:
        return EncoderModel(model=ChannelMeans(), preprocess=GREY, tag=f"means.{weights}")

    register_encoder("means", build)
    encoder = load_encoder("means", "v3", "cpu")
    assert (encoder.tag, encoder.dim) == ("means.v3", 3)
    assert encoder.provenance["preprocess"]["std"] == [0.25, 0.25, 0.25]


def test_unknown_names_are_refused_with_a_hint() -> None:
    with pytest.raises(EncoderError, match="densenet121"):
        load_encoder("densenet12", "random", "cpu")
    with pytest.raises(EncoderError, match=r"densenet121\.ra_in1k, densenet121\.tv_in1k"):
        load_encoder("densenet121.mine", "random", "cpu")
    with pytest.raises(EncoderError, match="cannot import"):
        load_encoder("nowhere.to_be_found:build", "random", "cpu")


def test_devices_and_precisions_that_are_not_there_are_refused() -> None:
    with pytest.raises(EncoderError, match="unknown"):
        choose_device("tpu-or-so")
    if not torch.cuda.is_available():
        assert choose_device("auto").type in ("cpu", "mps")
        with pytest.raises(EncoderError, match="not available"):
            choose_device("cuda")
    cpu = torch.device("cpu")
    assert choose_precision("auto", cpu) == "fp32"
    with pytest.raises(EncoderError, match="GPU"):
        choose_precision("bf16", cpu)
