"""The download stage: a manifest or a query in, verified slides and a report out."""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from wsi_pipeline import remote
from wsi_pipeline.atomic import try_lock
from wsi_pipeline.errors import UsageError
from wsi_pipeline.events import Event, Note, Planned, StageStarted, Written
from wsi_pipeline.pipeline.download_gdc import find_gdc, open_gdc
from wsi_pipeline.pipeline.download_idc import find_idc, open_idc
from wsi_pipeline.pipeline.download_source import Wanted, writing
from wsi_pipeline.pipeline.forecast import forecast_download
from wsi_pipeline.verbs.slides import DownloadConfig

REPORT: Final = "download_report.csv"
LOCK: Final = ".download.lock"
MIB: Final = 1 << 20

SOURCES: Final = {"gdc": (open_gdc, find_gdc), "idc": (open_idc, find_idc)}


Find = Callable[[DownloadConfig, remote.Client], Generator[Event, None, Wanted]]


def run(config: DownloadConfig, room: int | None = None) -> Iterator[Event]:
    """Query, plan, fetch or verify, as ``config`` says.

    ``room`` are the bytes that the files take at any time, where not all of them stay.

    Raises:
        UsageError: The manifest, query, token or folder cannot be used; nothing was fetched.
        DownloadError: The source cannot answer the query.
    """
    with source_of(config) as (client, find):
        wanted = yield from find(config, client)
        if config.dry_run:
            yield from _planned(config, replace(wanted, room=room))
        elif config.out:
            yield from fetch(config, config.out, wanted, client)


@contextmanager
def source_of(config: DownloadConfig) -> Iterator[tuple[remote.Client, Find]]:
    """Yield a client of the source that ``config`` names, and what asks it for the files.

    Raises:
        UsageError: The source's address, the token or the report's name cannot be used.
    """
    if config.report:
        remote.check_report_path(config.report)
    open_source, find = SOURCES[config.source]
    with open_source(config) as client:
        yield client, find


def _planned(config: DownloadConfig, wanted: Wanted) -> Iterator[Event]:
    """Say file by file what a download would fetch."""
    rate = config.max_mb_per_s * 1e6 if config.max_mb_per_s else None
    if wanted.megabytes is not None:
        total = round(wanted.megabytes * 1e6)
        size = remote.size_text(total)
        row = {"file": "all series", "slides": wanted.slides, "size": size, "to fetch": size}
        yield Planned(row={**row, "bytes": total})
        yield forecast_download(config.run_folder, total, rate)
        if config.out:
            remote.check_disk(config.out, _at_once(wanted, round(wanted.megabytes * 1e6)))
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
                "bytes": entry.size,
            }
        )
    total = sum(entry.size for entry in entries)
    yield Note(
        text=f"{len(entries)} files, {remote.size_text(total)} ({total} bytes); "
        f"{remote.size_text(needed)} to fetch"
    )
    yield forecast_download(config.run_folder, needed, rate)
    if config.out:
        remote.check_disk(config.out, _at_once(wanted, needed))


def _at_once(wanted: Wanted, needed: int) -> int:
    """Return how much of what is needed is on disk at any time."""
    return needed if wanted.room is None else min(needed, wanted.room)


def fetch(
    config: DownloadConfig,
    out: Path,
    wanted: Wanted,
    client: remote.Client,
) -> Iterator[Event]:
    """Fetch or verify with the folder to ourselves, and leave the report."""
    if config.verify and not out.is_dir():
        raise UsageError(f"{out}: there is no such folder to verify")
    remote.make_folder(out)
    if not config.verify:
        _check_disk(out, wanted)
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


def _check_disk(out: Path, wanted: Wanted) -> None:
    """Refuse what would not fit, and leave no empty folder.

    Raises:
        UsageError: As said.
    """
    ledger = remote.Ledger(out)
    needed = sum(remote.bytes_to_fetch(entry, out, ledger) for entry in wanted.files)
    try:
        remote.check_disk(out, _at_once(wanted, needed))
    except UsageError:
        with suppress(OSError):  # something is in it
            out.rmdir()
        raise


def _verified(
    _config: DownloadConfig,
    out: Path,
    wanted: Wanted,
    _client: remote.Client,
    results: list[remote.FileResult],
) -> Iterator[Event]:
    yield StageStarted(stage="verify", total=len(wanted.files), unit="files")
    names = remote.slide_ids(wanted.files)
    for result, name in zip(remote.verify(wanted.files, out), names, strict=True):
        results.append(result)
        yield remote.outcome(result, name)


def _fetched(
    config: DownloadConfig,
    out: Path,
    wanted: Wanted,
    client: remote.Client,
    results: list[remote.FileResult],
) -> Iterator[Event]:
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
        wanted.admit,
    )
    before = len(results)
    try:
        with closing(downloader.run()) as events:
            yield from events
    finally:
        results[before:] = downloader.results
