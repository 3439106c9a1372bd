"""What `download` and `cores` can be told."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.settings import (
    DIR,
    FILE,
    HOW,
    POSITIONAL,
    Chosen,
    Metavar,
    StageConfig,
)


class DownloadConfig(StageConfig):
    """Fetch slides by manifest or query, resumable and verified; or verify, or only plan."""

    verb: ClassVar = "download"
    example: ClassVar = "manifests/gdc_tcga_liver.txt --out slides"

    manifest: Annotated[list[str], POSITIONAL] = Field(
        default=[],
        description="Manifests as the GDC portal writes them, - for one on the standard input, or "
        "ids of single files.",
    )
    source: Literal["gdc", "idc"] = Field(
        default="gdc",
        description="Where from: the Genomic Data Commons, or as DICOM from the Imaging Data "
        "Commons.",
    )
    out: Annotated[Path | None, HOW, DIR] = Field(
        default=None, description="Folder for the slides, as <id>/<filename>."
    )
    query: Annotated[Path | None, FILE] = Field(
        default=None, description="TOML file with a GDC query, instead of a manifest."
    )
    project: list[str] = Field(default=[], description="Slides of this project, such as TCGA-LIHC.")
    primary_site: list[str] = Field(
        default=[], description="Slides of this organ, such as liver, whatever the project."
    )
    columns: list[str] = Field(
        default=[],
        description="Clinical columns for the cohort table, such as stage,grade,age,sex.",
    )
    filters: list[str] = Field(
        default=[],
        description="Slides of which this is so, such as percent_tumor_nuclei>=60 or sex=female.",
    )
    recipe: Literal["frozen-only", "diagnostic", "all"] | None = Field(
        default=None, description="Which cohort a query makes; wins over the query file's."
    )
    manifest_out: Annotated[Path | None, FILE] = Field(
        default=None,
        description="Write the query's manifest; of a manifest, one with ids brought up to date.",
    )
    cohort_out: Annotated[Path | None, FILE] = Field(
        default=None, description="Write the query's cohort table (CSV)."
    )
    add_cohort: Annotated[Path | None, FILE] = Field(
        default=None,
        description="Cohort table whose slides are added to --cohort-out: your own, such as a "
        "microarray to validate on.",
    )
    server: Annotated[str | None, HOW] = Field(
        default=None, description="The source's address, in the place of its own."
    )
    idc_index: Annotated[Path | None, HOW] = Field(
        default=None,
        description="The IDC's table of series (Parquet); that of idc-index-data by default.",
    )
    series: Annotated[Path | None, FILE] = Field(
        default=None,
        description="List of IDC series to take alone, one a line: SeriesInstanceUIDs or UUIDs.",
    )
    token_file: Annotated[Path | None, HOW, FILE] = Field(
        default=None, description="Token for controlled access; readable by its owner alone."
    )
    resolve: Literal["off", "same", "latest"] = Field(
        default="same",
        description="Withdrawn ids: off fails them, same follows to the same bytes under another "
        "id, latest takes a newer version too.",
    )
    non_slides: Literal["refuse", "skip", "fetch"] = Field(
        default="refuse", description="What to do with manifest rows that are no slides."
    )
    verify: bool = Field(
        default=False, description="Read the files in --out against the manifest; fetch nothing."
    )
    report: Annotated[Path | None, HOW, FILE] = Field(
        default=None,
        description="Report per file, .csv or .json; by default download_report.csv in --out.",
    )
    connections: Annotated[int, HOW] = Field(
        default=8, ge=1, le=64, description="Connections in all; big files use several each."
    )
    files_at_once: Annotated[int, HOW] = Field(
        default=4, ge=1, le=32, description="Files on their way at the same time."
    )
    segment_mib: Annotated[float, HOW] = Field(
        default=32.0, gt=0, description="Length of the byte ranges a file is fetched in, MiB."
    )
    max_mb_per_s: Annotated[float | None, HOW] = Field(
        default=None, gt=0, description="Limit of all connections together, 10^6 bytes per second."
    )
    attempts: Annotated[int, HOW] = Field(
        default=6, ge=1, description="Tries in a row without progress before a file fails."
    )
    timeout_s: Annotated[float, HOW] = Field(
        default=60.0, gt=0, description="Seconds without a byte that end a try."
    )
    first_wait_s: Annotated[float, HOW] = Field(
        default=1.0, ge=0, description="Pause after the first failed try; doubles up to a minute."
    )
    retry_after_cap_s: Annotated[float, HOW] = Field(
        default=300.0, ge=0, description="Longest pause that a server's Retry-After can ask for."
    )

    @field_validator("manifest", mode="before")
    @classmethod
    def _several(cls, manifest: Any) -> Any:
        return [str(manifest)] if isinstance(manifest, str | Path) else manifest or []

    @model_validator(mode="after")
    def _one_request(self) -> Self:
        if bool(self.manifest) == self.is_query:
            raise ValueError(
                "give a manifest or --query, one of them (or --project, --primary-site)"
            )
        if not self.is_query and (self.cohort_out or self.recipe or self.columns or self.filters):
            raise ValueError(
                "--cohort-out, --recipe, --columns and --filters go with --query; a manifest has "
                "no labels"
            )
        if self.add_cohort and not self.cohort_out:
            raise ValueError("--add-cohort goes with --cohort-out, to which its slides are added")
        if self.source == "idc" and (self.manifest or self.verify or self.token_file):
            raise ValueError("the IDC takes --project or --query, and no manifest, check or token")
        if self.source == "gdc" and (self.series or self.idc_index):
            raise ValueError("--series and --idc-index go with --source idc")
        if self.verify and (self.out is None or not self.manifest):
            raise ValueError("--verify needs a manifest and --out")
        if self.out is None and not (self.manifest_out or self.cohort_out or self.dry_run):
            raise ValueError("--out is missing: where should the slides go?")
        return self

    @property
    def is_query(self) -> bool:
        return bool(self.query or self.project or self.primary_site)

    @property
    def asked(self) -> dict[str, Any]:
        """What is asked of the source beside the query file."""
        return {
            "projects": self.project,
            "primary_sites": self.primary_site,
            "columns": self.columns,
            "filters": self.filters,
            "recipe": self.recipe,
        }

    @property
    def run_folder(self) -> RunFolder | None:
        """The slides' folder has the log; a check of it leaves none."""
        return RunFolder(self.out) if self.out and not self.verify else None


class CoresConfig(StageConfig):
    """Find the cores of a tissue microarray, name them, and draw them for a person to check."""

    verb: ClassVar = "cores"
    example: ClassVar = (
        "slides/TMA1.svs --map manifests/TMA1.csv --preview runs/liver/cores/TMA1.jpg"
    )

    slide: Annotated[str, HOW, POSITIONAL] = Field(
        description="TMA slide, or a flat picture of it; a URL will do."
    )
    preview: Annotated[Path, HOW, FILE] = Field(description="Picture to write, .png or .jpg.")
    map: Annotated[Path | None, HOW, FILE] = Field(
        default=None,
        description="Core map: CSV row, column, core_id, patient_id, label, or a matrix of "
        "patients; without one, places are named after the grid.",
    )
    out: Annotated[Path | None, HOW, FILE] = Field(
        default=None,
        description="Table of the cores' places, to be corrected by hand; what is there is read, "
        "not written over. Beside the preview if not given; the tile stage reads "
        "<run>/cores/<slide_id>.csv.",
    )
    accept: Annotated[bool, HOW] = Field(
        default=False, description="A person has looked: the table is right as it stands."
    )
    names: Literal["letters", "numbers"] = Field(
        default="letters", description="Without a map: A1 or 1-1."
    )
    rows: int | None = Field(default=None, ge=1, description="Rows of the array, without a map.")
    columns: int | None = Field(default=None, ge=1, description="Its columns, without a map.")
    row_labels: tuple[str, ...] = Field(
        default=(),
        description="All row labels of the map in the array's order, where they are not A, B, C "
        "or 1, 2, 3: reversed, gapped, words. May be given several times.",
    )
    column_labels: tuple[str, ...] = Field(default=(), description="The same of its columns.")
    lies: Literal["as-scanned", "90", "180", "270"] | None = Field(
        default=None,
        description="How far the array lies turned clockwise against its map, where that is "
        "known; else the map tells.",
    )
    region: Annotated[str | None, Metavar("X,Y,W,H")] = Field(
        default=None,
        pattern=r"^\d+,\d+,[1-9]\d*,[1-9]\d*$",
        description="Where on the slide the array lies, level-0 px: one of several.",
    )
    like: Annotated[Path | None, FILE] = Field(
        default=None,
        description="Table of a neighbouring section, corrected: its cores are looked for here.",
    )
    turn: Literal["0", "90", "180", "270"] = Field(
        default="0", description="Correct the table: turn its names clockwise on the slide."
    )
    mirror: bool = Field(default=False, description="Correct the table: swap left and right.")
    shift_rows: int = Field(
        default=0, description="Correct the table: every spot is so many rows further down."
    )
    shift_columns: int = Field(
        default=0, description="Correct the table: and so many columns to the right."
    )
    add_row: tuple[int, ...] = Field(
        default=(), description="Correct the table: before this row, from 1, comes an empty one."
    )
    add_column: tuple[int, ...] = Field(default=(), description="The same of a column.")
    remove_row: tuple[int, ...] = Field(
        default=(), description="Correct the table: this row, from 1, is none."
    )
    remove_column: tuple[int, ...] = Field(default=(), description="The same of a column.")
    qupath_out: Annotated[Path | None, HOW, FILE] = Field(
        default=None, description="GeoJSON of QuPath's TMA cores to write."
    )
    qupath_in: Annotated[Path | None, HOW, FILE] = Field(
        default=None, description="GeoJSON from QuPath whose cores correct the table."
    )
    mpp_override: float | None = Field(
        default=None, gt=0, description="The slide's resolution, µm/px, in place of the file's."
    )
    core_diameter_um: float | None = Field(
        default=None, gt=0, description="The cores' diameter where it is known, µm."
    )
    spacing_um: float | None = Field(
        default=None, gt=0, description="From one core's middle to the next, where known, µm."
    )
    core_mask: Literal["circle", "tissue"] = Field(
        default="circle", description="What is cut: a square around the core or its tissue."
    )
    min_core_tissue: float = Field(
        default=0.1, ge=0, le=1, description="Share of a core that is tissue; less, it is lost."
    )
    reader: Annotated[str, Chosen("wsi_pipeline.slides:READERS")] = Field(
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


VERBS: Final[tuple[type[StageConfig], ...]] = (DownloadConfig, CoresConfig)
"""In the order in which a study runs them."""
