"""What models say of slides, on disk: a store a slide, and a table of all of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import StoreCorruptError
from wsi_pipeline.hdf5 import create_hdf5, open_hdf5
from wsi_pipeline.inventory import check_listed
from wsi_pipeline.tables import to_csv
from wsi_pipeline.types import Coords

if TYPE_CHECKING:  # a prediction is read without torch
    from wsi_pipeline.learn.scores import Probabilities
    from wsi_pipeline.learn.splits import SplitSlide

ATTENTION: Final = "attention"


@dataclass(frozen=True, kw_only=True)
class SlidePrediction:
    """One slide as a bundle sees it, stored as ``predictions/<model>/<slide_id>.h5``.

    Attributes:
        classes: Names of the C classes.
        coords: (N, 2) int64, level-0 (x, y) of each tile.
        tiles: (N, C) float32 class probabilities of the tiles.
        attention: Aggregator → (N,) float32; each sums to one.
        slide: Model → (C,) float64 class probabilities of the slide, calibrated.
        spread: Model → (C,) standard deviation of the probabilities between the models of a
            cross-validation; empty of a single one.
        novelty: Distance from the slides trained on, see :class:`Novelty`; NaN if not known.
        made_from: Digests of the weights and of the features.
    """

    classes: tuple[str, ...]
    coords: Coords
    tiles: NDArray[np.float32]
    attention: Mapping[str, NDArray[np.float32]]
    slide: Mapping[str, NDArray[np.float64]]
    spread: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    novelty: float
    made_from: Mapping[str, Any]


def write_prediction(path: Path, prediction: SlidePrediction) -> None:
    """Write one slide's prediction; ``path`` is whole or as it was before."""
    with create_hdf5(path) as file:
        file["coords"] = prediction.coords
        file["tile_probabilities"] = prediction.tiles
        for name, values in prediction.attention.items():
            file[f"{ATTENTION}/{name}"] = values
        file.attrs["classes"] = json.dumps(prediction.classes, ensure_ascii=False)
        file.attrs["slide"] = json.dumps({k: list(v) for k, v in prediction.slide.items()})
        file.attrs["spread"] = json.dumps({k: list(v) for k, v in prediction.spread.items()})
        file.attrs["novelty"] = prediction.novelty
        file.attrs["made_from"] = json.dumps(dict(prediction.made_from))


def read_prediction(path: Path) -> SlidePrediction:
    """Read what :func:`write_prediction` wrote.

    Raises:
        StoreCorruptError: The file is missing, damaged or something else.
    """
    try:
        check_listed(path)
        with open_hdf5(path) as checked:
            file = checked.file
            return SlidePrediction(
                classes=tuple(json.loads(file.attrs["classes"])),
                coords=file["coords"][()],
                tiles=file["tile_probabilities"][()],
                attention={name: values[()] for name, values in file[ATTENTION].items()},
                slide={k: np.array(v) for k, v in json.loads(file.attrs["slide"]).items()},
                spread={
                    k: np.array(v) for k, v in json.loads(file.attrs.get("spread", "{}")).items()
                },
                novelty=float(file.attrs["novelty"]),
                made_from=json.loads(file.attrs["made_from"]),
            )
    except (OSError, KeyError, ValueError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise StoreCorruptError(
            f"{path}: not a readable prediction ({reason}); repair the run folder, or predict "
            "again with --overwrite"
        ) from error


def predictions_csv(
    slides: "Sequence[SplitSlide]",
    found: "Mapping[str, Probabilities]",
    classes: Sequence[str],
    result: str = "",
) -> str:
    """Return one row per slide and model: who it is, what was predicted, ``p_<class>``.

    ``result`` is the digest of what the predictions were made from; it stands in every row.
    """
    columns = ["slide_id", "patient_id", "label", "cohort", "split", "model", "predicted"]
    rows = []
    for slide in slides:
        who = (slide.slide_id, slide.patient_id, slide.label, slide.cohort, slide.split)
        for model, probabilities in found.items():
            row = probabilities[slide.slide_id]
            values = (f"{value:.6f}" for value in row)
            rows.append([*who, model, classes[int(row.argmax())], *values, result])
    return to_csv([*columns, *(f"p_{name}" for name in classes), "result"], rows)
