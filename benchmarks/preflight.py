"""How many slides a second a dry run looks at, the process's start included.

python benchmarks/preflight.py SLIDE [--copies 200] [--runs 5]
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("--copies", type=int, default=200)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for number in range(given.copies):
            copy = Path(name) / f"{number:04}{given.slide.suffix}"
            copy.write_bytes(given.slide.read_bytes())
        command = [sys.executable, "-m", "wsi_pipeline.tile", name, "--run", f"{name}/run"]
        seconds = []
        for _ in range(given.runs):
            begun = time.monotonic()
            subprocess.run([*command, "--dry-run"], check=True, capture_output=True)
            seconds.append(time.monotonic() - begun)
    rates = [given.copies / each for each in seconds]
    print(
        f"{given.copies} slides in {statistics.median(seconds):.2f} s (median of {given.runs}): "
        f"{statistics.median(rates):.0f} slides/s, {min(rates):.0f} to {max(rates):.0f}"
    )


if __name__ == "__main__":
    main()
