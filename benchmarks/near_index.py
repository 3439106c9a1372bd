"""Near tiles by the audit's own trees and by indexes off the shelf: time, memory, pairs found.

    python benchmarks/near_index.py                          # in the projection that the audit uses
    python benchmarks/near_index.py --width 1024 --ways ours usearch

Needs what is compared (`pip install hnswlib usearch faiss-cpu`); the pipeline needs none of them.
Tiles are those of `benchmarks/audit_tiles.py`, with pairs planted between slides at all distances
up to what counts as near. An index tells each tile's ten neighbours, and what lies near in another
part is kept. Each way is a process of its own, so that its peak is its own, on `--threads` threads.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from audit_tiles import COPIED, DrawnFolder

from wsi_pipeline.learn.audit import tiles as audit

TILES = 3000  # of a slide
FULL = 1024  # features of a tile
NEIGHBOURS = 10
SAMPLE = 2000

Near = Callable[[np.ndarray, np.ndarray, float, int], np.ndarray]


def ours(points: np.ndarray, part: np.ndarray, reach: float, threads: int) -> np.ndarray:
    del threads  # numpy's own
    return audit.near_pairs(points, part, reach)


def hnswlib(points: np.ndarray, part: np.ndarray, reach: float, threads: int) -> np.ndarray:
    import hnswlib as library

    index = library.Index(space="l2", dim=points.shape[1])
    index.init_index(max_elements=len(points), M=16, ef_construction=64)
    index.set_num_threads(threads)
    index.add_items(points)
    index.set_ef(32)
    found, squares = index.knn_query(points, k=NEIGHBOURS)
    return kept(found.astype(np.int64), squares, part, reach)


def usearch(points: np.ndarray, part: np.ndarray, reach: float, threads: int) -> np.ndarray:
    from usearch.index import Index

    index = Index(ndim=points.shape[1], metric="l2sq", dtype="f32", connectivity=16,
                  expansion_add=64, expansion_search=32)  # fmt: skip
    index.add(np.arange(len(points)), points, threads=threads)
    found = index.search(points, NEIGHBOURS, threads=threads)
    return kept(found.keys.astype(np.int64), found.distances, part, reach)


def faiss_hnsw(points: np.ndarray, part: np.ndarray, reach: float, threads: int) -> np.ndarray:
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexHNSWFlat(points.shape[1], 16)
    index.hnsw.efConstruction, index.hnsw.efSearch = 64, 32
    index.add(points)
    squares, found = index.search(points, NEIGHBOURS)
    return kept(found, squares, part, reach)


def faiss_ivf(points: np.ndarray, part: np.ndarray, reach: float, threads: int) -> np.ndarray:
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.index_factory(points.shape[1], "IVF2048,Flat")
    index.train(points[:: max(1, len(points) // 100_000)])
    index.add(points)
    index.nprobe = 8
    squares, found = index.search(points, NEIGHBOURS)
    return kept(found, squares, part, reach)


WAYS: dict[str, Near] = {
    "ours": ours, "hnswlib": hnswlib, "usearch": usearch, "faiss_ivf": faiss_ivf,
    "faiss_hnsw": faiss_hnsw,
}  # fmt: skip


def kept(found: np.ndarray, squares: np.ndarray, part: np.ndarray, reach: float) -> np.ndarray:
    """Return the pairs i < j of different parts within reach."""
    tile = np.broadcast_to(np.arange(len(found))[:, None], found.shape)
    near = (squares <= reach**2) & (found >= 0) & (part[found] != part[tile])
    pairs = np.stack([tile[near], found[near]], axis=1)
    pairs.sort(axis=1)
    return np.unique(pairs, axis=0)


def measured(way: str, slides: int, width: int, threads: int) -> str:
    """Return a row of the table."""
    folder = DrawnFolder(TILES, FULL)
    names = [str(number) for number in range(slides)]
    points = np.empty((slides * TILES, width), np.float32)
    axes = np.empty((FULL, 0), np.float32)
    if width < FULL:  # the directions in which a sample spreads most, as the audit takes them
        rng = np.random.default_rng(0)
        sample = np.concatenate([folder.sample(name, SAMPLE // slides, rng) for name in names])
        axes = np.linalg.svd(sample - sample.mean(0), full_matrices=False)[2][:width].T
    for number, name in enumerate(names):
        own = folder.vectors(name)
        points[number * TILES : (number + 1) * TILES] = own @ axes if width < FULL else own
    reach = audit.NEAR * folder.usual
    part = np.repeat(np.arange(slides) % 2, TILES)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spent, clock = time.process_time(), time.perf_counter()
    pairs = WAYS[way](points, part, reach, threads)
    spent, clock = time.process_time() - spent, time.perf_counter() - clock
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {(int(i), int(j)) for i, j in pairs}
    planted = [(k * TILES + n, (k + 1) * TILES + n) for k in range(0, slides, 2)
               for n in range(COPIED)]  # fmt: skip
    return (
        f"| {way} | {width} | {spent:.0f} s | {clock:.0f} s | {(peak - before) / 2**20:.2f} GB | "
        f"{sum(pair in found for pair in planted)} of {len(planted)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--slides", type=int, default=100)
    parser.add_argument("--width", type=int, default=audit.DIMENSIONS, choices=[64, FULL])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    given = parser.parse_args()
    if len(given.ways) == 1:
        print(measured(given.ways[0], given.slides, given.width, given.threads), flush=True)
        return
    print("| way | numbers a tile | CPU | wall | memory besides the tiles | planted pairs found |")
    print("|---|---|---|---|---|---|", flush=True)
    for way in given.ways:
        told = [f"--{name}={getattr(given, name)}" for name in ("slides", "width", "threads")]
        command = [sys.executable, str(Path(__file__)), *told, f"--ways={way}"]
        threads = {"OMP_NUM_THREADS": str(given.threads)}
        subprocess.run(command, check=False, env={**os.environ, **threads})


if __name__ == "__main__":
    main()
