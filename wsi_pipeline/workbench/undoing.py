"""What was done at the screen, so that it can be taken back, unless the file changed since."""

from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wsi_pipeline.atomic import try_lock
from wsi_pipeline.errors import ConfigError

PATIENCE_S: Final = 10.0  # another person's change takes milliseconds
MOST: Final = 100  # changes of a file that can be taken back

Content = tuple[bytes | None, ...]


@dataclass(frozen=True)
class Done:
    """A change: what it was, the files' bytes before it, and after it."""

    what: str
    before: Content
    after: Content


class Undoing:
    """The last changes of each group of files, in this process's memory."""

    def __init__(self) -> None:
        self._done: defaultdict[tuple[Path, ...], deque[Done]] = defaultdict(
            lambda: deque(maxlen=MOST)
        )

    def last(self, *files: Path) -> str | None:
        """Say what the last change was, if it can be taken back."""
        done = self._done[files]
        return done[-1].what if done and done[-1].after == contents(files) else None

    @contextmanager
    def noting(self, what: str, *files: Path) -> Iterator[None]:
        """Note what the block makes of the files; the caller holds their lock."""
        before = contents(files)
        yield
        after = contents(files)
        if after != before:
            self._done[files].append(Done(what, before, after))

    def take_back(self, *files: Path) -> Content:
        """Return what the files held before the last change, which is forgotten.

        Raises:
            ConfigError: There is none, or the files were changed by somebody else since.
        """
        done = self._done[files]
        if not done:
            raise ConfigError(f"{files[0].name}: there is nothing to be undone")
        if done[-1].after != contents(files):
            done.clear()
            raise ConfigError(f"{files[0].name}: somebody else has changed it since; look again")
        return done.pop().before


@contextmanager
def between_changes(lock: Path) -> Iterator[None]:
    """Read what is not just being written; where nothing can be written, no lock is needed."""
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(try_lock(lock, PATIENCE_S))
        yield


def contents(files: tuple[Path, ...]) -> Content:
    """Return the files' bytes, None for one that is not there."""
    return tuple(path.read_bytes() if path.exists() else None for path in files)


@contextmanager
def held(lock: Path, file: Path) -> Iterator[None]:
    """Hold a file's lock for the block; people at several screens take turns.

    Raises:
        ConfigError: It cannot be written, or somebody holds it.
    """
    try:
        with try_lock(lock, PATIENCE_S) as ours:
            if not ours:
                raise ConfigError(f"{file}: another process holds it; try again")
            yield
    except OSError as error:
        raise ConfigError(f"{file}: it cannot be written ({error.strerror})") from None
