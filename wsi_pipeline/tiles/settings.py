"""What decides how a slide is cut."""

from dataclasses import dataclass
from typing import Final

from wsi_pipeline.slides import Icc, Modality
from wsi_pipeline.tiles.contract import Codec
from wsi_pipeline.tiles.denoise import Denoise
from wsi_pipeline.tiles.drawn import Drawn
from wsi_pipeline.tiles.grid import Edge
from wsi_pipeline.tissue.folds import FOLD_DEVIATIONS
from wsi_pipeline.types import Region

OVERVIEW_MPP: Final = 8.0  # tissue is looked for at about this resolution


@dataclass(frozen=True, kw_only=True)
class CutSettings:
    """All that decides which tiles a slide gives and what is in them.

    Attributes:
        mpp: Resolution of the tiles, µm/px.
        mpp_override: The slide's resolution where the file has none or a wrong one, µm/px.
        allow_unknown_mpp: Take level 0 as it is where the resolution stays unknown.
        allow_coarser: Take level 0 as it is where it is coarser than ``mpp``.
        tile_px, overlap_px: Side of a tile and what neighbours share, pixels at ``mpp``.
        edge: ``drop`` or ``pad`` what would reach over the right and bottom edge.
        tissue_method: A name of ``tissue.TISSUE_METHODS``.
        min_tissue_fraction: Share of a tile that must be tissue on the overview.
        stain: A name of ``stain.STAIN_METHODS``.
        max_background_fraction: Share of a tile that may be empty after normalisation.
        background_level: Grey level that all three channels of an empty pixel reach; None takes
            10 less than the slide's own glass has after normalisation.
        background_um: Pixels are averaged over squares of this side before they are judged, so
            that the pale gaps inside a cell are no background; 0 judges them one by one.
        max_pen_fraction: More pen than this flags a tile.
        min_relative_focus: A tile is flagged when its focus is below this share of the median of
            tiles sampled from the same slide …
        min_focus: … or below this.
        max_fold_fraction: More of a fold than this flags a tile.
        fold_deviations: How far over the slide's median tissue counts as folded; fewer find more.
        max_blood_fraction: More blood than this flags a tile.
        drop: Flags whose tiles are left out.
        max_dropped_fraction: Where more of the sampled tiles than this would be left out by
            ``drop``, none is, and the slide is flagged instead.
        seed: Of the choice of tiles and pixels that the stain is fitted on.
        denoise: Noise filter on the tiles before normalisation; what is measured for flags is the
            tile as scanned.
        denoise_radius_px: Its radius.
        crop_to_tissue: Anchor the grid at the tissue's bounding box.
        straighten: Turn a flat image so that its tissue lies along an axis, and a microarray's
            core by ``tilt_deg``; the tilt of another slide with a pyramid is recorded only.
        codec: How tiles are packed in the store.
        modality: ``ct`` reads DICOM CT slices as flat pictures.
        icc: ``apply`` changes colours to sRGB by the slide's ICC profile.
        region: The part of the slide to cut, level-0 px; None cuts the whole.
        tilt_deg: Of the rows of the microarray that ``region`` is a core of, clockwise; None if
            it is not known.
        circular: Only the ellipse inscribed in ``region`` counts as tissue: a core.
        drawn: What people drew on the slide; None if nothing.
    """

    mpp: float = 0.5
    mpp_override: float | None = None
    allow_unknown_mpp: bool = False
    allow_coarser: bool = False
    tile_px: int = 256
    overlap_px: int = 0
    edge: Edge = "drop"
    tissue_method: str = "otsu"
    min_tissue_fraction: float = 0.5
    stain: str = "macenko"
    max_background_fraction: float = 0.125
    background_level: int | None = None
    background_um: float = 4.0
    max_pen_fraction: float = 0.1
    min_relative_focus: float = 0.1
    min_focus: float = 20.0
    max_fold_fraction: float = 0.1
    fold_deviations: float = FOLD_DEVIATIONS
    max_blood_fraction: float = 0.5
    drop: tuple[str, ...] = ()
    max_dropped_fraction: float = 0.5
    seed: int = 0
    denoise: Denoise = "none"
    denoise_radius_px: int = 1
    crop_to_tissue: bool = False
    straighten: bool = False
    codec: Codec = "auto"
    modality: Modality = "slide"
    icc: Icc = "keep"
    region: Region | None = None
    tilt_deg: float | None = None
    circular: bool = False
    drawn: Drawn | None = None
