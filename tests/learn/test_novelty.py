"""Novelty: high for what was never seen, and a limit that holds for new patients."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from wsi_pipeline.learn import fit_novelty
from wsi_pipeline.learn.novelty import K, prediction_limit

WIDTH = 32


def patient(rng, spread=0.4, tiles=40):
    """Tiles around a centre that all patients share, each patient a little beside it."""
    centre = np.linspace(0.5, 1.5, WIDTH) + spread * rng.normal(size=WIDTH)
    return (centre + 0.3 * rng.normal(size=(tiles, WIDTH))).astype(np.float32)


def test_distances_are_those_of_another_implementation():
    rng = np.random.default_rng(0)
    novelty = fit_novelty({f"p{n}": [patient(rng)] for n in range(4)})
    slide = patient(rng)
    unit = slide / np.linalg.norm(slide, axis=1, keepdims=True)
    found, _ = NearestNeighbors(n_neighbors=K).fit(novelty.bank).kneighbors(unit)
    assert novelty.score(slide) == pytest.approx(np.median(found[:, -1]), abs=1e-4)


def test_what_was_never_seen_is_beyond_the_limit():
    rng = np.random.default_rng(1)
    novelty = fit_novelty({f"p{n}": [patient(rng), patient(rng)] for n in range(12)})
    new = [novelty.score(patient(rng)) for _ in range(50)]
    other = [novelty.score(patient(rng)[:, ::-1]) for _ in range(50)]
    assert np.mean(np.array(new) > novelty.limit) <= 0.04
    assert min(other) > novelty.limit
    assert novelty.median < novelty.limit


def test_a_patients_own_tiles_do_not_make_it_usual():
    rng = np.random.default_rng(2)
    bags = {f"p{n}": [patient(rng)] for n in range(8)}
    odd = {**bags, "odd": [patient(rng)[:, ::-1]]}
    assert fit_novelty(odd).limit > 1.2 * fit_novelty(bags).limit


def test_the_limit_keeps_its_promise():
    """Of new values, 1 in 100 may exceed it, whether five or fifty were seen."""
    rng = np.random.default_rng(3)
    for seen in (5, 50):
        draws = np.exp(rng.normal(-1, 0.3, size=(4000, seen + 1)))
        beyond = [row[-1] > prediction_limit(row[:-1]) for row in draws]
        assert 0.005 < np.mean(beyond) < 0.016


def test_too_few_patients_give_no_limit():
    rng = np.random.default_rng(4)
    assert fit_novelty({"p0": [patient(rng)], "p1": [patient(rng)]}).limit is None
    assert fit_novelty({"p0": [patient(rng)]}).limit is None


@given(scale=st.floats(0.01, 100), tiles=st.integers(1, 3000))
def test_neither_scale_nor_size_of_a_slide_matters(scale, tiles):
    rng = np.random.default_rng(5)
    novelty = fit_novelty({f"p{n}": [patient(rng)] for n in range(3)})
    slide = np.repeat(patient(rng, tiles=1), tiles, axis=0)
    once = novelty.score(slide[:1])
    assert novelty.score(np.float32(scale) * slide) == pytest.approx(once, abs=2e-3)
