"""How the cost of `tile` grows: with tissue, not with area; and what a second worker brings.

python -m benchmarks.scaling [--pixels SLIDE] [--most 100000]
"""

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.floor import floor_rate
from benchmarks.measure import Table, arguments, compile_modules, interleave, write_tables
from benchmarks.slides import Scan, read_patch, write_scan
from wsi_pipeline.tiles import open_tiles
from wsi_pipeline.types import RgbImage

SHARE = 0.7
COUNTS = (1_000, 3_000, 10_000, 30_000, 100_000)
SLIDES = 24  # for two workers, of which each has half; a night brings more
SIDE = 24_576  # of those
FLOOR = "floor: the bare steps on all cores"
CORES = sorted(os.sched_getaffinity(0))


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--most", type=int, default=COUNTS[-1], help="tiles of the largest slide")
    given = parser.parse_args()
    compile_modules()
    patch = read_patch(given.pixels)
    tables = [
        _by_tissue(patch, given.most),
        _by_area(patch, given.rounds),
        _by_workers(patch, given.rounds),
    ]
    write_tables(tables, given.out)


def _by_tissue(patch: RgbImage, most: int) -> Table:
    rates: dict[str, list[float]] = {FLOOR: []}
    with tempfile.TemporaryDirectory() as name:
        path = write_scan(Path(name) / "scan.svs", Scan(side=SIDE, tissue=SHARE), patch)
        for count in (count for count in COUNTS if count <= most):
            side = round((count / SHARE) ** 0.5) * 512
            rates[FLOOR].append(floor_rate(path, stain=True))
            tiles, seconds = _run(patch, [Scan(side=side, tissue=SHARE, downsamples=(1, 4, 16))])
            rates[FLOOR].append(floor_rate(path, stain=True))
            rates[f"{tiles:,} tiles"] = [tiles / seconds]
            print(f"{tiles} tiles: {seconds:.1f} s", flush=True)
    return Table(
        name="scaling-tissue", title="Tile stage by tissue", unit="tiles/s", rates=rates,
        how="runs of the floor, one of each size", ours=tuple(rates)[1:],
        notes=("the start of the process included, which the smallest feel",),
    )  # fmt: skip


def _by_area(patch: RgbImage, rounds: int) -> Table:
    """The same tissue on ever larger glass."""
    counts = set()

    def rate(side: int, share: float) -> float:
        tiles, seconds = _run(patch, [Scan(side=side, tissue=share, downsamples=(1, 4, 16))])
        counts.add(tiles)
        return tiles / seconds

    rates = interleave(
        {
            f"{side:,} px": partial(rate, side, share)
            for side, share in ((20_480, 0.64), (40_960, 0.16), (81_920, 0.04))
        },
        rounds,
    )
    return Table(
        name="scaling-area", title="Tile stage by area, with the same tissue", unit="tiles/s",
        rates=rates, ours=tuple(rates),
        notes=(f"{max(counts):,} tiles, the start of the process included",),
    )  # fmt: skip


def _by_workers(patch: RgbImage, rounds: int) -> Table:
    scan = Scan(side=SIDE, tissue=SHARE)

    def rate(workers: int, cores: int) -> float:
        tiles, seconds = _run(patch, [scan] * SLIDES, workers=workers, cores=cores)
        return tiles / seconds

    with tempfile.TemporaryDirectory() as name:
        path = write_scan(Path(name) / "scan.svs", scan, patch)
        rates = interleave(
            {
                "one worker, one core": lambda: rate(1, 1),
                "one worker, two cores": lambda: rate(1, 2),
                "two workers, two cores": lambda: rate(2, 2),
                "floor: the bare steps on one core": lambda: floor_rate(path, stain=True, cores=1),
                "floor: on two cores": lambda: floor_rate(path, stain=True, cores=2),
            },
            rounds,
        )
    return Table(
        name="scaling-workers", title="Tile stage by workers", unit="tiles/s", rates=rates,
        notes=(f"{SLIDES} slides, the start of the processes included",),
        ours=tuple(name for name in rates if "worker" in name),
    )  # fmt: skip


def _run(
    patch: RgbImage, scans: list[Scan], *, workers: int = 0, cores: int = len(CORES)
) -> tuple[int, float]:
    """Cut slides on so many cores; return how many tiles there were and the seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder, run = Path(name) / "slides", Path(name) / "run"
        folder.mkdir()
        for number, scan in enumerate(scans):
            write_scan(folder / f"scan{number}.svs", scan, patch)
        command = [
            sys.executable, "-m", "wsi_pipeline.tile", str(folder), "--run", str(run),
            "--codec", "jpeg", "--workers", str(workers), "--max-background-fraction", "1",
        ]  # fmt: skip
        os.sched_setaffinity(0, CORES[:cores])
        try:
            begun = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds = time.perf_counter() - begun
        finally:
            os.sched_setaffinity(0, CORES)
        tiles = sum(len(open_tiles(path)) for path in (run / "tiles").glob("*.zarr"))
    return tiles, seconds


if __name__ == "__main__":
    main()
