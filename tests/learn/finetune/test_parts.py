"""The parts of fine-tuning: order, reading, augmentation, network, scores."""

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsi_pipeline.learn import SplitSlide
from wsi_pipeline.learn.finetune import augment, build_network, epoch_order
from wsi_pipeline.learn.finetune.network import parameter_groups, prepare, scale
from wsi_pipeline.learn.finetune.tiles import all_tiles, read_batches
from wsi_pipeline.learn.settings import AugmentSettings
from wsi_pipeline.stain import REFERENCE


@dataclass
class Counted:
    """Tiles that say where they are from: every pixel is (slide, tile, 0)."""

    slides: tuple[SplitSlide, ...]
    counts: tuple[int, ...]
    asked: list[int] = field(default_factory=list)

    def read(self, slide: int, tiles: NDArray[np.int64]) -> NDArray[np.uint8]:
        self.asked.append(slide)
        found = np.zeros((len(tiles), 4, 4, 3), np.uint8)
        found[..., 0], found[..., 1] = slide, tiles[:, None, None]
        return found

    def digests(self) -> dict[str, str]:
        return {}


@st.composite
def cohorts(draw: st.DrawFn) -> Counted:
    labels = draw(st.lists(st.sampled_from("abc"), min_size=2, max_size=12))
    owners = [f"{label}{draw(st.integers(0, 3))}" for label in labels]
    slides = tuple(
        SplitSlide(slide_id=f"s{i}", patient_id=who, label=label, cohort="", split="train")
        for i, (label, who) in enumerate(zip(labels, owners, strict=True))
    )
    counts = tuple(draw(st.lists(st.integers(1, 9), min_size=len(labels), max_size=len(labels))))
    return Counted(slides=slides, counts=counts)


@settings(max_examples=60, deadline=None)
@given(source=cohorts(), most=st.integers(1, 60), seed=st.integers(0, 5))
def test_classes_and_patients_are_shown_equally_often(
    source: Counted, most: int, seed: int
) -> None:
    places = epoch_order(source, "patient", most, seed, 1)
    assert len(places) == min(most, sum(source.counts))
    assert np.array_equal(places, epoch_order(source, "patient", most, seed, 1))
    assert all(0 <= tile < source.counts[slide] for slide, tile in places)
    labels = Counter(source.slides[slide].label for slide, _ in places)
    everyone = {slide.label for slide in source.slides}
    shown = [labels[label] for label in everyone]
    assert max(shown) - min(shown) <= 1
    for label in everyone:
        patients = {s.patient_id for s in source.slides if s.label == label}
        seen = Counter(
            source.slides[slide].patient_id
            for slide, _ in places
            if source.slides[slide].label == label
        )
        assert max(seen[p] for p in patients) - min(seen[p] for p in patients) <= 1


@settings(max_examples=30, deadline=None)
@given(source=cohorts(), batch=st.integers(1, 7), epoch=st.integers(1, 3))
def test_unbalanced_order_shows_all_once_and_batches_are_what_was_asked(
    source: Counted, batch: int, epoch: int
) -> None:
    places = epoch_order(source, "none", None, 0, epoch)
    assert sorted(map(tuple, places)) == sorted(map(tuple, all_tiles(source)))
    read = list(read_batches(source, places, batch))
    assert [len(tiles) for _, tiles in read[:-1]] == [batch] * (len(read) - 1)
    assert np.array_equal(np.concatenate([at for at, _ in read]), places)
    assert np.array_equal(np.concatenate([tiles[:, 0, 0, :2] for _, tiles in read]), places)


def only(**changes: object) -> AugmentSettings:
    """These changes and no other."""
    off = {"zoom": 0, "flip": False, "quarter_turns": False, "stain": 0}
    return AugmentSettings.model_validate(off | changes)


def tile_batch(count: int = 3, side: int = 48) -> torch.Tensor:
    rng = np.random.default_rng(2)
    coarse = rng.uniform(60, 230, (count, 3, 6, 6)).astype(np.float32)
    return torch.nn.functional.interpolate(
        torch.as_tensor(coarse), (side, side), mode="bicubic"
    ).clamp(0, 255)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_nothing_asked_changes_nothing() -> None:
    tiles = tile_batch()
    assert torch.equal(augment(tiles, only(), drawn()), tiles)


def test_turns_and_mirrors_move_pixels_and_keep_them() -> None:
    tiles = tile_batch(16)
    turned = augment(tiles, only(flip=True, quarter_turns=True), drawn())
    kinds = set()
    for before, after in zip(tiles, turned, strict=True):
        orbit = [
            torch.rot90(mirrored, k, (1, 2))
            for mirrored in (before, before.flip(2))
            for k in range(4)
        ]
        kinds.add(next(k for k, each in enumerate(orbit) if torch.equal(each, after)))
    assert len(kinds) >= 5, "of the eight ways to lay a square"


def test_each_kind_of_move_is_what_it_says() -> None:
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    ramp = torch.stack([x, y, x * 0]).float()[None].repeat(8, 1, 1, 1) * 2 + 50
    inner = (slice(None), slice(None), slice(24, 40), slice(24, 40))
    shifted = augment(ramp, only(shift=0.2), drawn())[inner] - ramp[inner]
    for tile in shifted:
        for axis in (0, 1):
            assert tile[axis].std() < 1e-3, "all of a tile goes one way"
            assert tile[axis].abs().max() <= 0.2 * 64 * 2 + 1e-3
    centre = (slice(None), slice(None), slice(31, 33), slice(31, 33))
    for asked in (only(rotate_deg=40), only(zoom=0.2), only(shear=0.2)):
        moved = augment(ramp, asked, drawn())
        assert not torch.allclose(moved[inner], ramp[inner], atol=2)
        assert torch.allclose(moved[centre].mean((2, 3)), ramp[centre].mean((2, 3)), atol=0.5), (
            "the centre stays"
        )
    slope = (augment(ramp, only(zoom=0.2), drawn())[:, 0, 32, 40]
             - augment(ramp, only(zoom=0.2), drawn())[:, 0, 32, 24]) / 16  # fmt: skip
    assert slope.min() >= 2 * 0.8 - 1e-3
    assert slope.max() <= 2 * 1.2 + 1e-3


def test_stains_change_in_optical_density_and_glass_stays_white() -> None:
    amounts = torch.tensor([[0.8, 0.3], [0.2, 0.7], [0.5, 0.5]])
    density = amounts @ torch.tensor(REFERENCE.matrix.tolist())
    pixels = 255 * (-density).exp()
    tiles = pixels[:, :, None, None].repeat(1, 1, 4, 4)
    tiles[:, :, 0, 0] = 255
    stained = augment(tiles, only(stain=0.2), drawn(3))
    assert torch.allclose(stained[:, :, 0, 0], torch.tensor(255.0), atol=0.5)
    found = -(stained[:, :, 2, 2] / 255).log()
    back = found @ torch.linalg.pinv(torch.tensor(REFERENCE.matrix.tolist()))
    assert not torch.allclose(back, amounts, atol=0.02)
    assert ((back - amounts).abs() <= 0.2 * amounts + 0.04 + 1e-3).all()
    residual = found - back @ torch.tensor(REFERENCE.matrix.tolist())
    assert residual.abs().max() < 1e-3, "only the two stains changed"


def test_the_same_seed_gives_the_same_pictures_within_range() -> None:
    asked = only(
        rotate_deg=40, shift=0.2, shear=0.2, zoom=0.2, flip=True, stain=0.2, brightness=0.2
    )
    first, again = (augment(tile_batch(), asked, drawn(5)) for _ in "12")
    assert torch.equal(first, again)
    assert first.min() >= 0
    assert first.max() <= 255
    assert not torch.allclose(first, augment(tile_batch(), asked, drawn(6)))


def test_deeper_layers_learn_more_slowly() -> None:
    built = build_network("resnet10t", "random", 3, dropout=0.1, scaling="model", seed=0)
    groups = parameter_groups(built.network, learning_rate=1.0, layer_decay=0.5, weight_decay=0.1)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    names = dict(built.network.named_parameters())
    assert rate.keys() == {id(p) for p in names.values()}
    head = rate[id(names["head.1.weight"])]
    last = rate[id(names["body.layer4.0.conv1.weight"])]
    first = rate[id(names["body.conv1.0.weight"])]
    assert head == 1.0
    assert first < last <= 0.5
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decay[id(names["body.bn1.weight"])] == 0
    plain = parameter_groups(built.network, learning_rate=1.0, layer_decay=1.0, weight_decay=0)
    assert {group["lr"] for group in plain} == {1.0}


def test_a_frozen_body_does_not_move() -> None:
    built = build_network("resnet10t", "random", 2, dropout=0.0, scaling="unit", seed=0)
    built.network.freeze_body(frozen=True)
    built.network.train()
    before = {name: value.clone() for name, value in built.network.body.state_dict().items()}
    loss = built.network(torch.rand(4, 3, 32, 32)).square().mean()
    loss.backward()
    assert all(p.grad is None for p in built.network.body.parameters())
    assert all(p.grad is not None for p in built.network.head.parameters())
    after = built.network.body.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "statistics as well"


def test_input_is_resized_and_scaled_as_asked() -> None:
    built = build_network("resnet10t", "random", 2, dropout=0.0, scaling="model", seed=0)
    unit = replace(built.preprocess, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    tiles = torch.full((2, 64, 64, 3), 51, dtype=torch.uint8)
    planes = prepare(tiles, 32)
    assert planes.shape == (2, 3, 32, 32)
    assert torch.allclose(scale(planes, unit), torch.tensor(0.2))
    mean, std = built.preprocess.mean[1], built.preprocess.std[1]
    assert torch.allclose(scale(planes, built.preprocess)[:, 1], torch.tensor((0.2 - mean) / std))


def test_the_head_follows_from_the_seed() -> None:
    first, again, other = (
        build_network("resnet10t", "random", 2, dropout=0.0, scaling="model", seed=seed)
        for seed in (1, 1, 2)
    )
    weights = [each.network.head[1].weight for each in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert first.parameters == sum(p.numel() for p in first.network.parameters())


@pytest.mark.parametrize("most", [None, 3])
def test_judged_tiles_are_the_same_every_time(most: int | None) -> None:
    slides = tuple(
        SplitSlide(slide_id=f"s{i}", patient_id=f"p{i}", label="ab"[i % 2], cohort="", split="val")
        for i in range(4)
    )
    source = Counted(slides=slides, counts=(1, 2, 5, 9))
    places = all_tiles(source, most, 7)
    assert np.array_equal(places, all_tiles(source, most, 7))
    counts = Counter(int(slide) for slide, _ in places)
    assert counts == {i: min(c, most or c) for i, c in enumerate(source.counts)}
