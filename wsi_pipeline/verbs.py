"""Every verb: one table, for the command line, for study files and for stages that run others.

A verb's settings and its stage are imported when it is asked for, so that the table costs nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from wsi_pipeline.events import Event
from wsi_pipeline.registry import Registry, load
from wsi_pipeline.settings import StageConfig

SLIDES: Final = "slides"
TILES: Final = "tiles and features"
MODELS: Final = "models"
RUNS: Final = "run folders"
STUDIES: Final = "whole studies"


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One verb. It is a stage of a study too, unless it runs a study itself.

    Attributes:
        name: As it is called.
        group: What it works on.
        about: A sentence.
        config: Class of its settings, ``module:Class``; the module is light to import.
        stage: ``module:function`` that takes the settings and yields events.
        example: A command line, without the verb.
    """

    name: str
    group: str
    about: str
    config: str
    stage: str
    example: str

    @property
    def config_class(self) -> type[StageConfig]:
        """Import what the verb can be told."""
        found: type[StageConfig] = load(self.config)
        return found

    def run(self, config: StageConfig) -> Iterator[Event]:
        """Import the stage and start it.

        Raises:
            UsageError: The request is wrong; nothing was begun.
        """
        stage: Callable[[Any], Iterator[Event]] = load(self.stage)
        return stage(config)


def _ours(name: str, group: str, config: str, about: str, example: str) -> Verb:
    room = "wsi_pipeline.pipeline"
    return Verb(
        name=name, group=group, about=about, example=example,
        config=f"{room}.{config}", stage=f"{room}.{name}:run",
    )  # fmt: skip


VERBS: Final = Registry(
    "verb",
    {
        verb.name: verb
        for verb in (
            _ours(
                "download", SLIDES, "configs:DownloadConfig",
                "Fetch GDC slides by manifest or query, resumable and verified.",
                "manifests/gdc_tcga_liver.txt --out slides",
            ),
            _ours(
                "cores", SLIDES, "configs:CoresConfig",
                "Find the cores of a tissue microarray, name them, and draw them for a person to "
                "check.",
                "slides/TMA1.svs --map manifests/TMA1.csv --preview runs/liver/cores/TMA1.jpg",
            ),
            _ours(
                "tile", TILES, "configs:TileConfig",
                "Find tissue, normalise stains, cut tiles and keep those that pass the rules.",
                "manifests/liver.csv --slides slides --run runs/liver",
            ),
            _ours(
                "qc", TILES, "configs:QcConfig",
                "Show flagged tiles on one page, and write the table that says which to drop.",
                "runs/liver --drop pen,blurred",
            ),
            _ours(
                "extract", TILES, "configs:ExtractConfig",
                "Encode every tile of a run folder; one feature store a slide.",
                "runs/liver --encoder densenet121",
            ),
            _ours(
                "export", TILES, "configs:ExportConfig",
                "Write a run folder's features as CLAM, TRIDENT or STAMP read them.",
                "runs/liver --layout clam",
            ),
            _ours(
                "import_features", TILES, "configs:ImportConfig",
                "Take over features of CLAM, TRIDENT or STAMP; the layout is recognised.",
                "trident/features_uni --run runs/liver --cohort manifests/liver.csv",
            ),
            _ours(
                "audit", MODELS, "configs:AuditConfig",
                "Look for leaks, nuisances that predict the label, and classes too small for what "
                "is asked.",
                "runs/liver --encoder densenet121 --external tma",
            ),
            _ours(
                "train", MODELS, "configs:TrainConfig",
                "Train a tile classifier and slide aggregators on a run folder's features; "
                "validate them.",
                "runs/liver --encoder densenet121 --external tma",
            ),
            _ours(
                "finetune", MODELS, "configs:FinetuneConfig",
                "Fine-tune an encoder end to end on a run folder's tiles, or on flat images; "
                "validate it.",
                "runs/liver --encoder densenet121 --external tma",
            ),
            _ours(
                "compare", MODELS, "configs:CompareConfig",
                "Compare encoders: the same patients, the same recipe, one table and one figure.",
                "stages/compare.toml",
            ),
            _ours(
                "predict", MODELS, "configs:PredictConfig",
                "Score a run folder's slides with a trained model; draw heatmaps.",
                "runs/liver --model densenet121",
            ),
            _ours(
                "verify", RUNS, "configs:VerifyConfig",
                "Check every tile store, feature store, model and prediction of a run folder.",
                "runs/liver --slides slides",
            ),
            _ours(
                "report", RUNS, "configs:ReportConfig",
                "Write one self-contained HTML page about a run folder.",
                "runs/liver",
            ),
            _ours(
                "init", STUDIES, "configs:InitConfig",
                "Write the files of a shipped study, to be changed and run.",
                "liver --folder study",
            ),
            _ours(
                "run", STUDIES, "configs:RunConfig",
                "Run every stage of a study file, one after the other; what is finished is not "
                "redone.",
                "stages/liver.toml",
            ),
            _ours(
                "demo", STUDIES, "configs:DemoConfig",
                "Generate the synthetic cohort and take it through the whole pipeline.",
                "demo --workers 2",
            ),
        )
    },
)  # fmt: skip
"""In the order in which a study runs them."""


def stages() -> dict[str, Verb]:
    """Return the verbs that a study file may have a table of."""
    return {name: verb for name, verb in VERBS.items() if verb.group != STUDIES}
