"""Agreement with staintools 2.1.2, the reference implementation.

Its tissue rule (Lab lightness below 0.8) and its concentrations (lasso, positive, penalty 0.01)
differ from ours (density above 0.15 in each channel, least squares). On the pixels that both call
tissue the stain matrices agree to rounding; given the same stains, images agree to about a grey
level on average; end to end, with each side's own rules, to five, except on ``source.png``, whose
blue channel is so bright that the two rules choose different tissue.
"""

from pathlib import Path

import cv2
import numpy as np
import pytest

from wsi_pipeline.stain import Stains, fit_macenko, fit_stain, normalise
from wsi_pipeline.stain.stains import angle_deg

pytest.importorskip("staintools", reason="staintools is not installed: no parity check")
pytest.importorskip("spams", reason="spams is not installed: no parity check")


def images(data_dir: Path) -> dict[str, np.ndarray]:
    found = {
        name: cv2.imread(str(data_dir / "stain" / f"{name}.png"))[..., ::-1].copy()
        for name in ("source", "target")
    }
    for folder in ("sarcoma_slide_metastasis", "sarcoma_slide_normal_liver"):
        paths = sorted((data_dir / "liver_tiles" / folder).glob("*.jpg"))[:6]
        found[folder] = np.concatenate([cv2.imread(str(path))[..., ::-1] for path in paths])
    return found


@pytest.fixture(scope="module")
def fields(data_dir: Path) -> dict[str, np.ndarray]:
    return images(data_dir)


def tissue_by_both(image: np.ndarray) -> np.ndarray:
    pixels = image.reshape(-1, 3)
    lightness = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[..., 0].reshape(-1) / 255
    dense = (-np.log(np.maximum(pixels, 1) / 255) > 0.1501).all(axis=1)
    return pixels[(lightness < 0.8) & dense & (pixels.max(axis=1) > 20)]


FIELDS = ["source", "target", "sarcoma_slide_metastasis", "sarcoma_slide_normal_liver"]


@pytest.mark.parametrize("name", FIELDS)
def test_matrix_equals_on_the_same_tissue(fields: dict[str, np.ndarray], name: str) -> None:
    from staintools.stain_extraction.macenko_stain_extractor import MacenkoStainExtractor

    pixels = tissue_by_both(fields[name])
    ours = fit_macenko(pixels).stains
    theirs = MacenkoStainExtractor.get_stain_matrix(pixels[:, None].copy())
    assert ours is not None
    assert np.abs(ours.matrix - theirs).max() < 1e-6


@pytest.mark.parametrize("name", FIELDS)
def test_images_agree_given_the_same_stains(fields: dict[str, np.ndarray], name: str) -> None:
    from staintools import StainNormalizer
    from staintools.miscellaneous.get_concentrations import get_concentrations

    image = fields[name]
    reference = StainNormalizer("macenko")
    reference.fit(fields["target"].copy())
    expected = reference.transform(image.copy()).astype(int)
    matrix = reference.extractor.get_stain_matrix(image.copy())
    maxima = np.percentile(get_concentrations(image.copy(), matrix), 99, axis=0)
    target = Stains(matrix=reference.stain_matrix_target, maxima=reference.maxC_target[0])
    mapped = normalise(image, Stains(matrix=matrix, maxima=maxima), target)
    assert np.abs(mapped - expected).mean() < 1.5
    assert np.percentile(np.abs(mapped - expected), 99) <= 10


@pytest.mark.parametrize("name", FIELDS[1:])
def test_end_to_end_agrees(fields: dict[str, np.ndarray], name: str) -> None:
    from staintools import StainNormalizer

    reference = StainNormalizer("macenko")
    reference.fit(fields["target"].copy())
    expected = reference.transform(fields[name].copy()).astype(int)
    source = fit_macenko(fields[name].reshape(-1, 3)).stains
    target = fit_macenko(fields["target"].reshape(-1, 3)).stains
    assert source is not None
    assert target is not None
    assert np.abs(normalise(fields[name], source, target) - expected).mean() < 5


def test_vahadane_finds_stains_near_macenkos(fields: dict[str, np.ndarray]) -> None:
    pixels = fields["sarcoma_slide_metastasis"].reshape(-1, 3)
    theirs = fit_stain("vahadane", pixels).to_attributes()
    ours = fit_macenko(pixels).stains
    assert theirs["flags"] == []
    assert ours is not None
    matrix = np.array(theirs["source"]["matrix"])
    assert angle_deg(matrix[0], ours.matrix[0]) < 10
    assert angle_deg(matrix[1], ours.matrix[1]) < 15
