"""What of a run is whole in a bucket: an entry for each artifact, an object of its own.

An artifact is one file, or the folder of a Zarr store. Its entry is put after all its files and
taken away before they are put anew, so that there is none of what is not whole.
"""

import json
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from wsi_pipeline.digests import digest_of
from wsi_pipeline.errors import BucketError
from wsi_pipeline.remote import Bucket

ENTRIES: Final = ".inventory/"
PIXELS: Final = re.compile(r"(tiles|tiles_jpeg)/c/")
AT_ONCE: Final = 8  # artifacts on their way

State = tuple[int, str]  # size and digest of an artifact, as the run's inventory has them


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An artifact that is whole in the bucket.

    Attributes:
        size: In bytes, and ``digest``, as the run's inventory has them.
        files: Size and digest by name below it; of a single file the name is empty.
    """

    size: int
    digest: str
    files: Mapping[str, tuple[int, str]]

    def bytes_of(self, *, whole: bool) -> int:
        """Return how many bytes come with it, its pixels left out unless it is ``whole``."""
        return sum(
            size for name, (size, _) in self.files.items() if whole or not holds_pixels(name)
        )

    def to_bytes(self) -> bytes:
        told = {"size": self.size, "digest": self.digest, "files": self.files}
        text = json.dumps(told)
        return json.dumps({"entry": told, "own": digest_of(text.encode())}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read an entry.

        Raises:
            ValueError: It is damaged.
        """
        try:
            read = json.loads(data)
            told, own = read["entry"], read["own"]
            files = {name: (int(size), str(digest)) for name, (size, digest) in
                     told["files"].items()}  # fmt: skip
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(str(error)) from None
        if digest_of(json.dumps(told).encode()) != own:
            raise ValueError("its digest is another")
        return cls(size=told["size"], digest=told["digest"], files=files)


def entries_of(bucket: Bucket, names: Sequence[str]) -> dict[str, Entry | None]:
    """Read entries; None of one that is damaged, so that its artifact is made anew."""

    def read(name: str) -> Entry | None:
        try:
            found = bucket.read(f"{ENTRIES}{name}.json")
            return None if found is None else Entry.from_bytes(found[0])
        except ValueError:
            return None
        except BucketError as error:
            if "damaged" in str(error):
                return None
            raise

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(names, pool.map(read, names), strict=True))


def entry_names(bucket: Bucket) -> list[str]:
    """Return the names of all artifacts that are whole in the bucket."""
    return [
        key.removeprefix(ENTRIES).removesuffix(".json")
        for key in bucket.sizes(ENTRIES)
        if key.endswith(".json")
    ]


def ids_of(names: Iterable[str], pattern: str) -> list[str]:
    """Return the slides of those artifacts whose name is of a pattern."""
    return [found["id"] for name in names if (found := re.fullmatch(pattern, name))]


def holds_pixels(file: str) -> bool:
    """Whether a file of a Zarr store is of its pixels."""
    return PIXELS.match(file) is not None


class Agreed:
    """What this scratch and the bucket had alike, by name, kept over calls.

    It tells an artifact that was made here since from one that was made anew elsewhere.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[str, State] = {}
        for line in path.read_text("utf-8").splitlines() if path.exists() else ():
            with suppress(ValueError):  # torn, of a process that was killed
                name, size, digest = json.loads(line)
                self._known[name] = (size, digest)

    def get(self, name: str) -> State | None:
        return self._known.get(name)

    def add(self, name: str, state: State) -> None:
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            self._known[name] = state
            file.write(f"\n{json.dumps([name, *state])}")
