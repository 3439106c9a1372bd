"""Tumour against normal liver on real tiles of one slide, under a spatial split.

One patient, rectangles drawn by a non-pathologist: a check that the machinery learns morphology
from real pixels, and nothing medical. The mean colour of a tile alone is right on 98 % of them, so
colour, brightness and contrast are taken away first.
"""

import csv

import cv2
import h5py
import numpy as np
import pytest

from wsi_pipeline.features import load_encoder
from wsi_pipeline.learn import (
    Bootstrap,
    Cases,
    FeatureFolder,
    FitSettings,
    ModelSpec,
    fit_tile_classifier,
    tile_probabilities,
)
from wsi_pipeline.learn.evaluate import evaluate
from wsi_pipeline.learn.splits import SplitSlide

TILE_PX = 256
GAP_PX = 2 * TILE_PX  # training tiles nearer than this to a tested one are left out
BLOCK_PX = 8 * TILE_PX  # tiles of one block are no independent cases
BANDS = 5


@pytest.fixture(scope="module")
def tiles(data_dir):
    """Coordinates (N, 2), class names (N) and features (N, D) of the real tiles."""
    with (data_dir / "liver_tiles" / "tiles.csv").open() as file:
        rows = list(csv.DictReader(file))
    coords = np.array([[int(row["x0_level0"]), int(row["y0_level0"])] for row in rows])
    labels = np.array([row["class"].removeprefix("sarcoma_slide_") for row in rows])
    pixels = np.stack([colourless(data_dir / "liver_tiles" / row["path"]) for row in rows])
    encoder = load_encoder("tf_efficientnet_lite0", "package", "cpu")
    features = np.concatenate([encoder.encode(pixels[i : i + 32]) for i in range(0, len(rows), 32)])
    return coords, labels, np.asarray(features, dtype=np.float32)


def colourless(path):
    """Return a tile as grey levels of the same mean and contrast as all others, (H, W, 3) uint8."""
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(float)
    grey = (grey - grey.mean()) / grey.std() * 35 + 170
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def bands_of(coords, labels):
    """Cut each class's own region into bands of equal height in tiles; return the band (N,)."""
    bands = np.empty(len(labels), dtype=int)
    for label in np.unique(labels):
        y = coords[labels == label, 1]
        edges = np.quantile(y, np.linspace(0, 1, BANDS + 1)[1:-1])
        bands[labels == label] = np.searchsorted(edges, y, "right")
    return bands


def far_from(coords, tested):
    """Return which tiles are at least the gap away from every tested one, (N,) bool."""
    apart = np.abs(coords[:, None] - coords[tested][None]).max(2) - TILE_PX
    return (apart >= GAP_PX).all(1)


def blocks_of(coords, labels):
    return [f"{c}-{x}-{y}" for c, (x, y) in zip(labels, coords // BLOCK_PX, strict=True)]


def test_tumour_is_told_from_normal_in_unseen_places(tiles, tmp_path, record_property):
    coords, labels, features = tiles
    classes = ("metastasis", "normal_liver")
    bands, blocks = bands_of(coords, labels), np.array(blocks_of(coords, labels))
    probabilities = np.full((len(labels), 2), np.nan)
    for band in range(BANDS):
        tested = bands == band
        kept = far_from(coords, tested) & ~tested
        distance = np.abs(coords[kept][:, None] - coords[tested][None]).max(2)
        assert distance.min() >= TILE_PX + GAP_PX
        head = train_on(
            tmp_path / str(band), features[kept], labels[kept], bands[kept], blocks[kept]
        )
        probabilities[tested] = tile_probabilities(head, features[tested])
        right = probabilities[tested].argmax(1) == (labels[tested] == classes[1])
        record_property(
            f"accuracy of band {band} ({tested.sum()} tiles)", round(float(right.mean()), 3)
        )

    targets = (labels == classes[1]).astype(np.int64)
    cases = Cases(targets=targets, probabilities=probabilities, patients=tuple(blocks))
    found = evaluate(cases, classes, Bootstrap(resamples=2000))
    accuracy, auroc = found["measures"]["accuracy"], found["measures"]["auroc"]
    record_property("accuracy, 95 % interval over blocks", str(accuracy))
    record_property("AUROC, 95 % interval over blocks", str(auroc))
    assert accuracy["value"] >= 0.95
    assert accuracy["low"] >= 0.9


def train_on(folder, features, labels, bands, blocks):
    """Train the tile classifier; the last band left decides when to stop. A block is a bag."""
    folder.mkdir()
    slides = []
    for block in np.unique(blocks):
        inside = blocks == block
        split = "val" if (bands[inside] == bands.max()).mean() > 0.5 else "train"
        with h5py.File(folder / f"{block}.h5", "w") as file:
            file["features"] = features[inside]
            file["coords"] = np.zeros((inside.sum(), 2), dtype=np.int64)
        slides.append(
            SplitSlide(
                slide_id=block,
                patient_id=block,
                label=str(labels[inside][0]),
                cohort="",
                split=split,
            )
        )
    store = FeatureFolder(folder, slides)
    settings = FitSettings(epochs=5, patience=3)
    classes = ("metastasis", "normal_liver")
    head, epochs = fit_tile_classifier(ModelSpec(name="mlp"), store, slides, classes, settings)
    for _ in epochs:
        pass
    return head
