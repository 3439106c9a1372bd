"""The download stage: a manifest or a query in, verified slides and a report out."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from wsi_pipeline.atomic import try_lock
from wsi_pipeline.cohort import write_cohort
from wsi_pipeline.config import HOW, POSITIONAL, StageConfig
from wsi_pipeline.errors import DiskFullError, UsageError
from wsi_pipeline.events import (
    Event,
    Note,
    Planned,
    StageStarted,
    Written,
)
from wsi_pipeline.run_folder import RunFolder

if TYPE_CHECKING:
    from wsi_pipeline import gdc, remote

GDC_API: Final = "https://api.gdc.cancer.gov"
REPORT: Final = "download_report.csv"
LOCK: Final = ".download.lock"
MIB: Final = 1 << 20


class DownloadConfig(StageConfig):
    """Fetch GDC slides by manifest or query, resumable and verified; or verify, or only plan."""

    manifest: Annotated[Path | None, POSITIONAL] = Field(
        default=None, description="Manifest as the GDC portal writes it."
    )
    out: Annotated[Path | None, HOW] = Field(
        default=None, description="Folder for the slides, as <id>/<filename>."
    )
    query: Path | None = Field(
        default=None, description="TOML file with a GDC query, instead of a manifest."
    )
    recipe: Literal["frozen-only", "diagnostic"] | None = Field(
        default=None, description="Which cohort a query makes; wins over the query file's."
    )
    manifest_out: Path | None = Field(
        default=None,
        description="Write the query's manifest; of a manifest, one with ids brought up to date.",
    )
    cohort_out: Path | None = Field(
        default=None, description="Write the query's cohort table (CSV)."
    )
    server: Annotated[str, HOW] = Field(default=GDC_API, description="The GDC's API.")
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

    @model_validator(mode="after")
    def _one_request(self) -> Self:
        if (self.manifest is None) == (self.query is None):
            raise ValueError("give a manifest or --query, one of them")
        if self.query is None and (self.cohort_out or self.recipe):
            raise ValueError("--cohort-out and --recipe go with --query; a manifest has no labels")
        if self.verify and (self.out is None or self.manifest is None):
            raise ValueError("--verify needs a manifest and --out")
        if self.out is None and not (self.manifest_out or self.cohort_out or self.dry_run):
            raise ValueError("--out is missing: where should the slides go?")
        return self

    @property
    def run_folder(self) -> RunFolder | None:
        """The slides' folder has the log; a check of it leaves none."""
        return RunFolder(self.out) if self.out and not self.verify else None


def run(config: DownloadConfig) -> Iterator[Event]:
    """Query, plan, fetch or verify, as ``config`` says.

    Raises:
        UsageError: The manifest, query, token or folder cannot be used; nothing was fetched.
        DownloadError: The GDC cannot answer the query.
    """
    from wsi_pipeline import gdc, remote

    if config.report:
        remote.check_report_path(config.report)
    with gdc.gdc_client(
        config.server,
        token=gdc.read_token(config.token_file) if config.token_file else None,
        policy=remote.RetryPolicy(
            attempts=config.attempts,
            first_wait_s=config.first_wait_s,
            retry_after_cap_s=config.retry_after_cap_s,
        ),
        timeout_s=config.timeout_s,
    ) as client:
        skipped: list[remote.FileResult] = []
        if config.query:
            entries = yield from _queried(config, config.query, client)
        else:
            assert config.manifest is not None
            entries, skipped = yield from _listed(config, config.manifest)
            if config.manifest_out or config.resolve == "latest":
                entries, lost = yield from _brought_up_to_date(config, entries, client)
                skipped += lost
        if config.dry_run:
            yield from _planned(config, entries)
        elif config.out:
            yield from _locked(config, config.out, entries, skipped, client)


def _queried(
    config: DownloadConfig, path: Path, client: "remote.Client"
) -> Generator[Event, None, "list[gdc.ManifestEntry]"]:
    """Ask the GDC, label what it has, write what was asked for."""
    from wsi_pipeline import gdc, remote

    query = gdc.GdcQuery.from_toml(path, config.recipe)
    found = gdc.find_files(client, query.filters())
    selection = gdc.select(found.hits, query)
    size = remote.size_text(sum(entry.size for entry in selection.entries))
    yield Note(
        text=f"query: {len(found.hits)} slides of {', '.join(query.projects)}; "
        f"{len(selection.entries)} ({size}) in recipe {query.recipe}"
    )
    for reason, count in sorted(selection.left_out.items()):
        yield Note(text=f"left out: {count} slides, {reason}")
    for text in (*found.warnings, *selection.notes):
        yield Note(text=text)
    if not selection.entries:
        raise UsageError(f"{path}: the query finds no slide for recipe {query.recipe}")
    if not config.dry_run:
        if config.manifest_out:
            with _writing(config.manifest_out):
                gdc.write_manifest(config.manifest_out, selection.entries)
            yield Written(path=str(config.manifest_out), what="manifest")
        if config.cohort_out:
            with _writing(config.cohort_out):
                write_cohort(config.cohort_out, selection.slides)
            yield Written(path=str(config.cohort_out), what="cohort table")
    return list(selection.entries)


def _listed(
    config: DownloadConfig, path: Path
) -> Generator[Event, None, "tuple[list[gdc.ManifestEntry], list[remote.FileResult]]"]:
    """Read the manifest; say what in it is repeated or no slide."""
    from wsi_pipeline import gdc, remote

    manifest = gdc.read_manifest(path)
    if manifest.repeated:
        yield Note(text=f"{path}: {manifest.repeated} repeated rows count once")
    others = [entry for entry in manifest.entries if not entry.is_slide]
    if not others or config.non_slides == "fetch":
        return list(manifest.entries), []
    first = f"the first is {others[0].filename} in line {others[0].line}"
    slides = [entry for entry in manifest.entries if entry.is_slide]
    if config.non_slides == "refuse" or not slides:
        raise UsageError(
            f"{path}: {len(others)} of {len(manifest.entries)} rows are no slides ({first}); "
            "--non-slides skip leaves them out, --non-slides fetch takes them along"
        )
    yield Note(text=f"{path}: {len(others)} rows are no slides and are left out; {first}")
    return slides, [
        remote.FileResult(entry=entry, status="skipped", error="no slide") for entry in others
    ]


def _brought_up_to_date(
    config: DownloadConfig, entries: "Sequence[gdc.ManifestEntry]", client: "remote.Client"
) -> Generator[Event, None, "tuple[list[gdc.ManifestEntry], list[remote.FileResult]]"]:
    """Replace withdrawn and superseded ids; what cannot be replaced fails."""
    from wsi_pipeline import gdc, remote

    taken = {"current", "moved"} | ({"new version"} if config.resolve == "latest" else set())
    kept: list[gdc.ManifestEntry] = []
    lost: list[remote.FileResult] = []
    for found in gdc.resolve(client, entries):
        if found.kind in taken and found.now is not None:
            kept.append(found.now)
        else:
            lost.append(remote.FileResult(entry=found.entry, status="failed", error=str(found)))
        if found.kind != "current":
            yield Note(text=str(found))
    if config.manifest_out and not config.dry_run:
        with _writing(config.manifest_out):
            gdc.write_manifest(config.manifest_out, kept)
        yield Written(path=str(config.manifest_out), what="manifest, ids brought up to date")
    for result, name in zip(lost, remote.slide_ids([each.entry for each in lost]), strict=True):
        yield remote.outcome(result, name)
    return kept, lost


def _planned(config: DownloadConfig, entries: "Sequence[gdc.ManifestEntry]") -> Iterator[Event]:
    """Say file by file what a download would fetch."""
    from wsi_pipeline import remote

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
    entries: "Sequence[gdc.ManifestEntry]",
    before: "Sequence[remote.FileResult]",
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
        results = list(before)
        try:
            work = _verified if config.verify else _fetched
            yield from work(config, out, entries, client, results)
        finally:
            report = config.report or out / REPORT
            with _writing(report):
                remote.write_report(report, results)
        yield Written(path=str(report), what="report per file")


def _verified(
    _config: DownloadConfig,
    out: Path,
    entries: "Sequence[gdc.ManifestEntry]",
    _client: "remote.Client",
    results: "list[remote.FileResult]",
) -> Iterator[Event]:
    from wsi_pipeline import remote

    yield StageStarted(stage="verify", total=len(entries), unit="files")
    names = remote.slide_ids(entries)
    for result, name in zip(remote.verify(entries, out), names, strict=True):
        results.append(result)
        yield remote.outcome(result, name)


def _fetched(
    config: DownloadConfig,
    out: Path,
    entries: "Sequence[gdc.ManifestEntry]",
    client: "remote.Client",
    results: "list[remote.FileResult]",
) -> Iterator[Event]:
    from wsi_pipeline import gdc, remote

    ledger = remote.Ledger(out)
    remote.check_disk(out, sum(remote.bytes_to_fetch(entry, out, ledger) for entry in entries))
    rate = config.max_mb_per_s * 1e6 if config.max_mb_per_s else None
    downloader = remote.Downloader(
        entries,
        out,
        client,
        remote.Settings(
            connections=config.connections,
            files_at_once=config.files_at_once,
            segment_bytes=max(1, round(config.segment_mib * MIB)),
            max_bytes_per_s=rate,
            again=config.overwrite,
        ),
        None
        if config.resolve == "off"
        else lambda entry: gdc.resolve(client, [entry])[0].elsewhere(),
    )
    before = len(results)
    try:
        with closing(downloader.run()) as events:
            yield from events
    finally:
        results[before:] = downloader.results


@contextmanager
def _writing(path: Path) -> Iterator[None]:
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
