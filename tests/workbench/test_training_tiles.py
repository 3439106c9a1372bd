"""Nearest training tiles, novelty, and walls of tiles, on a run whose figures are known."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors
from starlette.testclient import TestClient
from workbench.conftest import HERE, ID

from wsi_pipeline.features import FeatureMeta, read_features, write_features
from wsi_pipeline.learn import (
    BundleConfig,
    ModelSpec,
    SlidePrediction,
    SplitSlide,
    write_prediction,
    write_splits,
)
from wsi_pipeline.tiles import open_tiles
from wsi_pipeline.workbench import workbench_app

WIDTH = 12
SLIDES = {"a": "train", "b": "train", "c": "train", ID: "test"}
PATIENTS = {"a": "P1", "b": "P2", "c": "P3", ID: "P1"}  # a is of the same patient


@pytest.fixture
def trained(run: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    coords = np.array(open_tiles(folder / "tiles" / f"{ID}.zarr").coords)
    rng = np.random.default_rng(0)
    model = folder / "models" / "m"
    model.mkdir(parents=True)
    config = BundleConfig(
        name="m",
        classes=("hcc", "normal"),
        encoder="enc.x",
        width=WIDTH,
        tile_classifier=ModelSpec(name="mlp"),
        aggregators={"abmil": ModelSpec(name="abmil")},
        primary="abmil",
        seed=0,
    ).to_json()
    (model / "config.json").write_text(json.dumps(config))
    write_splits(
        model / "splits.csv",
        [SplitSlide(slide_id=n, patient_id=PATIENTS[n], label="normal", cohort="a", split=s)
         for n, s in SLIDES.items()],
    )  # fmt: skip
    for name in SLIDES:
        features = rng.normal(size=(len(coords), WIDTH)).astype(np.float32)
        meta = FeatureMeta(slide_id=name, encoder="enc.x", tile_px=256, tile_px_level0=1024.0,
                           level0_size=(15071, 13500))  # fmt: skip
        write_features(folder / "features" / "enc.x" / f"{name}.h5", features, coords, meta)
    said = rng.dirichlet((1, 1), len(coords)).astype(np.float32)
    weights = rng.dirichlet(np.ones(len(coords))).astype(np.float32)
    write_prediction(
        folder / "predictions" / "m" / f"{ID}.h5",
        SlidePrediction(
            classes=("hcc", "normal"), coords=coords, tiles=said, attention={"abmil": weights},
            slide={"abmil": said.mean(axis=0, dtype=np.float64)}, novelty=0.1, made_from={},
        ),
    )  # fmt: skip
    return folder


@pytest.fixture
def person(trained: Path) -> Iterator[TestClient]:
    with TestClient(workbench_app(trained, None, "word"), base_url=HERE) as client:
        client.get("/?token=word")
        yield client


def _unit(folder: Path, name: str) -> np.ndarray:
    found = read_features(folder / "features" / "enc.x" / f"{name}.h5").features
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_the_nearest_training_tiles_are_of_other_patients(
    person: TestClient, trained: Path
) -> None:
    told = person.get(f"/api/slides/{ID}/tiles/5/nearest/m").json()
    assert isinstance(told, list), told
    assert {each["slide"] for each in told} == {"b", "c"}
    asked = _unit(trained, ID)[5:6]
    for each in told:
        there = _unit(trained, each["slide"])
        reach, index = NearestNeighbors(n_neighbors=1).fit(there).kneighbors(asked)
        coords = read_features(trained / "features" / "enc.x" / f"{each['slide']}.h5").coords
        assert each["distance"] == pytest.approx(float(reach[0, 0]), abs=2e-3)
        assert [each["x"], each["y"]] == coords[index[0, 0]].tolist()
    assert told == sorted(told, key=lambda each: each["distance"])
    assert person.get(f"/api/slides/{ID}/tiles/5/nearest/other").status_code == 404


def test_novelty_is_the_distance_to_the_fifth_training_tile(
    person: TestClient, trained: Path
) -> None:
    told = person.get(f"/api/slides/{ID}/layers/novelty/m").json()
    bank = np.concatenate([_unit(trained, "b"), _unit(trained, "c")])
    found = NearestNeighbors(n_neighbors=5).fit(bank).kneighbors(_unit(trained, ID))[0][:, -1]
    assert np.allclose(told["values"], found, atol=2e-3)


def test_walls_show_the_most_attended_and_the_most_mistaken(
    person: TestClient, trained: Path
) -> None:
    store = open_tiles(trained / "tiles" / f"{ID}.zarr")
    from wsi_pipeline.learn import read_prediction

    said = read_prediction(trained / "predictions" / "m" / f"{ID}.h5")
    for kind, values in (("attended", said.attention["abmil"]), ("mistaken", said.tiles[:, 0])):
        told = person.get(f"/api/wall/m/{kind}").json()
        assert told["slides"] == 1
        order = np.argsort(-values)[:3]
        assert [[each["x"], each["y"]] for each in told["tiles"]] == store.coords[order].tolist()
        x, y = told["tiles"][0]["x"], told["tiles"][0]["y"]
        assert person.get(f"/tiles/{ID}/at/{x}_{y}.jpg").status_code == 200
    assert person.get("/api/wall/m/worst").status_code == 404
    assert person.get(f"/tiles/{ID}/at/1_1.jpg").status_code == 422
