"""The tile stage, from the start of the process to tiles on disk, against peers and its floor.

python -m benchmarks.tile [--stain] [--pixels SLIDE] [--peers FOLDER] [--only PEER ...]
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.contest import Ran, Ready, add_peer_flags, peers_for, run_peer, willing
from benchmarks.environments import ABSENT, PEERS, Task
from benchmarks.floor import floor_rate
from benchmarks.measure import Table, arguments, compile_modules, interleave, write_tables
from benchmarks.slides import Scan, read_patch, write_scan
from wsi_pipeline.tiles import find_store, open_tiles

OURS: Final = "wsi_pipeline"
LOSSLESS: Final = "wsi_pipeline, lossless"
FLOOR: Final = "floor: the bare steps on all cores"
SMALL: Final = Scan(side=4096, tissue=0.8)  # on which peers show that they run


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    add_peer_flags(parser)
    parser.add_argument("--stain", action="store_true", help="with Macenko normalisation")
    parser.add_argument("--side", type=int, default=20_480, help="of the slide, px")
    given = parser.parse_args()
    compile_modules()
    task: Task = "tile-stain" if given.stain else "tile"
    patch = read_patch(given.pixels)
    found, missing = peers_for(task, given.peers, given.only)
    missing += _lacking(task, given.only)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = write_scan(folder / "small.svs", SMALL, patch)
        scan = Scan(side=given.side, tissue=0.8)
        (folder / "slides").mkdir()
        slide = write_scan(folder / "slides" / "scan.svs", scan, patch)
        able = willing(found, lambda ready: _peer(ready, task, small, folder), missing)

        def once(ready: Ready) -> Callable[[], float]:
            return lambda: _peer(ready, task, slide, folder).rate

        contestants = {ready.peer.name: once(ready) for ready in able}
        contestants[OURS] = lambda: _ours(folder, "jpeg", stain=given.stain)
        contestants[LOSSLESS] = lambda: _ours(folder, "zstd", stain=given.stain)
        contestants[FLOOR] = lambda: floor_rate(slide, stain=given.stain)
        rates = interleave(contestants, given.rounds)
    fastest = max(
        (ready.peer.name for ready in able), key=lambda peer: np.median(rates[peer]), default=OURS
    )
    table = Table(
        name="tile-stain" if given.stain else "tile",
        title="Tiles to disk, 0.25 to 0.5 µm/px" + (", Macenko" if given.stain else ""),
        unit="tiles/s", rates={fastest: rates.pop(fastest)} | rates, ours=(OURS, LOSSLESS),
        notes=(f"one slide of {given.side} px, start of the process included", *missing),
    )  # fmt: skip
    write_tables([table], given.out)


def _lacking(task: Task, only: Sequence[str] | None) -> list[str]:
    """Say why peers that a reader may look for are not in the table."""
    told = list(ABSENT)
    unable = [peer.name for peer in PEERS if "tile" in peer.does and task not in peer.does]
    if unable:
        told.append(f"no stain normalisation of their own: {', '.join(unable)}")
    if only is not None:
        told.append(f"of the peers {', '.join(only) or 'none'} took part")
    return told


def _peer(ready: Ready, task: Task, slide: Path, folder: Path) -> Ran:
    out = folder / "out"
    flags = ["--stain"] if task == "tile-stain" else []
    try:
        return run_peer(ready, task, [str(slide), str(out), "--workers", "2", *flags])
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _ours(folder: Path, codec: str, *, stain: bool) -> float:
    """Run the verb; all tiles with tissue are kept, as peers keep them."""
    run = folder / "run"
    command = [
        sys.executable, "-m", "wsi_pipeline.tile", str(folder / "slides"), "--run", str(run),
        "--codec", codec, "--stain", "macenko" if stain else "none",
        "--max-background-fraction", "1",
    ]  # fmt: skip
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - begun
    store = find_store(run / "tiles", "scan")
    count = 0 if store is None else len(open_tiles(store))
    shutil.rmtree(run)
    return count / seconds


if __name__ == "__main__":
    main()
