"""What the tile stage can be told."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from wsi_pipeline.config import HOW, StageConfig


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
    stain: str = Field(
        default="macenko", description="macenko, macenko-tile, reinhard, vahadane, none."
    )
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
        description="Turn flat images so that their tissue lies along an axis, and a microarray's "
        "cores so that its rows do; of other slides the tilt is recorded only.",
    )
    store: Literal["zarr", "hdf5"] = Field(default="zarr", description="Format of the tile stores.")
    codec: Literal["auto", "zstd", "none", "jpeg"] = Field(
        default="auto",
        description="How tiles are packed; auto: zstd in Zarr, none in HDF5; jpeg: a fifth of the "
        "space, with a loss that moves features.",
    )
    modality: Literal["slide", "ct"] = Field(
        default="slide", description="ct: read DICOM CT slices as flat pictures, native pixels."
    )
    icc: Literal["keep", "apply"] = Field(
        default="keep", description="apply: change colours to sRGB by the slide's ICC profile."
    )
    reader: str = Field(default="auto", description="auto, openslide, tiffslide or image.")
    seed: int = Field(default=0, ge=0, description="Of the pixels the stain is fitted on.")
