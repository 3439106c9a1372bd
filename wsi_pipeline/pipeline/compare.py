"""Train several encoders the same way on the same patients, and hold them against each other.

The file has a table ``[compare]`` (which encoders, what is required) and one for how: with
``[finetune]`` each encoder is fine-tuned end to end, with ``[extract]`` and ``[train]`` features of
the frozen encoder get a tile classifier. Each encoder is a model of its own, so a comparison that
was interrupted goes on with the encoder it was at.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wsi_pipeline import learn
from wsi_pipeline.atomic import write_json, write_text
from wsi_pipeline.errors import ConfigError, LearnError, WsiError
from wsi_pipeline.events import Event, Note, SlideDone, SlideFailed, StageStarted, Written
from wsi_pipeline.features import encoder_tag, load_encoder
from wsi_pipeline.learn import SplitSettings, TaskSettings
from wsi_pipeline.pipeline.probe import Probing, probe
from wsi_pipeline.reporting import (
    HELD_OUT,
    Comparison,
    EncoderResult,
    Measure,
    Pair,
    comparison_chart,
    comparison_csv,
    comparison_page,
    to_markdown,
)
from wsi_pipeline.run_folder import BundleFile, RunFolder
from wsi_pipeline.settings import describe, load_toml
from wsi_pipeline.tables import read_table
from wsi_pipeline.verbs import VERBS
from wsi_pipeline.verbs.models import CompareConfig

STUDY: Final = ("densenet121", "resnet50", "resnet101", "resnet152", "vgg16")
PAIRED_MEASURES: Final = ("accuracy", "balanced_accuracy", "auroc")
TABLES: Final = ("compare", "finetune", "extract", "train")


class Plan(BaseModel):
    """The ``[compare]`` table, and the settings of the stages it runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: Path
    title: str = "Encoders on tiles of liver"
    encoders: list[str] = Field(default=list(STUDY), min_length=1)
    weights: dict[str, str] = {}
    default_weights: str = "auto"
    required: float = Field(default=0.96, gt=0, lt=1)
    synthetic: bool = False
    stages: dict[str, dict[str, Any]] = {}

    @property
    def finetunes(self) -> bool:
        return "finetune" in self.stages

    def weights_of(self, encoder: str) -> str:
        return self.weights.get(encoder, self.default_weights)


@dataclass(frozen=True, kw_only=True)
class _Step:
    """A stage to run for an encoder."""

    name: str
    settings: dict[str, Any]


def read_plan(path: Path) -> Plan:
    """Read and validate a comparison's file, every stage's settings included.

    Raises:
        ConfigError: A table or a setting is unknown, or says something impossible.
    """
    tables = load_toml(path)
    unknown = [name for name in tables if name not in TABLES]
    if unknown or "compare" not in tables:
        raise ConfigError(
            f"{path}: tables {', '.join(f'[{name}]' for name in tables) or 'none'} found; "
            f"[compare] is needed, then [finetune], or [extract] and [train]"
        )
    stages: dict[str, dict[str, Any]] = {
        name: tables[name] for name in TABLES[1:] if name in tables
    }
    if ("finetune" in stages) == bool({"extract", "train"} & stages.keys()):
        raise ConfigError(f"{path}: give either [finetune], or [extract] and [train]")
    try:
        plan = Plan(**tables["compare"], stages=stages)
    except ValidationError as error:
        raise ConfigError(describe(error, f"{path} [compare]")) from None
    for step in _steps(plan, plan.encoders[0]):
        VERBS[step.name].config_class.from_mapping(step.settings, f"{path} [{step.name}]")
    return plan


def run(config: CompareConfig) -> Iterator[Event]:
    """Train what is not trained yet; write ``comparison/`` in the run folder.

    An encoder that fails is named in the table and costs no other one.

    Raises:
        ConfigError: The file says something impossible, or an encoder is unknown.
    """
    if config.plan.is_dir() and not config.probe:
        raise ConfigError(f"{config.plan}: a comparison needs a plan; a run folder takes --probe")
    plan = None if config.plan.is_dir() else read_plan(config.plan)
    if config.probe or plan is None:
        yield from probe(_probing(config, plan))
        return
    unknown = [name for name in config.only if name not in plan.encoders]
    if unknown:
        raise ConfigError(
            f"--only {', '.join(unknown)}: {config.plan} has {', '.join(plan.encoders)}"
        )
    for encoder in plan.encoders:
        encoder_tag(encoder, "random")  # asks for no weights; an unknown name ends it here
    errors: dict[str, str] = {}
    yield StageStarted(stage="compare", total=len(plan.encoders), unit="encoders")
    for encoder in config.only or plan.encoders:
        try:
            yield from _train(config, plan, encoder)
        except ConfigError:
            raise
        except WsiError as error:
            errors[encoder] = str(error)
            yield SlideFailed(slide_id=encoder, error=str(error))
        else:
            yield SlideDone(slide_id=encoder, counts={}, flags=(), seconds=0.0)
    if not config.dry_run:
        yield from _write(plan, errors)


def _probing(config: CompareConfig, plan: Plan | None) -> Probing:
    """Return what is probed, as the plan says it, or of a run folder the flags.

    Raises:
        ConfigError: A flag says what the plan says.
    """
    own = {*TaskSettings.model_fields, "external", "groups", "seed"}
    if plan is None:
        told = {name: getattr(config, name) for name in own}
        run, encoders = config.plan, config.only
    else:
        both = sorted(own & config.model_fields_set)
        if both:
            raise ConfigError(
                f"--{both[0].replace('_', '-')}: {config.plan} says it; change it there"
            )
        trial = "finetune" if plan.finetunes else "train"
        found = VERBS[trial].config_class.from_mapping(
            _steps(plan, plan.encoders[0])[-1].settings, f"{config.plan} [{trial}]"
        )
        told = {name: getattr(found, name) for name in own}
        run, encoders = plan.run, config.only or tuple(plan.encoders)
    task = {name: told.pop(name) for name in TaskSettings.model_fields}
    split = SplitSettings(split="random", folds=config.folds, **told)
    return Probing(
        run=run, encoders=encoders, task=TaskSettings(**task), split=split, dry_run=config.dry_run
    )


def _train(config: CompareConfig, plan: Plan, encoder: str) -> Iterator[Event]:
    how = {"dry_run": config.dry_run, "overwrite": config.overwrite, "workers": config.workers,
           "scheduler": config.scheduler}  # fmt: skip
    for step in _steps(plan, encoder):
        found = VERBS[step.name]
        settings = found.config_class.from_mapping(step.settings, str(config.plan))
        for event in found.run(settings.model_copy(update=how)):
            if not isinstance(event, StageStarted | Written):
                yield event


def _steps(plan: Plan, encoder: str) -> list[_Step]:
    """Return what is run for an encoder, in its order."""
    which = {"run": plan.run, "encoder": encoder}
    weights = {"weights": plan.weights_of(encoder)}
    if plan.finetunes:
        return [_Step(name="finetune", settings={**plan.stages["finetune"], **which, **weights})]
    extract = {**plan.stages.get("extract", {}), **which, **weights}
    train = {**plan.stages.get("train", {}), **which, "name": f"compared-{encoder}"}
    return [_Step(name="extract", settings=extract), _Step(name="train", settings=train)]


def _write(plan: Plan, errors: dict[str, str]) -> Iterator[Event]:
    results = tuple(_result(plan, encoder, errors.get(encoder, "")) for encoder in plan.encoders)
    notes = sorted({note for encoder in plan.encoders for note in _notes(plan, encoder)})
    comparison = Comparison(
        title=plan.title, results=results, required=plan.required, notes=tuple(notes),
        synthetic=plan.synthetic, pairs=tuple(_pairs(plan)),
    )  # fmt: skip
    folder = RunFolder(plan.run).comparison
    write_text(folder.table, comparison_csv(comparison))
    write_text(folder.markdown, to_markdown(comparison))
    write_text(folder.figure, comparison_chart(comparison).data.decode())
    write_text(folder.page, comparison_page(comparison))
    write_json(folder.pairs, [asdict(pair) for pair in comparison.pairs])
    for row in comparison.rows():
        yield Note(text="  ".join(f"{name} {value}" for name, value in row.items() if value))
    yield Written(path=str(folder.page), what="comparison")


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """What speaks for a slide under one encoder, and its probabilities for each slide."""

    classes: tuple[str, ...]
    slides: tuple[learn.SplitSlide, ...]
    scores: dict[str, NDArray[np.float64]]

    def part(self, split: str) -> tuple[learn.SplitSlide, ...]:
        return tuple(slide for slide in self.slides if slide.split == split)


def _pairs(plan: Plan) -> Iterator[Pair]:
    """Hold encoders against each other, two by two, on held-out slides that both judged."""
    settings = _steps(plan, plan.encoders[0])[-1].settings
    bootstrap = learn.Bootstrap(
        resamples=settings.get("resamples", learn.Bootstrap().resamples),
        seed=settings.get("seed", 0),
    )
    read = {name: _judged(_folder(plan, name)) for name in plan.encoders}
    judged = {name: each for name, each in read.items() if each is not None}
    for split in HELD_OUT:
        compared = []
        for one, two in combinations(judged, 2):
            first, second = judged[one], judged[two]
            part = first.part(split)
            if not part or first.classes != second.classes or part != second.part(split):
                continue
            a, b = (learn.slide_cases(part, each.scores, first.classes) for each in (first, second))
            found = learn.compare_models(a, b, first.classes, bootstrap)
            compared.append((one, two, part, found))
        for measure in PAIRED_MEASURES:
            ps = learn.holm([found[measure].p for *_, found in compared])
            for (one, two, part, found), p_holm in zip(compared, ps, strict=True):
                yield Pair(
                    first=one, second=two, split=split, measure=measure, slides=len(part),
                    patients=len({slide.patient_id for slide in part}), p_holm=p_holm,
                    **asdict(found[measure]),
                )  # fmt: skip


def _judged(folder: Path) -> _Judged | None:
    """Read back a trained encoder's predictions of slides; None where it is not trained."""
    if not (folder / BundleFile.METRICS).exists():
        return None
    figures = learn.read_figures(folder)
    classes = figures.classes
    table = read_table(folder / BundleFile.PREDICTIONS, error=LearnError)
    rows = [row.cells for row in table if row.cells["model"] == figures.primary]
    slides = [
        learn.SplitSlide(**{name: row[name] for name in learn.SplitSlide.__annotations__})
        for row in rows
    ]
    return _Judged(
        classes=classes,
        slides=tuple(sorted(slides, key=lambda slide: slide.slide_id)),
        scores={
            row["slide_id"]: np.array([float(row[f"p_{name}"]) for name in classes]) for row in rows
        },
    )


def _result(plan: Plan, encoder: str, error: str) -> EncoderResult:
    """Read back what a trained encoder came to."""
    folder = _folder(plan, encoder)
    weights = plan.weights_of(encoder)
    if not (folder / BundleFile.METRICS).exists():
        return EncoderResult(
            encoder=encoder, weights=weights, random=weights == "random",
            error=error,
        )  # fmt: skip
    tiles = [found for found in learn.read_figures(folder).evaluations if found.level == "tile"]
    # under cross-validation the folds are the models; the first one speaks for all
    fold = folder / learn.FOLD.format(1)
    model = fold if (fold / BundleFile.SPEED).exists() else folder
    about, speed = _read(model / BundleFile.CONFIG), _read(model / BundleFile.SPEED)
    if not plan.finetunes:
        about, speed = _measured(encoder, weights)
    return EncoderResult(
        encoder=encoder,
        weights=str(about.get("started_from", {}).get("tag", weights)),
        random=weights == "random",
        accuracy={found.split: Measure(**asdict(found.measures["accuracy"])) for found in tiles},
        patients={found.split: found.patients for found in tiles},
        parameters=about.get("parameters"),
        tiles_per_second=speed.get("tiles_per_second"),
        error=error,
    )


def _measured(encoder: str, weights: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a frozen encoder is and how fast it is, as a fine-tuned one's files say it."""
    loaded = load_encoder(encoder, weights)
    tiles = np.zeros((loaded.batch_size * loaded.lanes, 256, 256, 3), np.uint8)
    loaded.encode(tiles)  # the first pass chooses kernels
    begun = time.perf_counter()
    loaded.encode(tiles)
    seconds = time.perf_counter() - begun
    about = {"started_from": {"tag": loaded.tag}, "parameters": loaded.parameters}
    return about, {"tiles_per_second": len(tiles) / seconds}


def _notes(plan: Plan, encoder: str) -> tuple[str, ...]:
    folder = _folder(plan, encoder)
    return learn.read_figures(folder).notes if (folder / BundleFile.METRICS).exists() else ()


def _folder(plan: Plan, encoder: str) -> Path:
    if plan.finetunes:
        return RunFolder(plan.run).finetuned(encoder)
    return RunFolder(plan.run).model(f"compared-{encoder}")


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    values: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return values
