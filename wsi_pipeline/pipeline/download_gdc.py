"""From a request to the files of the GDC that it means: by manifest, by id, or by a query."""

from collections.abc import Generator, Sequence

from wsi_pipeline import gdc, remote
from wsi_pipeline.errors import UsageError
from wsi_pipeline.events import Event, Note, Written
from wsi_pipeline.pipeline.download_source import Wanted, retry_policy, write_slides, writing
from wsi_pipeline.verbs.slides import DownloadConfig

Files = list[gdc.ManifestEntry]


def open_gdc(config: DownloadConfig) -> remote.Client:
    """Return a client of the GDC as ``config`` says.

    Raises:
        UsageError: The token, the server's address or the environment cannot be used.
    """
    return gdc.gdc_client(
        config.server or gdc.GDC_API,
        token=gdc.read_token(config.token_file) if config.token_file else None,
        policy=retry_policy(config),
        timeout_s=config.timeout_s,
    )


def find_gdc(config: DownloadConfig, client: remote.Client) -> Generator[Event, None, Wanted]:
    """Return what is to be fetched.

    Raises:
        UsageError: The manifest or query cannot be used.
        DownloadError: The GDC cannot answer.
    """
    skipped: list[remote.FileResult] = []
    if config.is_query:
        entries = yield from _queried(config, client)
    else:
        entries, skipped = yield from _listed(config, client)
        if config.manifest_out or config.resolve == "latest":
            entries, lost = yield from _brought_up_to_date(config, entries, client)
            skipped += lost
    return Wanted(
        files=entries,
        results=skipped,
        resolve=None
        if config.resolve == "off"
        else lambda entry: gdc.resolve(client, [entry])[0].elsewhere(),
    )


def _queried(config: DownloadConfig, client: remote.Client) -> Generator[Event, None, Files]:
    """Ask the GDC, label what it has, write what was asked for."""
    query = gdc.GdcQuery.make(config.query, config.asked)
    found = gdc.ask(client, query)
    selection = gdc.select(found.hits, query)
    size = remote.size_text(sum(entry.size for entry in selection.entries))
    where = ", ".join((*query.projects, *query.primary_sites))
    recipe = query.chosen_recipe
    yield Note(
        text=f"query: {len(found.hits)} slides of {where}; {len(selection.entries)} ({size}) in "
        f"recipe {recipe}"
    )
    for reason, count in sorted(selection.left_out.items()):
        yield Note(text=f"left out: {count} slides, {reason}")
    for text in (*found.warnings, *selection.notes):
        yield Note(text=text)
    if not selection.entries:
        raise UsageError(f"{config.query or where}: the query finds no slide for recipe {recipe}")
    if not config.dry_run:
        if config.manifest_out:
            with writing(config.manifest_out):
                gdc.write_manifest(config.manifest_out, selection.entries)
            yield Written(path=str(config.manifest_out), what="manifest")
        if config.cohort_out:
            write_slides(config, config.cohort_out, selection.slides)
            yield Written(path=str(config.cohort_out), what="cohort table")
    return list(selection.entries)


def _listed(
    config: DownloadConfig, client: remote.Client
) -> Generator[Event, None, tuple[Files, list[remote.FileResult]]]:
    """Read the manifests; say what in them is repeated or no slide."""
    manifest = gdc.read_manifests(config.manifest)
    name = ", ".join(config.manifest[:3]) + (" …" if len(config.manifest) > 3 else "")
    if manifest.repeated:
        yield Note(text=f"{name}: {manifest.repeated} repeated rows count once")
    entries = list(manifest.entries)
    if manifest.ids:
        known, strange = gdc.look_up(client, manifest.ids)
        if strange:
            raise UsageError(
                f"the GDC has no file {strange[0]}"
                + (f" and {len(strange) - 1} more of those named" if len(strange) > 1 else "")
                + "; a manifest with file names and md5 could be brought up to date (--resolve)"
            )
        entries += known
        yield Note(text=f"names, sizes and md5 of {len(known)} files are as the GDC says today")
    others = [entry for entry in entries if not entry.is_slide]
    if not others or config.non_slides == "fetch":
        return entries, []
    first = f"the first is {others[0].filename}"
    first += f" in line {others[0].line}" if others[0].line else ""
    slides = [entry for entry in entries if entry.is_slide]
    if config.non_slides == "refuse" or not slides:
        raise UsageError(
            f"{name}: {len(others)} of {len(entries)} rows are no slides ({first}); "
            "--non-slides skip leaves them out, --non-slides fetch takes them along"
        )
    yield Note(text=f"{name}: {len(others)} rows are no slides and are left out; {first}")
    return slides, [
        remote.FileResult(entry=entry, status="skipped", error="no slide") for entry in others
    ]


def _brought_up_to_date(
    config: DownloadConfig, entries: Sequence[gdc.ManifestEntry], client: remote.Client
) -> Generator[Event, None, tuple[Files, list[remote.FileResult]]]:
    """Replace withdrawn and superseded ids; what cannot be replaced fails."""
    taken = {"current", "moved"} | ({"new version"} if config.resolve == "latest" else set())
    kept: Files = []
    lost: list[remote.FileResult] = []
    for found in gdc.resolve(client, entries):
        if found.kind in taken and found.now is not None:
            kept.append(found.now)
        else:
            lost.append(remote.FileResult(entry=found.entry, status="failed", error=str(found)))
        if found.kind != "current":
            yield Note(text=str(found))
    if config.manifest_out and not config.dry_run:
        with writing(config.manifest_out):
            gdc.write_manifest(config.manifest_out, kept)
        yield Written(path=str(config.manifest_out), what="manifest, ids brought up to date")
    names = remote.slide_ids([result.entry for result in lost])
    for result, name in zip(lost, names, strict=True):
        yield remote.outcome(result, name)
    return kept, lost
