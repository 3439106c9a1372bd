"""What the download stage asks of a source of slides, and what the sources share."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from wsi_pipeline import remote
from wsi_pipeline.cohort import CohortSlide, read_cohort, write_cohort
from wsi_pipeline.errors import DiskFullError, UsageError, named
from wsi_pipeline.verbs.slides import DownloadConfig


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a source has of what was asked for: files to fetch, and what became of the others."""

    files: Sequence[remote.RemoteFile]
    results: Sequence[remote.FileResult] = ()
    resolve: remote.Resolver | None = field(default=None)
    slides: int | None = None
    megabytes: float | None = None  # where the files themselves were not asked for
    admit: remote.Admit | None = None  # waits until there is room for a file
    room: int | None = None  # bytes that all of them together take at any time; None: their sum


def retry_policy(config: DownloadConfig) -> remote.RetryPolicy:
    return remote.RetryPolicy(
        attempts=config.attempts,
        first_wait_s=config.first_wait_s,
        retry_after_cap_s=config.retry_after_cap_s,
    )


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


def write_slides(config: DownloadConfig, path: Path, slides: Sequence[CohortSlide]) -> None:
    """Write the cohort table: what the source has, and the user's own slides.

    Raises:
        CohortError: The user's table is wrong.
        UsageError: A slide of it has the id of one of the source's, or nothing can be written.
    """
    own = _own_slides(config.add_cohort) if config.add_cohort else []
    both = {slide.slide_id for slide in slides} & {slide.slide_id for slide in own}
    if both:
        raise UsageError(
            f"{config.add_cohort}: {named(sorted(both))} is an id of the source's slides too"
        )
    with writing(path):
        write_cohort(path, [*slides, *own])


def _own_slides(table: Path) -> list[CohortSlide]:
    """Read the user's slides, whose files are named from the root: the table will lie elsewhere."""
    beside = table.absolute().parent
    rows = []
    for row in read_cohort(table):
        root = beside / (row.root or "")
        path = row.path if "://" in row.path else str(root / row.path)
        if "://" not in path and not Path(path).exists():
            raise UsageError(f"{table}: {row.slide_id}: no file {path}; nothing was fetched")
        tma_map, drawn = (_found(name, (root, beside)) for name in (row.tma_map, row.annotations))
        rows.append(replace(row, path=path, root=None, tma_map=tma_map, annotations=drawn))
    return rows


def _found(name: str | None, folders: Sequence[Path]) -> str | None:
    paths = [folder / name for folder in folders] if name else []
    return next((str(path) for path in paths if path.exists()), name)
