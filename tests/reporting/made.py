"""A run folder in miniature, made by the stages' own writers."""

from pathlib import Path

import h5py
import numpy as np

from wsi_pipeline.cohort import CohortSlide, write_cohort
from wsi_pipeline.pictures import write_picture
from wsi_pipeline.pipeline.train import TrainConfig
from wsi_pipeline.pipeline.train import run as train
from wsi_pipeline.reporting import store_heatmap, write_heatmap
from wsi_pipeline.tiles import create_tiles, open_tiles

ENCODER = "densenet121.random-seed0"
LABELS = ("hcc", "cca", "normal")
COUNTS = {"candidates": 9, "rejected_tissue": 3, "rejected_background": 2, "kept": 4}


def slides() -> list[CohortSlide]:
    return [
        CohortSlide(
            slide_id=f"{label}-{patient}",
            path=f"{label}-{patient}.svs",
            patient_id=f"P{patient}{label}",
            label=label,
            cohort="synthetic-tma" if patient >= 7 else "synthetic",
        )
        for label in LABELS
        for patient in range(9)
    ]


def make_tiled(run: Path) -> Path:
    """Cohort table, tile stores and thumbnails of all slides but the last, and a log."""
    cohort = slides()
    run.mkdir(parents=True)
    write_cohort(run / "cohort.csv", cohort)
    (run / "thumbnails").mkdir()
    (run / "tiles").mkdir()
    rng = np.random.default_rng(0)
    for slide in cohort[:-1]:
        store = run / "tiles" / f"{slide.slide_id}.zarr"
        with create_tiles(store, tile_px=32, capacity=4) as writer:
            tiles = rng.integers(120, 255, (4, 32, 32, 3)).astype(np.uint8)
            coords = np.array([[0, 0], [64, 0], [0, 64], [64, 64]])
            writer.append(tiles, coords, {"tissue_fraction": np.ones(4, np.float32)})
            writer.commit(attributes(slide.slide_id))
        seen = rng.integers(0, 255, (40, 60, 3)).astype(np.uint8)
        write_picture(run / "thumbnails" / f"{slide.slide_id}.jpg", seen)
    return run


def attributes(slide_id: str) -> dict[str, object]:
    return {
        "counts": COUNTS,
        "flags": ["stain_not_he"] if slide_id == "hcc-0" else [],
        "tile_px_level0": 64,
        "mpp_effective": 0.5,
        "stain": {"method": "macenko"},
        "slide_digest": f"digest-{slide_id}",
        "config": {"mpp": 0.5, "stain": "macenko"},
    }


def make_trained(run: Path) -> Path:
    """The same with features, a trained model and a heatmap."""
    make_tiled(run)
    folder = run / "features" / ENCODER
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for slide in slides()[:-1]:
        features = rng.normal(size=(4, 8)).astype(np.float32)
        features[:, LABELS.index(slide.label or "")] += 1.5
        with h5py.File(folder / f"{slide.slide_id}.h5", "w") as file:
            file["features"] = features
            file["coords"] = open_tiles(run / "tiles" / f"{slide.slide_id}.zarr").coords
            file["coords"].attrs["patch_size_level0"] = 64
            file.attrs.update({"encoder": ENCODER, "tile_px": 32, "mpp": 0.5})
    quick = {"epochs": 3, "resamples": 100, "hidden": 8, "device": "cpu"}
    list(train(TrainConfig(run=run, encoder=ENCODER, external="synthetic-tma", **quick)))
    drawn, limits = store_heatmap(open_tiles(run / "tiles" / "hcc-0.zarr"), [0.1, 0.4, 0.2, 0.3])
    write_heatmap(run / "heatmaps" / ENCODER, "hcc-0", drawn, "attention of abmil", limits)
    return run
