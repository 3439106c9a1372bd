"""Time, memory and recall of the audit's search for near-duplicate tiles.

    python benchmarks/audit_tiles.py 400 3000 1024          # slides, tiles a slide, features
    python benchmarks/audit_tiles.py 20 1000 1024 --recall  # against all with all

Features are drawn a slide at a time, half precision on disk where they are written at all, so the
cohort may be larger than memory. Between slides of two parts copies are planted at all distances up
to what counts as near.
"""

import argparse
import resource
import time

import numpy as np

from wsi_pipeline.learn import SplitSlide
from wsi_pipeline.learn.audit import tiles as audit

COPIED = 5  # tiles of each even slide, in the next one
DIRECTIONS = 32  # in which most of the spread is, as with deep features


class DrawnFolder:
    """Features of slides, drawn anew whenever they are asked for; reading would take as long."""

    def __init__(self, tiles: int, width: int) -> None:
        self.tiles, self.width = tiles, width
        rng = np.random.default_rng(0)
        spread = np.linspace(1, 0.1, DIRECTIONS)[:, None]
        self.mixing = (rng.standard_normal((DIRECTIONS, width)) * spread).astype(np.float32)
        noise = 0.3 * rng.standard_normal((4096, width))
        self.noise = noise.astype(np.float32)
        self.usual = float(np.sqrt(2 * ((self.mixing**2).sum() + 0.09 * width)))
        self.seconds = 0.0

    def vectors(self, slide_id: str) -> np.ndarray:
        began = time.process_time()
        number = int(slide_id)
        found = self._own(number)
        if number % 2:
            other = self._own(number - 1)[:COPIED]
            rng = np.random.default_rng([1, number])
            away = rng.standard_normal(other.shape).astype(np.float32)
            away /= np.linalg.norm(away, axis=1, keepdims=True)
            reach = audit.NEAR * self.usual * rng.random((COPIED, 1)).astype(np.float32)
            found[:COPIED] = other + 0.98 * reach * away
        self.seconds += time.process_time() - began
        return found

    def _own(self, number: int) -> np.ndarray:
        rng = np.random.default_rng(number)
        shared = rng.standard_normal((self.tiles, DIRECTIONS), dtype=np.float32) @ self.mixing
        return shared + self.noise[rng.integers(0, len(self.noise), self.tiles)]

    def sample(self, slide_id: str, count: int, rng: np.random.Generator) -> np.ndarray:
        return self.vectors(slide_id)[rng.integers(0, self.tiles, count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("slides", type=int)
    parser.add_argument("tiles", type=int)
    parser.add_argument("width", type=int)
    parser.add_argument("--recall", action="store_true", help="Compare with all against all.")
    given = parser.parse_args()
    folder = DrawnFolder(given.tiles, given.width)
    parts = ("train", "val", "test", "train")
    slides = [
        SplitSlide(slide_id=str(k), patient_id=str(k), label="ab"[k // 2 % 2], cohort="",
                   split=parts[k % 4])
        for k in range(given.slides)
    ]  # fmt: skip
    began, wall = time.process_time(), time.perf_counter()
    if given.recall:
        audit.EXHAUSTIVE = 0
    found = audit.find_similar_tiles(slides, folder)
    spent, wall = time.process_time() - began, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    tiles = int(found.measured[0].value or 0)
    planted = COPIED * (given.slides // 2)
    print(
        f"{given.slides * given.tiles} tiles of {given.width} features: {spent:.1f} s of CPU, of "
        f"which {folder.seconds:.1f} s to draw them, {wall:.1f} s by the clock, peak {peak:.0f} "
        f"MB; {tiles} found of {planted} planted"
    )
    if given.recall:
        audit.EXHAUSTIVE = 10**9
        every = audit.find_similar_tiles(slides, folder)
        print(f"all with all finds {int(every.measured[0].value or 0)}")


if __name__ == "__main__":
    main()
