"""One slide's work order: what the tile stage asks of it, and what its store is compared with."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.pipeline.tile_config import TileConfig

if TYPE_CHECKING:
    from wsi_pipeline.tiles import CutSettings
    from wsi_pipeline.tiles.drawn import Drawn


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
    profile: bool
    threads: int


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
        tilt_deg=slide.tilt_deg if config.straighten else None,
        circular=slide.region is not None,
        drawn=_drawn(config, root, slide),
    )
    drawn = settings.drawn
    asked = {
        "config": config.identity(),
        "mpp_override": override,
        "tilt_deg": slide.tilt_deg if config.straighten else None,
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
        profile=config.profile,
        threads=config.threads_each,
    )


def _drawn(config: TileConfig, root: Path, slide: CohortSlide) -> "Drawn | None":
    """Return what people drew on the slide; None if they drew nothing."""
    from wsi_pipeline.pipeline.resolve_cohort import beside
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
