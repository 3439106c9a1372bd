"""What the download stage asks of a source of slides, and what the sources share."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from wsi_pipeline import remote
from wsi_pipeline.errors import DiskFullError, UsageError
from wsi_pipeline.verbs.slides import DownloadConfig


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a source has of what was asked for: files to fetch, and what became of the others."""

    files: Sequence[remote.RemoteFile]
    results: Sequence[remote.FileResult] = ()
    resolve: remote.Resolver | None = field(default=None)
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
