"""Features that CLAM, TRIDENT, STAMP or LazySlide made, brought into a run folder for training."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from wsi_pipeline.cohort import SAFE_ID, CohortSlide, read_cohort
from wsi_pipeline.engine import SlideTask, is_done, map_slides
from wsi_pipeline.errors import (
    ConfigError,
    MppError,
    StoreError,
    WsiError,
    named,
)
from wsi_pipeline.events import (
    Event,
    Note,
    Planned,
    SlideDone,
    SlideFailed,
    SlideSkipped,
    StageStarted,
    Written,
)
from wsi_pipeline.features import (
    ForeignBag,
    Known,
    import_features,
    import_spatialdata,
    read_attributes,
    read_width,
    write_features,
)
from wsi_pipeline.run_cohort import merge_rows, rows_of
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.slides import open_slide, resolve_mpp, slide_digest
from wsi_pipeline.verbs.tiles import ImportConfig

DONE: Final = "imported earlier"
NO_FILE: Final = "no feature file"
SUFFIXES: Final = (".h5", ".h5ad", ".zarr")
ZARR: Final = ".zarr"  # of a SpatialData store, a folder
PATCHES: Final = "patches"  # where CLAM and TRIDENT keep the tiles' places


@dataclass(frozen=True, kw_only=True)
class ImportTask:
    """One slide's work order; ``slide`` is the slide's own file, where it is at hand."""

    slide_id: str
    file: Path
    row: CohortSlide | None
    slide: Path | None
    config: ImportConfig


def run(config: ImportConfig) -> Iterator[Event]:
    """Write ``<run>/features/<encoder>/<slide_id>.h5`` for every file, and the cohort table.

    Raises:
        ConfigError: The folder holds no feature files, features of one encoder differ in width, or
            what reads them is not installed.
        CohortError: The cohort table is unusable.
    """
    files = _files(config.source)
    if any(path.suffix == ZARR for path in files.values()):
        import_spatialdata()
    cohort = _cohort(config)
    yield StageStarted(stage="import_features", total=len(cohort or files))
    tasks = [
        ImportTask(
            slide_id=slide_id,
            file=files[slide_id],
            row=cohort.get(slide_id),
            slide=_slide(config, cohort.get(slide_id)),
            config=config,
        )
        for slide_id in cohort or files
        if slide_id in files
    ]
    for slide_id in cohort:
        if slide_id not in files:
            yield SlideSkipped(slide_id=slide_id, reason=NO_FILE)
    strangers = sorted(files.keys() - cohort.keys()) if cohort else []
    if strangers:
        yield Note(text=f"{len(strangers)} files are of no slide in the table: {named(strangers)}")
    _refuse_mixed_widths(tasks, config)
    if config.dry_run:
        yield from map(_planned, tasks)
        return
    if config.cohort is not None:
        yield merge_rows(
            RunFolder(config.run), list(cohort.values()), config.cohort, overwrite=config.overwrite
        )
    yield from map_slides(
        import_slide,
        [
            SlideTask(
                slide_id=task.slide_id,
                lock=RunFolder(config.run).lock("import", task.slide_id),
                payload=task,
            )
            for task in tasks
        ],
        config,
    )
    yield Written(path=str(RunFolder(config.run).features), what="features")


def import_slide(task: ImportTask) -> SlideDone | SlideSkipped:
    """Import one slide's file, unless that was done before.

    Raises:
        StoreError: The file is unreadable or leaves something open.
        StoreMismatchError: The store is there and was made from something else.
    """
    started = time.monotonic()
    bag, made_from = _read(task)
    target = RunFolder(task.config.run).feature_store(bag.meta.encoder, task.slide_id)
    stored = read_attributes(target).get("made_from", {}) if target.exists() else None
    if is_done(target, stored, made_from, overwrite=task.config.overwrite):
        return SlideSkipped(slide_id=task.slide_id, reason=DONE)
    write_features(target, bag.features, bag.coords, bag.meta)
    return SlideDone(
        slide_id=task.slide_id,
        counts={"tiles": len(bag.features)},
        seconds=time.monotonic() - started,
    )


def _read(task: ImportTask) -> tuple[ForeignBag, Mapping[str, Any]]:
    config = task.config
    mpp, size = _resolution(task)
    made_from = {
        "imported": slide_digest(task.file),
        "settings": config.identity() | {"source": task.file.name},
        "mpp_level0": mpp,
    }
    known = Known(
        encoder=config.encoder,
        tile_px=config.tile_px,
        tile_px_level0=config.tile_px_level0,
        mpp=config.mpp,
        mpp_level0=mpp,
        level0_size=size,
        patches=_patches(task.file),
        provenance={"made_from": made_from, "input_digest": made_from["imported"]},
    )
    bag = import_features(task.file, known)
    if not SAFE_ID.fullmatch(bag.meta.encoder):
        raise StoreError(
            f"{task.file}: its encoder {bag.meta.encoder!r} is no folder's name; give --encoder"
        )
    return bag, made_from


def _resolution(task: ImportTask) -> tuple[float | None, tuple[int, int] | None]:
    """Return µm per level-0 pixel and the size of level 0, as far as table or slide tell them."""
    stated = None if task.row is None else task.row.mpp
    if task.slide is None:
        return stated, None
    with open_slide(task.slide) as slide:
        size = slide.info.level_dimensions[0]
        try:
            return resolve_mpp(slide.info, stated).mpp, size
        except MppError:  # only STAMP's coords need it, and then it is asked for
            return None, size


def _refuse_mixed_widths(tasks: Sequence[ImportTask], config: ImportConfig) -> None:
    """Compare the widths of what comes with each other and with what is there, by encoder.

    A file that cannot be read costs its own slide, later.

    Raises:
        ConfigError: Two differ, so that no model could take both.
    """
    folder, first = RunFolder(config.run), dict[str, tuple[Path, int]]()
    replaced = {task.slide_id for task in tasks} if config.overwrite else set()
    for task in tasks:
        try:
            told, width = read_width(task.file, config.encoder)
        except StoreError:
            continue
        encoder = config.encoder or told
        if encoder is None or not SAFE_ID.fullmatch(encoder):
            continue
        if encoder not in first:
            there = (path for path in sorted(folder.features_of(encoder).glob("[!.]*.h5"))
                     if path.stem not in replaced)  # fmt: skip
            known = next(there, None)
            first[encoder] = (task.file, width) if known is None else (known, read_width(known)[1])
        other, expected = first[encoder]
        if width != expected:
            raise ConfigError(
                f"{task.file}: {width} features a tile, and {other} of the same encoder "
                f"{encoder!r} has {expected}; import them under two names with --encoder, or leave "
                "out what another encoder made"
            )


def _planned(task: ImportTask) -> Planned | SlideFailed:
    try:
        bag, _ = _read(task)
    except WsiError as error:
        return SlideFailed(slide_id=task.slide_id, error=str(error))
    return Planned(
        row={
            "slide": task.slide_id,
            "layout": bag.layout,
            "tiles": len(bag.features),
            "width": bag.features.shape[1],
            "encoder": bag.meta.encoder,
            "mpp": bag.meta.mpp,
        }
    )


def _files(source: Path) -> dict[str, Path]:
    """Return the feature files in a tool's folder, or in those within it, by slide.

    A ``.zarr`` is one slide's, and is not looked into.

    Raises:
        ConfigError: There are none, or two of one slide.
    """
    start = source.parent if source.name == PATCHES else source
    files = [path for suffix in SUFFIXES for path in sorted(start.glob(f"[!.]*{suffix}"))]
    if source.suffix == ZARR:
        files = [source]
    if not files:
        files = [
            path
            for path in sorted(start.rglob("[!.]*"))
            if path.suffix in SUFFIXES
            and not any(
                part == PATCHES or part.endswith(ZARR) or part.startswith((".", "slide_features"))
                for part in path.relative_to(start).parts[:-1]
            )
        ]
    found: dict[str, Path] = {}
    for path in files:
        if path.stem in found:
            raise ConfigError(
                f"{source}: two files of slide {path.stem!r}, {found[path.stem]} and {path}; "
                "name the folder of one encoder"
            )
        found[path.stem] = path
    if not found:
        raise ConfigError(f"{source}: no feature files there: .h5, .h5ad, or SpatialData's .zarr")
    return found


def _patches(file: Path) -> Path | None:
    """Return CLAM's file of a slide's patches: in ``patches`` beside its features, or above."""
    places = (folder / PATCHES / file.name for folder in list(file.parents)[:3])
    return next((path for path in places if path.is_file()), None)


def _cohort(config: ImportConfig) -> dict[str, CohortSlide]:
    if config.cohort is None:
        return {row.slide_id: row for row in rows_of(RunFolder(config.run))}
    root = str((config.slides or config.cohort.parent).absolute())
    return {row.slide_id: replace(row, root=root) for row in read_cohort(config.cohort)}


def _slide(config: ImportConfig, row: CohortSlide | None) -> Path | None:
    """Return the slide's own file; None where no folder of slides is given."""
    found = None if config.slides is None or row is None else row.locate(config.slides)
    return found if isinstance(found, Path) else None
