"""One tissue microarray: where its cores are, for a person to check before anything is cut."""

import time
from collections.abc import Iterator
from pathlib import Path

from wsi_pipeline.cohort import read_core_map
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
    CoreSearch,
    Microarray,
    PlacedCore,
    picture_cores,
    place_cores,
    place_name,
    read_cores,
    write_cores,
    write_preview,
)
from wsi_pipeline.pipeline.configs import CoresConfig


def run(config: CoresConfig) -> Iterator[Event]:
    """Write the table of the cores and a picture; a table that is there is drawn, not replaced.

    Raises:
        CohortError: The core map or the table of the cores is wrong.
        ConfigError: A core diameter in µm for a slide of unknown resolution.
    """
    yield StageStarted(stage="cores", total=1)
    started = time.monotonic()
    slide_id = Path(config.slide).stem
    corrected = config.table.exists() and not config.overwrite
    try:
        if corrected:
            cores = read_cores(config.table)
            picture = picture_cores(config.slide, cores, config.reader)
            yield Note(text=f"{config.table} was there and is drawn as it stands; --overwrite "
                            "finds the cores anew")  # fmt: skip
        else:
            found = _find(config)
            cores, picture = found.cores, found.picture
            yield Note(text=_summary(found))
    except SlideError as error:
        yield SlideFailed(slide_id=slide_id, error=str(error))
        return
    if config.dry_run:
        yield from map(_row, cores)
    else:
        write_preview(config.preview, picture)
        yield Written(path=str(config.preview), what="cores to check")
        if not corrected:
            write_cores(config.table, cores)
            yield Written(path=str(config.table), what="cores' places, to be corrected")
    seconds = time.monotonic() - started
    yield SlideDone(slide_id=slide_id, counts=_counts(cores), seconds=seconds)


def _find(config: CoresConfig) -> Microarray:
    mapped = None if config.map is None else read_core_map(config.map)
    search = CoreSearch(
        reader=config.reader,
        mpp_override=config.mpp_override,
        core_diameter_um=config.core_diameter_um,
        naming=config.names,
    )
    return place_cores(config.slide, mapped, search)


def _summary(found: Microarray) -> str:
    """Say in a line what was measured, and name the cores that the map does not know."""
    array = found.array
    diameter = array.diameter_px * found.downsample
    size = f"{diameter:.0f} px" if found.mpp is None else f"{diameter * found.mpp:.0f} µm"
    text = (
        f"{array.rows} × {array.columns} places, cores of {size}, "
        f"rows turned by {array.rotation_deg:.1f}°"
    )
    if found.unmapped:
        text += f"; not in the core map: {', '.join(found.unmapped)}"
    return text


def _counts(cores: list[PlacedCore]) -> dict[str, int]:
    present = [core for core in cores if core.region is not None]
    counts = {
        "places": len(cores),
        "  cores": len(present),
        "    controls": sum(core.control for core in present),
        "  missing": len(cores) - len(present),
    }
    return {name: count for name, count in counts.items() if count or not name.startswith(" ")}


def _row(core: PlacedCore) -> Planned:
    mapped, region = core.mapped, core.region
    x, y, side = (None,) * 3 if region is None else (region.x, region.y, region.width)
    return Planned(
        row={
            "place": place_name(mapped),
            "core": mapped.core_id,
            "patient": mapped.patient_id,
            "label": mapped.label,
            "control": "yes" if core.control else None,
            "x": x,
            "y": y,
            "side": side,
        }
    )
