"""What decides how a slide is cut: each knob once, for flags, TOML files and the code that cuts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from wsi_pipeline.settings import HOW, Chosen, Settings
from wsi_pipeline.types import Icc, Modality

if TYPE_CHECKING:
    from wsi_pipeline.slides import SlideState
    from wsi_pipeline.types import Region

Edge = Literal["drop", "pad"]
Origin = Literal["auto", "slide", "bounds"]
Denoise = Literal["none", "median", "gaussian"]
Resample = Literal["area", "scaled"]

BEFORE: Final[Mapping[str, Any]] = {
    "background_rule": "normalised",
    "force_mpp": False,
    "resample": "area",
    "stain_backend": "own",
}
"""What a store was made with that does not know a knob, because it is older."""

OLD_FLAG_KNOBS: Final = ("min_focus", "min_relative_focus")  # told blur before sharpness did
FLAG_KNOBS: Final = (
    "max_pen_fraction", "min_relative_sharpness", "max_fold_fraction", "fold_deviations",
    "max_blood_fraction", "also_flag",
)  # fmt: skip

CT_DEFAULTS: Final[dict[str, Any]] = {
    "tissue_method": "none",
    "stain": "none",
    "max_background_fraction": 1.0,
}

OVERVIEW_MPP: Final = 8.0  # tissue is looked for at about this resolution


class GridSettings(Settings):
    """At which resolution tiles are taken, and where they lie."""

    topic: ClassVar = "resolution and grid"

    mpp: float = Field(default=0.5, gt=0, description="Resolution of the tiles, µm/px.")
    mpp_override: float | None = Field(
        default=None,
        ge=0.05,
        le=10,
        description="Resolution of all slides, µm/px, whatever their files say; the table's mpp "
        "column goes before it. Refused where a file says something else by more than 10 %.",
    )
    mpp_default: float | None = Field(
        default=None,
        ge=0.05,
        le=10,
        description="Resolution of slides whose file does not say it, µm/px; of no other.",
    )
    force_mpp: bool = Field(
        default=False, description="Let --mpp-override replace what a file says, however far off."
    )
    unknown_mpp: bool = Field(
        default=False, description="Take slides of unknown resolution at native pixels."
    )
    allow_coarser: bool = Field(
        default=False, description="Take slides coarser than --mpp at native pixels, flagged."
    )
    tile_px: int = Field(default=256, ge=32, description="Side of a tile, px.")
    overlap_px: int = Field(default=0, ge=0, description="What neighbours share, px of a tile.")
    resample: Resample = Field(
        default="area",
        description="How finer levels are reduced: by area averaging; or scaled, decoded straight "
        "to the tiles' size where a JPEG or JPEG 2000 slide is 2, 4 or 8 times as fine, else by "
        "area.",
    )
    edge: Edge = Field(
        default="drop", description="Tiles over the right and bottom edge: drop, or pad white."
    )
    crop_to_tissue: bool = Field(
        default=False, description="Anchor the grid at the tissue's bounding box."
    )
    straighten: bool = Field(
        default=False,
        description="Turn flat images so that their tissue lies along an axis, and a microarray's "
        "cores so that its rows do; of other slides the tilt is recorded only.",
    )

    @model_validator(mode="after")
    def _tiles_advance(self) -> Self:
        if self.overlap_px >= self.tile_px:
            raise ValueError(
                f"overlap_px {self.overlap_px} leaves tiles of {self.tile_px} px no step to take; "
                f"give less than {self.tile_px}"
            )
        return self


class TissueSettings(Settings):
    """Where the tissue is: computed, and as people drew it."""

    topic: ClassVar = "tissue and annotations"

    tissue_method: Annotated[str, Chosen("wsi_pipeline.tissue.methods:TISSUE_METHODS")] = Field(
        default="otsu", description="How tissue is found."
    )
    min_tissue_fraction: float = Field(
        default=0.5, ge=0, le=1, description="Share of a tile that must be tissue."
    )
    exclude_annotations: tuple[str, ...] = Field(
        default=("ignore*", "ignore", "exclude", "exclusion"),
        description="Classes, in any case, whose drawn regions give no tiles.",
    )
    annotated_only: bool = Field(
        default=True, description="Where regions are drawn, take tiles from them alone."
    )
    min_annotation_overlap: float = Field(
        default=0.5, gt=0, le=1, description="Share of a tile that a class must cover to name it."
    )
    annotation_origin: Origin = Field(
        default="auto",
        description="Where drawn coordinates start on slides scanned in part; auto: at the "
        "scanned bounds in GeoJSON, at the slide's corner in XML.",
    )


class StainSettings(Settings):
    """How the tiles' colours are brought into line."""

    topic: ClassVar = "pixels and stain"

    stain: Annotated[str, Chosen("wsi_pipeline.stain.methods:STAIN_METHODS")] = Field(
        default="macenko", description="How stains are normalised."
    )
    stain_backend: Literal["own", "staintools"] = Field(
        default="own",
        description="Who computes the method: staintools has macenko, reinhard and vahadane.",
    )
    stain_reference: Path | None = Field(
        default=None,
        description="What slides are mapped to: an image or slide to fit, or a fitted .json; else "
        "the published stains.",
    )

    @model_validator(mode="after")
    def _backend_has_method(self) -> Self:
        if self.stain not in ("macenko", "none") or self.stain_backend != "own":
            from wsi_pipeline.stain import backed

            backed(self.stain, self.stain_backend)
        return self

    seed: int = Field(default=0, ge=0, description="Of the pixels the stain is fitted on.")
    denoise: Denoise = Field(
        default="none",
        description="Noise filter on the tiles, before normalisation; flags are judged on the "
        "tile as scanned.",
    )
    denoise_radius_px: int = Field(default=1, ge=1, le=8, description="Its radius, px of a tile.")
    icc: Icc = Field(
        default="keep", description="apply: change colours to sRGB by the slide's ICC profile."
    )


class RuleSettings(Settings):
    """Which tiles are kept, which are flagged, and what is done with these."""

    topic: ClassVar = "rules"

    max_background_fraction: float = Field(
        default=0.125, ge=0, le=1, description="Share of a tile that may be empty."
    )
    background_rule: Annotated[str, Chosen("wsi_pipeline.tiles.background:BACKGROUND_RULES")] = (
        Field(
            default="scanned",
            description="What is empty: where light passes as scanned; or what is bright after "
            "normalisation, in squares or pixel by pixel.",
        )
    )
    background_level: int | None = Field(
        default=None,
        ge=0,
        le=255,
        description="Grey level all channels of an empty normalised pixel reach; the slide's own "
        "glass less 10 if not given.",
    )
    background_um: float = Field(
        default=4.0,
        ge=0,
        description="Side of the squares averaged before that, µm, so that the pale gaps inside a "
        "cell are no background; 0: pixels. For --background-rule normalised.",
    )
    max_pen_fraction: float = Field(
        default=0.04, ge=0, le=1, description="More pen than this flags a tile."
    )
    min_relative_sharpness: float = Field(
        default=0.42,
        ge=0,
        description="Less of the slide's median sharpness than this flags a tile, within 0.14 to "
        "0.2.",
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
        default=0.11, ge=0, le=1, description="More blood than this flags a tile."
    )
    also_flag: Annotated[tuple[str, ...], Chosen("wsi_pipeline.tiles:FLAGS")] = Field(
        default=(),
        description="Flag tiles for this too, although it is right too seldom to be flagged "
        "unasked: fold. May be given several times.",
    )
    drop_flagged: Annotated[tuple[str, ...], Chosen("wsi_pipeline.tiles:FLAGS")] = Field(
        default=(), description="Leave tiles with this flag out."
    )
    max_dropped_fraction: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Drop nothing of a slide that would lose more, and flag it instead.",
    )


class StoreSettings(Settings):
    """How slides are read and tiles are kept."""

    topic: ClassVar = "files"

    max_unreadable: Annotated[float, HOW] = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Share of a slide's tissue tiles that may be unreadable: they are left out, "
        "counted and listed. With more the slide fails.",
    )

    reader: Annotated[str, Chosen("wsi_pipeline.slides:READERS")] = Field(
        default="auto", description="What reads the slides; auto: what suits the file."
    )
    modality: Modality = Field(
        default="slide",
        description="ct: read DICOM CT slices as flat pictures, native pixels; no tissue rule, no "
        "stain, no background rule, no flags unless asked for.",
    )
    store: Annotated[str, Chosen("wsi_pipeline.tiles:STORE_FORMATS")] = Field(
        default="zarr", description="Format of the tile stores."
    )
    codec: str = Field(
        default="auto",
        description="How tiles are packed; auto: zstd in Zarr, none in HDF5; jpeg: a fifth of the "
        "space, with a loss that moves features.",
    )

    @model_validator(mode="after")
    def _store_has_codec(self) -> Self:
        if self.codec != "auto":
            from wsi_pipeline.tiles.formats import STORE_FORMATS

            STORE_FORMATS.choose(self.store).choose_codec(self.codec)
        return self


class TileSettings(GridSettings, TissueSettings, StainSettings, RuleSettings, StoreSettings):
    """All that decides which tiles slides give and what is in them."""

    @model_validator(mode="before")
    @classmethod
    def _ct_has_neither_stain_nor_glass(cls, given: Any) -> Any:
        """Give CT slices defaults of their own; what is asked for goes before them."""
        if isinstance(given, dict) and given.get("modality") == "ct":
            return CT_DEFAULTS | given
        return given

    @property
    def takes_unknown_mpp(self) -> bool:
        """Whether a slide of unknown resolution is cut at native pixels; CT slices have none."""
        return self.unknown_mpp or self.modality == "ct"


def settings_of_store(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a store was made with, in today's knobs, to be compared with what is asked.

    A store from before flags were judged as today keeps the flags that it has: where it drops no
    flagged tile they decide nothing, and its tiles are those that are asked for.

    Args:
        stored: Its ``config``, JSON-ready.
        asked: The same, as asked now.
    """
    known = {**BEFORE, **stored}
    if flagged_otherwise(stored):
        known = {name: value for name, value in known.items() if name not in OLD_FLAG_KNOBS}
        if not known.get("drop_flagged"):
            known |= {name: asked[name] for name in FLAG_KNOBS if name in asked}
    return known


def flagged_otherwise(stored: Mapping[str, Any]) -> bool:
    """Whether a store's flags were judged by rules of before."""
    return "min_relative_sharpness" not in stored


@dataclass(frozen=True, kw_only=True)
class SlideRequest:
    """What is asked of one slide, beside the settings that hold for all.

    Attributes:
        mpp: Its resolution by the cohort's table, µm/px; goes before ``mpp_override``.
        region: The part of it that is a microarray's core, level-0 px: only the ellipse inscribed
            in it counts as tissue. None cuts the whole slide.
        tilt_deg: Of the rows of that core's microarray, clockwise; None if it is not known.
        annotations: Regions drawn on it, QuPath's GeoJSON or ASAP's XML; None if there are none.
        mask: GeoJSON of its tissue, corrected by a person, in the place of the computed mask.
        source: What its file has to be still when all of it is read; None takes it as it is when
            it is opened.
    """

    mpp: float | None = None
    region: "Region | None" = None
    tilt_deg: float | None = None
    annotations: Path | None = None
    mask: Path | None = None
    source: "SlideState | None" = None

    def mpp_given(self, settings: GridSettings) -> float | None:
        """Return the resolution that replaces the file's, µm/px; None leaves it to the file."""
        return settings.mpp_override if self.mpp is None else self.mpp

    @property
    def is_drawn(self) -> bool:
        """Whether people drew on it."""
        return self.annotations is not None or self.mask is not None


WHOLE_SLIDE: Final = SlideRequest()
