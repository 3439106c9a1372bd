"""Slide embeddings: the right features in, one vector out, and learned from like any features."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from wsi_pipeline.cli import main
from wsi_pipeline.errors import EncoderError
from wsi_pipeline.features import (
    SLIDE_ENCODERS,
    Allowed,
    FeatureMeta,
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


def test_a_slide_encoder_takes_the_features_it_was_trained_on_and_no_others(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="takes features of conch-v15"):
        SLIDE_ENCODERS["titan"].require("uni.hub", 1024)
    with pytest.raises(EncoderError, match="2560 wide, not 1280"):
        SLIDE_ENCODERS["prism"].require("virchow.hub-class", 1280)
    SLIDE_ENCODERS["gigapath"].require("prov-gigapath.hub", 1536)
    SLIDE_ENCODERS["mean"].require("anything.at-all", 7)


@pytest.mark.parametrize("name", [name for name in SLIDE_ENCODERS if name != "mean"])
def test_without_its_package_or_a_persons_leave_nothing_is_made(name: str) -> None:
    entry = SLIDE_ENCODERS[name]
    with pytest.raises(EncoderError, match=r"--trust-remote-code|pip install|clone"):
        entry.build(entry, CPU)


class Layers(torch.nn.Module):
    """Stands for Prov-GigaPath's: all layers' embeddings, the last one the slide's."""

    def forward(self, features: torch.Tensor, coords: torch.Tensor) -> list[torch.Tensor]:
        self.seen = coords
        return [features.sum(1), features.mean(1)]


def test_gigapath_counts_places_in_tiles_of_256_px(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Layers()
    package = ModuleType("gigapath.slide_encoder")
    made: Any = lambda *names, **how: model  # noqa: E731
    package.create_model = made  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "gigapath", ModuleType("gigapath"))
    monkeypatch.setitem(__import__("sys").modules, "gigapath.slide_encoder", package)
    entry = SLIDE_ENCODERS["gigapath"]
    embed = entry.build(entry, CPU)
    features = torch.arange(6.0).reshape(3, 2)
    found = embed(features, torch.tensor([[0, 512], [512, 0], [1030, 1]]), 512.0)
    assert found.tolist() == [2.0, 3.0]
    assert model.seen[0].tolist() == [[0, 256], [256, 0], [515, 0]]


def own(features: torch.Tensor, coords: torch.Tensor, side: float) -> torch.Tensor:
    return torch.cat([features.amax(0), torch.tensor([side])])


def test_a_slide_encoder_of_ones_own_is_a_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = slides(tmp_path, "uni.hub", 4, count=1)
    module = ModuleType("mine")
    module.peak = own  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "mine", module)
    flags = ["--encoder=uni.hub", "--slide-encoder=mine:peak", "--device=cpu"]
    assert main(["embed", str(tmp_path), *flags]) == 0
    bag = read_features(tmp_path / "features" / "mine_peak-of-uni.hub" / "S0.h5")
    np.testing.assert_allclose(bag.features[0], [*features["S0"].max(0), 512], atol=1e-6)
