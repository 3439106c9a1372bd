"""One slide's work order: what the tile stage asks of it, and what its store is compared with."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.errors import SlideOpenError
from wsi_pipeline.pipeline.deleted import DeletedSlide
from wsi_pipeline.pipeline.resolve_cohort import beside
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.slides import slide_digest
from wsi_pipeline.tiles import SlideRequest, drawn_digest, stain_reference
from wsi_pipeline.verbs.tiles import TileConfig


@dataclass(frozen=True, kw_only=True)
class CutTask:
    """One slide's work order.

    Attributes:
        slide_id: The slide.
        path: Its file or URL.
        settings: What is asked of all slides.
        request: What is asked of this one.
        asked: All that decides its tiles, but for the file itself; stored with them.
    """

    slide_id: str
    path: str | Path
    settings: TileConfig
    request: SlideRequest
    asked: Mapping[str, Any]
    deleted: DeletedSlide | None = None

    def digest(self) -> str:
        """Return the digest of the slide's file, or what it was before it was deleted.

        Raises:
            SlideOpenError: The file is missing or cannot be read.
        """
        return slide_digest(self.path) if self.deleted is None else self.deleted.slide_digest

    def require_file(self) -> None:
        """Refuse to cut what is deleted.

        Raises:
            SlideOpenError: It is.
        """
        if self.deleted is not None:
            ledger = RunFolder(self.settings.run).deleted_slides
            raise SlideOpenError(
                f"{self.path}: the file was deleted once it was cut, and is needed again; take "
                f"the slide's line out of {ledger}, and the same study fetches it anew"
            )


def cut_task(
    config: TileConfig, slide: CohortSlide, deleted: Mapping[str, DeletedSlide] | None = None
) -> CutTask:
    """Return the work order for one slide of the cohort.

    ``deleted`` are slides whose files are gone because they were cut, by id.
    """
    annotations, mask = _annotations_of(config, slide)
    request = SlideRequest(
        mpp=slide.mpp,
        region=slide.region,
        tilt_deg=slide.tilt_deg if config.straighten else None,
        annotations=annotations,
        mask=mask,
    )
    asked = {
        "config": config.identity(),
        "mpp_override": request.mpp_given(config),
        "tilt_deg": request.tilt_deg,
        "region_level0": None if slide.region is None else asdict(slide.region),
        "annotations_digest": drawn_digest(annotations),
        "mask_digest": drawn_digest(mask),
    }
    if config.stain_reference is not None:
        asked["stain_reference"] = stain_reference(config).to_attributes()
    path = slide.locate(config.slides) or slide.path
    gone = isinstance(path, Path) and not path.exists()
    return CutTask(
        slide_id=slide.slide_id,
        path=path,
        settings=config,
        request=request,
        asked=asked,
        deleted=(deleted or {}).get(slide.slide_id) if gone else None,
    )


def _annotations_of(config: TileConfig, slide: CohortSlide) -> tuple[Path | None, Path | None]:
    """Return the annotations and the corrected mask that people drew; None where they did not."""
    annotations = beside(config, slide, slide.annotations) if slide.annotations else None
    given = config.masks and config.masks / f"{slide.slide_id}.geojson"
    places = (given, RunFolder(config.run).mask(slide.slide_id))
    return annotations, next((path for path in places if path and path.exists()), None)
