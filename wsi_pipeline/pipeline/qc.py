"""The flagged tiles of a run folder on one page, and the table in which a person decides."""

from collections.abc import Iterator
from pathlib import Path

from wsi_pipeline.errors import ConfigError, StoreError
from wsi_pipeline.events import (
    Event,
    Note,
    Planned,
    SlideDone,
    SlideFailed,
    StageStarted,
    Written,
)
from wsi_pipeline.reporting import gallery_slide, write_gallery
from wsi_pipeline.run_cohort import rows_of, unmatched
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.tiles import (
    Decision,
    TileStore,
    any_mark,
    find_store,
    open_tiles,
    propose,
    read_decisions,
    store_marks,
    stores_of,
    write_decisions,
)
from wsi_pipeline.verbs.tiles import QcConfig


def run(config: QcConfig) -> Iterator[Event]:
    """Write ``<run>/qc/decisions.csv``, unless a person has it already, and ``index.html``.

    Raises:
        ConfigError: The run folder holds no tiles.
        CohortError: The decisions that are there cannot be read.
    """
    paths = _stores(config.run)
    table, page = RunFolder(config.run).decisions, RunFolder(config.run).decisions_page
    yield StageStarted(stage="qc", total=len(paths))
    run_folder = RunFolder(config.run)
    cohort = {row.slide_id: row for row in rows_of(run_folder)}
    yield from unmatched(run_folder, list(cohort), paths, "tile store")
    fresh = config.overwrite or not table.exists()
    present = read_decisions(table) if not fresh else None
    rows: list[Decision] = [] if present is None else list(present.rows)
    shown = []
    for slide_id, path in paths.items():
        try:
            store = open_tiles(path)
        except StoreError as error:
            yield SlideFailed(slide_id=slide_id, error=str(error))
            continue
        if fresh:
            rows += propose(slide_id, store, config.drop, config.max_dropped_fraction)
        yield _tell(config, slide_id, store, rows)
        if not config.dry_run:
            scan = cohort[slide_id].locate(config.slides) if slide_id in cohort else None
            most = config.max_tiles
            shown.append(gallery_slide(config.run, slide_id, store, rows, most, scan))
    if config.dry_run:
        return
    if fresh:
        write_decisions(table, rows)
        yield Written(path=str(table), what="decisions, to be edited")
    else:
        yield Note(text=f"{table} was there and stays as it is; --overwrite proposes anew")
    write_gallery(page, config.run.resolve().name, shown, rows)
    yield Written(path=str(page), what="flagged tiles")


def _stores(run: Path) -> dict[str, Path]:
    """Return every slide's tile store, in the cohort's order.

    Raises:
        ConfigError: There is none.
    """
    folder = RunFolder(run).tiles
    present = list(stores_of(folder))
    if not present:
        raise ConfigError(
            f"{folder}: no tile stores there; run `python -m wsi_pipeline.tile` first"
        )
    cohort = [row.slide_id for row in rows_of(RunFolder(run))]
    found = {slide_id: find_store(folder, slide_id) for slide_id in dict.fromkeys(cohort + present)}
    return {slide_id: path for slide_id, path in found.items() if path is not None}


def _tell(
    config: QcConfig, slide_id: str, store: TileStore, rows: list[Decision]
) -> SlideDone | Planned:
    marks = store_marks(store)
    own = [row for row in rows if row.slide_id == slide_id and row.choice == "drop"]
    dropped = len(store) if any(row.place is None for row in own) else len(own)
    counts = {
        "tiles": len(store),
        "flagged": int(any_mark(marks).sum()),
        **{f"  {flag}": int(mask.sum()) for flag, mask in marks.items()},
        "dropped by the table": dropped,
    }
    if config.dry_run:
        return Planned(row={"slide": slide_id, **{name.strip(): n for name, n in counts.items()}})
    flags = tuple(store.attributes.get("flags", ()))
    return SlideDone(slide_id=slide_id, counts=counts, flags=flags)
