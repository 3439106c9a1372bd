"""What every stage can be told. Light to import: ``--help`` needs no more than this."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.settings import (
    FineTuneSettings,
    FitSettings,
    JudgeSettings,
    SplitSettings,
    TaskSettings,
)
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.settings import (
    DIR,
    FILE,
    HOW,
    POSITIONAL,
    Chosen,
    Device,
    Metavar,
    StageConfig,
    load_toml,
)
from wsi_pipeline.tiles import TileSettings

COHORT: Final = Metavar("COHORT")  # a table, or a folder of slides
Run = Annotated[Path, HOW, POSITIONAL, DIR]
Slides = Annotated[Path | None, HOW, DIR]
Reader = Annotated[str, Chosen("wsi_pipeline.slides:READERS")]


class DownloadConfig(StageConfig):
    """Fetch slides by manifest or query, resumable and verified; or verify, or only plan."""

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
    reader: Reader = Field(
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


class TileConfig(StageConfig, TileSettings):
    """Find tissue, normalise stains, cut tiles and keep those that pass the rules."""

    topic: ClassVar = "what and where"

    cohort: Annotated[Path, HOW, POSITIONAL, COHORT] = Field(
        description="Cohort table (CSV), a folder of slides, or one slide."
    )
    run: Annotated[Path, HOW, DIR] = Field(description="Run folder; tiles go to <run>/tiles.")
    slides: Slides = Field(
        default=None, description="Folder the table's paths start from; else the table's own."
    )
    masks: Annotated[Path | None, HOW, DIR] = Field(
        default=None,
        description="Folder of tissue masks corrected by hand, <slide_id>.geojson; other slides' "
        "are computed.",
    )


class QcConfig(StageConfig):
    """Show flagged tiles on one page, and write the table that says which of them to drop."""

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


class ExtractConfig(StageConfig):
    """Encode every tile of a run folder; one feature store a slide."""

    run: Run = Field(description="Run folder.")
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
    cohort: Annotated[Path | None, HOW, COHORT] = Field(
        default=None, description="With --source slide: cohort table (CSV), or a folder of slides."
    )
    slides: Slides = Field(
        default=None,
        description="With --source slide: folder the table's paths start from; the table's own if "
        "left out.",
    )
    tile_settings: Annotated[Path | None, FILE] = Field(
        default=None,
        description="With --source slide: TOML file that says how to cut, as for the tile stage.",
    )


class ExportConfig(StageConfig):
    """Write a run folder's features as another tool reads them."""

    run: Run = Field(description="Run folder.")
    layout: Literal["clam", "trident", "stamp"] = Field(description="Whose layout.")
    encoder: str = Field(
        default="densenet121", description="Whose features: an encoder's tag or its bare name."
    )
    out: Annotated[Path | None, HOW, DIR] = Field(
        default=None, description="Where to; <run>/export/<layout> if not given."
    )


class ImportConfig(StageConfig):
    """Take over features of CLAM, TRIDENT or STAMP; the layout is recognised."""

    source: Annotated[Path, POSITIONAL, DIR] = Field(
        description="Folder of the tool's .h5 files, one a slide; CLAM's may be the one above "
        "h5_files."
    )
    run: Annotated[Path, HOW, DIR] = Field(description="Run folder to fill.")
    cohort: Annotated[Path | None, HOW, FILE] = Field(
        default=None,
        description="Cohort table, whose slide_id is a file's name without .h5; it becomes the run "
        "folder's. Without one the run folder's own holds, or every file is imported.",
    )
    slides: Slides = Field(
        default=None,
        description="Folder the table's paths start from: the slides' sizes and resolutions are "
        "read from their headers.",
    )
    encoder: str | None = Field(
        default=None, description="Tag to file the features under, where no file says it."
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


class AuditConfig(StageConfig, TaskSettings, SplitSettings):
    """Look for leaks, nuisances that predict the label, and classes too small for what is asked."""

    run: Run = Field(description="Run folder.")
    encoder: str = Field(default="densenet121", description="Whose features are looked at.")


class TrialConfig(StageConfig, TaskSettings, SplitSettings, JudgeSettings):
    """What `train` and `finetune` are both told."""

    run: Run = Field(description="Run folder.")
    name: Annotated[str | None, HOW] = Field(
        default=None, description="Name of the model; the encoder's if not given."
    )


class TrainConfig(TrialConfig, FitSettings):
    """Train a tile classifier and slide aggregators on a run folder's features; validate them."""

    encoder: str = Field(default="densenet121", description="Whose features to train on.")


class FinetuneConfig(TrialConfig, FineTuneSettings):
    """Fine-tune an encoder end to end on a run folder's tiles, or on flat images; validate it."""

    encoder: str = Field(default="densenet121", description="A timm model, as for extract.")
    weights: str = Field(
        default="auto", description="What it starts from: auto, hub, package, random, or a file."
    )
    images: Annotated[Path | None, HOW, DIR] = Field(
        default=None,
        description="A folder with a folder of images a class, in the place of tile stores.",
    )
    external_images: Annotated[Path | None, HOW, DIR] = Field(
        default=None, description="The same, held out entirely; read once, after the freeze."
    )
    patient_pattern: str | None = Field(
        default=None,
        description="Regular expression whose first group is the patient in an image's name.",
    )


class CompareConfig(StageConfig):
    """Compare encoders: the same patients, the same recipe, one table and one figure."""

    plan: Annotated[Path, POSITIONAL, FILE] = Field(description="Plan of the comparison.")
    only: Annotated[tuple[str, ...], HOW] = Field(
        default=(), description="Train these encoders alone; the table still shows all."
    )

    @property
    def run_folder(self) -> RunFolder | None:
        """The plan's; a plan that cannot be read has none."""
        return _named_in(self.plan)


class PredictConfig(StageConfig):
    """Score a run folder's slides with a trained model; draw heatmaps."""

    run: Run = Field(description="Run folder whose features are scored; predictions go there too.")
    model: Annotated[Path | None, Metavar("DIR")] = Field(
        default=None,
        description="Model folder, or the name of one in <run>/models; the only one there if not "
        "given.",
    )
    encoder: str | None = Field(
        default=None,
        description="Among several models of the run folder, the one on this encoder.",
    )
    fold: int | None = Field(
        default=None,
        ge=1,
        description="Of a cross-validated model, this fold alone; else the mean of all folds.",
    )
    aggregator: tuple[str, ...] = Field(
        default=(),
        description="module:function of an aggregator of your own that the model uses: a model's "
        "folder is data, and code it names is imported only if you name it too.",
    )
    weights: str | None = Field(
        default=None,
        description="With --new-slides: the encoder's weights, where the model's came from a file.",
    )
    mpp_override: float | None = Field(
        default=None,
        ge=0.05,
        le=10,
        description="With --new-slides: resolution of slides whose file does not say it, µm/px.",
    )
    new_slides: Annotated[Path | None, HOW, COHORT] = Field(
        default=None,
        description="New slides, a folder or a cohort table: tile and encode them into the run "
        "folder first, as the model's own were. Give them a run folder of their own.",
    )
    heatmaps: bool = Field(default=True, description="Draw attention and tile probabilities.")
    heatmap_classes: Literal["predicted", "all"] = Field(
        default="predicted",
        description="Of tile probabilities: of the class that a slide is said to be, or of each.",
    )
    geojson: bool = Field(default=True, description="Write each slide's tiles for QuPath.")
    device: Device = Field(default="auto", description="What the model runs on.")


class VerifyConfig(StageConfig):
    """Check every tile store, feature store, model and prediction of a run folder."""

    run: Run = Field(description="Run folder.")
    slides: Slides = Field(
        default=None,
        description="Folder the cohort table's paths start from: the slides' digests are compared "
        "too.",
    )
    pixels: bool = Field(
        default=True, description="Decode every tile; without it, read all but the pixels."
    )


class ReportConfig(StageConfig):
    """Write one self-contained HTML page about a run folder."""

    run: Run = Field(description="Run folder.")
    title: str | None = Field(
        default=None, description="Of the page; the cohorts' names if not given."
    )
    slides: Slides = Field(
        default=None,
        description="Folder the cohort table's paths start from, for tiles as scanned beside the "
        "normalised ones; without it these are left out.",
    )
    out: Annotated[Path | None, HOW, FILE] = Field(
        default=None, description="The page; <run>/report/index.html if not given."
    )
    date: Annotated[str | None, HOW] = Field(
        default=None, description="To be printed; without it equal runs give equal pages."
    )
    max_slides: int = Field(default=60, ge=0, description="The most slides in the gallery.")


class InitConfig(StageConfig):
    """Write the files of a shipped study, to be changed and run."""

    name: Annotated[str, HOW, POSITIONAL] = Field(default="liver", description="Which study.")
    folder: Annotated[Path, HOW, DIR] = Field(
        default=Path(), description="Folder to write them to; the study is run there."
    )


class RunConfig(StageConfig):
    """Run every stage of a study file, one after the other; what is finished is not redone."""

    study: Annotated[Path, POSITIONAL, FILE] = Field(
        description="Study file, for instance stages/liver.toml."
    )
    only: Annotated[tuple[str, ...], HOW] = Field(
        default=(), description="Run these stages alone; may be given several times."
    )

    @property
    def run_folder(self) -> RunFolder | None:
        """What the stages share, or the first stage's; a file that cannot be read has none."""
        return _named_in(self.study)


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


def _named_in(file: Path) -> RunFolder | None:
    """Return the run folder that a study or a plan names first; None where it cannot be read."""
    try:
        tables = load_toml(file).values()
    except ConfigError:
        return None
    runs = [table.get("run") for table in tables if isinstance(table, dict)]
    return next((RunFolder(Path(run)) for run in runs if isinstance(run, str)), None)
