"""The run folder: every name that stands on disk, told once.

Nothing here opens a file. A stage asks for a place and reads or writes there by the room that knows
the format; what a format's files end in is that room's too, but for the feature stores that every
room reads.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

STORE: Final = ".h5"  # feature stores and predictions


class BundleFile(StrEnum):
    """What a trained model's folder holds; ``folder / BundleFile.CONFIG`` is a path."""

    WEIGHTS = "model.safetensors"
    ENCODER = "encoder.safetensors"  # of a fine-tuned model, alone
    CONFIG = "config.json"
    SPLITS = "splits.csv"
    FOLDS = "folds.csv"  # cross-validation alone: the weights are in its folds
    METRICS = "metrics.json"
    PREDICTIONS = "predictions.csv"
    HISTORY = "history.csv"
    EPOCHS = "history.json"  # of a fine-tuned model
    SPEED = "speed.json"
    AUDIT = "audit.json"


@dataclass(frozen=True)
class RunFolder:
    """Where everything of one run lies below ``root``."""

    root: Path = Path()

    @property
    def cohort(self) -> Path:
        """The table of the run's slides, cores in the place of their microarrays."""
        return self.root / "cohort.csv"

    @property
    def settings(self) -> Path:
        """Settings files as they were given."""
        return self.root / "config"

    @property
    def cores(self) -> Path:
        return self.root / "cores"

    def cores_table(self, slide_id: str) -> Path:
        """Where a microarray's cores are; corrected by hand, never overwritten."""
        return self.cores / f"{slide_id}.csv"

    @property
    def tiles(self) -> Path:
        """Tile stores, ``<slide_id>.zarr`` or ``.h5``; ``tiles.find_store`` knows which."""
        return self.root / "tiles"

    @classmethod
    def of_tiles(cls, store: Path) -> "RunFolder":
        """Return the run folder that a tile store lies in."""
        return cls(store.parent.parent)

    @property
    def deleted_slides(self) -> Path:
        """Slides whose file was deleted once it was cut, a JSON object a line."""
        return self.root / "deleted_slides.jsonl"

    def mask(self, slide_id: str) -> Path:
        """Where a slide's tissue is as a person corrected it at the screen."""
        return self.root / "masks" / f"{slide_id}.geojson"

    @property
    def thumbnails(self) -> Path:
        return self.root / "thumbnails"

    def thumbnail(self, slide_id: str) -> Path:
        return self.thumbnails / f"{slide_id}.jpg"

    @property
    def features(self) -> Path:
        """One folder an encoder's tag."""
        return self.root / "features"

    def features_of(self, encoder: str) -> Path:
        return self.features / encoder

    def feature_store(self, encoder: str, slide_id: str) -> Path:
        return store_in(self.features_of(encoder), slide_id)

    def splits(self, model: str, fold: str | None = None) -> Path:
        """How the patients of a model, or of one of its folds, were split before training."""
        folder = self.root / "splits"
        return folder / f"{model}.csv" if fold is None else folder / model / f"{fold}.csv"

    @property
    def models(self) -> Path:
        return self.root / "models"

    def model(self, name: str) -> Path:
        return self.models / name

    def bundles(self) -> list[Path]:
        """Return the folders of the models that are whole, by name."""
        return sorted(path.parent for path in self.models.glob(f"[!.]*/{BundleFile.CONFIG}"))

    def finetuned(self, name: str) -> Path:
        return self.root / "finetuned" / name

    def finetuned_models(self) -> list[Path]:
        """Return the folders of the fine-tuned models that are whole, by name."""
        return sorted(p.parent for p in self.root.glob(f"finetuned/[!.]*/{BundleFile.CONFIG}"))

    def checkpoint(self, name: str) -> Path:
        """Where a fine-tuning that was interrupted goes on from."""
        return self.root / "finetuned" / ".checkpoints" / f"{name}.pt"

    @property
    def audit(self) -> Path:
        return self.root / BundleFile.AUDIT

    @property
    def groups(self) -> Path:
        """Which slides belong together, as the audit found."""
        return self.root / "groups.csv"

    @property
    def copies(self) -> Path:
        """Those slides side by side."""
        return self.root / "copies.html"

    @property
    def openings(self) -> Path:
        """When external slides were looked at, by which model, a JSON object a line."""
        return self.root / "external_openings.jsonl"

    @property
    def comparison(self) -> "Comparison":
        return Comparison(self.root / "comparison")

    @property
    def predictions(self) -> Path:
        """One folder a model."""
        return self.root / "predictions"

    def prediction(self, model: str, slide_id: str) -> Path:
        return store_in(self.predictions / model, slide_id)

    def predicted_slides(self, model: str) -> Path:
        return self.predictions / model / "slides.csv"

    def predicted_patients(self, model: str) -> Path:
        return self.predictions / model / "patients.csv"

    @property
    def heatmaps(self) -> Path:
        """One folder a model and map."""
        return self.root / "heatmaps"

    @property
    def decisions(self) -> Path:
        """Which tiles and slides a person drops."""
        return self.root / "qc" / "decisions.csv"

    @property
    def decisions_page(self) -> Path:
        return self.decisions.with_name("index.html")

    @property
    def report(self) -> Path:
        return self.root / "report" / "index.html"

    def exported(self, layout: str) -> Path:
        return self.root / "export" / layout

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def log(self, verb: str) -> Path:
        """The verb's log for people."""
        return self.logs / f"{verb}.log"

    @property
    def journal(self) -> Path:
        """What every verb said, for programs."""
        return self.logs / "journal.jsonl"

    @property
    def unfinished_repair(self) -> Path:
        """What a repair has removed to make it again, until it is there."""
        return self.root / ".repair.json"

    def trace(self, verb: str) -> Path:
        """Where the time went, with ``--profile``."""
        return self.logs / f"{verb}-trace.json"

    def lock(self, stage: str, slide_id: str) -> Path:
        """The lock of one slide (or model) in one stage."""
        return self.root / ".locks" / stage / slide_id


@dataclass(frozen=True)
class Comparison:
    """What the comparison of encoders writes."""

    root: Path

    @property
    def page(self) -> Path:
        return self.root / "index.html"

    @property
    def table(self) -> Path:
        return self.root / "table.csv"

    @property
    def markdown(self) -> Path:
        return self.root / "table.md"

    @property
    def figure(self) -> Path:
        return self.root / "figure.svg"

    @property
    def pairs(self) -> Path:
        """Encoders held against each other, two by two (JSON)."""
        return self.root / "pairs.json"

    @property
    def probe(self) -> Path:
        """What stored features tell by themselves, a row for each encoder and probe."""
        return self.root / "probe.csv"

    @property
    def probe_markdown(self) -> Path:
        return self.root / "probe.md"


def store_in(folder: Path, slide_id: str) -> Path:
    """Return a slide's feature store (or prediction) in an encoder's (or model's) folder."""
    return folder / f"{slide_id}{STORE}"


def stores_in(folder: Path) -> dict[str, Path]:
    """Return the feature stores (or predictions) in a folder, by slide, hidden files left out."""
    return {path.stem: path for path in sorted(folder.glob(f"[!.]*{STORE}"))}
