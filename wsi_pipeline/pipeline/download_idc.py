"""From a request to the DICOM series of the Imaging Data Commons that it means."""

from collections.abc import Generator
from pathlib import Path

from wsi_pipeline import idc, remote
from wsi_pipeline.errors import DownloadError, UsageError
from wsi_pipeline.events import Event, Note, SlideFailed, Written
from wsi_pipeline.gdc import GdcQuery
from wsi_pipeline.pipeline.download_source import Wanted, retry_policy, write_slides, writing
from wsi_pipeline.verbs.slides import DownloadConfig


def open_idc(config: DownloadConfig) -> remote.Client:
    """Return a client of the public buckets; nobody has to log in.

    Raises:
        UsageError: The server's address or the environment cannot be used.
    """
    return remote.Client(
        config.server or idc.SERVER, policy=retry_policy(config), timeout_s=config.timeout_s
    )


def find_idc(config: DownloadConfig, client: remote.Client) -> Generator[Event, None, Wanted]:
    """Return the objects to fetch: a folder a series.

    Raises:
        UsageError: The table or the query cannot be used, or nothing is found.
    """
    query = GdcQuery.make(config.query, config.asked)
    if query.primary_sites or not query.projects:
        raise UsageError("the IDC's table knows no organs: name collections by --project")
    only = _listed(config.series) if config.series else ()
    found = idc.read_index(idc.index_path(config.idc_index), query.projects, only)
    selection = idc.select_series(found, query)
    size = remote.size_text(sum(each.megabytes for each in selection.series) * 1e6)
    where = ", ".join(query.projects)
    recipe = query.chosen_recipe
    yield Note(
        text=f"IDC: {len(found)} slides of {where}; {len(selection.series)} ({size}) in recipe "
        f"{recipe}"
    )
    for reason, count in sorted(selection.left_out.items()):
        yield Note(text=f"left out: {count} slides, {reason}")
    for text in selection.notes:
        yield Note(text=text)
    if not selection.series:
        raise UsageError(f"{where}: the IDC has no slide for recipe {recipe}")
    if not config.dry_run:
        yield from _written(config, selection)
    if config.out is None or config.dry_run:
        megabytes = sum(each.megabytes for each in selection.series)
        return Wanted(files=(), slides=len(selection.series), megabytes=megabytes)
    return (yield from _objects(client, selection))


def _listed(path: Path) -> list[str]:
    """Read a list of series, one a line: SeriesInstanceUIDs or the IDC's UUIDs."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: the list of series cannot be read ({error})") from None
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not names:
        raise UsageError(f"{path}: the list names no series")
    return names


def _written(config: DownloadConfig, selection: idc.IdcSelection) -> Generator[Event]:
    """Write the cohort table, and a manifest that s5cmd and idc-index understand."""
    if config.manifest_out:
        lines = [f"cp s3://{each.bucket}/{each.uuid}/* {each.slide_id}/" for each in
                 selection.series]  # fmt: skip
        with writing(config.manifest_out):
            config.manifest_out.write_text("\n".join(lines) + "\n", "utf-8")
        yield Written(path=str(config.manifest_out), what="manifest for s5cmd")
    if config.cohort_out:
        write_slides(config, config.cohort_out, selection.slides)
        yield Written(path=str(config.cohort_out), what="cohort table")


def _objects(client: remote.Client, selection: idc.IdcSelection) -> Generator[Event, None, Wanted]:
    """List every series' objects; one whose bucket disagrees with the table costs itself alone."""
    files: list[remote.RemoteFile] = []
    lost: list[remote.FileResult] = []
    for each in selection.series:
        try:
            files += idc.list_objects(client, each)
        except (remote.StoppedError, remote.NoWayError):
            raise
        except DownloadError as error:
            yield SlideFailed(slide_id=each.slide_id, error=str(error))
            entry = remote.RemoteFile(id=each.uuid, filename=each.slide_id, md5="", size=0)
            lost.append(remote.FileResult(entry=entry, status="failed", error=str(error)))
    return Wanted(files=files, results=lost)
