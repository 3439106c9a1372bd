"""The learner on pixels: an encoder fine-tuned end to end, its network frozen, calibrated, kept."""

import json
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from wsi_pipeline.atomic import write_json
from wsi_pipeline.errors import LearnError
from wsi_pipeline.events import Event, Note
from wsi_pipeline.features import choose_device
from wsi_pipeline.learn.bundle_config import TILE_MEAN
from wsi_pipeline.learn.external import weights_digest
from wsi_pipeline.learn.finetune.network import Built, Viewer, build_network, score_tiles, to_scores
from wsi_pipeline.learn.finetune.ranks import Ranks
from wsi_pipeline.learn.finetune.tiles import TileSource
from wsi_pipeline.learn.finetune.tuning import PRECISIONS, FineTuning, Workplace
from wsi_pipeline.learn.fit import Epoch
from wsi_pipeline.learn.learner import Learner, Models, Provenance, chosen_by, epoch_done
from wsi_pipeline.learn.scores import Scores, fit_temperatures
from wsi_pipeline.learn.settings import FineTuneSettings
from wsi_pipeline.learn.splits import Splits
from wsi_pipeline.learn.study import Study
from wsi_pipeline.run_folder import BundleFile, RunFolder
from wsi_pipeline.settings import digest

SCHEMA_VERSION: Final = 1
NETWORK: Final = "network"


@dataclass(kw_only=True)
class PixelModels(Models[TileSource]):
    """A fine-tuned network; its tiles' mean and their vote speak for a slide.

    ``tiles_per_second`` is measured whenever it scores.
    """

    built: Built
    viewer: Viewer
    scored_tiles: int | None
    seed: int
    ranks: Ranks
    temperatures: dict[str, float] = field(default_factory=dict)
    history: list[tuple[str, Epoch]] = field(default_factory=list)
    chosen_by: str = ""
    tiles_per_second: float = 0.0

    def modules(self) -> Mapping[str, nn.Module]:
        return {NETWORK: self.viewer.network}

    def score(self, source: TileSource, slides: Splits) -> Scores:
        tiles, self.tiles_per_second = score_tiles(
            self.viewer, source.of(slides), most=self.scored_tiles, seed=self.seed,
            ranks=self.ranks,
        )  # fmt: skip
        return to_scores(tiles, self.temperatures.get(TILE_MEAN, 1.0))


class PixelLearner(Learner[TileSource]):
    """Fine-tunes an encoder end to end; under ``torchrun`` several processes share the work.

    Args:
        settings: How.
        encoder, weights: What it starts from.
        run: The run folder, where a training that is interrupted goes on from.
        ranks: The processes.
    """

    models = (NETWORK,)
    primary = TILE_MEAN
    headline = ("tile", "accuracy", "tiles")
    packages = ("torch", "timm", "numpy", "scipy", "safetensors")

    def __init__(
        self, settings: FineTuneSettings, encoder: str, weights: str, run: Path, ranks: Ranks
    ) -> None:
        self._settings, self._encoder, self._weights = settings, encoder, weights
        self._run, self._ranks = RunFolder(run), ranks
        self._device = ranks.device(choose_device(settings.device))

    def fit(
        self, study: Study[TileSource], about: Provenance
    ) -> Generator[Event, None, PixelModels]:
        settings, name = self._settings, about.said(about.name)
        place = Workplace(
            device=self._device,
            ranks=self._ranks,
            checkpoint=self._checkpoint(about),
            identity=digest(about.digests["identity"]),
        )
        how = f"(loss), stopping after {settings.patience}", "set the temperature"
        chosen = chosen_by(study.splits, settings, how)
        yield Note(text=f"{name}: epoch chosen by {chosen}")
        built = self._build(len(study.classes))
        train, val = (study.source.of(study.part(part)) for part in ("train", "val"))
        tuning = FineTuning(built, (train, val), study.classes, settings, place)
        for row in tuning.progress.history:
            yield Note(text=f"{name}: epoch {row['epoch']:.0f} was finished earlier")
        for epoch in tuning:
            yield epoch_done(name, epoch, settings.epochs)
        fitted = self._models(built, tuning.epochs())
        scores = fitted.score(study.source, study.part("val"))
        found = fit_temperatures(scores, study.part("val"), study.classes)
        fitted.temperatures = {TILE_MEAN: found[TILE_MEAN]}
        fitted.chosen_by = chosen
        return fitted

    def describe(self, study: Study[TileSource], about: Provenance) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "name": about.fold or about.name,
            "classes": list(study.classes),
            "encoder": self._encoder,
            "settings": dict(about.settings),
            "digests": dict(about.digests),
            "versions": dict(about.versions),
        }

    def write(
        self,
        folder: Path,
        models: Models[TileSource],
        study: Study[TileSource],
        about: Provenance,
    ) -> None:
        assert isinstance(models, PixelModels)
        built = models.built
        for file, module in (
            (BundleFile.WEIGHTS, built.network),
            (BundleFile.ENCODER, built.network.body),
        ):
            state = module.state_dict()
            save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, folder / file)
        learned = {
            "started_from": built.encoder.provenance | {"tag": built.encoder.tag},
            "preprocess": built.preprocess.as_dict() | {"input_px": self._settings.input_px},
            "parameters": built.parameters,
            "temperature": models.temperatures[TILE_MEAN],
        }
        write_json(folder / BundleFile.CONFIG, self.describe(study, about) | learned)
        rows = [
            {name: value for name, value in asdict(epoch).items() if name != "best"}
            for _, epoch in models.history
        ]
        write_json(folder / BundleFile.EPOCHS, rows)
        write_json(folder / BundleFile.SPEED, {"tiles_per_second": models.tiles_per_second})

    def load(self, folder: Path, study: Study[TileSource]) -> PixelModels:
        try:
            found = json.loads((folder / BundleFile.CONFIG).read_text("utf-8"))
            weights = load_file(folder / BundleFile.WEIGHTS)
            temperature, expected = float(found["temperature"]), found["digests"]["weights"]
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise LearnError(f"{folder}: not a whole fine-tuned model ({error})") from None
        built = self._build(len(study.classes))
        try:
            built.network.load_state_dict(weights)
        except RuntimeError as error:
            raise LearnError(f"{folder}: the weights do not fit config.json: {error}") from None
        if weights_digest({NETWORK: built.network}) != expected:
            raise LearnError(f"{folder}: the weights are not those config.json was written for")
        built.network.to(self._device).eval()
        fitted = self._models(built, [])
        fitted.temperatures = {TILE_MEAN: temperature}
        return fitted

    def finish(self, about: Provenance) -> None:
        self._checkpoint(about).unlink(missing_ok=True)

    def _checkpoint(self, about: Provenance) -> Path:
        return self._run.checkpoint("-".join(filter(None, (about.name, about.fold))))

    def _build(self, classes: int) -> Built:
        settings = self._settings
        return build_network(
            self._encoder, self._weights, classes,
            dropout=settings.dropout, scaling=settings.scaling, seed=settings.seed,
        )  # fmt: skip

    def _models(self, built: Built, epochs: list[Epoch]) -> PixelModels:
        settings = self._settings
        viewer = Viewer(
            network=built.network, preprocess=built.preprocess, input_px=settings.input_px,
            device=self._device, precision=PRECISIONS[settings.precision],
        )  # fmt: skip
        return PixelModels(
            built=built, viewer=viewer, scored_tiles=settings.scored_tiles, seed=settings.seed,
            ranks=self._ranks, history=[(NETWORK, epoch) for epoch in epochs],
        )  # fmt: skip
