"""Tiles of all slides on one wall: those a model attends to most, those it mistakes most."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np

from wsi_pipeline.learn import read_prediction
from wsi_pipeline.run_folder import stores_in
from wsi_pipeline.workbench.facts import DIGITS, RunFacts

MOST: Final = 60  # tiles on a wall
OF_A_SLIDE: Final = 3

Kind = Literal["attended", "mistaken"]


@dataclass(frozen=True)
class _Found:
    slide: str
    x: int
    y: int
    value: float
    words: str


def wall(
    facts: RunFacts, model: str, kind: Kind, truths: Mapping[str, str | None]
) -> dict[str, Any]:
    """Return the tiles of a wall, the strongest first, at most three of a slide.

    Args:
        facts: The run folder.
        model: Whose predictions.
        kind: ``attended``: most weight beside an even share, by the first aggregator that has
            attention. ``mistaken``: least probability of the slide's class.
        truths: The slides, and their class; for mistakes those that the model was not trained on.

    Raises:
        StoreError: A prediction is damaged.
    """
    found: list[_Found] = []
    slides = 0
    for slide_id, path in stores_in(facts.folder.predictions / model).items():
        if slide_id not in truths:
            continue
        found += _of_slide(slide_id, read_prediction(path), kind, truths[slide_id])
        slides += 1
    found.sort(key=lambda each: -each.value)
    return {"slides": slides, "tiles": [asdict(each) for each in found[:MOST]]}


def _of_slide(slide_id: str, said: Any, kind: Kind, truth: str | None) -> Iterator[_Found]:
    if kind == "mistaken":
        if truth not in said.classes:
            return
        values = 1 - said.tiles[:, said.classes.index(truth)].astype(np.float64)
    elif said.attention:
        weights = next(iter(said.attention.values())).astype(np.float64)
        values = weights * len(weights)
    else:
        return
    for row in np.argsort(-values, kind="stable")[:OF_A_SLIDE].tolist():
        best = said.classes[int(said.tiles[row].argmax())]
        share = f"{said.tiles[row].max():.2f}"
        words = f"{truth} → {best} {share}" if kind == "mistaken" else (
            f"{values[row]:.1f} × an even share; {best} {share}"
        )  # fmt: skip
        x, y = said.coords[row].tolist()
        yield _Found(slide_id, x, y, round(float(values[row]), DIGITS), words)
