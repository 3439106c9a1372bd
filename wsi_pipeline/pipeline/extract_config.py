"""What the extract stage can be told."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from wsi_pipeline.config import DIR, FILE, HOW, POSITIONAL, Device, Metavar, StageConfig


class ExtractConfig(StageConfig):
    """Encode every tile of a run folder; one feature store a slide."""

    run: Annotated[Path, HOW, POSITIONAL, DIR] = Field(description="Run folder.")
    encoder: str = Field(
        default="densenet121",
        description="A timm model, with or without its weights' tag (densenet121.tv_in1k), "
        "hf-hub:owner/model, or module:function for one of your own.",
    )
    weights: str = Field(
        default="auto",
        description="auto or hub (the hub or its cache), package, random, or a .safetensors or "
        ".pth file.",
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
    cohort: Annotated[Path | None, HOW, Metavar("COHORT")] = Field(
        default=None, description="With --source slide: cohort table (CSV), or a folder of slides."
    )
    slides: Annotated[Path | None, HOW, DIR] = Field(
        default=None,
        description="With --source slide: folder the table's paths start from; the table's own if "
        "left out.",
    )
    tile_settings: Annotated[Path | None, FILE] = Field(
        default=None,
        description="With --source slide: TOML file that says how to cut, as for the tile stage.",
    )
