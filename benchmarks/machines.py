"""More machines than one, as far as one machine can tell; and slides and runs in slow buckets.

python -m benchmarks.machines [--rounds 3] [--only sharing,buckets]

Sharing: the same slides by one process, by workers, by shards one after the other and two at a
time, and by a Dask cluster; cores are what limits, so what counts is the processor time that each
way adds. Buckets: moto's server in a process of its own waits so long before each answer; it is one
slow Python process, so that the row of 0 ms is the server's own speed.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from benchmarks.measure import Table, arguments, compile_modules, interleave, write_tables
from benchmarks.slides import Scan, read_patch, write_picture, write_scan
from wsi_pipeline.events import SlideFailed
from wsi_pipeline.tiles import open_tiles
from wsi_pipeline.types import RgbImage
from wsi_pipeline.verbs import VERBS

SLIDES: Final = 6
SIDE: Final = 16_384  # px, of a slide that is shared out
BUCKET_SIDE: Final = 6_144  # px, of a slide in a bucket, whose tiles all differ
BUCKET_SLIDES: Final = 3
DELAYS_MS: Final = (0, 20, 50, 100)
TESTS: Final = Path(__file__).parents[1] / "tests"
SERVER: Final = """
import json, sys
from scale.object_store import serve
with serve() as store:
    print(store.address, flush=True)
    for line in sys.stdin:
        store.delay_s = float(line)
        print(len(store.requests), flush=True)
"""


@dataclass
class Cost:
    """What a way costs, by round: processor seconds and seconds by the clock, start included."""

    processor: list[float] = field(default_factory=list)
    clock: list[float] = field(default_factory=list)


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--only", default="sharing,buckets", help="what is measured")
    given = parser.parse_args()
    compile_modules()
    patch = read_patch(given.pixels)
    tables: list[Table] = []
    if "sharing" in given.only:
        tables += _sharing(patch, given.rounds)
    if "buckets" in given.only:
        tables += _buckets(patch, given.rounds)
    write_tables(tables, given.out)


def _sharing(patch: RgbImage, rounds: int) -> list[Table]:
    costs: dict[str, Cost] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "slides"
        folder.mkdir()
        for number in range(SLIDES):
            write_scan(folder / f"scan{number}.svs", Scan(side=SIDE), patch)
        counts: set[int] = set()

        def rate(way: str, start: Callable[[Path], None]) -> float:
            with tempfile.TemporaryDirectory(dir=name) as made:
                run, cost = Path(made) / "run", costs.setdefault(way, Cost())
                begun, used = time.perf_counter(), _processor()
                start(run)
                cost.clock.append(time.perf_counter() - begun)
                cost.processor.append(_processor() - used)
                tiles = _tiles(run)
            counts.add(tiles)
            return tiles / cost.processor[-1]

        ways: dict[str, Callable[[Path], None]] = {
            "one process": lambda run: _wait(_tile(folder, run)),
            "--workers 1": lambda run: _wait(_tile(folder, run, "--workers", "1")),
            "--workers 2": lambda run: _wait(_tile(folder, run, "--workers", "2")),
            "two shards, one after the other": lambda run: (
                [_wait(_tile(folder, run, "--shard", f"{k}/2")) for k in (1, 2)] and None
            ),
            "two shards at a time": lambda run: _wait(
                *(_tile(folder, run, "--shard", f"{k}/2") for k in (1, 2))
            ),
            "a Dask cluster of one worker": lambda run: _on_dask(folder, run, 1),
            "a Dask cluster of two workers": lambda run: _on_dask(folder, run, 2),
        }
        rates = interleave({way: partial(rate, way, start) for way, start in ways.items()}, rounds)
    (tiles,) = counts
    clock = {way: [tiles / seconds for seconds in cost.clock] for way, cost in costs.items()}
    notes = (f"{SLIDES} slides, {tiles:,} tiles, the start of all processes included",)
    return [
        Table(name="machines-processor", title="Tiling shared out: processor time",
              unit="tiles per CPU-second", rates=rates, notes=notes, ours=tuple(rates)),
        Table(name="machines-clock", title="Tiling shared out: by the clock", unit="tiles/s",
              rates=clock, notes=(*notes, "the cores are shared with other work"),
              ours=tuple(clock)),
    ]  # fmt: skip


def _buckets(patch: RgbImage, rounds: int) -> list[Table]:
    with tempfile.TemporaryDirectory() as name, _server() as server:
        os.environ.update(server.environment)
        folder = Path(name) / "slides"
        folder.mkdir()
        for number in range(BUCKET_SLIDES):
            path = write_picture(folder / f"scan{number}.svs", _pixels(patch, number))
            server.put(path, f"slides/{path.name}")
        size = sum(path.stat().st_size for path in folder.iterdir())
        asked: dict[str, list[int]] = {}

        def rate(what: str, delay_ms: int, slides: str | Path, remote: bool, cache: bool) -> float:
            with tempfile.TemporaryDirectory(dir=name) as made:
                key = f"runs/{Path(made).name}"
                where = Path(made) / "run"
                asking: dict[str, object] = {"cohort": slides, "run": where, "codec": "jpeg"}
                asking |= {"run": f"s3://bench/{key}", "scratch": where} if remote else {}
                asking |= {"cache": f"{made}/cache"} if cache else {}
                tile = VERBS["tile"]
                config = tile.config_class.from_mapping(
                    {**asking, "max_background_fraction": 1}, "benchmark"
                )
                before = server.delay(delay_ms)
                begun = time.perf_counter()
                lost = [event for event in tile.run(config) if isinstance(event, SlideFailed)]
                seconds = time.perf_counter() - begun
                assert not lost, lost
                asked.setdefault(what, []).append(server.delay(0) - before)
                found = where / "bench" / key / "1-of-1" if remote else where
                return _tiles(found) / seconds

        there = "s3://bench/slides"
        ways: dict[str, Callable[[], float]] = {
            "slides and run here": partial(rate, "here", 0, folder, False, False)
        }
        for ms in DELAYS_MS:
            for what, slides, remote, cache in (
                ("slides there, by ranges", there, False, False),
                ("slides there, --cache", there, False, True),
                ("run there", folder, True, False),
            ):
                way = f"{ms} ms: {what}"
                ways[way] = partial(rate, way, ms, slides, remote, cache)
        rates = interleave(ways, rounds)
    requests = {way: int(median(found)) for way, found in asked.items()}
    notes = [f"{BUCKET_SLIDES} slides of {size / 1e6:,.0f} MB in all, one process that has started"]
    notes += [f"requests, {way.split(': ')[1]}: {count:,}" for way, count in requests.items()
              if way.startswith("20 ms")]  # fmt: skip
    return [
        Table(name="machines-buckets", title="Tiling from and to a bucket, by its latency",
              unit="tiles/s", rates=rates, notes=notes, ours=tuple(rates)[1:]),
    ]  # fmt: skip


def _pixels(patch: RgbImage, seed: int) -> RgbImage:
    """Return tissue of which no two tiles of the file have the same bytes."""
    times = BUCKET_SIDE // len(patch)
    noise = np.random.default_rng(seed).normal(0, 4, (BUCKET_SIDE, BUCKET_SIDE, 1))
    pixels: RgbImage = np.clip(np.tile(patch, (times, times, 1)) + noise, 0, 255).astype(np.uint8)
    return pixels


@dataclass
class _Server:
    """moto's server in a process of its own."""

    process: "subprocess.Popen[str]"
    environment: dict[str, str]

    def delay(self, milliseconds: float) -> int:
        """Let it wait so long before each answer; return how many it has given."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{milliseconds / 1000}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def client(self) -> Any:
        import boto3

        return boto3.client(
            "s3", endpoint_url=self.environment["AWS_ENDPOINT_URL"], aws_access_key_id="testing",
            aws_secret_access_key="testing", region_name="us-east-1",
        )  # fmt: skip

    def put(self, path: Path, key: str) -> None:
        self.client().upload_file(str(path), "bench", key)


@contextmanager
def _server() -> Iterator[_Server]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], env=environment, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        server = _Server(process, {
            "AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1",
        })  # fmt: skip
        server.client().create_bucket(Bucket="bench")
        try:
            yield server
        finally:
            process.kill()


def _tile(slides: Path, run: Path, *more: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [
            sys.executable, "-m", "wsi_pipeline.tile", str(slides), "--run", str(run),
            "--max-background-fraction", "1", "--codec", "jpeg", *more,
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def _wait(*processes: "subprocess.Popen[bytes]") -> None:
    for process in processes:
        _, told = process.communicate()
        if process.returncode:
            raise RuntimeError(told.decode())


def _on_dask(folder: Path, run: Path, workers: int) -> None:
    port = 20_000 + os.getpid() % 20_000
    address = f"tcp://127.0.0.1:{port}"
    with ExitStack() as stack:
        words = [["scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]]
        words += [["worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny"]] * workers
        for each in words:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *each], cwd=folder.parent,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            stack.callback(process.wait)
            stack.callback(process.terminate)
        _wait_for(address, workers)
        _wait(_tile(folder, run, "--scheduler", address))


def _wait_for(address: str, workers: int) -> None:
    from distributed import Client

    deadline = time.monotonic() + 60
    while True:
        try:
            with Client(address, timeout=2) as client:
                client.wait_for_workers(workers, timeout=60)
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _processor() -> float:
    """Return the processor seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _tiles(run: Path) -> int:
    return sum(len(open_tiles(path)) for path in (run / "tiles").glob("*.zarr"))


if __name__ == "__main__":
    main()
