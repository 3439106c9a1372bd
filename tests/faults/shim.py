"""The shim by which faults are done: built from ``shim.c``, steered through a mapped file."""

import ctypes
import errno
import mmap
import shutil
import subprocess
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Any, Self

SOURCE = Path(__file__).with_name("shim.c")


class Op(IntFlag):
    """Operations on files."""

    WRITE = 1
    CREATE = 2
    RENAME = 4
    REMOVE = 8
    SYNC = 16
    READ = 32


CHANGES = Op.WRITE | Op.CREATE | Op.RENAME | Op.REMOVE | Op.SYNC
TAKES_SPACE = Op.WRITE | Op.CREATE


class What(IntEnum):
    """What happens at the operation that was chosen."""

    COUNT = 0
    KILL = 1
    FAIL = 2
    SIGNAL = 3
    SLEEP = 4


class _State(ctypes.Structure):
    _fields_ = (
        ("below", ctypes.c_char * 2048),
        ("count", ctypes.c_longlong),
        ("nth", ctypes.c_longlong),
        ("hit", ctypes.c_longlong),
        ("what", ctypes.c_int),
        ("number", ctypes.c_int),
        ("ops", ctypes.c_int),
        ("lasting", ctypes.c_int),
        ("clock_ns", ctypes.c_longlong),
        ("where", ctypes.c_char * 2048),
        ("log", ctypes.c_char * 2048),
    )


def build_shim(folder: Path) -> Path:
    """Compile the shim.

    Raises:
        SystemExit: There is no C compiler.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise SystemExit("the fault harness needs a C compiler (gcc or cc), and there is none")
    library = folder / "shim.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-w", "-o", library, SOURCE, "-ldl"]
    subprocess.run(command, check=True)
    return library


class Faults:
    """What is to happen in the processes that preload the shim with ``FAULT_STATE=path``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(ctypes.sizeof(_State)))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), ctypes.sizeof(_State))
        self._state = _State.from_buffer(self._map)

    def arm(self, below: Path, ops: Op, nth: int = 0, what: What = What.COUNT, **how: Any) -> Self:
        """Count ``ops`` below a folder; at the ``nth`` do ``what``.

        ``how``: ``number`` (errno, signal or milliseconds), ``lasting`` (at all later ones too),
        ``log`` (a file for every operation).
        """
        self.disarm()
        self._state.below = str(below).encode()
        self._state.nth, self._state.what = nth, what
        self._state.number = how.get("number", errno.ENOSPC)
        self._state.lasting = how.get("lasting", False)
        self._state.log = str(how.get("log", "")).encode()
        self._state.ops = ops
        return self

    def disarm(self) -> None:
        """Let nothing happen, and forget what did."""
        ctypes.memset(ctypes.addressof(self._state), 0, ctypes.sizeof(_State))

    def set_clock(self, seconds: int) -> None:
        """Put the time of day forward, or back."""
        self._state.clock_ns = seconds * 10**9

    @property
    def count(self) -> int:
        """How many operations there were."""
        return int(self._state.count)

    @property
    def hit(self) -> int:
        """How often it happened."""
        return int(self._state.hit)

    @property
    def where(self) -> str:
        """At which operation on which file it happened first."""
        return bytes(self._state.where).decode("utf-8", "replace")
