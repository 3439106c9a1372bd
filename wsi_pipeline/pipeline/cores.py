"""One tissue microarray: where its cores are, for a person to check before anything is cut."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from wsi_pipeline.cohort import read_core_map
from wsi_pipeline.config import FILE, HOW, POSITIONAL, Chosen, StageConfig
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

if TYPE_CHECKING:
    from wsi_pipeline.microarray import Microarray, PlacedCore


class CoresConfig(StageConfig):
    """Find the cores of a tissue microarray, name them, and draw them for a person to check."""

    slide: Annotated[str, HOW, POSITIONAL] = Field(
        description="TMA slide, or a flat picture of it; a URL will do."
    )
    preview: Annotated[Path, HOW, FILE] = Field(description="Picture to write, .png or .jpg.")
    map: Annotated[Path | None, HOW, FILE] = Field(
        default=None,
        description="Core map (CSV row, column, core_id, patient_id, label); without one, places "
        "are named after the grid.",
    )
    out: Annotated[Path | None, HOW, FILE] = Field(
        default=None,
        description="Table of the cores' places, to be corrected by hand; what is there is read, "
        "not written over. Beside the preview if not given; the tile stage reads "
        "<run>/cores/<slide_id>.csv.",
    )
    names: Literal["letters", "numbers"] = Field(
        default="letters", description="Without a map: A1 or 1-1."
    )
    mpp_override: float | None = Field(
        default=None, gt=0, description="The slide's resolution, µm/px, in place of the file's."
    )
    core_diameter_um: float | None = Field(
        default=None, gt=0, description="The cores' diameter where it is known, µm."
    )
    reader: Annotated[str, Chosen("wsi_pipeline.slides.open:READERS")] = Field(
        default="auto", description="What reads the slide; auto: what suits the file."
    )

    @field_validator("preview")
    @classmethod
    def _is_picture(cls, path: Path) -> Path:
        if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise ValueError("the preview is a picture; end its name in .png or .jpg")
        return path

    @property
    def table(self) -> Path:
        """Where the cores' places are written to, or read from."""
        return self.out or self.preview.with_suffix(".csv")


def run(config: CoresConfig) -> Iterator[Event]:
    """Write the table of the cores and a picture; a table that is there is drawn, not replaced.

    Raises:
        CohortError: The core map or the table of the cores is wrong.
        ConfigError: A core diameter in µm for a slide of unknown resolution.
    """
    from wsi_pipeline.microarray import picture_cores, read_cores, write_cores, write_preview

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


def _find(config: CoresConfig) -> "Microarray":
    from wsi_pipeline.microarray import CoreSearch, place_cores

    mapped = None if config.map is None else read_core_map(config.map)
    search = CoreSearch(
        reader=config.reader,
        mpp_override=config.mpp_override,
        core_diameter_um=config.core_diameter_um,
        naming=config.names,
    )
    return place_cores(config.slide, mapped, search)


def _summary(found: "Microarray") -> str:
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


def _counts(cores: "list[PlacedCore]") -> dict[str, int]:
    present = [core for core in cores if core.region is not None]
    counts = {
        "places": len(cores),
        "  cores": len(present),
        "    controls": sum(core.control for core in present),
        "  missing": len(cores) - len(present),
    }
    return {name: count for name, count in counts.items() if count or not name.startswith(" ")}


def _row(core: "PlacedCore") -> Planned:
    from wsi_pipeline.microarray import place_name

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
