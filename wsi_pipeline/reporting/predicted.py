"""What models say of slides: as they were judged in training, or as they were told to predict."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from wsi_pipeline.errors import LearnError
from wsi_pipeline.reporting.bundles import BundleRead
from wsi_pipeline.reporting.data import NONE_OF_THESE, Failure, Prediction
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.tables import Table, read_table

PROBABILITY: Final = "p_"  # columns of a class each begin so


@dataclass(frozen=True, kw_only=True)
class Said:
    """What the primary model of each bundle says.

    Attributes:
        bundles: Models trained in the run folder.
        predicted: By model and slide, what ``predict`` wrote.
    """

    bundles: Sequence[BundleRead]
    predicted: Mapping[str, Mapping[str, Prediction]]

    @property
    def names(self) -> tuple[str, ...]:
        """The models, those trained here first."""
        return tuple(dict.fromkeys((*(b.report.name for b in self.bundles), *self.predicted)))

    def of(self, slide_id: str) -> tuple[Prediction, ...]:
        """Return each model's word of a slide; that by which it was judged comes before others."""
        judged = {
            b.report.name: b.predictions[slide_id]
            for b in self.bundles
            if slide_id in b.predictions
        }
        told = {
            name: each[slide_id]
            for name, each in self.predicted.items()
            if slide_id in each and name not in judged
        }
        return (*judged.values(), *told.values())

    def split(self, slide_id: str) -> str | None:
        """Return on which side of a training here the slide was."""
        return next((b.splits[slide_id] for b in self.bundles if slide_id in b.splits), None)


def read_said(folder: RunFolder, bundles: Sequence[BundleRead]) -> tuple[Said, list[Failure]]:
    """Read the tables that ``predict`` wrote; those that cannot be read are failures.

    Of a table from before primary models were marked nothing is taken: ``predict``, given again,
    writes it anew.
    """
    found, broken = {}, []
    for path in sorted(folder.predictions.glob("[!.]*/slides.csv")):
        name = path.parent.name
        try:
            found[name] = dict(_rows(name, read_table(path, error=LearnError)))
        except (LearnError, KeyError, ValueError) as error:
            told = f"{path} cannot be read ({error}); predict again"
            broken.append(Failure(slide_id=f"predictions/{name}", stage="predict", reason=told))
    return Said(bundles=bundles, predicted=found), broken


def _rows(bundle: str, rows: Table) -> Iterator[tuple[str, Prediction]]:
    for row in rows:
        cells = row.cells
        if cells.get("primary") != "yes":
            continue
        yield (
            cells["slide_id"],
            Prediction(
                model=cells["model"],
                probabilities={
                    column.removeprefix(PROBABILITY): float(value)
                    for column, value in cells.items()
                    if column.startswith(PROBABILITY)
                },
                bundle=bundle,
                truth=cells["label"] or None,
                split=cells["split"] or None,
                classes=_classes(cells["set"]),
                unlike=cells["unlike_training"] == "yes",
            ),
        )


def _classes(words: str) -> tuple[str, ...] | None:
    if not words:
        return None
    return () if words == NONE_OF_THESE else tuple(words.split("|"))
