"""A toy stage: its settings and what it does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from wsi_pipeline.events import Event, SlideDone, StageStarted
from wsi_pipeline.settings import HOW, POSITIONAL, StageConfig


class CutConfig(StageConfig):
    """Cut something."""

    verb: ClassVar = "cut"
    example: ClassVar = "x --out y"
    stage: ClassVar = "base.toy:cut"

    slides: Annotated[Path, POSITIONAL] = Field(description="What to cut.")
    out: Annotated[Path, HOW] = Field(description="Where to.")
    mpp: float = Field(default=0.5, gt=0, description="Target µm per pixel.")

    several: tuple[str, ...] = Field(default=(), description="Which of them.")
    keep: bool = Field(default=True, description="Keep the rest.")


def cut(config: CutConfig) -> Iterator[Event]:
    yield StageStarted(stage="cut", total=1)
    yield SlideDone(slide_id=config.slides.name, counts={"tiles kept": round(100 * config.mpp)})
