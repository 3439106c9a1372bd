"""Time and memory of the audit's search for near-duplicate tiles.

python benchmarks/audit_tiles.py 100 1000 1024     # slides, tiles a slide, features a tile
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from wsi_pipeline.learn import FeatureFolder, SplitSlide
from wsi_pipeline.learn.audit.tiles import find_similar_tiles

COPIED = 5  # tiles of the first slide, in the last


def main(slides: int, tiles: int, width: int) -> None:
    """Write bags with a planted leak; time the search."""
    rng = np.random.default_rng(0)
    # As deep features do: most of the spread in some thirty directions, the rest in all others.
    mixing = rng.normal(size=(32, width)) * np.linspace(1, 0.1, 32)[:, None]
    rows, copied = [], np.empty((0, width))
    with tempfile.TemporaryDirectory() as name:
        for number in range(slides):
            bag = rng.normal(size=(tiles, 32)) @ mixing + 0.3 * rng.normal(size=(tiles, width))
            if number == 0:
                copied = bag[:COPIED].copy()
            if number == slides - 1:
                bag[:COPIED] = copied
            with h5py.File(Path(name) / f"s{number}.h5", "w") as file:
                file["features"] = bag.astype(np.float32)
                file["coords"] = np.zeros((tiles, 2), np.int64)
            rows.append(
                SplitSlide(
                    slide_id=f"s{number}",
                    patient_id=f"p{number}",
                    label="ab"[number % 2],
                    cohort="",
                    split=f"fold-{1 + number % 5}",
                )
            )
        rows[-1] = SplitSlide(**{**vars(rows[-1]), "split": "fold-2"})
        began = time.process_time()
        found = find_similar_tiles(rows, FeatureFolder(Path(name), rows, cache_bytes=0))
        seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{slides * tiles} tiles of {width} features: {seconds:.1f} s of CPU, peak {peak:.0f} MB")
    print("\n".join(finding.text for finding in found.findings))


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
