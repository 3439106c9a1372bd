"""What the tile stage can be told."""

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from wsi_pipeline.config import DIR, HOW, POSITIONAL, Metavar, StageConfig
from wsi_pipeline.tiles.settings import TileSettings


class TileConfig(StageConfig, TileSettings):
    """Find tissue, normalise stains, cut tiles and keep those that pass the rules."""

    topic: ClassVar = "what and where"

    cohort: Annotated[Path, HOW, POSITIONAL, Metavar("COHORT")] = Field(
        description="Cohort table (CSV), or a folder of slides."
    )
    run: Annotated[Path, HOW, DIR] = Field(description="Run folder; tiles go to <run>/tiles.")
    slides: Annotated[Path | None, HOW, DIR] = Field(
        default=None, description="Folder the table's paths start from; else the table's own."
    )
    masks: Annotated[Path | None, HOW, DIR] = Field(
        default=None,
        description="Folder of tissue masks corrected by hand, <slide_id>.geojson; other slides' "
        "are computed.",
    )
