"""Redo what is damaged in a run folder, and only that, from what is sound.

What is wrong, ``verify`` says. A damaged store is removed and its stage asked for that slide again,
with the settings that the sound stores beside it were made with; what was made from it follows if
it turns out another. What no stage can make again without a person is named, with what to do.
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

from wsi_pipeline.atomic import remove, write_json
from wsi_pipeline.cohort import CohortSlide, write_cohort
from wsi_pipeline.digests import read_seal, seal_file
from wsi_pipeline.errors import ConfigError, StoreError, WsiError
from wsi_pipeline.events import Event, Note, SlideFailed, StageStarted
from wsi_pipeline.features import encoder_of, read_attributes
from wsi_pipeline.hdf5 import open_hdf5
from wsi_pipeline.inventory import (
    NAME,
    ZARR,
    begin,
    listed_files,
    note_gone,
    note_there,
    read_inventory,
)
from wsi_pipeline.learn import read_prediction
from wsi_pipeline.pipeline import verify
from wsi_pipeline.pipeline.holdings import Finding, check_holdings, is_store
from wsi_pipeline.run_cohort import rows_of
from wsi_pipeline.run_folder import STORE, RunFolder, stores_in
from wsi_pipeline.settings import StageConfig
from wsi_pipeline.tiles import open_tiles, seal_tiles, stores_of
from wsi_pipeline.verbs import VERBS
from wsi_pipeline.verbs.runs import RepairConfig, VerifyConfig

ALL: Final = "all"
ROUNDS: Final = 3  # tiles, then the features of other tiles, then predictions of other features


def run(config: RepairConfig) -> Iterator[Event]:
    """Redo what is damaged; what is still wrong after that fails.

    Raises:
        ConfigError: There is no such run folder, or no such file to accept.
        CohortError: The cohort table cannot be used.
    """
    if not config.run.is_dir():
        raise ConfigError(f"{config.run}: there is no such run folder")
    yield StageStarted(stage="repair", total=0, unit="slides")
    if config.dry_run:
        yield from (
            Note(text=f"{config.run / each.name}: {each.problem}") for each in _find(config)
        )
        return
    if config.adopt:
        yield _adopt(config.run)
    if config.accept:
        yield _accept(config)
    yield from _rounds(config)
    if not any(verify.still_missing(config.run)):
        RunFolder(config.run).unfinished_repair.unlink(missing_ok=True)
    yield from verify.run(VerifyConfig(run=config.run, slides=config.slides))


def _rounds(config: RepairConfig) -> Iterator[Event]:
    """Remove what is wrong and make it again, then what was made from that."""
    for _ in range(ROUNDS):
        work = _plan(config, _find(config))
        yield from (Note(text=text) for text in work.told)
        if not work.stages:
            break
        _note_removed(config.run, work)
        for path in work.removed:
            remove(path)
        for stage in work.stages:
            for event in stage():  # of others' failures, verify has the last word
                other = isinstance(event, SlideFailed) and event.slide_id not in work.slides
                yield Note(text=event.line()) if other else event


def _note_removed(run: Path, work: "_Work") -> None:
    """Note what is about to be removed, and how it was cut: who is stopped now can go on."""
    path = RunFolder(run).unfinished_repair
    names = [each.relative_to(run).as_posix() for each in work.removed]
    names = [f"{name}/{ZARR}" if name.endswith(".zarr") else name for name in names]
    told = {
        "removed": sorted({*names, *verify.still_missing(run)}),
        "settings": _noted_settings(run) | work.settings,
    }
    write_json(path, told)


def _noted_settings(run: Path) -> dict[str, dict[str, Any]]:
    """Return how the slides were cut whose tiles a repair has removed."""
    path = RunFolder(run).unfinished_repair
    told = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return dict(told.get("settings", {}))


def _find(config: RepairConfig) -> list[Finding]:
    """Return all that is wrong, by file."""
    look = VerifyConfig(run=config.run, slides=config.slides)
    found = list(check_holdings(config.run, fast=False).findings)
    found += [
        Finding(name, "a repair that did not come to its end removed it")
        for name in verify.still_missing(config.run)
    ]
    for task in verify.verify_tasks(look, []):
        for path, problems in verify.check_slide(task).wrong.items():
            file = path / ZARR if path.is_dir() else path
            name = file.relative_to(config.run).as_posix()
            found.append(Finding(name, "; ".join(problems)))
    return found


@dataclass
class _Work:
    """What is to be done: files to remove, then stages to run for ``slides``; ``told`` says so.

    ``settings`` are those of the slides to be cut.
    """

    removed: list[Path] = field(default_factory=list)
    stages: list[Callable[[], Iterator[Event]]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    slides: set[str] = field(default_factory=set)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)


def _plan(config: RepairConfig, findings: Sequence[Finding]) -> _Work:
    """Decide which stage makes again what is wrong."""
    work, run = _Work(), RunFolder(config.run)
    cut, noted = work.settings, _noted_settings(config.run)
    rows = {row.slide_id: row for row in rows_of(run)}
    encoded: dict[str, None] = {}
    scored: dict[str, None] = {}
    report = False
    for finding in findings:
        parts = PurePosixPath(finding.name).parts
        path = config.run / finding.name
        slide_id = _slide_of(parts)
        match parts[0]:
            case "tiles" | "thumbnails":
                settings = cut.get(slide_id) or noted.get(slide_id) or _settings_of(run, slide_id)
                problem = _cannot_cut(config, rows.get(slide_id), settings)
                if problem or settings is None:
                    work.told.append(
                        f"{finding.name}: {finding.problem}; not made again: {problem}"
                    )
                    continue
                cut[slide_id] = settings
                work.removed += [run.thumbnail(slide_id), *_stores(run.tiles, slide_id)]
            case "features" if path.suffix == STORE:
                encoded[parts[1]] = None
                work.removed.append(path)
            case "predictions":
                scored[parts[1]] = None
                work.removed += [path, *_if_slide(run, parts[1], slide_id)]
            case "heatmaps":
                model = _model_of(run, parts[1])
                scored[model] = None
                work.removed += [path, *_if_slide(run, model, slide_id)]
            case "report":
                report = True
                work.removed.append(path)
            case _:
                continue
        work.slides.add(slide_id)
        work.told.append(f"{finding.name}: {finding.problem}; it is made again")
    for settings in _each_once(cut.values()):
        alike = [replace(rows[name], line=None) for name in cut if cut[name] == settings]
        work.stages.append(_stage(_cut, config, (alike, settings)))
    work.stages += [_stage(_encode, config, tag) for tag in encoded]
    work.stages += [_stage(_score, config, model) for model in scored]
    if report:
        settings = {"run": config.run, "slides": config.slides}
        work.stages.append(lambda: _run("report", settings))
    return work


def _stage(
    work: Callable[[RepairConfig, Any], Iterator[Event]], config: RepairConfig, what: Any
) -> Callable[[], Iterator[Event]]:
    return lambda: work(config, what)


def _each_once(values: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    once: list[dict[str, Any]] = []
    for value in values:
        if value not in once:
            once.append(value)
    return once


def _cannot_cut(
    config: RepairConfig, row: CohortSlide | None, settings: Mapping[str, Any] | None
) -> str:
    """Say why a slide cannot be cut again; nothing if it can."""
    if row is None:
        return "cohort.csv has no row of its slide"
    if settings is None:
        return "no sound store tells how it was cut"
    path = row.locate(config.slides)
    if path is None or (isinstance(path, Path) and not path.exists()):
        return f"its slide is not at hand ({path or row.path}); say where with --slides"
    return ""


def _slide_of(parts: Sequence[str]) -> str:
    """Return the slide that a file is of, by its name; a Zarr store is a folder."""
    name = parts[-2] if parts[-1] == ZARR else parts[-1]
    for suffix in (
        ".zarr",
        STORE,
        ".values.ome.tif",
        ".ome.tif",
        ".geojson",
        ".jpg",
        ".png",
        ".json",
    ):
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def _stores(folder: Path, slide_id: str) -> list[Path]:
    return [
        path for suffix in (".zarr", STORE) if (path := folder / f"{slide_id}{suffix}").exists()
    ]


def _if_slide(run: RunFolder, model: str, slide_id: str) -> list[Path]:
    """Return the slide's prediction: without it, the slide is scored and drawn anew."""
    path = run.prediction(model, slide_id)
    return [path] if path.exists() else []


def _model_of(run: RunFolder, folder: str) -> str:
    """Return the model whose heatmaps lie in a folder ``<model>-<map>``."""
    models = sorted(path.name for path in run.predictions.glob("[!.]*"))
    fitting = [name for name in models if folder.startswith(f"{name}-")]
    return max(fitting, key=len, default=folder)


def _run(verb: str, settings: Mapping[str, Any]) -> Iterator[Event]:
    stage = VERBS[verb]
    config: StageConfig = stage.config_class.from_mapping(dict(settings), f"repair: {verb}")
    yield from stage.run(config)


def _cut(
    config: RepairConfig, what: tuple[Sequence[CohortSlide], Mapping[str, Any]]
) -> Iterator[Event]:
    """Cut slides again, with these settings."""
    rows, settings = what
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "cohort.csv"
        write_cohort(table, rows)
        how = {"cohort": table, "run": config.run, "slides": config.slides}
        yield from _run("tile", {**settings, **how, "workers": config.workers})


def _settings_of(run: RunFolder, slide_id: str) -> dict[str, Any] | None:
    """Return what a slide was cut with; where its store does not tell, what those like it were."""
    stores = stores_of(run.tiles)
    own = stores.get(slide_id)
    suffix = None if own is None else own.suffix
    others = sorted(stores.values(), key=lambda path: (path != own, path.suffix != suffix))
    for path in others:
        try:
            stored = open_tiles(path).attributes.get("config")
        except StoreError:
            continue
        if stored:
            return dict(stored)
    return None


def _encode(config: RepairConfig, tag: str) -> Iterator[Event]:
    """Encode again what an encoder's folder lacks, as the stores there were made."""
    folder = RunFolder(config.run).features_of(tag)
    for path in stores_in(folder).values():
        try:
            made = read_attributes(path).get("made_from") or {}
        except StoreError:
            continue
        if made.get("source") == "tiles":
            break
    else:
        yield Note(
            text=f"{folder}: no sound store tells how its features were made from tiles; extract "
            "or import them again yourself"
        )
        return
    meant = encoder_of(tag)
    settings = {
        "run": config.run, "encoder": meant.name, "weights": meant.weights,
        "pooling": meant.pooling, "device": config.device,
    }  # fmt: skip
    settings |= {name: made[name] for name in ("precision", "dtype")}
    yield from _run("extract", {**settings, "workers": config.workers})


def _score(config: RepairConfig, model: str) -> Iterator[Event]:
    """Score and draw again the slides that a model's folder lacks."""
    made: Mapping[str, Any] = {}
    for path in stores_in(RunFolder(config.run).predictions / model).values():
        try:
            made = read_prediction(path).made_from
            break
        except StoreError:
            continue
    settings = {
        "run": config.run,
        "model": Path(model),
        "device": config.device,
        "heatmaps": bool(made.get("heatmaps", True)),
        "geojson": bool(made.get("geojson", True)),
        "heatmap_classes": made.get("heatmap_classes", "predicted"),
        "workers": config.workers,
    }
    yield from _run("predict", settings)


def _accept(config: RepairConfig) -> Note:
    """List files as they are now.

    Raises:
        ConfigError: There is no such file.
    """
    run = config.run
    if ALL in config.accept:
        (run / NAME).unlink(missing_ok=True)
        begin(run, old=False)
        for file in listed_files(run):
            note_there(file)
        return Note(text=f"{run}: all files are taken as they are")
    for name in config.accept:
        path = run / name
        if not path.exists():
            if name not in read_inventory(run.absolute()).entries:
                raise ConfigError(f"--accept {name}: {run} has no such file")
            note_gone(path)
        else:
            note_there(path)
    return Note(text=f"taken as they are: {', '.join(config.accept)}")


def _adopt(run: Path) -> Note:
    """Give digests to what has none."""
    begin(run)
    adopted = 0
    failed: list[str] = []
    for name in check_holdings(run, fast=True).unlisted:
        path = run / name
        try:
            if is_store(name):
                _seal(path)
            note_there(path)
            adopted += 1
        except (WsiError, OSError) as error:
            failed.append(f"{name} ({error})")
    text = f"{run}: {adopted} files have digests now"
    return Note(text=f"{text}; not {'; '.join(failed)}" if failed else text)


def _seal(path: Path) -> None:
    """Give a store of an older version digests; what cannot be read gets none."""
    if path.name == ZARR:
        open_tiles(path.parent)
        seal_tiles(path.parent)
    elif path.parent.name == "tiles":
        seal_tiles(path)
    elif read_seal(path) is None:
        with open_hdf5(path):
            pass
        seal_file(path)
