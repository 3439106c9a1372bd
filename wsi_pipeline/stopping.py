"""Ctrl-C and SIGTERM: the work ends within seconds, in one sentence, and nothing half stays.

A signal becomes an exception in the main thread, which takes back what is being written. What has
not ended by then, a decoder, a fit, a cluster, is ended as by a power cut, which every file of ours
survives: what was finished is whole, the rest is done by the same command.
"""

import atexit
import gc
import logging
import multiprocessing.process
import multiprocessing.util
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, NoReturn, TypeVar

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
GRACE_S: Final = 3.0  # for the main thread to take back what it was at
CLEAN_S: Final = 0.5
AGAIN_S: Final = 0.02  # until a signal that came at a bad moment is given again

CALLBACKS: Final[set[CodeType]] = set()  # functions that C libraries call, and that may not raise

Function = TypeVar("Function", bound=Callable[..., Any])


class Stopped(KeyboardInterrupt):
    """The process was told to stop; ``status`` is what it exits with."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number


def undisturbed(function: Function) -> Function:
    """Mark a function that no signal may raise in, as it is called by C that could not bear it."""
    CALLBACKS.add(function.__code__)
    return function


def end(status: int) -> NoReturn:
    """End the process without waiting for its threads and workers, which have nothing to save."""
    logging.disable()  # of what libraries say when their processes are gone
    threading.excepthook = _say_nothing
    multiprocessing.process.BaseProcess.start = _start_nothing  # type: ignore[method-assign,assignment]
    sys.stdout.flush()
    sys.stderr.flush()
    _kill_children()
    # As at any exit: named semaphores go, of which another process would otherwise warn.
    tidy = multiprocessing.util._exit_function  # type: ignore[attr-defined]  # noqa: SLF001
    tidying = threading.Thread(target=tidy, daemon=True)
    tidying.start()
    tidying.join(CLEAN_S)
    _kill_children()  # also one that was about to start, and would miss its semaphores
    os._exit(status)


def _kill_children() -> None:
    for child in multiprocessing.active_children():
        child.kill()


def _start_nothing(process: multiprocessing.process.BaseProcess) -> None:
    """Refuse: who looks after workers starts others for those that were killed."""
    raise RuntimeError(f"{process.name}: not started, for all is ending")


def _say_nothing(_: threading.ExceptHookArgs) -> None:
    """What threads meet once all is ending is of no interest."""


def starting() -> None:
    """In a process of the command line's own: end on a signal, until ``stoppable`` begins.

    Imports take a second, in which nothing is begun yet, and would end in a traceback. What they
    make stays, so that it is not looked through for garbage before :func:`started`.
    """
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    name = "" if main is None else str(main.name)
    if name.partition(".")[0] == "wsi_pipeline" or Path(sys.argv[0]).stem == "wsi":
        for number in SIGNALS:
            signal.signal(number, _end_early)
        gc.disable()
        atexit.register(gc.freeze)  # nor in the end, when all goes as a whole


def started() -> None:
    """Say that all is imported: from here on there is garbage, but none of what is there now."""
    gc.freeze()
    gc.enable()


def _end_early(number: int, _: FrameType | None) -> None:
    os.write(2, b"stopped before anything was begun.\n")
    os._exit(128 + number)


@contextmanager
def stoppable(last_words: Callable[[], object], *, ends: bool) -> Iterator[None]:
    """Raise ``Stopped`` on a signal; elsewhere than in the main thread do nothing.

    Args:
        last_words: Called before the process is ended because unwinding takes too long.
        ends: Whether the process ends after the block, and may be ended in that too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopper = _Stopper(last_words)
    try:
        yield
    finally:
        stopper.leave(ends=ends)


class _Stopper:
    """Listens for signals, in the handler and in a thread that no C code holds up."""

    def __init__(self, last_words: Callable[[], object]) -> None:
        self._last_words = last_words
        self._raised = False
        self._put_off = False
        self._left = threading.Event()
        self._over = threading.Event()
        self._process = os.getpid()
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = {number: signal.signal(number, self._take) for number in SIGNALS}
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._unraisable, sys.unraisablehook = sys.unraisablehook, self._swallowed
        os.register_at_fork(after_in_child=self._forked)
        threading.Thread(target=self._watch, name="stop", daemon=True).start()

    def leave(self, *, ends: bool) -> None:
        """Give the signals back; once one came, a process that ends is still watched."""
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        sys.unraisablehook = self._unraisable
        self._left.set()
        if not (ends and self._raised):
            self._over.set()
        os.close(self._write)  # ends the thread's wait

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._raised:
            return  # it is on its way out
        while frame is not None:
            if frame.f_code in CALLBACKS:
                self._put_off = True
                return
            frame = frame.f_back
        self._raised = True
        raise Stopped(number)

    def _swallowed(self, told: Any) -> None:
        """Take up an exception of ours that was raised where none can be, as in a finaliser."""
        if isinstance(told.exc_value, Stopped):
            self._raised, self._put_off = False, True
        else:
            self._unraisable(told)

    def _watch(self) -> None:
        number = 0
        while number not in SIGNALS:
            byte = os.read(self._read, 1)
            if not byte:
                break
            number = byte[0]
        deadline = time.monotonic() + GRACE_S
        while number in SIGNALS and time.monotonic() < deadline:
            if self._over.wait(AGAIN_S):
                break
            if self._put_off and not self._left.is_set():
                self._put_off = False
                os.kill(self._process, number)
        os.close(self._read)
        if number in SIGNALS and not self._over.is_set():
            self._end(number)

    def _end(self, number: int) -> None:
        if not self._left.is_set():  # else they were said
            self._last_words()
        end(128 + number)

    def _forked(self) -> None:
        """Let a forked child do as any process does: the signals it gets are not ours."""
        if not self._left.is_set():
            signal.set_wakeup_fd(-1)
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            self._left.set()
