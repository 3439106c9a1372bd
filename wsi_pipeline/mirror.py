"""A run folder in a bucket: ``--run s3://bucket/run`` is a folder here, and its mirror there.

A stage works in a folder on this machine, the *scratch*, as it does in any run folder. What it
needs of the slides of its shard is brought there before it begins, and what it finishes is taken to
the bucket as the run's inventory comes to list it. An artifact is one file, or the folder of a Zarr
store. It counts as there when its *entry* is, an object of its own below ``.inventory``, put after
all its files and taken away before they are put anew: a job that is killed at any moment leaves
whole artifacts and such as nobody sees. Jobs need nothing of one another: the entry of a slide is
the slide's alone, the table of the cohort is replaced only if it is still the one that was read,
and a journal is an object for each call.
"""

import json
import re
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from wsi_pipeline.atomic import atomic_file, atomic_folder, try_lock
from wsi_pipeline.cohort import read_cohort
from wsi_pipeline.digests import file_digest
from wsi_pipeline.errors import BucketError, ConfigError, DiskFullError, WsiError
from wsi_pipeline.events import Event, Note, SlideFailed, Written
from wsi_pipeline.inventory import ZARR, Inventory, begin, settle
from wsi_pipeline.journal import Journal, lines_by_call
from wsi_pipeline.mirror_entries import (
    AT_ONCE,
    ENTRIES,
    Agreed,
    Entry,
    State,
    entries_of,
    entry_names,
    holds_pixels,
)
from wsi_pipeline.mirror_settings import Brought
from wsi_pipeline.remote import Bucket
from wsi_pipeline.run_cohort import merge_rows
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.settings import StageConfig
from wsi_pipeline.shard import Shard

JOURNALS: Final = "logs/"
MARK: Final = ".wsi-run.json"
COHORT: Final = "cohort.csv"
STANDS_IN: Final = ".stands-in"  # in a store whose pixels were left in the bucket
INDEX_BYTES: Final = 1 << 16  # at the end of a shard is its index, 16 bytes a tile
TABLES: Final = re.compile(r"predictions/[^/]+/(slides|patients)\.csv")
AGREED: Final = ".mirror.jsonl"
GONE: Final = (0, "")
ANEW: Final = "run the stage that makes it again"
LOOK_S: Final = 0.2  # between two looks at what has been finished


Stage = Callable[[Any], Iterator[Event]]


def mirrored(
    stage: Stage, config: StageConfig, brings: Sequence[Brought], remote: str
) -> Iterator[Event]:
    """Run a stage in scratch, between what it needs from the bucket and what it finishes for it.

    Raises:
        ConfigError: The bucket refuses, or another process works in this scratch.
    """
    mirror = Mirror(config, brings, remote)
    with try_lock(mirror.run.lock("mirror", "scratch")) as mine:
        if not mine:
            raise ConfigError(
                f"{mirror.run.root}: another process works in this scratch folder; give "
                "--scratch another, or each its own --shard"
            )
        mirror.begin(write=not config.dry_run)
        yield from mirror.bring()
        if config.dry_run:
            yield from stage(config)
            return
        mirror.follow()
        try:
            for event in stage(config):
                yield mirror.placed(event)
        except (KeyboardInterrupt, GeneratorExit, SystemExit):
            mirror.abandon()
            raise
        except WsiError:
            mirror.finish()
            raise
        yield from mirror.finish()


@dataclass
class _Sent:
    """What was brought to the bucket, and what could not be, by name."""

    artifacts: int = 0
    size: int = 0
    failed: dict[str, str] = field(default_factory=dict)


class Mirror:
    """One call's scratch folder and its place in the bucket."""

    def __init__(self, config: StageConfig, brings: Sequence[Brought], remote: str) -> None:
        self.run = RunFolder(config.run_folder.root if config.run_folder else Path())
        self._brings = brings
        self._bucket = Bucket(remote)
        self._shard: Shard = getattr(config, "shard", Shard())
        self._inventory = Inventory(self.run.root)
        self._agreed = Agreed(self.run.root / AGREED)
        self._there: dict[str, Entry | None] = {}  # entries that are known
        self._names: set[str] = set()  # of all in the bucket
        self._cohort: tuple[bytes, str] | None = None
        self._calls: set[str] = set()
        self._seen: dict[str, tuple[int, str]] = {}
        self._sent = _Sent()
        self._ended = threading.Event()
        self._stopped = threading.Event()
        self._follower = threading.Thread(target=self._follow, name="mirror", daemon=True)

    def begin(self, *, write: bool) -> None:
        """Look what is in the bucket, and whether it can be written.

        Raises:
            ConfigError: It cannot.
        """
        begin(self.run.root)
        settle(self.run.root)  # what is not listed as there never goes to the bucket
        self._inventory.refresh()
        try:
            self._names = set(entry_names(self._bucket))
            if write:
                mark = {"schema": "wsi_pipeline.run", "version": 1}
                self._bucket.put(MARK, json.dumps(mark).encode())
            self._cohort = self._bucket.read(COHORT)
            self._calls = {
                key.removeprefix(JOURNALS).removesuffix(".jsonl")
                for key in self._bucket.sizes(JOURNALS)
            }
        except BucketError as error:
            raise ConfigError(f"{error}; nothing was begun") from None

    def bring(self) -> Iterator[Event]:
        """Bring what the stage needs.

        Raises:
            DiskFullError: There is no room for it.
            BucketError: It cannot be had.
        """
        self._bring_cohort()
        self._bring_journals()
        light = {name: whole for name in self._names if (whole := self._asked(name)) is not None}
        self._inventory.refresh()
        here = set(map(_artifact, self._inventory.entries))
        self._there = entries_of(self._bucket, sorted({*light, *(self._names & here)}))
        wanted = {
            name: (entry, light[name])
            for name in light
            if (entry := self._there.get(name)) is not None
            and not self._is_here(name, entry, whole=light[name])
        }
        room = sum(entry.bytes_of(whole=whole) for entry, whole in wanted.values())
        free = shutil.disk_usage(self.run.root).free
        if room > free:
            raise DiskFullError(
                f"{self.run.root}: {room / 1e9:.1f} GB are needed from {self._bucket.url}, and "
                f"{free / 1e9:.1f} GB are free; give --scratch another disk, or more shards"
            )
        damaged: dict[str, str] = {}

        def fetch(name: str) -> None:
            entry, whole = wanted[name]
            try:
                self._fetch(name, entry, whole=whole)
            except BucketError as error:
                damaged[name] = str(error)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(fetch, wanted))
        for name, said in sorted(damaged.items()):
            self._there[name] = None
            if light[name]:
                yield SlideFailed(slide_id=name, error=f"{said}; {ANEW}")
            else:
                yield Note(text=f"{said}; it is made anew")
        if wanted:
            yield Note(
                text=f"{len(wanted) - len(damaged)} files or stores, {room / 1e6:,.0f} MB, came "
                f"from {self._bucket.url}"
            )

    def follow(self) -> None:
        """Begin to take to the bucket what is finished."""
        self._follower.start()

    def abandon(self) -> None:
        """Leave what is not in the bucket yet; the next call takes it there."""
        self._stopped.set()
        self._ended.set()

    def finish(self) -> list[Event]:
        """Take the rest to the bucket, and say what could not be."""
        self._ended.set()
        self._follower.join()
        with suppress(BucketError):
            self._send_journals()
        events: list[Event] = [
            SlideFailed(
                slide_id=name,
                error=f"{said}; it is whole in {self.run.root}, and the same command on this "
                "machine takes it there",
            )
            for name, said in sorted(self._sent.failed.items())
        ]
        if self._sent.artifacts:
            told = f"{self._sent.artifacts} files or stores, {self._sent.size / 1e6:,.0f} MB"
            events.append(Note(text=f"{told}, went to {self._bucket.url}"))
        return events

    def placed(self, event: Event) -> Event:
        """Name the place in the bucket where an event names the one in scratch."""
        if isinstance(event, Written):
            path = event.path.replace(str(self.run.root), self._bucket.url)
            return Written(path=path, what=event.what)
        return event

    def _asked(self, name: str) -> bool | None:
        """Whether the stage reads an artifact: with its pixels, without, or not at all (None)."""
        asked = None
        for each in self._brings:
            if (found := re.fullmatch(each.pattern, name)) and self._is_mine(found):
                asked = each.pixels or bool(asked)
        return asked

    def _is_mine(self, found: re.Match[str]) -> bool:
        slide_id = found.groupdict().get("id")
        return slide_id is None or self._shard.holds(slide_id)

    def _is_here(self, name: str, entry: Entry, *, whole: bool) -> bool:
        """Whether nothing has to be brought: it is here, or was made here and goes there."""
        path = self.run.root / name
        state = self._state(_line(name, entry))
        if state is None or not path.exists():
            return False
        if state != (entry.size, entry.digest):
            return state != self._agreed.get(name)
        return not (whole and (path / STANDS_IN).exists())

    def _state(self, line: str) -> State | None:
        """Return what the inventory has of a file that is finished."""
        entry = self._inventory.entries.get(line)
        if entry is None or entry.gone or len(entry.prints) != 1:
            return None
        return entry.prints[0].size, entry.prints[0].digest

    def _fetch(self, name: str, entry: Entry, *, whole: bool) -> None:
        """Bring an artifact; where no pixels are asked for, holes stand in for them.

        A hole has the size and the index at its end, which readers open a store by, and not the
        digests of its tiles: whoever reads them is refused.

        Raises:
            BucketError: It is not what was put there.
        """
        path = self.run.root / name
        self._agreed.add(name, (entry.size, entry.digest))
        if "" in entry.files:
            with atomic_file(path) as coming:
                self._fetch_file(name, coming, entry.files[""])
            return
        with atomic_folder(path) as folder:
            for each, told in entry.files.items():
                file = folder / each
                file.parent.mkdir(parents=True, exist_ok=True)
                if not whole and holds_pixels(each):
                    (folder / STANDS_IN).touch()
                    tail = self._bucket.tail(f"{name}/{each}", INDEX_BYTES)
                    with file.open("wb") as hole:
                        hole.seek(told[0] - len(tail))
                        hole.write(tail)
                else:
                    self._fetch_file(f"{name}/{each}", file, told)

    def _fetch_file(self, key: str, path: Path, told: tuple[int, str]) -> None:
        self._bucket.fetch(key, path)
        if path.stat().st_size != told[0] or file_digest(path) != told[1]:
            raise BucketError(f"{self._bucket.url}/{key}: damaged: it is not what was put there")

    def _bring_cohort(self) -> None:
        if self._cohort is not None:
            path = self.run.cohort
            if not path.exists():
                with atomic_file(path) as coming:
                    coming.write_bytes(self._cohort[0])
            elif path.read_bytes() != self._cohort[0]:
                self._merge_cohort(self._cohort[0])

    def _merge_cohort(self, table: bytes) -> None:
        """Add the rows of the bucket's table to those here."""
        there = self.run.root / ".cohort-there.csv"
        with atomic_file(there) as coming:
            coming.write_bytes(table)
        merge_rows(self.run, read_cohort(there), there)
        there.unlink()

    def _bring_journals(self) -> None:
        """Add the lines of calls that are not in the journal here."""
        path = self.run.journal
        here = {call for call, _ in lines_by_call(path)}
        new = [found[0] for call in sorted(self._calls - here)
               if (found := self._bucket.read(f"{JOURNALS}{call}.jsonl"))]  # fmt: skip
        if new:
            with Journal(path, "mirror"):  # which mends a torn end
                pass
            with path.open("ab") as file:
                file.writelines(new)

    def _send_journals(self) -> None:
        """Put the lines of each call that is not there yet."""
        lines: dict[str, list[str]] = {}
        for call, line in lines_by_call(self.run.journal):
            lines.setdefault(call, []).append(line)
        for call in lines.keys() - self._calls:
            self._bucket.put(f"{JOURNALS}{call}.jsonl", "".join(lines[call]).encode())

    def _follow(self) -> None:
        """Take artifacts to the bucket as the inventory comes to list them, until told to end."""
        on_way: dict[Future[int], str] = {}
        pool = ThreadPoolExecutor(AT_ONCE)
        while not self._stopped.is_set():
            last = self._ended.is_set()
            self._inventory.refresh()
            due = list(self._due(set(on_way.values())))
            on_way |= {pool.submit(task): name for name, task in due}
            for future in [each for each in on_way if last or each.done()]:
                self._note(on_way.pop(future), future)
            if last and not due:
                break
            self._ended.wait(LOOK_S)
        pool.shutdown(wait=not self._stopped.is_set(), cancel_futures=True)

    def _note(self, name: str, future: "Future[int]") -> None:
        error = future.exception()
        if error is None:
            self._sent.artifacts += future.result() > 0
            self._sent.size += future.result()
        else:
            self._sent.failed[name] = str(error)

    def _due(self, on_way: Collection[str]) -> Iterator[tuple[str, Callable[[], int]]]:
        """Yield what is to be put or taken away since the last look."""
        for line, entry in self._inventory.entries.items():
            name = _artifact(line)
            kept_here = line == COHORT or (self._shard.is_part and TABLES.fullmatch(name))
            if kept_here or name in on_way:
                continue
            state = self._state(line)
            if entry.gone and not entry.prints and self._seen.get(name) != GONE:
                self._seen[name] = GONE
                if name in self._names:
                    yield name, partial(self._take_away, name)
            elif state is not None and self._seen.get(name) != state:
                self._seen[name] = state
                if not self._is_there(name, state):
                    yield name, partial(self._put, name, state)
        if COHORT not in on_way and self.run.cohort.exists() and self._changed_cohort():
            yield COHORT, self._put_cohort

    def _is_there(self, name: str, state: State) -> bool:
        """Whether an artifact is in the bucket as it is here, or was changed there alone."""
        entry = self._there.get(name)
        if name not in self._names or (entry is None and name in self._there):
            return False
        return state == self._agreed.get(name) or (
            entry is not None and state == (entry.size, entry.digest)
        )

    def _put(self, name: str, state: State) -> int:
        """Put an artifact's files, then its entry; return how many bytes that were."""
        path = self.run.root / name
        if name in self._names:  # from here on until its entry stands again it is not there
            self._take_away(name)
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        files: dict[str, tuple[int, str]] = {}
        for file in inside:
            key = file.relative_to(self.run.root).as_posix()
            told = "" if file == path else file.relative_to(path).as_posix()
            files[told] = (file.stat().st_size, self._bucket.send(file, key))
        entry = Entry(size=state[0], digest=state[1], files=files)
        self._bucket.put(f"{ENTRIES}{name}.json", entry.to_bytes())
        self._names.add(name)
        self._agreed.add(name, state)
        return sum(size for size, _ in files.values())

    def _take_away(self, name: str) -> int:
        self._bucket.delete(f"{ENTRIES}{name}.json")
        for key in (name, *(key for key in self._bucket.sizes(f"{name}/"))):
            self._bucket.delete(key)
        return 0

    def _changed_cohort(self) -> bool:
        told = self.run.cohort.stat()
        state = (told.st_size, f"{told.st_ino} {told.st_mtime_ns}")
        changed = self._seen.get(COHORT) != state
        self._seen[COHORT] = state
        return changed

    def _put_cohort(self) -> int:
        """Replace the table if it is still the one that was read; else merge the two."""
        while True:
            data = self.run.cohort.read_bytes()
            if self._cohort is not None and self._cohort[0] == data:
                return 0
            tag = None if self._cohort is None else self._cohort[1]
            done = self._bucket.put(COHORT, data, instead_of=tag)
            self._cohort = self._bucket.read(COHORT)
            if done:
                return len(data)
            if self._cohort is not None and self._cohort[0] != data:
                self._merge_cohort(self._cohort[0])


def _artifact(line: str) -> str:
    """Return the name of the artifact whose state a line of the inventory tells."""
    return line.removesuffix(f"/{ZARR}")


def _line(name: str, entry: Entry) -> str:
    return name if "" in entry.files else f"{name}/{ZARR}"
