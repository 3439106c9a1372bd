"""The download stage: a manifest or a query in, verified slides and a report out."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from wsi_pipeline.atomic import try_lock
from wsi_pipeline.config import HOW, POSITIONAL, StageConfig
from wsi_pipeline.errors import DiskFullError, UsageError
from wsi_pipeline.events import Event, Note, Planned, StageStarted, Written
from wsi_pipeline.run_folder import RunFolder

if TYPE_CHECKING:
    from wsi_pipeline import remote

REPORT: Final = "download_report.csv"
LOCK: Final = ".download.lock"
MIB: Final = 1 << 20


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
    out: Annotated[Path | None, HOW] = Field(
        default=None, description="Folder for the slides, as <id>/<filename>."
    )
    query: Path | None = Field(
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
    manifest_out: Path | None = Field(
        default=None,
        description="Write the query's manifest; of a manifest, one with ids brought up to date.",
    )
    cohort_out: Path | None = Field(
        default=None, description="Write the query's cohort table (CSV)."
    )
    server: Annotated[str | None, HOW] = Field(
        default=None, description="The source's address, in the place of its own."
    )
    idc_index: Annotated[Path | None, HOW] = Field(
        default=None,
        description="The IDC's table of series (Parquet); that of idc-index-data by default.",
    )
    series: Path | None = Field(
        default=None,
        description="List of IDC series to take alone, one a line: SeriesInstanceUIDs or UUIDs.",
    )
    token_file: Annotated[Path | None, HOW] = Field(
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
    report: Annotated[Path | None, HOW] = Field(
        default=None, description=f"Report per file, .csv or .json; <out>/{REPORT} by default."
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


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a source has of what was asked for: files to fetch, and what became of the others."""

    files: "Sequence[remote.RemoteFile]"
    results: "Sequence[remote.FileResult]" = ()
    resolve: "remote.Resolver | None" = field(default=None)
    megabytes: float | None = None  # where the files themselves were not asked for


def run(config: DownloadConfig) -> Iterator[Event]:
    """Query, plan, fetch or verify, as ``config`` says.

    Raises:
        UsageError: The manifest, query, token or folder cannot be used; nothing was fetched.
        DownloadError: The source cannot answer the query.
    """
    from wsi_pipeline import remote

    if config.report:
        remote.check_report_path(config.report)
    if config.source == "idc":
        from wsi_pipeline.pipeline.download_idc import find_idc as find
        from wsi_pipeline.pipeline.download_idc import open_idc as open_source
    else:
        from wsi_pipeline.pipeline.download_gdc import find_gdc as find
        from wsi_pipeline.pipeline.download_gdc import open_gdc as open_source
    with open_source(config) as client:
        wanted = yield from find(config, client)
        if config.dry_run:
            yield from _planned(config, wanted)
        elif config.out:
            yield from _locked(config, config.out, wanted, client)


def retry_policy(config: DownloadConfig) -> "remote.RetryPolicy":
    from wsi_pipeline import remote

    return remote.RetryPolicy(
        attempts=config.attempts,
        first_wait_s=config.first_wait_s,
        retry_after_cap_s=config.retry_after_cap_s,
    )


def _planned(config: DownloadConfig, wanted: Wanted) -> Iterator[Event]:
    """Say file by file what a download would fetch."""
    from wsi_pipeline import remote

    if wanted.megabytes is not None:
        if config.out:
            remote.check_disk(config.out, round(wanted.megabytes * 1e6))
        return
    entries = wanted.files
    needed = 0
    ledger = remote.Ledger(config.out) if config.out else None
    for entry in entries:
        left = entry.size
        if config.out and ledger:
            left = remote.bytes_to_fetch(entry, config.out, ledger)
        needed += left
        yield Planned(
            row={
                "file": entry.filename,
                "size": remote.size_text(entry.size),
                "to fetch": remote.size_text(left),
            }
        )
    total = sum(entry.size for entry in entries)
    yield Note(
        text=f"{len(entries)} files, {remote.size_text(total)} ({total} bytes); "
        f"{remote.size_text(needed)} to fetch"
    )
    if config.out:
        remote.check_disk(config.out, needed)


def _locked(
    config: DownloadConfig,
    out: Path,
    wanted: Wanted,
    client: "remote.Client",
) -> Iterator[Event]:
    """Fetch or verify with the folder to ourselves, and leave the report."""
    from wsi_pipeline import remote

    if config.verify and not out.is_dir():
        raise UsageError(f"{out}: there is no such folder to verify")
    remote.make_folder(out)
    with try_lock(out / LOCK) as ours:
        if not ours:
            raise UsageError(f"{out}: another download is writing here; let it end first")
        results = list(wanted.results)
        try:
            work = _verified if config.verify else _fetched
            yield from work(config, out, wanted, client, results)
        finally:
            report = config.report or out / REPORT
            with writing(report):
                remote.write_report(report, results)
        yield Written(path=str(report), what="report per file")


def _verified(
    _config: DownloadConfig,
    out: Path,
    wanted: Wanted,
    _client: "remote.Client",
    results: "list[remote.FileResult]",
) -> Iterator[Event]:
    from wsi_pipeline import remote

    yield StageStarted(stage="verify", total=len(wanted.files), unit="files")
    names = remote.slide_ids(wanted.files)
    for result, name in zip(remote.verify(wanted.files, out), names, strict=True):
        results.append(result)
        yield remote.outcome(result, name)


def _fetched(
    config: DownloadConfig,
    out: Path,
    wanted: Wanted,
    client: "remote.Client",
    results: "list[remote.FileResult]",
) -> Iterator[Event]:
    from wsi_pipeline import remote

    ledger = remote.Ledger(out)
    remote.check_disk(out, sum(remote.bytes_to_fetch(entry, out, ledger) for entry in wanted.files))
    rate = config.max_mb_per_s * 1e6 if config.max_mb_per_s else None
    downloader = remote.Downloader(
        wanted.files,
        out,
        client,
        remote.Settings(
            connections=config.connections,
            files_at_once=config.files_at_once,
            segment_bytes=max(1, round(config.segment_mib * MIB)),
            max_bytes_per_s=rate,
            again=config.overwrite,
        ),
        wanted.resolve,
    )
    before = len(results)
    try:
        with closing(downloader.run()) as events:
            yield from events
    finally:
        results[before:] = downloader.results


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say which file could not be written.

    Raises:
        UsageError: It could not.
    """
    try:
        yield
    except DiskFullError:
        raise
    except OSError as error:
        raise UsageError(f"{path}: it cannot be written ({error.strerror or error})") from None
