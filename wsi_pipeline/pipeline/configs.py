"""What every stage can be told. Light to import: ``--help`` needs no more than this."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from wsi_pipeline.config import DIR, FILE, HOW, POSITIONAL, Chosen, StageConfig
from wsi_pipeline.run_folder import RunFolder


class CoresConfig(StageConfig):
    """Find the cores of a tissue microarray, name them, and draw them for a person to check."""

    slide: Annotated[str, HOW, POSITIONAL] = Field(
        description="TMA slide, or a flat picture of it; a URL will do."
    )
    preview: Annotated[Path, HOW, FILE] = Field(description="Picture to write, .png or .jpg.")
    map: Annotated[Path | None, HOW, FILE] = Field(
        default=None,
        description="Core map (CSV row, column, core_id, patient_id, label); without one, places "
        "are named after the grid.",
    )
    out: Annotated[Path | None, HOW, FILE] = Field(
        default=None,
        description="Table of the cores' places, to be corrected by hand; what is there is read, "
        "not written over. Beside the preview if not given; the tile stage reads "
        "<run>/cores/<slide_id>.csv.",
    )
    names: Literal["letters", "numbers"] = Field(
        default="letters", description="Without a map: A1 or 1-1."
    )
    mpp_override: float | None = Field(
        default=None, gt=0, description="The slide's resolution, µm/px, in place of the file's."
    )
    core_diameter_um: float | None = Field(
        default=None, gt=0, description="The cores' diameter where it is known, µm."
    )
    reader: Annotated[str, Chosen("wsi_pipeline.slides.open:READERS")] = Field(
        default="auto", description="What reads the slide; auto: what suits the file."
    )

    @field_validator("preview")
    @classmethod
    def _is_picture(cls, path: Path) -> Path:
        if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise ValueError("the preview is a picture; end its name in .png or .jpg")
        return path

    @property
    def table(self) -> Path:
        """Where the cores' places are written to, or read from."""
        return self.out or self.preview.with_suffix(".csv")


class ReportConfig(StageConfig):
    """Write one self-contained HTML page about a run folder."""

    run: Annotated[Path, HOW, POSITIONAL, DIR] = Field(description="Run folder.")
    title: str | None = Field(
        default=None, description="Of the page; the cohorts' names if not given."
    )
    slides: Annotated[Path | None, HOW] = Field(
        default=None,
        description="Folder the cohort table's paths start from, for tiles as scanned beside the "
        "normalised ones; without it these are left out.",
    )
    out: Annotated[Path | None, HOW] = Field(
        default=None, description="The page; <run>/report/index.html if not given."
    )
    date: Annotated[str | None, HOW] = Field(
        default=None, description="To be printed; without it equal runs give equal pages."
    )
    max_slides: int = Field(default=60, ge=0, description="The most slides in the gallery.")


class DemoConfig(StageConfig):
    """Generate the synthetic cohort and take it through the whole pipeline."""

    folder: Annotated[Path, HOW, POSITIONAL, DIR] = Field(
        default=Path("demo"), description="Where slides, run folder and report go."
    )
    cohort_only: Annotated[bool, HOW] = Field(
        default=False, description="Generate the slides and their tables, and stop."
    )
    seed: int = Field(default=0, ge=0, description="Equal seeds give equal slides, byte for byte.")
    patients_per_label: int = Field(default=8, ge=2, description="Patients of each class.")
    side_px: int = Field(default=3584, ge=1024, description="Mean side of a slide, level-0 px.")
    tma_rows: int = Field(default=5, ge=0, description="Rows of the held-out TMA; 0 for none.")
    tma_columns: int = Field(default=6, ge=0, description="Columns of the held-out TMA.")
    include_broken: bool = Field(
        default=False, description="Add a slide whose file ends in the middle."
    )
    encoder: str = Field(
        default="auto",
        description="Encoder; auto is densenet121 where its weights can be had, else the packaged "
        "tf_efficientnet_lite0.",
    )

    @property
    def run_folder(self) -> RunFolder:
        return RunFolder(self.folder / "run")
