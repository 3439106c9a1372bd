"""Files that are either whole or absent, locks that die with their owner."""

import ctypes
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from wsi_pipeline.errors import disk_error
from wsi_pipeline.inventory import note_gone, recorded

PARTIAL: Final = ".partial-"  # infix of the temporary beside its target: name.partial-xxxx
OLD: Final = ".old"  # suffix of what a temporary is about to replace
AT_FDCWD: Final = -100
RENAME_EXCHANGE: Final = 2
NO_EXCHANGE: Final = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
"""What renameat2 says where the file system (NFS, SMB), or the kernel, exchanges no names."""


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is synced and takes ``path``'s place.

    In a run folder the inventory lists it. The temporary is its user's alone; what takes its place
    has the mode of any new file. On an exception it is removed, and ``path`` stays as it was.
    """
    partial = None
    with ExitStack() as stack:
        try:
            partial = _claim(path, stack, _new_file)
            yield partial
            partial.chmod(0o666 & ~_umask())
            _sync(partial)
            with recorded(path, partial):
                partial.replace(path)
            _sync(path.parent)
        except BaseException as error:
            if partial is not None:
                with suppress(OSError):
                    partial.unlink(missing_ok=True)
            _raise_if_disk(path, error)
            raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; on success it takes ``path``'s place whole."""
    partial = None
    with ExitStack() as stack:
        try:
            partial = _claim(path, stack, _new_folder)
            yield partial
            partial.chmod(0o777 & ~_umask())
            for folder, _, names in os.walk(partial, topdown=False):
                for name in names:
                    _sync(Path(folder, name))
                _sync(Path(folder))
            with recorded(path, partial):
                replace_folder(partial, path)
        except BaseException as error:
            if partial is not None:
                shutil.rmtree(partial, ignore_errors=True)
            _raise_if_disk(path, error)
            raise


def _claim(path: Path, stack: ExitStack, new: Callable[[Path], tuple[int, str]]) -> Path:
    """Make a temporary for ``path`` that is locked until ``stack`` ends, so that none removes it.

    What killed writers left is removed first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_partials(path)
    while True:
        handle, name = new(path)
        stack.callback(os.close, handle)
        with suppress(OSError):  # another is just taking it for left behind; or there are no locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(handle).st_nlink and Path(name).exists():
            return Path(name)


def _new_file(path: Path) -> tuple[int, str]:
    return tempfile.mkstemp(prefix=f".{path.name}{PARTIAL}", suffix=path.suffix, dir=path.parent)


def _new_folder(path: Path) -> tuple[int, str]:
    name = tempfile.mkdtemp(prefix=f".{path.name}{PARTIAL}", dir=path.parent)
    return os.open(name, os.O_RDONLY), name


def replace_folder(partial: Path, path: Path) -> None:
    """Put the folder ``partial`` at ``path``; an old one there is removed.

    The two exchange names in one step, so that one of them is there at any moment. Where the file
    system knows no such step, the old one is moved aside first, and :func:`bring_back` undoes that
    if the process is killed before the new one has its place.
    """
    old = partial
    if not path.exists():
        partial.replace(path)
    elif not _exchange(partial, path):
        old = _moved_aside(partial, path)
    _sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Have two paths exchange what they name; False where there is no such step.

    Raises:
        OSError: The disk refuses.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:  # no Linux, or an old C library
        return False
    if not renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE):
        return True
    number = ctypes.get_errno()
    if number in NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _moved_aside(partial: Path, path: Path) -> Path:
    """Replace a folder in two steps; return where the old one is now."""
    old = partial.with_name(f"{partial.name}{OLD}")
    while True:
        if path.exists():
            path.replace(old)
        try:
            partial.replace(path)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                continue  # another process has just brought the old one back
            bring_back(path.parent, f".{path.name}{PARTIAL}")
            raise
        return old


def bring_back(folder: Path, prefix: str = ".") -> None:
    """Bring back what killed processes had moved aside in a folder and not replaced."""
    for old in _begin_with(folder, prefix):
        name, partial, rest = old.name[1:].rpartition(PARTIAL)
        if partial and rest.endswith(OLD) and not (folder / name).exists():
            with suppress(OSError):  # another was faster, or nothing can be written here
                old.rename(folder / name)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there, and strike it from its run's inventory."""
    note_gone(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_partials(path: Path) -> None:
    """Remove what killed writers of ``path`` left behind: what nobody holds locked."""
    sweep(path.parent, f".{path.name}{PARTIAL}")


def sweep(folder: Path, prefix: str = ".") -> None:
    """Remove what killed writers left behind in a folder, also of what needs no writing any more.

    What was moved aside and not replaced is brought back.
    """
    bring_back(folder, prefix)
    for left in _begin_with(folder, prefix):
        if PARTIAL not in left.name:
            continue
        with suppress(OSError):
            handle = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink(missing_ok=True)
            finally:
                os.close(handle)


def _begin_with(folder: Path, prefix: str) -> list[Path]:
    """Return what in a folder has a name that begins so; a glob takes ten times as long."""
    try:
        with os.scandir(folder) as entries:
            return [Path(entry) for entry in entries if entry.name.startswith(prefix)]
    except OSError:
        return []


def write_json(path: Path, values: Any) -> None:
    """Write JSON-ready ``values`` atomically, keys in order, one trailing newline."""
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", "utf-8")


def write_text(path: Path, text: str) -> None:
    """Write ``text`` atomically as UTF-8."""
    with atomic_file(path) as partial:
        partial.write_text(text, "utf-8")


@contextmanager
def try_lock(path: Path, wait_s: float = 0.0) -> Iterator[bool]:
    """Hold the OS lock on ``path`` for the block; yield False if another process keeps it.

    The file stays behind empty; the lock itself is the kernel's and ends with the process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=wait_s)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _raise_if_disk(path: Path, error: BaseException) -> None:
    """Say in plain words that the disk is full, read-only or failing.

    Raises:
        DiskError: It is.
    """
    if told := disk_error(error, path):
        raise told from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    """Return the process's umask; asking by setting it lets other threads' files be open to all."""
    try:
        status = Path("/proc/self/status").read_text("utf-8")
        return int(status.partition("Umask:")[2].split(maxsplit=1)[0], 8)
    except (OSError, ValueError, IndexError):
        mask = os.umask(0)
        os.umask(mask)
        return mask
