"""A tile classifier and its aggregators, trained one after the other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

from wsi_pipeline.errors import LearnError
from wsi_pipeline.learn.aggregators import Aggregator
from wsi_pipeline.learn.bags import FeatureFolder
from wsi_pipeline.learn.fit import Epoch, FitSettings
from wsi_pipeline.learn.heads import TileHead
from wsi_pipeline.learn.scores import Scores, fit_temperatures, score_slides
from wsi_pipeline.learn.spec import ModelSpec
from wsi_pipeline.learn.splits import Splits
from wsi_pipeline.learn.tasks import fit_aggregator, fit_tile_classifier
from wsi_pipeline.tables import to_csv


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Which models are built, and how they are fitted."""

    tile_classifier: ModelSpec
    aggregators: Mapping[str, ModelSpec]
    tile_settings: FitSettings
    bag_settings: FitSettings


@dataclass(kw_only=True)
class Trained:
    """The models of one training, and what each of its epochs came to."""

    head: TileHead
    aggregators: dict[str, Aggregator]
    history: list[tuple[str, Epoch]]
    temperatures: dict[str, float]

    def history_csv(self, result: str = "") -> str:
        """Return one row an epoch: ``model``, the fields of :class:`Epoch`, ``result``."""
        names = [item.name for item in fields(Epoch)]
        rows = (
            [model, *(getattr(epoch, name) for name in names), result]
            for model, epoch in self.history
        )
        return to_csv(["model", *names, "result"], rows)

    def score(self, folder: FeatureFolder, slides: Splits) -> Scores:
        """Score ``slides`` with all models, calibrated."""
        ids = [slide.slide_id for slide in slides]
        return score_slides(self.head, self.aggregators, folder, ids, self.temperatures)


class Training:
    """One training; iterate to run it epoch by epoch, then take ``result``."""

    def __init__(
        self, recipe: Recipe, folder: FeatureFolder, slides: Splits, classes: Sequence[str]
    ) -> None:
        self._recipe, self._folder, self._classes = recipe, folder, tuple(classes)
        self._slides = tuple(slide for slide in slides if slide.split in ("train", "val"))
        self._result: Trained | None = None

    def __iter__(self) -> Iterator[tuple[str, Epoch]]:
        """Train one model after the other; yield its name and each epoch's record."""
        recipe, data = self._recipe, (self._folder, self._slides, self._classes)
        head, epochs = fit_tile_classifier(recipe.tile_classifier, *data, recipe.tile_settings)
        trained = Trained(head=head, aggregators={}, history=[], temperatures={})
        yield from _recorded("tile", epochs, trained)
        for name, spec in recipe.aggregators.items():
            model, epochs = fit_aggregator(spec, *data, recipe.bag_settings)
            yield from _recorded(name, epochs, trained)
            trained.aggregators[name] = model
        val = tuple(slide for slide in self._slides if slide.split == "val")
        trained.temperatures = fit_temperatures(
            trained.score(self._folder, val), val, self._classes
        )
        self._result = trained

    @property
    def result(self) -> Trained:
        """The trained models.

        Raises:
            LearnError: The training was not iterated to its end.
        """
        if self._result is None:
            raise LearnError("the training has not ended; iterate over it first")
        return self._result


def _recorded(name: str, epochs: Iterator[Epoch], trained: Trained) -> Iterator[tuple[str, Epoch]]:
    for epoch in epochs:
        trained.history.append((name, epoch))
        yield name, epoch
