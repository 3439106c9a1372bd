"""A run folder as plain objects: cohort, tiles, features, models, predictions.

Nothing is read before it is asked for, and what is read is held against its digests. Tables are
pandas', which is imported for them alone.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.errors import ConfigError, StoreError
from wsi_pipeline.features import FeatureBag, find_features, read_features
from wsi_pipeline.inventory import check_listed
from wsi_pipeline.learn import (
    BundleConfig,
    Ensemble,
    Figures,
    SlidePrediction,
    load_ensemble,
    read_ensemble_config,
    read_figures,
    read_prediction,
)
from wsi_pipeline.run_cohort import rows_of
from wsi_pipeline.run_folder import BundleFile, RunFolder, stores_in
from wsi_pipeline.slides import Slide, open_slide
from wsi_pipeline.tiles import (
    TileDataset,
    TileStore,
    check_places,
    kept_mask,
    open_tiles,
    read_decisions,
    stores_of,
)

if TYPE_CHECKING:
    import pandas as pd

Held = TypeVar("Held")


class Stores(Mapping[str, Held], Generic[Held]):
    """Stores by slide; each is opened when it is asked for."""

    def __init__(self, paths: Mapping[str, Path], read: Callable[[Path], Held], what: str) -> None:
        self.paths = dict(paths)
        self._read = read
        self._what = what

    def __getitem__(self, slide_id: str) -> Held:
        if slide_id not in self.paths:
            raise KeyError(f"slide {slide_id!r} has no {self._what} here")
        return self._read(self.paths[slide_id])

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __contains__(self, slide_id: object) -> bool:
        return slide_id in self.paths

    def __repr__(self) -> str:
        return f"<{self._what} of {len(self)} slides>"


@dataclass(frozen=True)
class Model:
    """A trained model of a run folder.

    Attributes:
        path: Its folder.
    """

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def config(self) -> BundleConfig:
        """What it is: classes, encoder, aggregators, how its slides were cut."""
        return read_ensemble_config(self.path)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.config.classes

    @property
    def encoder(self) -> str:
        """Tag of the encoder whose features it takes."""
        return self.config.encoder

    @cached_property
    def figures(self) -> Figures:
        """What was measured of it, with intervals."""
        return read_figures(self.path)

    @property
    def metrics(self) -> "pd.DataFrame":
        """The same as a table: model, split, level, measure, value, low, high."""
        rows = [
            {"model": each.model, "split": each.split, "level": each.level, "measure": name,
             "value": found.value, "low": found.low, "high": found.high,
             "cases": each.cases, "patients": each.patients}
            for each in self.figures.evaluations
            for name, found in each.measures.items()
        ]  # fmt: skip
        return frame(rows)

    @property
    def predictions(self) -> "pd.DataFrame":
        """What it said of each slide when it was trained, a row for each slide and aggregator."""
        return read_table(self.path / BundleFile.PREDICTIONS)

    @property
    def splits(self) -> "pd.DataFrame":
        """On which side of the training each slide was."""
        return read_table(self.path / BundleFile.SPLITS)

    def load(self, device: str = "cpu") -> Ensemble:
        """Load the weights: ``model.load().score(features)`` scores (N, D) features."""
        return load_ensemble(self.path, device)

    def __repr__(self) -> str:
        known = self.config
        return (
            f"<Model {self.name}: {', '.join(known.classes)} from {known.encoder}, by "
            f"{known.primary}>"
        )


@dataclass(frozen=True)
class Run:
    """A run folder.

    Attributes:
        path: Its root.
    """

    path: Path

    @property
    def folder(self) -> RunFolder:
        """Where everything lies in it."""
        return RunFolder(self.path)

    @cached_property
    def slides(self) -> dict[str, CohortSlide]:
        """Rows of the cohort table by slide."""
        return {row.slide_id: row for row in rows_of(self.folder)}

    @property
    def cohort(self) -> "pd.DataFrame":
        """The cohort table; columns of which no row says anything are left out.

        Raises:
            CohortError: It contradicts itself.
            StoreError: There is none.
        """
        rows_of(self.folder)  # which says what is wrong with it
        return read_table(self.folder.cohort).dropna(axis="columns", how="all")

    def open_slide(self, slide_id: str, slides: str | Path | None = None) -> Slide:
        """Open a slide's own file; ``slides`` is the folder it lies in now, if it was moved.

        Raises:
            KeyError: The table has no such slide.
            SlideOpenError: The file is not there, or cannot be read.
        """
        row = self.slides[slide_id]
        path = row.locate(slides)
        if path is None:
            raise ConfigError(f"slide {slide_id!r}: the table names no file of it")
        return open_slide(path)

    @property
    def tiles(self) -> Stores[TileStore]:
        """Tile stores by slide."""
        return Stores(stores_of(self.folder.tiles), open_tiles, "tile store")

    @property
    def encoders(self) -> list[str]:
        """Tags of the encoders of which there are features."""
        found = self.folder.features.glob("[!.]*")
        return sorted(path.name for path in found if path.is_dir())

    def features(self, encoder: str | None = None) -> Stores[FeatureBag]:
        """Feature stores by slide.

        Args:
            encoder: Its tag or bare name; None where there is one alone.

        Raises:
            StoreError: There is none, or several and nothing says which.
        """
        if encoder is None:
            if len(self.encoders) != 1:
                named = ", ".join(self.encoders) or "none"
                raise StoreError(
                    f"{self.folder.features}: one encoder expected, found {named}; name it"
                )
            (encoder,) = self.encoders
        folder = find_features(self.folder.features, encoder)
        return Stores(stores_in(folder), read_features, "feature store")

    @property
    def models(self) -> dict[str, Model]:
        """Trained models by name."""
        return {path.name: Model(path) for path in self.folder.bundles()}

    def predictions(self, model: str | None = None) -> "pd.DataFrame":
        """What a model was told to predict: a row for each slide and aggregator.

        Raises:
            StoreError: There are no predictions, or those of several models and none is named.
        """
        return read_table(self.folder.predicted_slides(self._predicted(model)))

    def slide_predictions(self, model: str | None = None) -> Stores[SlidePrediction]:
        """The same by slide, with the probabilities and the attention of each tile."""
        folder = self.folder.predictions / self._predicted(model)
        return Stores(stores_in(folder), read_prediction, "prediction")

    def dataset(
        self,
        labels: Mapping[str, str] | str | None = "label",
        transform: Callable[[Any], Any] | None = None,
        only: Callable[[CohortSlide], bool] | None = None,
    ) -> TileDataset:
        """The tiles as a data set of torch, without those that a person dropped.

        Args:
            labels: Column of the cohort table; or as of :class:`TileDataset`.
            transform: As of :class:`TileDataset`.
            only: Which slides; those without a label in the column are left out in any case.

        Raises:
            CohortError: The table of decisions is damaged.
            StoreError: A store is missing or damaged.
        """
        decisions, there = read_decisions(self.folder.decisions), self.tiles
        stores = {
            name: there[name]
            for name in there
            if not decisions.drops_slide(name)
            and (only is None or (name in self.slides and only(self.slides[name])))
        }
        if isinstance(labels, str) and labels in CohortSlide.__dataclass_fields__:
            column = labels
            labels = {
                name: str(told)
                for name, row in self.slides.items()
                if (told := getattr(row, column)) is not None
            }
            stores = {name: store for name, store in stores.items() if name in labels}
        keep = {}
        for name, store in stores.items():
            dropped = decisions.dropped_tiles(name)
            check_places(name, store.coords, dropped)
            keep[name] = kept_mask(store.coords, dropped)
        return TileDataset(stores.values(), labels=labels, transform=transform, keep=keep)

    @property
    def tile_table(self) -> "pd.DataFrame":
        """All tiles with their measures: slide_id, x, y (level-0 px), tissue_fraction …"""
        parts = [
            frame(
                {"slide_id": name, "x": store.coords[:, 0], "y": store.coords[:, 1]}
                | {key: np.asarray(column) for key, column in store.columns.items()}
            )
            for name, store in self.tiles.items()
        ]
        joined: pd.DataFrame = pandas().concat(parts or [frame({})], ignore_index=True)
        return joined

    def __repr__(self) -> str:
        return (
            f"<Run {str(self.path)!r}: {len(self.slides)} slides, {len(self.tiles)} tile stores, "
            f"features of {', '.join(self.encoders) or 'no encoder'}, "
            f"models {', '.join(self.models) or 'none'}>"
        )

    def _predicted(self, model: str | None) -> str:
        found = sorted(path.parent.name for path in self.folder.predictions.glob("*/slides.csv"))
        if model is None and len(found) == 1:
            return found[0]
        if model is None or model not in found:
            asked = "one model" if model is None else repr(model)
            raise StoreError(
                f"{self.folder.predictions}: predictions of {asked} expected, found "
                f"{', '.join(found) or 'none'}; predict first, or name the model"
            )
        return model


def open_run(path: str | Path) -> Run:
    """Open a run folder.

    Raises:
        ConfigError: There is none: no cohort table, tiles, features or models.
    """
    folder = RunFolder(Path(path))
    parts = (folder.cohort, folder.tiles, folder.features, folder.models)
    if not any(part.exists() for part in parts):
        raise ConfigError(f"{path}: no run folder; it has no cohort.csv, tiles, features or models")
    return Run(Path(path))


def read_table(path: Path) -> "pd.DataFrame":
    """Read a table of a run folder; ids and labels stay the text they are.

    Raises:
        StoreError: It is not there.
        StoreCorruptError: It is not the one that was written.
    """
    if not path.is_file():
        raise StoreError(f"{path}: there is no such table")
    check_listed(path)
    words = ("slide_id", "patient_id", "label", "predicted", "cohort", "split", "model")
    table: pd.DataFrame = pandas().read_csv(
        path, dtype=dict.fromkeys(words, str), keep_default_na=False, na_values=[""]
    )
    return table


def frame(columns: Any) -> "pd.DataFrame":
    """Make a table of rows or columns."""
    made: pd.DataFrame = pandas().DataFrame(columns)
    return made


def pandas() -> Any:
    """Import pandas.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ConfigError(
            "tables need pandas, which is not installed: pip install 'wsi-pipeline[tables]'; "
            "everything else of a run folder does without"
        ) from error
    return pd
