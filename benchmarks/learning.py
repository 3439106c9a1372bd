"""What learning costs at real size, near tiles, training, intervals: a cohort and a table.

    python benchmarks/learning.py --slides 400 --tiles 3000 --steps search train intervals
    python benchmarks/learning.py --folds 5 --steps train        # five folds
    python benchmarks/learning.py --search 300000 1200000 4000000 --steps search

Slides of three classes with 1,024 features a tile, drawn with the structure of deep features (most
of the spread in a few directions, a third of a slide's tiles show its class, patients and sites
differ) and written as feature stores, half precision. Every step is a process of its own, so that
its peak memory is its own. Near tiles are planted and searched by `benchmarks/audit_tiles.py`.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from wsi_pipeline.features import FeatureMeta, write_features
from wsi_pipeline.tables import to_csv

CLASSES = ("cca", "hcc", "normal")
ENCODER = "made.clusters"
WIDTH = 1024
DIRECTIONS = 32  # in which most of the spread is
SHOWING = 0.3  # of a slide's tiles show its class
INTERVALS = (
    "import numpy as np; from wsi_pipeline.learn.bootstrap import estimate; "
    "from wsi_pipeline.learn.metrics import count_cases; rng = np.random.default_rng(0); "
    "n = {patients}; y = rng.integers(0, 3, n); "
    "p = rng.dirichlet(np.ones(3), n) + np.eye(3)[y]; "
    "estimate(count_cases(y, p / 2, [str(k) for k in range(n)]), ['a', 'b', 'c'])"
)


def make_cohort(folder: Path, slides: int, tiles: int) -> None:
    """Write a run folder: the cohort table, and a feature store a slide."""
    shared = np.random.default_rng(0)
    spread = np.linspace(1, 0.1, DIRECTIONS)[:, None]
    mixing = (shared.standard_normal((DIRECTIONS, WIDTH)) * spread).astype(np.float32)
    noise = 0.3 * shared.standard_normal((4096, WIDTH), dtype=np.float32)
    kinds = shared.standard_normal((12, DIRECTIONS)).astype(np.float32)  # of tissue
    towards = 1.2 * np.eye(DIRECTIONS, dtype=np.float32)[4 : 4 + len(CLASSES)]
    rows = []
    for number in range(slides):
        rng = np.random.default_rng([1, number])
        label = number % len(CLASSES)
        latent = kinds[rng.choice(12, tiles, p=rng.dirichlet(np.ones(12)))]
        latent = latent + 0.5 * rng.standard_normal((tiles, DIRECTIONS), dtype=np.float32)
        latent += 0.3 * rng.standard_normal(DIRECTIONS, dtype=np.float32)  # the patient's own
        latent[rng.random(tiles) < SHOWING] += towards[label]
        features = latent @ mixing + noise[rng.integers(0, len(noise), tiles)]
        coords = np.stack(np.divmod(np.arange(tiles), 64), axis=1) * 512
        name = f"s{number:04d}"
        meta = FeatureMeta(
            slide_id=name, encoder=ENCODER, tile_px=256, tile_px_level0=512.0, mpp=0.5,
            mpp_level0=0.25, level0_size=(64_000, 64_000), folder=f"features/{ENCODER}",
        )  # fmt: skip
        path = folder / "features" / ENCODER / f"{name}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_features(path, features, coords, meta, "float16")
        rows.append((name, f"{name}.svs", f"p{number:04d}", CLASSES[label], "made"))
    columns = ("slide_id", "path", "patient_id", "label", "cohort")
    (folder / "cohort.csv").write_text(to_csv(columns, rows))


def measured(command: list[str], log: Path) -> str:
    """Run a command; return its wall clock, CPU time and peak memory as cells of the table."""
    began = time.perf_counter()
    with log.open("a") as out:
        number = os.posix_spawn(sys.executable, [sys.executable, *command], dict(os.environ),
                                file_actions=[(os.POSIX_SPAWN_DUP2, out.fileno(), 1),
                                              (os.POSIX_SPAWN_DUP2, out.fileno(), 2)])  # fmt: skip
        _, status, used = os.wait4(number, 0)
    wall = time.perf_counter() - began
    ended = "" if status == 0 else f" (status {os.waitstatus_to_exitcode(status)}, see {log})"
    cpu = used.ru_utime + used.ru_stime
    return f"{wall:.0f} s | {cpu:.0f} s | {used.ru_maxrss / 2**20:.1f} GB{ended}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--slides", type=int, default=400)
    parser.add_argument("--tiles", type=int, default=3000)
    parser.add_argument("--folds", type=int, default=0)
    parser.add_argument("--search", type=int, nargs="*", default=[300_000, 1_200_000])
    parser.add_argument("--steps", nargs="+", default=["search", "train", "intervals"])
    parser.add_argument("--folder", type=Path, help="Where the cohort is made and kept.")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.txt"
    print("| what | wall | CPU | peak memory |\n|---|---|---|---|", flush=True)
    here = Path(__file__).parent
    if "search" in given.steps:
        for count in given.search:
            command = [str(here / "audit_tiles.py"), str(count // given.tiles),
                       str(given.tiles), str(WIDTH)]  # fmt: skip
            print(f"| near tiles of {count:,} | {measured(command, log)} |", flush=True)
    if {"train", "audit"} & set(given.steps):
        if not (folder / "cohort.csv").exists():
            make_cohort(folder, given.slides, given.tiles)
        size = f"{given.slides} × {given.tiles:,}"
        told = [str(folder), f"--encoder={ENCODER}"]
        if "audit" in given.steps:
            command = ["-m", "wsi_pipeline", "audit", *told]
            print(f"| audit of {size} | {measured(command, log)} |", flush=True)
        if "train" in given.steps:
            command = ["-m", "wsi_pipeline", "train", *told, "--overwrite"]
            command += [f"--folds={given.folds}"] if given.folds else []
            how = f", {given.folds} folds" if given.folds else ""
            print(f"| train on {size}{how} | {measured(command, log)} |", flush=True)
    if "intervals" in given.steps:
        for patients in (1000, 2000, 4000, 8000):
            command = ["-c", INTERVALS.format(patients=patients)]
            print(f"| intervals of {patients:,} patients | {measured(command, log)} |", flush=True)
    if given.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
