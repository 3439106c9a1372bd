"""Flags against 595 tiles labelled by eye (``labels.csv``), one half of which no rule was made on.

Whole slides are parted into the halves, but for the one slide that has folds and pools of blood,
which is parted by squares of 1 mm. Labels are joined by ``+``. A little of something
(``little_ink``: under 5 % of the tile; ``some_blood``: under a third) counts neither for nor
against its flag, nor does what the eye could not decide (``unsure``).
"""

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from wsi_pipeline.slides import open_slide
from wsi_pipeline.tiles import TileSettings
from wsi_pipeline.tiles.blocks import read_blocks
from wsi_pipeline.tiles.flags import FLAGS, Look, SlideRules, learn_rules
from wsi_pipeline.tiles.plan import survey_slide
from wsi_pipeline.tissue import coarse_tiles, detail, empty_fractions
from wsi_pipeline.types import RgbTiles

LABELS = Path(__file__).with_name("labels.csv")
SAMPLE = 128
POSITIVE = {"pen": "ink", "blood": "blood", "fold": "fold"}
UNDECIDED = {
    "pen": {"little_ink", "unsure"},
    "blood": {"some_blood", "unsure"},
    "fold": {"unsure"},
    "blurred": {"blurred", "unsure"},
}


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Labelled tiles of one slide, and its rules."""

    tiles: RgbTiles
    labels: list[set[str]]
    halves: list[str]
    glass: NDArray[np.uint8]
    mpp: float
    rules: SlideRules


def look(tiles: RgbTiles, glass: NDArray[np.uint8], mpp: float) -> Look:
    focus, sharpness = detail(tiles)
    return Look(focus=focus, sharpness=sharpness, coarse=coarse_tiles(tiles, mpp), glass=glass)


def read(path: Path, rows: list[dict[str, str]]) -> Labelled:
    assumed = float(rows[0]["mpp"]) if rows[0]["mpp"] else None
    settings = TileSettings(mpp_override=assumed, also_flag=("fold",))
    with open_slide(path) as slide:
        plan = survey_slide(slide, settings)
        number = {place: k for k, place in enumerate(map(tuple, plan.grid.coords().tolist()))}
        chosen = np.array([number[int(row["x"]), int(row["y"])] for row in rows])
        sample = np.random.default_rng(0).permutation(np.flatnonzero(plan.wanted))[:SAMPLE]
        blocks = list(read_blocks(slide, plan.grid, np.union1d(chosen, sample)))
    found = {int(i): t for b in blocks for i, t in zip(b.indices, b.tiles, strict=True)}
    mpp = plan.grid.effective_mpp
    assert mpp is not None
    drawn = np.stack([found[int(i)] for i in sample])
    full = drawn[empty_fractions(coarse_tiles(drawn, mpp), plan.glass) <= 0.125]
    return Labelled(
        tiles=np.stack([found[int(i)] for i in chosen]),
        labels=[set(row["label"].split("+")) for row in rows],
        halves=[row["half"] for row in rows],
        glass=plan.glass,
        mpp=mpp,
        rules=learn_rules(settings, look(full, plan.glass, mpp)),
    )


@pytest.fixture(scope="module")
def slides(data_dir: Path) -> list[Labelled]:
    rows = defaultdict(list)
    with LABELS.open(newline="") as file:
        for row in csv.DictReader(file):
            rows[row["slide"]].append(row)
    return [read(data_dir / name, own) for name, own in rows.items()]


def precision_and_recall(slides: list[Labelled], flag: str, half: str) -> tuple[float, float, int]:
    """Of a flag on one half, and how many tiles it should mark."""
    marked, true = [], []
    for slide in slides:
        columns = slide.rules.measure(look(slide.tiles, slide.glass, slide.mpp))
        marks = slide.rules.marks(columns)[flag]
        for mark, labels, of in zip(marks, slide.labels, slide.halves, strict=True):
            is_true = POSITIVE[flag] in labels
            if of == half and (is_true or not labels & UNDECIDED[flag]):
                marked.append(bool(mark))
                true.append(is_true)
    hits = np.logical_and(marked, true).sum()
    return hits / max(1, sum(marked)), hits / max(1, sum(true)), sum(true)


def test_at_least_500_tiles_are_labelled(slides: list[Labelled]) -> None:
    halves = [half for slide in slides for half in slide.halves]
    assert len(halves) >= 500
    assert min(halves.count("develop"), halves.count("judge")) > 200


def test_blood_is_flagged_where_a_third_of_a_tile_is_erythrocytes(slides: list[Labelled]) -> None:
    for half in ("develop", "judge"):
        precision, recall, count = precision_and_recall(slides, "blood", half)
        assert count >= 8
        assert precision >= 0.9, half
        assert recall >= 0.8, half


def test_black_ink_is_flagged_from_5_percent_of_a_tile(slides: list[Labelled]) -> None:
    precision, recall, count = precision_and_recall(slides, "pen", "judge")
    assert count == 5
    assert precision >= 0.9
    assert recall >= 0.8
    clean, _, none = precision_and_recall(slides, "pen", "develop")
    assert none == clean == 0  # no ink there, and none is seen


@pytest.mark.parametrize(
    "ink",
    [(28, 26, 30), (40, 60, 160), (30, 120, 90), (190, 20, 40)],
    ids=["black", "blue", "green", "red"],
)
def test_ink_of_any_colour_is_flagged_on_real_tissue(
    slides: list[Labelled], ink: tuple[int, int, int]
) -> None:
    """A stroke over 6 % of each judged tile, as marker covers tissue."""
    for slide in slides:
        judged = [k for k, half in enumerate(slide.halves) if half == "judge"][:20]
        if not judged:
            continue
        drawn = slide.tiles[judged].copy()
        below = drawn[:, 100:116].astype(np.float32)
        drawn[:, 100:116] = (0.8 * np.array(ink, np.float32) + 0.2 * below).astype(np.uint8)
        marks = slide.rules.marks(slide.rules.measure(look(drawn, slide.glass, slide.mpp)))
        assert marks["pen"].mean() >= 0.8


# of real strokes: file, and rows and columns of the crop
REAL_INK = {
    "green": ("no-tissue-green-pen", (200, 264, 200, 290)),
    "pale green": ("no-tissue-green-pen", (330, 360, 230, 290)),
    "red": ("no-tissue-red-pen", (255, 290, 200, 330)),
    "pale red": ("no-tissue-red-pen", (400, 440, 60, 180)),
    "blue": ("wsi-blue-pen", (67, 70, 150, 172)),
    "violet black": ("no-tissue-red-pen", (330, 420, 360, 460)),
    "black": ("diagnostic-slide-thumb-rgb", (239, 245, 223, 235)),
}


@pytest.mark.parametrize("ink", REAL_INK)
def test_real_ink_over_real_tissue_is_flagged(
    data_dir: Path, slides: list[Labelled], ink: str
) -> None:
    """Light passes a real stroke and the tissue, of a judged tile over 6 %.

    The frozen section, which is violet itself, hides pale green and blue: the mean of slides is
    what counts.
    """
    name, (top, bottom, left, right) = REAL_INK[ink]
    picture = cv2.imread(str(data_dir / "pen" / f"{name}.png"))
    assert picture is not None
    stroke = cv2.resize(picture[top:bottom, left:right, ::-1], (256, 16)) / 242.0
    found = []
    for slide in slides:
        judged = [k for k, half in enumerate(slide.halves) if half == "judge"][:12]
        if judged:
            drawn = slide.tiles[judged].copy()
            drawn[:, 100:116] = np.clip(drawn[:, 100:116] * stroke, 0, 255).astype(np.uint8)
            marks = slide.rules.marks(slide.rules.measure(look(drawn, slide.glass, slide.mpp)))
            found.append(marks["pen"].mean())
    assert len(found) == 5
    assert np.mean(found) >= 0.8


def test_blur_is_flagged_and_dense_collagen_is_not(slides: list[Labelled]) -> None:
    for half in ("develop", "judge"):
        sharp, blurred = [], []
        for slide in slides:
            own = [
                k
                for k, (of, labels) in enumerate(zip(slide.halves, slide.labels, strict=True))
                if of == half and not labels & UNDECIDED["blurred"]
            ]
            if not own:
                continue
            tiles = slide.tiles[own]
            soft = np.stack([cv2.GaussianBlur(tile, (0, 0), 1.5) for tile in tiles[::4]])
            for found, shown in ((sharp, tiles), (blurred, soft)):
                columns = slide.rules.measure(look(shown, slide.glass, slide.mpp))
                found.extend(slide.rules.marks(columns)["blurred"].tolist())
        assert np.mean(blurred) >= 0.9
        assert sum(blurred) / (sum(blurred) + sum(sharp)) >= 0.9
        assert sum(sharp) == 0  # among them collagen that has no detail of any size


def test_folds_are_not_flagged_unasked(slides: list[Labelled]) -> None:
    """The rule falls short of a precision of 0.8 at a recall of 0.6; docs/qc.md has its figures."""
    assert not FLAGS["fold"].unasked
    for half in ("develop", "judge"):
        precision, recall, count = precision_and_recall(slides, "fold", half)
        assert count >= 5
        assert precision < 0.8 or recall < 0.6, "it is right often enough: flag folds unasked"
