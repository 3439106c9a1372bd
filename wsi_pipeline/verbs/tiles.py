"""What the verbs of tiles and features can be told."""

from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from wsi_pipeline.mirror_settings import FEATURES, TILES, Brought, MirrorSettings
from wsi_pipeline.settings import (
    COHORT,
    DIR,
    FILE,
    HOW,
    POSITIONAL,
    CacheSettings,
    Chosen,
    Device,
    InBucket,
    Metavar,
    PatienceSettings,
    Run,
    Slides,
    SlidesAnywhere,
    StageConfig,
)
from wsi_pipeline.shard import ShardSettings
from wsi_pipeline.tiles import TileSettings


class TileConfig(
    StageConfig, TileSettings, CacheSettings, PatienceSettings, ShardSettings, MirrorSettings
):
    """Find tissue, normalise stains, cut tiles and keep those that pass the rules."""

    verb: ClassVar = "tile"
    example: ClassVar = "manifests/liver.csv --slides slides --run runs/liver"
    makes: ClassVar = ("root", "tiles")
    topic: ClassVar = "what and where"

    cohort: Annotated[Path | str, InBucket, HOW, POSITIONAL, COHORT] = Field(
        description="Cohort table (CSV), a folder of slides, or one slide; the latter two also in "
        "a bucket, s3://bucket/folder."
    )
    run: Annotated[Path, HOW, DIR] = Field(description="Run folder; tiles go to <run>/tiles.")
    slides: SlidesAnywhere = Field(
        default=None,
        description="Folder the table's paths start from, here or s3://bucket/folder; else the "
        "table's own.",
    )
    masks: Annotated[Path | None, HOW, DIR] = Field(
        default=None,
        description="Folder of tissue masks corrected by hand, <slide_id>.geojson; other slides' "
        "are those drawn in the workbench (<run>/masks), or computed.",
    )

    @property
    def brings(self) -> tuple[Brought, ...]:
        return Brought("cores/.*"), Brought(TILES, pixels=False)


class QcConfig(StageConfig):
    """Show flagged tiles on one page, and write the table that says which of them to drop."""

    verb: ClassVar = "qc"
    example: ClassVar = "runs/liver --drop pen,blurred"
    needs: ClassVar = ("tiles",)

    run: Run = Field(description="Run folder.")
    drop: Annotated[tuple[str, ...], Chosen("wsi_pipeline.tiles:FLAGS")] = Field(
        default=("pen", "blurred"),
        description="Flags whose tiles the new table drops; others it keeps, for a person to "
        "look at. May be given several times.",
    )
    max_dropped_fraction: float = Field(
        default=0.5, ge=0, le=1, description="Drop nothing of a slide that would lose more."
    )
    slides: Slides = Field(
        default=None,
        description="Folder the table's paths start from, for tiles as scanned; else the table's "
        "own.",
    )
    max_tiles: int = Field(
        default=24, ge=0, description="The most tiles shown of a slide for one flag, worst first."
    )


class ExtractConfig(StageConfig, PatienceSettings, ShardSettings, MirrorSettings):
    """Encode every tile of a run folder; one feature store a slide."""

    verb: ClassVar = "extract"
    example: ClassVar = "runs/liver --encoder densenet121"
    needs: ClassVar = ("tiles",)
    makes: ClassVar = ("root", "features")

    run: Run = Field(description="Run folder.")
    encoder: str = Field(
        default="densenet121",
        description="A published encoder (docs/encoders.md), a timm model, with or without "
        "its weights' tag (densenet121.tv_in1k), hf-hub:owner/model, or module:function for one of "
        "your own.",
    )
    weights: str = Field(
        default="auto",
        description="auto or hub (the hub or its cache), package, random, or a .safetensors or "
        ".pth file.",
    )
    pooling: Literal["auto", "class", "mean", "class+mean"] = Field(
        default="auto",
        description="What of a transformer's tokens is the feature: the class token, the mean of "
        "the patches, or both; auto is as published.",
    )
    trust_remote_code: bool = Field(
        default=False,
        description="Taken as before; no encoder runs code from the hub. Slide encoders do.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="auto is half precision on a GPU, fp32 elsewhere."
    )
    dtype: Literal["float32", "float16"] = Field(
        default="float32", description="Of the features on disk."
    )
    device: Device = Field(
        default="auto", description="What the encoder runs on; auto: the best there is."
    )
    batch: Annotated[int | None, HOW] = Field(
        default=None, ge=1, description="Tiles of one forward pass; chosen by device if not given."
    )
    kernels: Annotated[Literal["torch", "compiled", "openvino"], HOW] = Field(
        default="torch",
        description="What computes: torch, torch.compile (slow to start, then faster), or on a CPU "
        "OpenVINO (an extra, faster still). Features are the same but for rounding.",
    )

    source: Literal["tiles", "slide"] = Field(
        default="tiles",
        description="Take the tiles from the tile stores, or cut them from the slides as they are "
        "needed and write none.",
    )
    cohort: Annotated[Path | str | None, InBucket, HOW, COHORT] = Field(
        default=None,
        description="With --source slide: cohort table (CSV), or a folder of slides, here or "
        "s3://bucket/folder.",
    )
    slides: SlidesAnywhere = Field(
        default=None,
        description="With --source slide: folder the table's paths start from, here or "
        "s3://bucket/folder; the table's own if left out.",
    )
    tile_settings: Annotated[Path | None, FILE] = Field(
        default=None,
        description="With --source slide: TOML file that says how to cut, as for the tile stage.",
    )

    @property
    def uses_gpu(self) -> bool:
        return self.device in ("auto", "cuda")

    @property
    def brings(self) -> tuple[Brought, ...]:
        tiles = (Brought(TILES),) if self.source == "tiles" else (Brought("cores/.*"),)
        return Brought("qc/.*"), Brought(FEATURES), *tiles


class EmbedConfig(StageConfig):
    """Make one vector of each slide's features, by their mean or a published slide encoder."""

    verb: ClassVar = "embed"
    example: ClassVar = "runs/liver --encoder uni --slide-encoder mean"
    needs: ClassVar = ("features",)
    makes: ClassVar = ("root", "features")

    run: Run = Field(description="Run folder.")
    encoder: str = Field(
        default="densenet121", description="Whose features: an encoder's tag or its bare name."
    )
    slide_encoder: Annotated[str, Chosen("wsi_pipeline.features:SLIDE_ENCODERS")] = Field(
        default="mean", description="What makes one vector of them."
    )
    weights: Annotated[Path | None, FILE] = Field(
        default=None, description="File of its weights, where no hub has them."
    )
    device: Device = Field(default="auto", description="What the slide encoder runs on.")
    trust_remote_code: bool = Field(
        default=False, description="Let a publisher's code from the hub run, where it needs to."
    )


class ExportConfig(StageConfig):
    """Write a run folder's features as CLAM, TRIDENT, STAMP or LazySlide read them."""

    verb: ClassVar = "export"
    example: ClassVar = "runs/liver --layout clam"
    needs: ClassVar = ("features",)

    run: Run = Field(description="Run folder.")
    layout: Literal["clam", "trident", "stamp", "anndata", "spatialdata"] = Field(
        description="Whose layout; anndata and spatialdata are LazySlide's, a .h5ad or .zarr a "
        "slide."
    )
    encoder: str = Field(
        default="densenet121", description="Whose features: an encoder's tag or its bare name."
    )
    out: Annotated[Path | None, HOW, DIR] = Field(
        default=None, description="Where to; <run>/export/<layout> if not given."
    )
    splits_of: Annotated[str | None, HOW, Metavar("MODEL")] = Field(
        default=None,
        description="Model of the run whose splits and classes the tables for CLAM and STAMP "
        "have; those that all its models share if not given, else drawn anew.",
    )


class ImportConfig(StageConfig):
    """Take over features of CLAM, TRIDENT, STAMP or LazySlide; the layout is recognised."""

    verb: ClassVar = "import_features"
    example: ClassVar = "trident/features_uni --run runs/liver --cohort manifests/liver.csv"
    makes: ClassVar = ("root", "features")

    source: Annotated[Path, POSITIONAL, DIR] = Field(
        description="Folder of the tool's .h5, .h5ad or .zarr, one a slide, or one above. CLAM's "
        "patches/ beside or above them tells the tiles' size."
    )
    run: Annotated[Path, HOW, DIR] = Field(description="Run folder to fill.")
    cohort: Annotated[Path | None, HOW, FILE] = Field(
        default=None,
        description="Cohort table, whose slide_id is a file's name without its ending; it becomes "
        "the run folder's. Without one the run folder's own holds, or every file is imported.",
    )
    slides: Slides = Field(
        default=None,
        description="Folder the table's paths start from: the slides' sizes and resolutions are "
        "read from their headers.",
    )
    encoder: str | None = Field(
        default=None,
        description="Tag to file the features under, where no file says it; or which of several "
        "encoders in a .zarr.",
    )
    tile_px: int | None = Field(
        default=None, gt=0, description="Side of a tile as the encoder saw it, where no file says."
    )
    tile_px_level0: float | None = Field(
        default=None, gt=0, description="The same side in level-0 pixels, where no file says it."
    )
    mpp: float | None = Field(
        default=None, gt=0, description="Resolution of the tiles, µm/px, where no file says it."
    )


VERBS: Final[tuple[type[StageConfig], ...]] = (
    TileConfig,
    QcConfig,
    ExtractConfig,
    EmbedConfig,
    ExportConfig,
    ImportConfig,
)
"""In the order in which a study runs them."""
