"""Methods by name, and what they leave in a tile store's attributes."""

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from wsi_pipeline.errors import ConfigError, StainFitError
from wsi_pipeline.stain import (
    REFERENCE,
    STAIN_METHODS,
    backed,
    fit_reference,
    fit_stain,
    read_reference,
    restore_stain,
    sample_pixels,
    staintools,
)
from wsi_pipeline.stain.plausible import judge_he
from wsi_pipeline.stain.reference import stained
from wsi_pipeline.stain.reinhard import lab_statistics
from wsi_pipeline.stain.stains import unit_rows
from wsi_pipeline.tiles import TileSettings


@pytest.fixture(scope="module")
def tiles(data_dir: Path) -> np.ndarray:
    paths = sorted((data_dir / "liver_tiles").glob("*/*.jpg"))[:6]
    return np.stack([cv2.imread(str(path))[..., ::-1] for path in paths])


@pytest.mark.parametrize("method", ["macenko", "macenko-tile", "none", "reinhard"])
def test_stored_transform_does_the_same(tiles: np.ndarray, method: str) -> None:
    fitted = fit_stain(method, sample_pixels(tiles))
    assert fitted.method == method
    assert fitted.flags == ()
    stored = json.loads(json.dumps(fitted.to_attributes()))
    restored = restore_stain(stored)
    mapped = fitted.apply(tiles)
    assert (restored.apply(tiles) == mapped).all()
    assert restored.to_attributes() == stored
    out = np.zeros_like(tiles)
    assert fitted.apply(tiles, out=out) is out
    assert (out == mapped).all()
    assert (mapped == tiles).all() == (method == "none")


def test_reinhard_reaches_its_statistics_and_keeps_white(tiles: np.ndarray) -> None:
    from wsi_pipeline.stain.reinhard import LAB_REFERENCE, lab_statistics

    mapped = fit_stain("reinhard", sample_pixels(tiles)).apply(tiles)
    tissue = (tiles < 219).any(axis=-1)
    reached, before = lab_statistics(mapped[tissue]), lab_statistics(tiles[tissue])
    assert np.abs(reached.mean - LAB_REFERENCE.mean).max() < 3.0
    assert np.abs(before.mean - LAB_REFERENCE.mean).max() > 6.0
    white = np.full((1, 4, 4, 3), 255, np.uint8)
    assert (fit_stain("reinhard", sample_pixels(tiles)).apply(white) == 255).all()


@pytest.mark.parametrize("method", sorted(STAIN_METHODS))
def test_pixels_that_cannot_be_fitted_leave_tiles_alone(method: str) -> None:
    if method == "vahadane":
        pytest.importorskip("staintools", reason="staintools is not installed")
    white = np.full((3000, 3), 250, np.uint8)
    fitted = fit_stain(method, white)
    assert bool(fitted.flags) == (method != "none")
    tile = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3)).astype(np.uint8)
    assert (fitted.apply(tile) == tile).all()
    assert restore_stain(fitted.to_attributes()).flags == fitted.flags


def test_unknown_names_are_refused(tiles: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="did you mean 'macenko'"):
        fit_stain("makenko", sample_pixels(tiles))
    with pytest.raises(StainFitError, match="no stain method"):
        restore_stain({"method": "x", "flags": [], "source": None})
    with pytest.raises(StainFitError, match="source"):
        restore_stain({"method": "macenko", "flags": []})


def test_missing_staintools_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "staintools.stain_extraction.vahadane_stain_extractor", None)
    with pytest.raises(ConfigError, match="--no-deps staintools spams-bin"):
        fit_stain("vahadane", np.full((3000, 3), 120, np.uint8))


@pytest.mark.parametrize("asked", [{"stain": "vahadane"}, {"stain_backend": "staintools"}])
def test_missing_staintools_is_said_before_a_slide_is_opened(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    TileSettings(**asked)
    monkeypatch.setattr(staintools, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="--no-deps staintools spams-bin"):
        TileSettings(**asked)
    TileSettings(stain="none", stain_backend="staintools")


def test_reinhard_leaves_glass_and_lumina_white(tiles: np.ndarray) -> None:
    fitted = fit_stain("reinhard", sample_pixels(tiles))
    for level in (255, 243, 238):
        glass = np.full((1, 8, 8, 3), level, np.uint8)
        assert (fitted.apply(glass) == glass).all(), level
    pale = np.full((1, 8, 8, 3), (228, 200, 220), np.uint8)  # tissue has chroma
    assert (fitted.apply(pale) != pale).any()


@pytest.mark.parametrize("method", ["macenko", "macenko-tile", "reinhard", "staintools-macenko"])
def test_a_fitted_reference_is_reached_and_travels_as_json(
    method: str, tiles: np.ndarray, data_dir: Path, tmp_path: Path
) -> None:
    image = cv2.imread(str(data_dir / "stain" / "source.png"))
    wanted = fit_reference(np.ascontiguousarray(image[..., ::-1]).reshape(-1, 3))
    path = tmp_path / "fit.json"
    path.write_text(json.dumps(wanted.to_attributes()))
    again = read_reference(path)
    assert again.to_attributes() == wanted.to_attributes()
    fitted = fit_stain(method, sample_pixels(tiles), again)
    mapped = fitted.apply(tiles)
    assert (mapped != fit_stain(method, sample_pixels(tiles)).apply(tiles)).mean() > 0.5
    assert (restore_stain(fitted.to_attributes()).apply(tiles) == mapped).all()

    def off(pixels: np.ndarray) -> float:
        mean = lab_statistics(stained(pixels.reshape(-1, 3))).mean
        return float(np.linalg.norm(mean - wanted.lab.mean))

    assert off(mapped) < off(fit_stain(method, sample_pixels(tiles)).apply(tiles))
    path.write_text('{"stains": 1}')
    with pytest.raises(StainFitError, match=r"fit\.json.*stains and lab"):
        read_reference(path)


@pytest.mark.parametrize(("ratio", "density"), [(0.62, 0.2), (0.55, 0.32), (0.48, 0.68)])
def test_a_magenta_or_violet_second_stain_is_no_eosin(ratio: float, density: float) -> None:
    """Of PAS, with and without diastase: its red to green, and how much red it holds back."""
    eosin = np.array([ratio, 1.0, 0.4])
    matrix = unit_rows(np.stack([REFERENCE.matrix[0], eosin]))
    strong = density / matrix[1, 0]
    concentrations = np.stack([np.full(1000, 1.0), np.full(1000, strong)])
    assert judge_he(matrix, concentrations).flags == ("not_he",)


def test_staintools_is_a_backend_by_name() -> None:
    assert backed("reinhard", "staintools") == "staintools-reinhard"
    assert backed("vahadane", "staintools") == "vahadane"
    assert backed("macenko", "own") == "macenko"
    with pytest.raises(ConfigError, match="staintools has no stain method 'macenko-tile'"):
        backed("macenko-tile", "staintools")
