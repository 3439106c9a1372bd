"""HDF5 files that are checked before libhdf5 parses them, as it may hang on damaged metadata.

Files of ours are sealed (:mod:`wsi_pipeline.digests`): their bytes are compared with the seal
first. Others, of older versions or of other programs, are read once by a process of their own,
which is given up when it takes too long or dies.
"""

import io
import json
import os
import subprocess  # nosec B404 # runs our own child alone
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from wsi_pipeline.atomic import atomic_file
from wsi_pipeline.digests import Parts, Seal, check_rest, read_seal, seal_file
from wsi_pipeline.errors import StoreCorruptError
from wsi_pipeline.stopping import undisturbed

SEALED: Final = "sealed"  # root attribute: a seal must be there
PATIENCE_S: Final = 30.0  # for a file of any size, and beyond that
SLOWEST: Final = 5e6  # bytes a second
CHILD: Final = "from wsi_pipeline.hdf5 import answer; answer()"
WHOLE: Final = 1 << 28  # bytes: larger datasets are only looked up in the file, not read


@contextmanager
def create_hdf5(path: Path) -> Iterator[h5py.File]:
    """Yield a new file that takes ``path``'s place, sealed, on leaving.

    Raises:
        DiskError: It cannot be written.
    """
    with stream_hdf5(path) as (file, _):
        yield file


@contextmanager
def stream_hdf5(
    path: Path, parts: str | None = None
) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Yield a new file as :func:`create_hdf5` does, and what raises once it cannot be written.

    Args:
        path: The file.
        parts: An uncompressed, chunked dataset whose chunks are checked one by one, when they are
            read; all else is checked on opening.
    """
    with atomic_file(path) as partial:
        with _new(partial) as (file, check):
            file.attrs[SEALED] = True
            yield file, check
            offsets, size = find_chunks(file, parts)
        seal_file(partial, offsets, size)


@contextmanager
def unsealed_hdf5(path: Path) -> Iterator[h5py.File]:
    """Yield a new file for other programs.

    Raises:
        OSError: It cannot be written.
    """
    with _new(path) as (file, _):
        yield file


@contextmanager
def _new(path: Path) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    with closing(_Disk(path)) as disk:
        with h5py.File(disk, "w") as file:
            yield file, disk.check
        disk.check()


class _Disk(io.RawIOBase):
    """A new file on disk, to which libhdf5 can write whatever happens.

    libhdf5 may crash when it closes a file whose last writes failed, as on a full disk. It is
    therefore never told: what cannot be written is kept in memory until the file is closed, and
    ``check`` raises what the disk said. Nor may a signal's exception pass through it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        self._at = 0
        self._end = 0
        self._kept: list[tuple[int, bytes]] = []
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise what the disk said to a write.

        Raises:
            OSError: It failed.
        """
        if self._error is not None:
            raise self._error

    @undisturbed
    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (self._end if whence == io.SEEK_END else 0)
        return self._at

    @undisturbed
    def tell(self) -> int:
        return self._at

    @undisturbed
    def write(self, data: Any) -> int:
        rest = memoryview(data)
        size = len(rest)
        try:
            done = 0
            while self._error is None and done < size:
                done += os.pwrite(self._file, rest[done:], self._at + done)
        except OSError as error:
            self._error = error
        if self._error is not None:
            self._kept.append((self._at, bytes(rest)))
        self._at += size
        self._end = max(self._end, self._at)
        return size

    @undisturbed
    def readinto(self, buffer: Any) -> int:
        out = memoryview(buffer)
        out[:] = bytes(len(out))
        try:
            count = os.preadv(self._file, [out], self._at)
        except OSError as error:
            self._error = self._error or error
            count = len(out)
        for begin, data in self._kept:
            first, last = max(begin, self._at), min(begin + len(data), self._at + len(out))
            if first < last:
                out[first - self._at : last - self._at] = data[first - begin : last - begin]
                count = max(count, last - self._at)
        self._at += count
        return count

    @undisturbed
    def truncate(self, size: int | None = None) -> int:
        self._end = self._at if size is None else size
        try:
            os.ftruncate(self._file, self._end)
        except OSError as error:
            self._error = self._error or error
        return self._end

    @undisturbed
    def flush(self) -> None:
        """Do nothing: nothing is held back, and the file is synced when it is whole."""

    @undisturbed
    def close(self) -> None:
        if not self.closed:
            os.close(self._file)
            super().close()

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def find_chunks(file: h5py.File, name: str | None) -> tuple[list[int], int]:
    """Return where a dataset's chunks lie in the file, and their size; it is not compressed."""
    if name is None or name not in file:
        return [], 0
    file.flush()
    dataset = file[name]
    offsets: list[int] = []
    dataset.id.chunk_iter(lambda chunk: offsets.append(chunk.byte_offset))
    return offsets, int(np.prod(dataset.chunks, dtype=np.int64)) * dataset.dtype.itemsize


@dataclass(frozen=True)
class Checked:
    """An open file whose bytes were checked; ``seal`` is None where there was none to do it by."""

    file: h5py.File
    seal: Seal | None

    @property
    def parts(self) -> Parts | None:
        """Those parts of the file that are yet to be checked, by who reads them."""
        return None if self.seal is None else self.seal.parts


@contextmanager
def open_hdf5(path: Path) -> Iterator[Checked]:
    """Open a file for reading once its bytes are known to be sound.

    Raises:
        StoreCorruptError: They are not.
        OSError: It is no HDF5 file, or cannot be read.
    """
    seal = read_seal(path)
    if seal is not None:
        check_rest(path, seal)
    else:
        _probe(path)
    with h5py.File(path, "r") as file:
        if seal is None and SEALED in file.attrs:
            raise StoreCorruptError(f"{path}: damaged: the digests behind its contents are gone")
        yield Checked(file, seal)


def _probe(path: Path) -> None:
    """Let another process read an unsealed file first.

    Raises:
        StoreCorruptError: It could not, died, or took too long.
    """
    told = path.stat()
    problem = _probed(str(path.absolute()), told.st_size, told.st_mtime_ns, told.st_ino)
    if problem:
        raise StoreCorruptError(f"{path}: not a readable HDF5 file: {problem}")


@lru_cache(maxsize=4096)
def _probed(path: str, size: int, changed: int, inode: int) -> str:
    """Return what is wrong with a file as it is now; nothing if it can be read."""
    del changed, inode  # they only tell one state of a file from another
    return _prober(os.getpid()).ask(path, PATIENCE_S + size / SLOWEST)


class _Prober:
    """A process that reads files on request, started when it is needed, again if it was lost."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def ask(self, path: str, patience_s: float) -> str:
        with self._lock:
            child = self._child or subprocess.Popen(  # nosec B603 # this Python, text of ours
                [sys.executable, "-c", CHILD],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                text=True, encoding="utf-8",
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )  # fmt: skip
            self._child = child
            given_up = threading.Event()

            def give_up() -> None:
                given_up.set()
                child.kill()

            timer = threading.Timer(patience_s, give_up)
            timer.start()
            try:
                line = self._exchange(child, path)
            finally:
                timer.cancel()
            if line:
                return line.strip().removeprefix("ok")
            self._child = None
            code = child.wait()
            if given_up.is_set():
                return f"HDF5 does not come back from reading it, after {patience_s:.0f} s"
            return f"HDF5 crashes on reading it (exit status {code})"

    @staticmethod
    def _exchange(child: subprocess.Popen[str], path: str) -> str:
        if child.stdin is None or child.stdout is None:
            return ""
        try:
            child.stdin.write(f"{json.dumps(path)}\n")  # a name may hold line breaks
            child.stdin.flush()
            return child.stdout.readline()
        except OSError:
            return ""


@lru_cache(maxsize=1)
def _prober(process: int) -> _Prober:
    """Return the prober of this process; one that was forked has its own."""
    del process
    return _Prober()


def answer() -> None:
    """Read every file named on a line of the standard input; say ``ok`` or what is wrong."""
    for line in sys.stdin:
        try:
            with h5py.File(json.loads(line), "r") as file:
                _walk(file)
        except Exception as error:  # noqa: BLE001  libhdf5 has many ways to say it
            text = " ".join(f"{type(error).__name__}: {error}".split())
        else:
            text = "ok"
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def _walk(file: h5py.File) -> None:
    def visit(_: str, item: Any) -> None:
        dict(item.attrs)
        if isinstance(item, h5py.Dataset):
            if item.nbytes <= WHOLE:
                item[()]
            elif item.chunks:
                item.id.chunk_iter(lambda _: None)

    dict(file.attrs)
    file.visititems(visit)
