"""Whole slides: reproducible bytes, flaws that show, cores where the map says."""

import hashlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest

from wsi_pipeline.synthetic import SlideSpec, plan_cohort, write_slide
from wsi_pipeline.types import RgbImage

SIDE = 1024


@pytest.fixture(scope="module")
def spec() -> SlideSpec:
    """A small, flawless slide."""
    return replace(plan_cohort(0, tma_grid=(0, 0))[3], width=SIDE, height=SIDE, artefact="none")


def overview(path: Path, level: int = 1) -> RgbImage:
    with openslide.OpenSlide(path) as slide:
        return np.array(
            slide.read_region((0, 0), level, slide.level_dimensions[level]).convert("RGB")
        )


def digest(spec: SlideSpec, folder: Path) -> str:
    return hashlib.sha256(write_slide(spec, folder).read_bytes()).hexdigest()


def test_bytes_do_not_depend_on_process_or_order(spec: SlideSpec, tmp_path: Path) -> None:
    other = replace(spec, slide_id="SYN-OTHER", label="cca")
    here = [digest(one, tmp_path) for one in (spec, other)]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        there = list(pool.map(write_slide, [other, spec], [tmp_path / "b"] * 2))
    assert here == [hashlib.sha256(path.read_bytes()).hexdigest() for path in there[::-1]]
    assert here[0] != digest(replace(spec, seed=spec.seed + 1), tmp_path / "c")


def test_the_slide_says_that_it_is_synthetic(spec: SlideSpec, tmp_path: Path) -> None:
    with openslide.OpenSlide(write_slide(spec, tmp_path)) as slide:
        assert "SYNTHETIC" in slide.properties["openslide.comment"]
        assert spec.label not in slide.properties["openslide.comment"]


def test_glass_is_white_and_tissue_is_pink_and_blue(spec: SlideSpec, tmp_path: Path) -> None:
    rgb = overview(write_slide(spec, tmp_path)).astype(int)
    corner = rgb[:12, :12]
    assert corner.min() > 225
    assert np.ptp(corner.mean(axis=(0, 1))) < 12
    middle = rgb[96:160, 96:160]
    red, green, blue = middle.mean(axis=(0, 1))
    assert green < blue < 235, "tissue absorbs green most"
    assert green < red


@pytest.mark.parametrize(
    ("pen", "ratio"), [("pen-blue", (0, 2)), ("pen-green", (0, 1)), ("pen-black", None)]
)
def test_pen_marks_are_dark_or_of_their_colour(
    spec: SlideSpec, tmp_path: Path, pen: str, ratio: tuple[int, int] | None
) -> None:
    clean = overview(write_slide(spec, tmp_path / "clean")).astype(float)
    inked = overview(write_slide(replace(spec, artefact=pen), tmp_path / "inked")).astype(float)
    marked = (clean - inked).max(axis=2) > 60
    assert 0.005 < marked.mean() < 0.5
    colour = inked[marked & (clean.min(axis=2) > 220)].mean(axis=0)
    if ratio is None:
        assert colour.max() < 110
    else:
        weak, strong = ratio
        assert colour[weak] < 0.6 * colour[strong]


def test_blank_and_blurred(spec: SlideSpec, tmp_path: Path) -> None:
    blank = overview(write_slide(replace(spec, artefact="blank"), tmp_path / "a"), 0)
    assert blank.min() > 215
    assert 0.5 < blank.std() < 6, "faint noise, no picture"
    sharp = overview(write_slide(spec, tmp_path / "b"), 0)
    blurred = overview(write_slide(replace(spec, artefact="blurred"), tmp_path / "c"), 0)
    first, second = (np.abs(np.diff(one[300:700, :, 1] * 1.0)) for one in (sharp, blurred))
    assert second.mean() < 0.5 * first.mean()


def test_truncated_file_is_refused(spec: SlideSpec, tmp_path: Path) -> None:
    path = write_slide(replace(spec, artefact="truncated"), tmp_path)
    with pytest.raises(openslide.OpenSlideError):
        openslide.OpenSlide(path).read_region((0, 0), 0, (SIDE, SIDE))


def test_cores_lie_where_the_plan_says(tmp_path: Path) -> None:
    tma = plan_cohort(1, patients_per_label=1, tma_grid=(1, 3))[-1]
    lost = replace(tma.cores[1], present=False)
    tma = replace(tma, cores=(tma.cores[0], lost, tma.cores[2]))
    rgb = overview(write_slide(tma, tmp_path), 2)
    tissue = rgb.min(axis=2) < 215
    for core in tma.cores:
        x, y, radius = core.x / 16, core.y / 16, core.diameter_px / 32
        rows, columns = np.nonzero(tissue)
        near = np.hypot(columns - x, rows - y) < 1.2 * radius
        if not core.present:
            assert near.sum() < 10
            continue
        assert np.hypot(columns[near].mean() - x, rows[near].mean() - y) < 0.12 * radius
        area = np.pi * radius**2
        assert 0.6 * area < near.sum() < 1.1 * area
    assert tissue[:, :20].sum() + tissue[:20].sum() < 20, "no tissue on the margin"
