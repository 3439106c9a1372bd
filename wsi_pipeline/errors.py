"""Every error the package raises on purpose.

WsiError
├── UsageError            the request itself is wrong → exit status 2
│   ├── ConfigError       a flag or a TOML key
│   └── CohortError       a cohort table, core map or split column
├── SlideError            one slide cannot be used → exit status 1, the others go on
│   ├── SlideOpenError
│   ├── SlideReadError
│   ├── MppError
│   └── NoTissueError
├── StainFitError
├── DiskError             the disk refuses, or returns an error → exit status 1
│   └── DiskFullError     nothing more can be written
├── StoreError            a tile or feature store
│   ├── StoreCorruptError
│   └── StoreMismatchError   written with other settings, or from another input
├── EncoderError          weights that cannot be had, a device that is not there
│   └── UnknownEncoderError  no such encoder: a ConfigError too → exit status 2
├── LearnError            splits, training, evaluation, model bundles
├── DownloadError
├── ClusterError          the scheduler or all workers are gone
└── BucketError           a bucket refuses, is not there, or holds what is damaged

A message is one sentence or two: which file, what was found, what to do.
"""

import errno
import os
from collections.abc import Mapping, Sequence
from typing import Final

AGAIN: Final = "and the same command goes on from there"
DISK: Final[Mapping[int, str]] = {
    errno.ENOSPC: f"the disk is full; free some space, {AGAIN}",
    errno.EDQUOT: f"the disk is full; free some space, {AGAIN}",
    errno.EROFS: f"the disk can only be read; make it writable, {AGAIN}",
    errno.EACCES: f"no permission; grant it, {AGAIN}",
    errno.EPERM: f"no permission; grant it, {AGAIN}",
    errno.EIO: f"the disk reports an error; look after it, {AGAIN}",
    errno.ESTALE: f"the share has gone away; connect it, {AGAIN}",
    errno.ENOTCONN: f"the share has gone away; connect it, {AGAIN}",
    errno.EMFILE: f"too many open files; raise the limit (ulimit -n), {AGAIN}",
    errno.ENFILE: f"the machine has too many open files; close some, {AGAIN}",
}
"""What the system refuses that is no fault of ours, and what to do."""


class WsiError(Exception):
    """Base of all errors below; the command line prints it without a traceback."""


class UsageError(WsiError, ValueError):
    """The request is wrong; nothing was started."""


class ConfigError(UsageError):
    """A flag or a TOML key is unknown, missing or has an impossible value."""


class CohortError(UsageError):
    """A cohort table or core map contradicts itself or the files on disk."""


class SlideError(WsiError):
    """One slide cannot be used."""


class SlideOpenError(SlideError, OSError):
    """The file is missing or no reader understands it."""


class SlideReadError(SlideError, OSError):
    """The slide opened, but its pixels cannot be decoded."""


class MppError(SlideError, ValueError):
    """The resolution is missing, implausible, or coarser than asked."""


class NoTissueError(SlideError):
    """Nothing on the slide passed the tissue and background rules."""


class StainFitError(WsiError, ValueError):
    """Stain vectors cannot be estimated from these pixels."""


class DiskError(WsiError, OSError):
    """The disk, or the share, refuses or fails."""


class DiskFullError(DiskError):
    """Nothing more can be written."""


class StoreError(WsiError):
    """A tile or feature store."""


class StoreCorruptError(StoreError, OSError):
    """The store is incomplete or damaged."""


class StoreMismatchError(StoreError, ValueError):
    """The store was written with other settings or from another input."""


class EncoderError(WsiError, ValueError):
    """The encoder is unknown or its weights cannot be had."""


class UnknownEncoderError(EncoderError, ConfigError):
    """No encoder has this name, or no weights of it this tag."""


class LearnError(WsiError, ValueError):
    """A split, a training run or a model bundle is unusable."""


class DownloadError(WsiError, OSError):
    """A file could not be fetched or verified."""


class ClusterError(WsiError, OSError):
    """The machines that did the work are gone."""


class BucketError(WsiError, OSError):
    """An object store refuses, is not there, or holds what is damaged."""


def named(names: Sequence[str], most: int = 5) -> str:
    """Return ``a, b and c``; of more than ``most`` the first, and how many there are besides."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def os_reason(error: OSError) -> str:
    """Say why a folder cannot be made; what stands in its place is no folder."""
    if isinstance(error, FileExistsError):
        return os.strerror(errno.ENOTDIR)
    return error.strerror or str(error)


def disk_problem(error: BaseException) -> tuple[int, str] | None:
    """Say what a disk refuses; None if it is anything else.

    Libraries have their own ways of passing on what the system said, in words if not by number.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number is None:
        said = str(error)
        number = next((code for code in DISK if os.strerror(code) in said), None)
    return None if number not in DISK or number is None else (number, DISK[number])


def disk_error(error: BaseException, path: object = None) -> DiskError | None:
    """Return our error for what a disk refuses, about a file; None if it is anything else."""
    problem = disk_problem(error)
    if problem is None or isinstance(error, WsiError):
        return None
    number, words = problem
    where = path or getattr(error, "filename", None)
    kind = DiskFullError if number in (errno.ENOSPC, errno.EDQUOT) else DiskError
    return kind(f"{where}: {words}" if where else words)
