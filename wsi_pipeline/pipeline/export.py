"""Features to the layouts of CLAM, TRIDENT, STAMP and LazySlide."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import shapely
from shapely.geometry import MultiPolygon

from wsi_pipeline.atomic import write_json
from wsi_pipeline.engine import SlideTask, is_done, map_slides
from wsi_pipeline.errors import ConfigError, WsiError
from wsi_pipeline.events import (
    Event,
    Planned,
    SlideDone,
    SlideFailed,
    SlideSkipped,
    StageStarted,
    Written,
)
from wsi_pipeline.features import (
    export_features,
    find_features,
    import_spatialdata,
    is_embedding,
    read_features,
    read_shape,
    write_embeddings,
)
from wsi_pipeline.pipeline.export_tables import Exported, write_clam_tables, write_stamp_tables
from wsi_pipeline.run_cohort import rows_of, unmatched_features
from wsi_pipeline.run_folder import RunFolder, stores_in
from wsi_pipeline.slides import slide_digest
from wsi_pipeline.tiles import drawn_digest, find_store, open_tiles
from wsi_pipeline.tissue import EXCLUDE, read_annotations
from wsi_pipeline.verbs.tiles import ExportConfig

DONE: Final = "exported earlier"
ANNDATA: Final = ".h5ad"
SPATIALDATA: Final = "spatialdata"
NO_OUTLINE: Final = "tissue_outline_changed"  # since the tiles were cut: it is left out
TOLD: Final = ("patient_id", "label", "cohort", "site", "scanner")  # of a slide, with its embedding
RECORDS: Final = ".exported"  # what each slide's files were made from, beside them


@dataclass(frozen=True, kw_only=True)
class ExportTask:
    """One slide's work order.

    Attributes:
        slide_id: The slide.
        store: Its features.
        out: Folder of the layout.
        layout: Whose.
        overwrite: Whether what was exported from something else is replaced.
        mask: Its tissue as a person drew it; None where nobody did, or the layout has no place.
        tiles: Its tile store, which tells whether the tiles were cut by that.
    """

    slide_id: str
    store: Path
    out: Path
    layout: str
    overwrite: bool
    mask: Path | None = None
    tiles: Path | None = None

    @property
    def record(self) -> Path:
        return self.out / RECORDS / f"{self.slide_id}.json"


def run(config: ExportConfig) -> Iterator[Event]:
    """Export every feature store of the encoder.

    Raises:
        ConfigError: The encoder's folder is empty, or the layout needs what is not installed.
        StoreError: There are no features of this encoder.
    """
    folder = RunFolder(config.run)
    stores = find_features(folder.features, config.encoder)
    shapes = config.layout == SPATIALDATA
    if shapes and not config.dry_run:
        import_spatialdata()
    out = config.out or RunFolder(config.run).exported(config.layout)
    tasks = [
        ExportTask(
            slide_id=slide_id,
            store=path,
            out=out,
            layout=config.layout,
            overwrite=config.overwrite,
            mask=folder.mask(slide_id) if shapes and folder.mask(slide_id).exists() else None,
            tiles=find_store(folder.tiles, slide_id) if shapes else None,
        )
        for slide_id, path in stores_in(stores).items()
    ]
    if not tasks:
        raise ConfigError(f"{stores}: no feature stores there; extract the slides first")
    yield StageStarted(stage="export", total=len(tasks))
    yield from unmatched_features(RunFolder(config.run), stores)
    if config.layout == "anndata" and is_embedding(tasks[0].store):
        yield from _embeddings(config, tasks, out / f"{stores.name}{ANNDATA}")
        return
    if shapes and is_embedding(tasks[0].store):
        raise ConfigError(
            f"{stores}: embeddings of slides, which have no tiles to tie them to; export them with "
            "--layout anndata"
        )
    if config.dry_run:
        for task in tasks:
            yield Planned(row={"slide": task.slide_id, "layout": task.layout, "to": str(out)})
        return
    yield from map_slides(
        export_slide,
        [
            SlideTask(
                slide_id=task.slide_id,
                lock=RunFolder(config.run).lock(
                    f"export-{task.layout}-{stores.name}", task.slide_id
                ),
                payload=task,
            )
            for task in tasks
        ],
        config,
    )
    yield Written(path=str(out), what=f"features for {config.layout.upper()}")
    if config.layout in TABLES:
        yield from TABLES[config.layout](_exported(config, tasks, out))


def _embeddings(config: ExportConfig, tasks: Sequence[ExportTask], target: Path) -> Iterator[Event]:
    """Write the slides' embeddings as one AnnData, with what the cohort says of each."""
    if config.dry_run:
        yield Planned(row={"slides": len(tasks), "layout": config.layout, "to": str(target)})
        return
    rows = {row.slide_id: row for row in rows_of(RunFolder(config.run))}
    told = {slide_id: {name: getattr(row, name) for name in TOLD} for slide_id, row in rows.items()}
    embedded = {}
    for task in tasks:
        try:
            embedded[task.slide_id] = read_features(task.store)
        except WsiError as error:
            yield SlideFailed(slide_id=task.slide_id, error=str(error))
            continue
        yield SlideDone(slide_id=task.slide_id, counts={"embeddings": 1}, seconds=0.0)
    if embedded:
        write_embeddings(embedded, told, target)
        yield Written(path=str(target), what="slide embeddings for ANNDATA")


TABLES: Final = {"clam": write_clam_tables, "stamp": write_stamp_tables}


def _exported(config: ExportConfig, tasks: Sequence[ExportTask], out: Path) -> Exported:
    """Return what is there now: a slide that failed is in no table."""
    shapes = {task.slide_id: read_shape(task.store) for task in tasks if _stored(task) is not None}
    return Exported(
        run=RunFolder(config.run),
        out=out,
        tiles={slide_id: shape[0] for slide_id, shape in shapes.items()},
        width=next((shape[1] for shape in shapes.values()), 0),
        model=config.splits_of,
    )


def export_slide(task: ExportTask) -> SlideDone | SlideSkipped:
    """Export one slide, unless that was done from the same store.

    Raises:
        StoreError: The store is unreadable, or lacks what the layout needs.
        StoreMismatchError: It was exported from something else and is not to be overwritten.
    """
    started = time.monotonic()
    tissue = _tissue(task)
    made_from = {"store": slide_digest(task.store), "layout": task.layout}
    if tissue is not None:
        made_from["mask"] = str(drawn_digest(task.mask))
    if is_done(task.record, _stored(task), made_from, overwrite=task.overwrite):
        return SlideSkipped(slide_id=task.slide_id, reason=DONE)
    written = export_features(task.store, task.out, task.layout, tissue)
    files = [str(path.relative_to(task.out)) for path in written]
    write_json(task.record, {"made_from": made_from, "files": files})
    return SlideDone(
        slide_id=task.slide_id,
        counts={"files": len(files)},
        flags=_flags(task, files, tissue),
        seconds=time.monotonic() - started,
    )


def _flags(task: ExportTask, files: Sequence[str], tissue: MultiPolygon | None) -> tuple[str, ...]:
    if task.layout == "trident" and not any("patches" in name for name in files):
        return ("resolution_unknown",)
    return (NO_OUTLINE,) if task.mask is not None and tissue is None else ()


def _tissue(task: ExportTask) -> MultiPolygon | None:
    """Return the tissue as a person drew it, level-0 px, if the tiles were cut by that drawing.

    What is computed is in no run folder: it would have to be found again on the slide.
    """
    if task.mask is None or task.tiles is None:
        return None
    about = open_tiles(task.tiles).attributes
    if about.get("mask_digest") != drawn_digest(task.mask):
        return None
    settings, bounds = about.get("config", {}), about.get("bounds_level0", {})
    whole = settings.get("annotation_origin") == "slide"  # else GeoJSON counts from the bounds
    origin = (0, 0) if whole else (bounds.get("x", 0), bounds.get("y", 0))
    regions = read_annotations(task.mask, origin, settings.get("exclude_annotations", EXCLUDE))
    kept, cut = (
        shapely.union_all([each.area for each in regions if each.include is include])
        for include in (True, False)
    )
    parts = getattr(kept.difference(cut), "geoms", [kept.difference(cut)])
    areas = [part for part in parts if part.geom_type == "Polygon" and not part.is_empty]
    return MultiPolygon(areas) if areas else None


def _stored(task: ExportTask) -> dict[str, Any] | None:
    """Return what the exported files were made from; None where one of them is missing."""
    try:
        record = json.loads(task.record.read_text("utf-8"))
        present = all((task.out / name).is_file() for name in record["files"])
        made_from: dict[str, Any] = record["made_from"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return made_from if present else None
