"""Peak memory of `tile` and `extract` on slides up to 100,000 × 100,000 px, 30 % of them tissue.

python -m benchmarks.memory [--pixels SLIDE] [--sides 25000 50000 100000]
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Table, arguments, compile_modules, write_tables
from benchmarks.slides import Scan, read_patch, write_scan
from wsi_pipeline.tiles import open_tiles

SIDES = (25_000, 50_000, 100_000)
TISSUE = 0.3


def main() -> None:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES)
    parser.add_argument("--encoder", default="test_resnet", help="small: the slide is what matters")
    given = parser.parse_args()
    compile_modules()
    patch = read_patch(given.pixels)
    peaks: dict[str, list[float]] = {}
    notes = []
    for side in given.sides:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "slides"
            folder.mkdir()
            scan = Scan(side=side, tissue=TISSUE, downsamples=(1, 4, 16))
            write_scan(folder / "scan.svs", scan, patch)
            run = Path(name) / "run"
            tile = ["wsi_pipeline.tile", str(folder), "--run", str(run), "--codec", "jpeg"]
            extract = ["wsi_pipeline.extract", str(run), "--encoder", given.encoder]
            extract += ["--weights", "random", "--device", "cpu"]
            spent = []
            for verb, command in (("tile", tile), ("extract", extract)):
                peak, seconds = _peak([sys.executable, "-m", *command])
                peaks[f"{verb}, {side:,} px"] = [peak / 1e6]
                spent.append(f"{verb} {seconds:.0f} s")
            count = len(open_tiles(run / "tiles" / "scan.zarr"))
            notes.append(f"{side:,} px: {count:,} tiles, {', '.join(spent)}")
            print(notes[-1], {name: round(value[0]) for name, value in peaks.items()}, flush=True)
    table = Table(
        name="memory", title="Peak memory by side of the slide", unit="MB, less is better",
        rates=peaks, notes=notes, how="run", ours=tuple(peaks),
    )  # fmt: skip
    write_tables([table], given.out)


def _peak(command: list[str]) -> tuple[float, float]:
    """Run a command; return the most memory it held, bytes, and its seconds."""
    begun = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return usage.ru_maxrss * 1024.0, time.monotonic() - begun


if __name__ == "__main__":
    main()
