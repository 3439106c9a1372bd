"""Cut slides into tiles: between files from a scanner and everything learned from them."""

import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from wsi_pipeline.cohort import CohortSlide, write_cohort
from wsi_pipeline.config import HOW, StageConfig
from wsi_pipeline.engine import SlideTask, is_done, lock_path, map_slides, provenance
from wsi_pipeline.errors import NoTissueError, StoreError
from wsi_pipeline.events import (
    Event,
    SlideDone,
    SlideFailed,
    SlideSkipped,
    StageStarted,
    Written,
)

if TYPE_CHECKING:
    from wsi_pipeline.tiles import CutSettings
    from wsi_pipeline.tiles.drawn import Drawn

PACKAGES: Final = ("numpy", "opencv-python-headless", "openslide-python", "zarr", "tensorstore")
DONE_EARLIER: Final = "done earlier"
NO_TISSUE: Final = "no tissue"


class TileConfig(StageConfig):
    """Find tissue, normalise stains, cut tiles and keep those that pass the rules."""

    cohort: Annotated[CliPositionalArg[Path], HOW] = Field(
        description="Cohort table (CSV), or a folder of slides."
    )
    run: Annotated[Path, HOW] = Field(description="Run folder; tiles go to <run>/tiles.")
    slides: Annotated[Path | None, HOW] = Field(
        default=None, description="Folder the table's paths start from; else the table's own."
    )
    mpp: float = Field(default=0.5, gt=0, description="Resolution of the tiles, µm/px.")
    mpp_override: float | None = Field(
        default=None,
        description="Resolution of slides whose file does not say it or is wrong, µm/px; the "
        "table's mpp column goes before it.",
    )
    unknown_mpp: bool = Field(
        default=False, description="Take slides of unknown resolution at native pixels."
    )
    allow_coarser: bool = Field(
        default=False, description="Take slides coarser than --mpp at native pixels, flagged."
    )
    tile_px: int = Field(default=256, ge=32, description="Side of a tile, px.")
    overlap_px: int = Field(default=0, ge=0, description="What neighbours share, px of a tile.")
    edge: Literal["drop", "pad"] = Field(
        default="drop", description="Tiles over the right and bottom edge: drop, or pad white."
    )
    tissue_method: str = Field(default="otsu", description="otsu, hsv, density or none.")
    min_tissue_fraction: float = Field(
        default=0.5, ge=0, le=1, description="Share of a tile that must be tissue."
    )
    masks: Annotated[Path | None, HOW] = Field(
        default=None,
        description="Folder of tissue masks corrected by hand, <slide_id>.geojson; other slides' "
        "are computed.",
    )
    exclude_annotations: list[str] = Field(
        default=["ignore*", "ignore", "exclude", "exclusion"],
        description="Classes whose drawn regions give no tiles; may be given several times.",
    )
    annotated_only: bool = Field(
        default=True, description="Where regions are drawn, take tiles from them alone."
    )
    min_annotation_overlap: float = Field(
        default=0.5, gt=0, le=1, description="Share of a tile that a class must cover to name it."
    )
    annotation_origin: Literal["auto", "slide", "bounds"] = Field(
        default="auto",
        description="Where drawn coordinates start on slides scanned in part; auto: at the "
        "scanned bounds in GeoJSON, at the slide's corner in XML.",
    )
    stain: str = Field(default="macenko", description="macenko, reinhard, vahadane or none.")
    max_background_fraction: float = Field(
        default=0.125, ge=0, le=1, description="Share of a normalised tile that may be empty."
    )
    background_level: int | None = Field(
        default=None,
        ge=0,
        le=255,
        description="Grey level all channels of an empty pixel reach; the slide's own glass "
        "less 10 if not given.",
    )
    background_um: float = Field(
        default=4.0, ge=0, description="Side of the squares averaged before that, µm; 0: pixels."
    )
    max_pen_fraction: float = Field(
        default=0.1, ge=0, le=1, description="More pen than this flags a tile."
    )
    min_relative_focus: float = Field(
        default=0.1, ge=0, description="Less of the slide's median focus than this flags a tile."
    )
    min_focus: float = Field(
        default=20.0, ge=0, description="So does less than this, whatever the slide's median."
    )
    max_fold_fraction: float = Field(
        default=0.1, ge=0, le=1, description="More of a fold than this flags a tile."
    )
    fold_deviations: float = Field(
        default=3.0,
        gt=0,
        description="How far over the slide's median tissue counts as folded; fewer find more.",
    )
    max_blood_fraction: float = Field(
        default=0.5, ge=0, le=1, description="More blood than this flags a tile."
    )
    drop_flagged: list[Literal["pen", "blurred", "fold", "blood"]] = Field(
        default=[], description="Leave tiles with this flag out; may be given several times."
    )
    max_dropped_fraction: float = Field(
        default=0.5, ge=0, le=1, description="Drop nothing of a slide that would lose more."
    )
    denoise: Literal["none", "median", "gaussian"] = Field(
        default="none", description="Noise filter on the tiles, before normalisation."
    )
    denoise_radius_px: int = Field(default=1, ge=1, le=8, description="Its radius, px of a tile.")
    crop_to_tissue: bool = Field(
        default=False, description="Anchor the grid at the tissue's bounding box."
    )
    straighten: bool = Field(
        default=False,
        description="Turn flat images so that their tissue lies along an axis; of slides with a "
        "pyramid the tilt is recorded only.",
    )
    store: Literal["zarr", "hdf5"] = Field(default="zarr", description="Format of the tile stores.")
    codec: Literal["auto", "zstd", "none", "jpeg"] = Field(
        default="auto",
        description="How tiles are packed; auto: zstd in Zarr, none in HDF5; jpeg: a sixth of the "
        "space, with a slight loss.",
    )
    modality: Literal["slide", "ct"] = Field(
        default="slide", description="ct: read DICOM CT slices as flat pictures, native pixels."
    )
    icc: Literal["keep", "apply"] = Field(
        default="keep", description="apply: change colours to sRGB by the slide's ICC profile."
    )
    reader: str = Field(default="auto", description="auto, openslide, tiffslide or image.")
    seed: int = Field(default=0, ge=0, description="Of the pixels the stain is fitted on.")

    @property
    def log_folder(self) -> Path | None:
        return self.run / "logs"


@dataclass(frozen=True, kw_only=True)
class CutTask:
    """One slide's work order."""

    slide_id: str
    path: str | Path
    run: Path
    store: Literal["zarr", "hdf5"]
    settings: "CutSettings"
    reader: str
    asked: Mapping[str, Any]
    overwrite: bool


def run(config: TileConfig) -> Iterator[Event]:
    """Cut every slide of the cohort into ``<run>/tiles/<slide_id>.zarr`` or ``.h5``.

    Raises:
        CohortError: The table is wrong, or files it names are missing.
        ConfigError: A setting is impossible.
    """
    from wsi_pipeline.pipeline.cores import resolve_cohort

    resolved = resolve_cohort(config)
    failed = sum(isinstance(event, SlideFailed) for event in resolved.events)
    yield StageStarted(stage="tile", total=len(resolved.slides) + failed)
    yield from resolved.events
    tasks = [cut_task(config, resolved.root, slide) for slide in resolved.slides]
    if config.dry_run:
        from wsi_pipeline.pipeline.preflight import preflight

        yield from preflight(tasks)
        return
    write_cohort(config.run / "cohort.csv", resolved.slides)
    yield from map_slides(
        cut_one,
        [
            SlideTask(
                slide_id=task.slide_id,
                lock=lock_path(config.run, "tile", task.slide_id),
                payload=task,
            )
            for task in tasks
        ],
        config,
    )
    yield Written(path=str(config.run / "tiles"), what="tiles")
    yield Written(path=str(config.run / "thumbnails"), what="thumbnails to check")


def cut_settings(config: TileConfig) -> "CutSettings":
    """Return what the config asks of every slide."""
    from wsi_pipeline.tiles import CutSettings

    return CutSettings(
        mpp=config.mpp,
        mpp_override=config.mpp_override,
        allow_unknown_mpp=config.unknown_mpp or config.modality == "ct",
        allow_coarser=config.allow_coarser,
        tile_px=config.tile_px,
        overlap_px=config.overlap_px,
        edge=config.edge,
        tissue_method=config.tissue_method,
        min_tissue_fraction=config.min_tissue_fraction,
        stain=config.stain,
        max_background_fraction=config.max_background_fraction,
        background_level=config.background_level,
        background_um=config.background_um,
        max_pen_fraction=config.max_pen_fraction,
        min_relative_focus=config.min_relative_focus,
        min_focus=config.min_focus,
        max_fold_fraction=config.max_fold_fraction,
        fold_deviations=config.fold_deviations,
        max_blood_fraction=config.max_blood_fraction,
        drop=tuple(config.drop_flagged),
        max_dropped_fraction=config.max_dropped_fraction,
        seed=config.seed,
        denoise=config.denoise,
        denoise_radius_px=config.denoise_radius_px,
        crop_to_tissue=config.crop_to_tissue,
        straighten=config.straighten,
        codec=config.codec,
        modality=config.modality,
        icc=config.icc,
    )


def cut_task(config: TileConfig, root: Path, slide: CohortSlide) -> CutTask:
    """Return the work order for one slide of the cohort."""
    from wsi_pipeline.tiles.drawn import drawn_digest

    override = config.mpp_override if slide.mpp is None else slide.mpp
    settings = replace(
        cut_settings(config),
        mpp_override=override,
        region=slide.region,
        circular=slide.region is not None,
        drawn=_drawn(config, root, slide),
    )
    drawn = settings.drawn
    asked = {
        "config": config.identity(),
        "mpp_override": override,
        "region_level0": None if slide.region is None else asdict(slide.region),
        "annotations_digest": None if drawn is None else drawn_digest(drawn.annotations),
        "mask_digest": None if drawn is None else drawn_digest(drawn.mask),
    }
    return CutTask(
        slide_id=slide.slide_id,
        path=slide.path if "://" in slide.path else root / slide.path,
        run=config.run,
        store=config.store,
        settings=settings,
        reader=config.reader,
        asked=asked,
        overwrite=config.overwrite,
    )


def _drawn(config: TileConfig, root: Path, slide: CohortSlide) -> "Drawn | None":
    """Return what people drew on the slide; None if they drew nothing."""
    from wsi_pipeline.pipeline.cores import beside
    from wsi_pipeline.tiles.drawn import Drawn

    annotations = slide.annotations and beside(config, root, slide.annotations)
    corrected = config.masks and config.masks / f"{slide.slide_id}.geojson"
    mask = corrected if corrected and corrected.exists() else None
    if not annotations and mask is None:
        return None
    return Drawn(
        annotations=annotations or None,
        mask=mask,
        exclude=tuple(config.exclude_annotations),
        only=config.annotated_only,
        min_overlap=config.min_annotation_overlap,
        origin=config.annotation_origin,
    )


def cut_one(task: CutTask) -> SlideDone | SlideSkipped:
    """Cut one slide unless its store is there already.

    Raises:
        SlideError: The slide cannot be used.
        StoreMismatchError: The store was made with other settings or from another file.
    """
    from wsi_pipeline.slides import slide_digest
    from wsi_pipeline.tiles import SUFFIXES, cut_slide, find_store

    started = time.monotonic()
    asked = {**task.asked, "slide_digest": slide_digest(task.path)}
    present = find_store(task.run / "tiles", task.slide_id)
    store = task.run / "tiles" / f"{task.slide_id}{SUFFIXES[task.store]}"
    if present is not None and is_done(
        present, _stored(present, asked, task), asked, overwrite=task.overwrite
    ):
        return SlideSkipped(slide_id=task.slide_id, reason=DONE_EARLIER)
    try:
        result = cut_slide(
            task.path, store, task.settings, reader=task.reader,
            thumbnail=task.run / "thumbnails" / f"{task.slide_id}.jpg",
            provenance={**asked, "versions": provenance(PACKAGES)},
        )  # fmt: skip
    except NoTissueError as error:
        return SlideSkipped(slide_id=task.slide_id, reason=NO_TISSUE, detail=str(error))
    if present is not None and present != store:
        _remove(present)
    return SlideDone(
        slide_id=task.slide_id,
        counts=funnel(result.counts),
        flags=result.flags,
        seconds=time.monotonic() - started,
    )


def _stored(path: Path, asked: Mapping[str, Any], task: CutTask) -> dict[str, Any] | None:
    """Return what the store was made from; None if it is to be made anew because it is damaged."""
    from wsi_pipeline.tiles import open_tiles

    try:
        attributes = open_tiles(path).attributes
    except StoreError:
        if task.overwrite:
            return None
        raise
    return {name: attributes.get(name) for name in asked}


def _remove(store: Path) -> None:
    """Remove a store in the other format, which the new one replaces."""
    if store.is_dir():
        shutil.rmtree(store)
    else:
        store.unlink()


def funnel(counts: Mapping[str, int]) -> dict[str, int]:
    """Return a slide's counts as the closing table shows them, from tile places to tiles kept."""
    texts = {
        "candidates": "tile places",
        "rejected_tissue": "  too little tissue",
        "rejected_background": "  too much background",
        "rejected_pen": "  pen",
        "rejected_blurred": "  blurred",
        "rejected_fold": "  folded",
        "rejected_blood": "  blood",
        "kept": "tiles kept",
        "flagged_pen": "  with pen",
        "flagged_blurred": "  blurred, kept",
        "flagged_fold": "  folded, kept",
        "flagged_blood": "  blood, kept",
    }
    always = ("candidates", "kept")
    return {
        text: counts.get(name, 0)
        for name, text in texts.items()
        if name in always or counts.get(name, 0)
    }
