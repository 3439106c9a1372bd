"""A slide's tissue as a person corrects it: GeoJSON in the run folder, which ``tile`` takes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import shapely
from pydantic import BaseModel, ConfigDict
from shapely.geometry import MultiPolygon, Polygon

from wsi_pipeline.atomic import atomic_file, remove
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.tiles import drawing_origin
from wsi_pipeline.tissue import draw_annotation, read_annotations, write_geojson
from wsi_pipeline.workbench.outlines import polygons, rings
from wsi_pipeline.workbench.surveys import Surveyed, Surveys
from wsi_pipeline.workbench.undoing import Undoing, held

TISSUE: Final = "Tissue"  # QuPath's class of what is drawn
MOST_CORNERS: Final = 20_000  # of a polygon drawn by hand
FEWEST_CORNERS: Final = 3


class Stroke(BaseModel):
    """A change of a mask: a polygon added or taken away, or all of it back to what is computed.

    ``ring`` are its corners, level-0 px.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    do: Literal["add", "subtract", "compute"]
    ring: list[tuple[float, float]] = []


@dataclass(frozen=True)
class Masks:
    """Masks of the run's slides.

    Attributes:
        surveys: The slides' tissue.
        undoing: What was changed in this process.
    """

    surveys: Surveys
    undoing: Undoing = field(default_factory=Undoing)

    def told(self, slide_id: str) -> dict[str, Any]:
        """Return the outline of a slide's tissue, level-0 px, and whether a person drew it.

        Raises:
            SlideError: The slide is not at hand, or what was drawn cannot be read.
        """
        area, drawn = self._area(self.surveys.of(slide_id))
        return {
            "outline": list(rings(area)),
            "drawn": drawn,
            "undo": self.undoing.last(self._file(slide_id)),
        }

    def change(self, slide_id: str, stroke: Stroke) -> None:
        """Change a mask, which stands on disk when this returns.

        Raises:
            ConfigError: The run folder cannot be written, the slide's coords are turned, or no
                tissue would be left.
        """
        surveyed, file = self.surveys.of(slide_id), self._file(slide_id)
        with (
            held(self.surveys.facts.folder.lock("masks", slide_id), file),
            self.undoing.noting(stroke.do, file),
        ):
            if stroke.do == "compute":
                remove(file)
                return
            area = self._area(surveyed)[0]
            drawn = _polygon(stroke.ring)
            area = area.union(drawn) if stroke.do == "add" else area.difference(drawn)
            area = area.intersection(shapely.box(0, 0, *surveyed.info.dimensions))
            if area.is_empty:
                raise ConfigError(f"{slide_id}: no tissue would be left; drop the slide instead")
            x, y = drawing_origin(surveyed.info, file, surveyed.settings)
            shifted = shapely.transform(polygons(area), lambda xy: np.round(xy - (x, y), 1))
            write_geojson(file, [draw_annotation(polygons(shifted), TISSUE)])

    def undo(self, slide_id: str) -> None:
        """Take the last change back.

        Raises:
            ConfigError: There is none, or somebody changed the mask since.
        """
        file = self._file(slide_id)
        with held(self.surveys.facts.folder.lock("masks", slide_id), file):
            (before,) = self.undoing.take_back(file)
            if before is None:
                remove(file)
            else:
                with atomic_file(file) as partial:
                    partial.write_bytes(before)

    def _file(self, slide_id: str) -> Any:
        return self.surveys.facts.folder.mask(slide_id)

    def _area(self, surveyed: Surveyed) -> tuple[MultiPolygon, bool]:
        file, settings = self._file(surveyed.slide_id), surveyed.settings
        if not file.exists():
            return surveyed.tissue_area, False
        origin = drawing_origin(surveyed.info, file, settings)
        regions = read_annotations(file, origin, settings.exclude_annotations)
        kept, cut = (
            shapely.union_all([each.area for each in regions if each.include is include])
            for include in (True, False)
        )
        return polygons(kept.difference(cut)), True


def _polygon(ring: Sequence[tuple[float, float]]) -> Any:
    if not FEWEST_CORNERS <= len(ring) <= MOST_CORNERS:
        raise ConfigError(f"a polygon has 3 to {MOST_CORNERS} corners; this one has {len(ring)}")
    drawn = shapely.make_valid(Polygon(ring))
    if not drawn.area:
        raise ConfigError("the polygon has no area; draw around something")
    return drawn
