"""The cores stage: where a microarray's cores are, for a person to check before they are cut."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from wsi_pipeline.cohort import MappedCore
from wsi_pipeline.errors import SlideError
from wsi_pipeline.events import (
    Event,
    Note,
    Planned,
    SlideDone,
    SlideFailed,
    StageStarted,
    Written,
)
from wsi_pipeline.microarray import (
    LIES,
    MARGIN,
    CoreSearch,
    Correction,
    Joining,
    Microarray,
    PlacedCore,
    check_review,
    cleared,
    correct,
    doubts_of,
    now,
    picture_cores,
    place_cores,
    place_name,
    read_cores,
    read_geojson_cores,
    read_map,
    read_review,
    review_of,
    unsure,
    write_geojson_cores,
    write_preview,
    write_reviewed,
)
from wsi_pipeline.slides import slide_digest
from wsi_pipeline.types import Region, RgbImage
from wsi_pipeline.verbs.slides import CoresConfig

LOOK: Final = (
    "look at {preview}, then say --accept, correct {table}, or say how the array lies (--lies)"
)
LOOK_AT_ROWS: Final = (
    "look at {preview}, then say --accept, correct {table}, or give a --map, a --region or the "
    "number of --rows and --columns"
)


@dataclass(frozen=True, kw_only=True)
class Cores:
    """A table of cores, and what is known of it.

    Attributes:
        cores: Its rows.
        picture: (H, W, 3) uint8.
        doubts: Why cores may have wrong names; none: they are sure.
        found: How they were found; None where the table was there.
        by_map: Whether a map, and not only their rows and columns, names them.
    """

    cores: list[PlacedCore]
    picture: RgbImage
    doubts: tuple[str, ...]
    found: Microarray | None
    by_map: bool = True


def run(config: CoresConfig) -> Iterator[Event]:
    """Write the table of the cores and a picture; a table that is there is drawn, not replaced.

    Where the cores' names are in doubt, the slide fails: the table and the picture are written, and
    nobody uses them until a person has accepted or corrected them.

    Raises:
        CohortError: The core map or the table of the cores is wrong.
        ConfigError: A length in µm for a slide of unknown resolution, or nothing to correct.
    """
    yield StageStarted(stage="cores", total=1)
    started = time.monotonic()
    slide_id = Path(config.slide).stem
    correction = _correction(config)
    mapped = None if config.map is None else read_map(config.map)
    there = config.table.exists() and not config.overwrite
    try:
        made = _read(config, mapped) if there else _find(config, mapped)
        if correction or config.qupath_in is not None:
            made = _corrected(config, made, correction)
    except SlideError as error:
        yield SlideFailed(slide_id=slide_id, error=str(error))
        return
    yield Note(text=_summary(made.found) if made.found is not None else (
        f"{config.table} was there and is drawn as it stands; --overwrite finds the cores anew"
    ))  # fmt: skip
    changed = not there or bool(correction) or config.qupath_in is not None
    accepted = config.accept or bool(correction) or config.qupath_in is not None
    if config.accept:
        made = replace(made, cores=[cleared(core) for core in made.cores])
    if config.dry_run:
        yield from map(_row, made.cores)
    else:
        yield from _write(config, made, mapped, changed=changed, accepted=accepted)
    if made.doubts and not accepted:
        look = (LOOK if made.by_map else LOOK_AT_ROWS).format(
            preview=config.preview, table=config.table
        )
        said = f"{config.slide}: {unsure(made.doubts, by_map=made.by_map)}; {look}"
        yield SlideFailed(slide_id=slide_id, error=said)
        return
    seconds = time.monotonic() - started
    yield SlideDone(slide_id=slide_id, counts=_counts(made.cores), seconds=seconds)


def search_of(config: CoresConfig) -> CoreSearch:
    """How the settings say that cores are looked for."""
    return CoreSearch(
        reader=config.reader,
        mpp_override=config.mpp_override,
        core_diameter_um=config.core_diameter_um,
        spacing_um=config.spacing_um,
        rows=config.rows,
        columns=config.columns,
        naming=config.names,
        region=_region(config),
        min_tissue=config.min_core_tissue,
        core_mask=config.core_mask,
        joining=Joining(
            turn=None if config.lies is None else LIES[config.lies],
            row_labels=config.row_labels,
            column_labels=config.column_labels,
        ),
    )


def _read(config: CoresConfig, mapped: list[MappedCore] | None) -> Cores:
    cores = read_cores(config.table)
    picture = picture_cores(config.slide, cores, config.reader, _region(config))
    if config.accept:
        return Cores(cores=cores, picture=picture, doubts=(), found=None)
    try:
        look = LOOK.format(preview=config.preview, table=config.table)
        check_review(config.table, config.slide, mapped, look)
    except SlideError:
        review = read_review(config.table)
        doubts = doubts_of(config.table, review)
        if review is None or not doubts or review.slide != slide_digest(config.slide):
            raise
        return Cores(cores=cores, picture=picture, doubts=doubts, found=None,
                     by_map=review.map is not None)  # fmt: skip
    return Cores(cores=cores, picture=picture, doubts=(), found=None)


def _find(config: CoresConfig, mapped: list[MappedCore] | None) -> Cores:
    if config.like is not None:
        mapped = [
            core.mapped for core in read_cores(config.like)
            if core.region is not None and core.status in ("", "doubtful")
        ]  # fmt: skip
    found = place_cores(config.slide, mapped, search_of(config))
    return Cores(
        cores=found.cores, picture=found.picture, doubts=found.doubts, found=found,
        by_map=found.joined is not None,
    )  # fmt: skip


def _corrected(config: CoresConfig, made: Cores, correction: Correction) -> Cores:
    cores = made.cores
    if correction:
        cores = correct(cores, correction, (config.row_labels, config.column_labels))
    if config.qupath_in is not None:
        cores = read_geojson_cores(config.qupath_in, cores, MARGIN)
    picture = picture_cores(config.slide, cores, config.reader, _region(config))
    return replace(made, cores=cores, picture=picture, doubts=())


def _write(
    config: CoresConfig,
    made: Cores,
    mapped: list[MappedCore] | None,
    *,
    changed: bool,
    accepted: bool,
) -> Iterator[Event]:
    write_preview(config.preview, made.picture)
    yield Written(path=str(config.preview), what="cores to check")
    if changed or config.accept:
        review = review_of(config.slide, mapped, made.doubts, made.found)
        review = replace(review, accepted=now() if accepted else None)
        write_reviewed(config.table, made.cores, review)
        yield Written(path=str(config.table), what="cores' places, to be corrected")
    if config.qupath_out is not None:
        write_geojson_cores(config.qupath_out, made.cores, MARGIN)
        yield Written(path=str(config.qupath_out), what="cores for QuPath")


def _correction(config: CoresConfig) -> Correction:
    return Correction(
        mirror=config.mirror,
        turn=int(config.turn),
        add_rows=config.add_row,
        add_columns=config.add_column,
        remove_rows=config.remove_row,
        remove_columns=config.remove_column,
        shift_rows=config.shift_rows,
        shift_columns=config.shift_columns,
    )


def _region(config: CoresConfig) -> Region | None:
    if config.region is None:
        return None
    x, y, width, height = (int(value) for value in config.region.split(","))
    return Region(x=x, y=y, width=width, height=height)


def _summary(found: Microarray) -> str:
    """Say in a line what was measured, and name the cores that the map does not know."""
    array = found.array
    diameter = array.diameter_px * found.downsample
    size = f"{diameter:.0f} px" if found.mpp is None else f"{diameter * found.mpp:.0f} µm"
    text = (
        f"{array.rows} × {array.columns} places, cores of {size}, "
        f"rows turned by {array.rotation_deg:.1f}°"
    )
    if array.inverted:
        text += "; light on dark, inverted"
    if (joined := found.joined) is not None:
        where = joined.orientation
        turned = f"turned by {where.turn}°" if where.turn else "as scanned"
        text += f"; the map lies {turned}{' and mirrored' * where.mirrored}"
        if joined.margin < float("inf"):
            text += f", clear of the next best way by {joined.margin:.0f} nats"
    if joined is None and found.unmapped:
        text += f"; off the rows and columns: {len(found.unmapped)}"
    elif found.unmapped:
        text += f"; not in the core map: {', '.join(found.unmapped)}"
    return text


def _counts(cores: list[PlacedCore]) -> dict[str, int]:
    by_status = Counter(core.status for core in cores)
    used = [core for core in cores if core.region is not None and not core.status]
    counts = {
        "places": sum(bool(core.mapped.core_id) for core in cores),
        "  cores": len(used),
        "    controls": sum(core.control for core in used),
        "  missing": by_status["missing"],
        "  lost": by_status["lost"],
        "  doubtful": by_status["doubtful"],
        "  outside": by_status["outside"],
        "unmapped": by_status["unmapped"],
    }
    return {name: count for name, count in counts.items() if count or name == "places"}


def _row(core: PlacedCore) -> Planned:
    mapped, region = core.mapped, core.region
    x, y, side = (None,) * 3 if region is None else (region.x, region.y, region.width)
    return Planned(
        row={
            "place": place_name(mapped) if mapped.core_id else None,
            "core": mapped.core_id or None,
            "patient": mapped.patient_id,
            "label": mapped.label,
            "control": "yes" if core.control else None,
            "status": core.status or None,
            "x": x,
            "y": y,
            "side": side,
        }
    )
