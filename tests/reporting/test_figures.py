"""Figures: the numbers behind them, and that every case draws."""

import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from wsi_pipeline.reporting import (
    Evaluation,
    Measure,
    Scores,
    TrainingCurve,
    class_bars_figure,
    comparison_figure,
    confusion_figure,
    curves_figure,
    reliability_figure,
    roc_figure,
)
from wsi_pipeline.reporting.figures import roc_points, wilson, with_interval
from wsi_pipeline.reporting.style import INK

CLASSES = ("hcc", "cca", "normal $5")
AUROC = {f"auroc/{name}": Measure(value=0.91, low=0.8, high=0.97) for name in CLASSES}


def cases(count: int = 60, classes: int = 3, seed: int = 0) -> Scores:
    rng = np.random.default_rng(seed)
    return Scores(
        targets=rng.integers(0, classes, count), probabilities=rng.dirichlet([1] * classes, count)
    )


def texts(svg: bytes) -> str:
    root = ET.fromstring(svg)
    return " ".join(
        "".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")
    )


@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9])), min_size=2
    ).filter(lambda rows: len({own for own, _ in rows}) == 2)
)
def test_roc_is_that_of_scikit_learn(rows: list[tuple[bool, float]]) -> None:
    own = np.array([row[0] for row in rows])
    scores = np.array([row[1] for row in rows])
    false, true, _ = roc_curve(own, scores, drop_intermediate=False)
    assert np.allclose(roc_points(own, scores), np.column_stack([false, true]))


@given(st.integers(1, 500), st.integers(0, 500))
def test_wilson_interval_solves_its_equation(cases: int, right: int) -> None:
    share = np.array([min(right, cases) / cases])
    low, high = wilson(share, np.array([cases]))
    for bound in (low[0], high[0]):
        assert -1e-9 <= bound <= 1 + 1e-9
        # the bounds are those true rates from which the share lies 1.96 standard errors away
        away = (share[0] - bound) ** 2
        assert away == pytest.approx(1.96**2 * bound * (1 - bound) / cases, abs=1e-9)


def test_confusion_shows_counts_and_row_shares() -> None:
    shown = texts(confusion_figure(np.array([[3, 1, 0], [0, 8, 2], [0, 0, 0]]), CLASSES).data)
    assert all(part in shown for part in ("75%", "25%", "80%", "20%", "normal $5"))
    assert re.findall(r"\d+%", shown).count("0%") == 2  # an empty row has no shares


def test_legend_carries_auroc_with_its_interval() -> None:
    picture = roc_figure(cases(), CLASSES, AUROC)
    assert texts(picture.data).count("0.91 [0.80, 0.97]") == 3
    assert "hcc 0.91 [0.80, 0.97]" in picture.alt
    absent = Scores(targets=np.zeros(5, np.int64), probabilities=cases(5).probabilities)
    assert "hcc –" in texts(roc_figure(absent, CLASSES, {}).data)


def test_undefined_measures_are_said_not_drawn_as_zero() -> None:
    evaluation = Evaluation(
        model="abmil", split="test", level="slide", classes=CLASSES, cases=3, patients=3,
        confusion=np.zeros((3, 3), np.int64),
        measures={"sensitivity/hcc": Measure(value=0.5), "auroc": Measure(value=None)},
    )  # fmt: skip
    assert texts(class_bars_figure(evaluation).data).count("undefined") == 2
    assert comparison_figure([evaluation], ["auroc"]).data
    assert with_interval(None) == with_interval(Measure(value=None)) == "–"
    assert with_interval(Measure(value=0.5)) == "0.50"


@pytest.mark.parametrize("format_", ["svg", "png"])
def test_figures_are_reproducible_and_sized_as_said(format_: str) -> None:
    curve = TrainingCurve(
        model="abmil",
        train_loss=(1.0, 0.5),
        val_loss=(1.1, 0.7),
        val_balanced_accuracy=(0.4, 0.6),
        best=2,
    )
    makers = [
        lambda: confusion_figure(np.eye(3, dtype=np.int64), CLASSES, "t", format_),
        lambda: roc_figure(cases(), CLASSES, AUROC, "t", format_),
        lambda: reliability_figure(cases(), Measure(value=0.1), "t", format_),
        lambda: curves_figure(curve, "t", format_),
    ]
    for make in makers:
        picture = make()
        assert picture.data == make().data
        assert picture.alt
        if format_ == "png":
            import io

            from PIL import Image

            assert Image.open(io.BytesIO(picture.data)).size == (picture.width, picture.height)
        else:
            assert INK.encode() in picture.data  # the colour that the page themes
