"""Published encoders: fed and read as their publishers do, and never mixed with another recipe."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from features.recipes import PACKAGED, RECIPES, STATES, measure, pixel_distance, plant, state_of
from features.recipes import tiles_of as planted_tiles
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from wsi_pipeline.cli import main
from wsi_pipeline.errors import EncoderError, StoreMismatchError
from wsi_pipeline.features import (
    PUBLISHED,
    Asked,
    FeatureMeta,
    Identity,
    find_published,
    identify,
    load_encoder,
    read_features,
    write_features,
)
from wsi_pipeline.features.encoder import Encoder, EncoderModel, Preprocess, Runtime, see
from wsi_pipeline.features.networks import build_network, load_network, pooled, preprocess_of
from wsi_pipeline.features.published import recipe_digest
from wsi_pipeline.features.resample import PILLOW, exact, pillow_resize
from wsi_pipeline.features.weights import Weights, import_timm
from wsi_pipeline.learn import feature_settings, shared_settings
from wsi_pipeline.pipeline.extract_jobs import require_same_weights
from wsi_pipeline.run_folder import stores_in
from wsi_pipeline.verbs.tiles import ExtractConfig

pytest.importorskip("transformers", reason="the extra transformers is not installed")


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_encoder_is_fed_and_read_as_its_card_says(name: str) -> None:
    found = measure(name)
    assert found.pixels <= 1e-5
    if name not in PACKAGED:
        assert found.features is not None
        assert found.features <= 1e-5
        assert found.width == PUBLISHED[name].width


@pytest.mark.parametrize("side", [224, 512])
@pytest.mark.parametrize("name", ["uni", "prov-gigapath", "kaiko-vits16", "phikon-v2", "conch"])
def test_tiles_of_any_size_are_fed_as_the_card_says(name: str, side: int) -> None:
    transform = PACKAGED[name]() if name in PACKAGED else RECIPES[name].transform()
    assert pixel_distance(PUBLISHED[name], transform, planted_tiles(side)) <= 1e-5


def test_every_entry_has_a_card_of_its_own_and_says_what_a_person_needs() -> None:
    assert set(PUBLISHED) == set(RECIPES) | set(PACKAGED)
    for entry in PUBLISHED.values():
        assert entry.licence
        assert entry.paper.startswith("https://")
        assert not entry.revision or re.fullmatch(r"[0-9a-f]{40}", entry.revision)
        assert bool(entry.install) == (entry.name in PACKAGED)


def test_the_libraries_still_build_the_networks_that_the_weights_are_for() -> None:
    known = json.loads(STATES.read_text("utf-8"))
    assert set(known) == {name for name, entry in PUBLISHED.items() if not entry.install}
    changed = [name for name in known if state_of(PUBLISHED[name]) != known[name]]
    assert changed == [], "timm or transformers build these differently now: names or shapes"


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(2, 300),
    side=st.integers(1, 300),
    how=st.sampled_from(sorted(PILLOW)),
    seed=st.integers(0, 99),
)
def test_matrix_products_resize_to_pillows_own_bytes(
    size: int, side: int, how: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    tiles = torch.from_numpy(rng.choice([0, 1, 127, 254, 255], (1, size, size, 3)).astype(np.uint8))
    assert torch.equal(exact(tiles, side, how), pillow_resize(tiles, side, how))


@pytest.mark.parametrize(
    "name",
    [
        "test_vit",
        "test_convnext",
        "test_efficientnet",
        "vit_tiny_patch16_224",
        "tiny_vit_5m_224",
    ],  # crop_pct 0.95; the last of five unlike ones that were tried
)
def test_any_timm_model_sees_what_timms_own_transform_makes(name: str) -> None:
    encoder = load_encoder(name, "random", "cpu", batch_size=2)
    timm = import_timm()
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    transform = timm.data.create_transform(**config, is_training=False)
    tiles = planted_tiles(256)
    expected = torch.stack([transform(Image.fromarray(tile)) for tile in tiles])
    mean, std = (torch.tensor(config[key]).reshape(3, 1, 1) for key in ("mean", "std"))
    found = (see(torch.from_numpy(tiles), encoder.preprocess) / 255 - mean) / std
    assert (found - expected).abs().max() <= 1e-5
    assert encoder.encode(tiles).shape == (2, encoder.dim)


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet18.a1_in1k", "hf_hub:timm/resnet18.a1_in1k"])
@pytest.mark.parametrize("weights", ["auto", "random"])
def test_a_model_of_the_hub_is_asked_for_in_a_sentence(
    name: str, weights: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for ask in (identify, load_encoder):
        with pytest.raises(EncoderError, match=r"'hf-hub:timm/resnet18\.a1_in1k': its .*cannot be"):
            ask(Asked(name=name, weights=weights))
    with pytest.raises(EncoderError, match="a model of the hub is hf-hub:timm/resnet18"):
        identify(Asked(name="timm/resnet18.a1_in1k"))


def test_the_studys_own_networks_see_tiles_as_they_are_and_resume_as_before() -> None:
    for name in ("densenet121", "resnet50", "resnet101", "resnet152", "vgg16"):
        found = identify(Asked(name=name, weights="random"))
        assert found.tag == f"{name}.random-seed0"
        before = {
            "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "input_px": None,
            "interpolation": "bicubic",
        }  # fmt: skip
        assert found.recipe == recipe_digest(before)
    assert identify(Asked(name="vgg16", weights="random", pooling="mean")).recipe != found.recipe


def test_names_that_mean_an_entry() -> None:
    uni = PUBLISHED["uni"]
    assert find_published("hf-hub:MahmoodLab/uni") is uni
    assert find_published("uni.hub") is uni
    assert find_published("resnet50.tv_in1k") is PUBLISHED["resnet50"]
    assert find_published("vit_large_patch16_224") is None
    with pytest.raises(EncoderError, match=r"did you mean .*virchow2"):
        identify(Asked(name="virchow-2", weights="random"))


def test_a_changed_entry_has_another_recipe() -> None:
    entry = PUBLISHED["uni"]
    digests = {
        recipe_digest({"resampling": "pillow"}, "auto", changed)
        for changed in (
            entry, replace(entry, revision="0" * 40, pinned_later=False),
            replace(entry, hub="else/where"),
            replace(entry, arguments={**entry.arguments, "init_values": 1.0}),
        )
    }  # fmt: skip
    assert len(digests) == 4


def test_a_pin_that_came_later_changes_no_recipe_that_is_on_disk() -> None:
    entry = PUBLISHED["uni"]
    assert entry.revision
    before = replace(entry, revision="", pinned_later=False)
    assert recipe_digest({}, "auto", entry) == recipe_digest({}, "auto", before)


COMMITS = ("1" * 40, "2" * 40)


def write_bag(run: Path, slide_id: str, commit: str | None) -> None:
    source = f"hub MahmoodLab/UNI at {commit}, pytorch_model.bin sha256:{'a' * 64}"
    told = {} if commit is None else {"encoder_provenance": {"weights": source}}
    meta = FeatureMeta(slide_id=slide_id, encoder="uni.hub", tile_px=256, tile_px_level0=256.0,
                       mpp=0.5, level0_size=(0, 0), provenance=told)  # fmt: skip
    path = run / "features" / "uni.hub" / f"{slide_id}.h5"
    write_features(path, np.ones((2, 4), np.float32), np.array([[0, 0], [0, 256]]), meta)


def test_features_of_two_commits_of_the_weights_never_mix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bag(tmp_path, "A", COMMITS[0])
    config = ExtractConfig(run=tmp_path, encoder="uni")
    same = Identity(tag="uni.hub", recipe="", weights=COMMITS[0])
    require_same_weights(config, same)
    other = replace(same, weights=COMMITS[1])
    with pytest.raises(StoreMismatchError, match=r"A\.h5.*111111111111.*222222222222.*--overwrite"):
        require_same_weights(config, other)
    require_same_weights(config.model_copy(update={"overwrite": True}), other)
    require_same_weights(config, replace(other, weights=""))  # random ones have a tag of their own
    write_bag(tmp_path, "B", None)  # an older store, which does not tell
    prepared = {name: feature_settings(read_features(path).attributes)
                for name, path in stores_in(tmp_path / "features/uni.hub").items()}  # fmt: skip
    shared_settings(prepared)
    write_bag(tmp_path, "C", COMMITS[1])
    assert main(["embed", str(tmp_path), "--encoder=uni", "--device=cpu"]) != 0
    said = capsys.readouterr()
    assert "'A' and 'C' were prepared differently: weights" in said.out + said.err


def test_a_file_that_is_known_to_be_anothers_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ctranspath.pth"
    file.write_bytes(b"")
    digests = {name: PUBLISHED[name].sha256 for name in ("ctranspath", "chief-ctranspath")}
    monkeypatch.setattr("wsi_pipeline.features.weights._sha256", lambda _: digests["ctranspath"])
    assert identify(Asked(name="ctranspath", weights=str(file))).tag == "ctranspath.file-7c998680"
    monkeypatch.setattr(
        "wsi_pipeline.features.weights._sha256", lambda _: digests["chief-ctranspath"]
    )
    with pytest.raises(EncoderError, match=r"CHIEF_CTransPath\.pth.*--encoder chief-ctranspath"):
        identify(Asked(name="ctranspath", weights=str(file)))
    monkeypatch.setattr("wsi_pipeline.features.weights._sha256", lambda _: "f" * 64)  # saved anew
    assert identify(Asked(name="ctranspath", weights=str(file))).weights == "f" * 64


class Tokens(nn.Module):
    """Stands for a network of class token, two registers and three patches."""

    num_prefix_tokens = 3

    def forward_features(self, pixels: torch.Tensor) -> torch.Tensor:
        values = torch.tensor([1.0, 50, 60, 2, 3, 7])
        return values.reshape(1, 6, 1).expand(len(pixels), 6, 4)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.forward_features(pixels)


def test_tokens_are_pooled_as_asked_or_refused_by_the_flags_name() -> None:
    pixels = torch.zeros(2, 3, 8, 8)
    assert pooled(Tokens(), "class", "t")(pixels).tolist() == [[1.0] * 4] * 2
    assert pooled(Tokens(), "mean", "t")(pixels).tolist() == [[4.0] * 4] * 2
    assert pooled(Tokens(), "class+mean", "t")(pixels).shape == (2, 8)
    grey = Preprocess(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    built = EncoderModel(model=Tokens(), preprocess=grey, tag="tokens")
    encoder = Encoder("tokens", built, Runtime(device=torch.device("cpu"), batch_size=1))
    with pytest.raises(EncoderError, match="--pooling class, mean or class"):
        encoder.encode(np.zeros((1, 8, 8, 3), np.uint8))
    whole = load_encoder(Asked(name="test_vit", weights="random"), device="cpu")
    patches = load_encoder(Asked(name="test_vit", weights="random", pooling="mean"), device="cpu")
    assert patches.tag == "test_vit.random-seed0-mean"
    assert patches.dim == whole.dim
    with pytest.raises(EncoderError, match="no class token; --pooling mean"):
        load_encoder(Asked(name="test_convnext", weights="random", pooling="class"), device="cpu")
    flat = load_encoder(Asked(name="test_convnext", weights="random", pooling="mean"), device="cpu")
    assert flat.encode(planted_tiles(64)).shape == (2, flat.dim)


def shallow(name: str, **changes: Any) -> Any:
    entry = PUBLISHED[name]
    return replace(entry, arguments={**entry.arguments, **RECIPES[name].shallow, **changes})


def weights_of(path: Path) -> Weights:
    return Weights(tag="file", source="test", path=path)


@pytest.mark.parametrize("name", ["phikon", "phikon-v2", "hibou-b", "plip"])
def test_a_published_file_of_transformers_loads_whole_or_not_at_all(
    tmp_path: Path, name: str
) -> None:
    entry = shallow(name, hidden_size=48, num_attention_heads=4)
    network: Any = build_network(entry).eval()
    plant(network)
    network.save_pretrained(tmp_path)  # under the names that publishers' files have
    file = tmp_path / "model.safetensors"
    pixels = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        expected = pooled(network, entry.pooling, name)(pixels)
        found = load_network(entry, weights_of(file), entry.pooling)(pixels)
    assert torch.equal(expected, found)
    from safetensors.torch import load_file

    state = load_file(file)
    state.pop(next(key for key in state if "layer" in key and key.endswith("weight")))
    save_file(state, file)
    with pytest.raises(EncoderError, match=r"do not fit the encoder .*missing"):
        load_network(entry, weights_of(file), entry.pooling)


def test_a_training_checkpoint_and_another_input_size_load(tmp_path: Path) -> None:
    entry = shallow("kaiko-vits16")
    small = build_network(entry, img_size=112).eval()
    plant(small)
    file = tmp_path / "checkpoint.pth"
    wrapped = {f"backbone.{key}": value for key, value in small.state_dict().items()}
    torch.save({"teacher": {**wrapped, "dino_head.mlp.weight": torch.zeros(2)}}, file)
    pixels = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        expected = small(pixels)  # timm stretches the places of a dynamic network as it runs
        found = load_network(entry, weights_of(file), "auto")(pixels)
    assert torch.equal(expected, found)


def test_ctranspaths_file_has_an_older_swins_names(tmp_path: Path) -> None:
    entry = shallow("ctranspath")
    network = build_network(entry).eval()
    plant(network)

    def older(key: str) -> str:
        return re.sub(
            r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", key
        )

    state = {older(key): value for key, value in network.state_dict().items()}
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49)
    file = tmp_path / "ctranspath.pth"
    torch.save({"model": state}, file)
    pixels = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        found = load_network(entry, weights_of(file), "auto")(pixels)
        assert torch.equal(found, network(pixels))


class Conch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Linear(1, 1)

    def encode_image(
        self, pixels: torch.Tensor, *, proj_contrast: bool, normalize: bool
    ) -> torch.Tensor:
        assert not proj_contrast
        assert not normalize
        return pixels.mean(dim=(2, 3))


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **functions: Any) -> None:
    parent, _, child = name.partition(".")
    module = ModuleType(name)
    vars(module).update(functions)
    if parent not in sys.modules:
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(sys.modules[parent], child, module, raising=False)


def test_conch_comes_with_its_package_and_its_transform_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entry, file = PUBLISHED["conch"], tmp_path / "conch.bin"
    with pytest.raises(EncoderError, match="pip install git"):
        load_network(entry, weights_of(file), "auto")
    transform = PACKAGED["conch"]()
    stand_in(
        monkeypatch, "conch.open_clip_custom",
        create_model_from_pretrained=lambda name, path: (Conch(), transform),
    )  # fmt: skip
    torch.save({"module.visual.weight": torch.ones(1, 1)}, file)
    with pytest.raises(EncoderError, match=r"lack 1 of its 2 tensors, such as visual\.bias"):
        load_network(entry, weights_of(file), "auto")  # its own loader would leave it random
    torch.save({f"module.{name}": value for name, value in Conch().state_dict().items()}, file)
    assert load_network(entry, weights_of(file), "auto")(torch.zeros(2, 3, 8, 8)).shape == (2, 3)
    transform = PACKAGED["musk"]()
    with pytest.raises(EncoderError, match="transform that comes with its weights"):
        load_network(entry, weights_of(file), "auto")


def test_conch_v15_comes_from_its_own_file_and_with_the_recipe_that_it_had(tmp_path: Path) -> None:
    entry, file = shallow("conch-v15"), tmp_path / "conch_v1_5_pytorch_model.bin"
    card = RECIPES["conch-v15"].build(depth=1).eval()
    plant(card)
    plant(card.trunk.patch_embed)
    torch.nn.init.normal_(card.trunk.pos_embed)  # places that weigh as much as what is seen
    torch.save(card.state_dict(), file)
    pixels = torch.randn(2, 3, 448, 448, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, expected = load_network(entry, weights_of(file), "auto")(pixels), card(pixels)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    state = card.state_dict()
    state.pop("attn_pool_contrast.query")
    torch.save(state, file)
    with pytest.raises(EncoderError, match=r"do not fit .*'conch-v15'.*attn_pool_contrast\.query"):
        load_network(entry, weights_of(file), "auto")
    # features of before, made by the code inside TITAN, were of the same file at the same revision
    known = recipe_digest(preprocess_of(PUBLISHED["conch-v15"]).as_dict(), "auto",
                          replace(PUBLISHED["conch-v15"], file=""))  # fmt: skip
    assert identify(Asked(name="conch-v15", weights="random")).recipe == known


def test_weights_out_of_reach_are_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(EncoderError, match=r"huggingface.co/MahmoodLab/UNI .*hf auth login.*hf do"):
        identify(Asked(name="uni"))
    with pytest.raises(EncoderError, match=r"ctranspath\.pth as https://github\.com"):
        identify(Asked(name="ctranspath"))
