"""Draw each flag's hits, false alarms and misses on the labelled tiles, to be looked at.

python tests/tissue/contact_sheets.py FOLDER [--half develop]
"""

import argparse
import csv
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from test_labels import LABELS, POSITIVE, UNDECIDED, Labelled, look, read

from wsi_pipeline.tiles.flags import FLAGS
from wsi_pipeline.types import RgbImage, RgbTiles

SIDE, WIDE, MOST = 160, 8, 24
OUTCOMES = ("hit", "false alarm", "miss", "nearest")  # nearest: unflagged, closest to the limit
Shown = tuple[RgbImage, str]


def sheet(tiles: Sequence[Shown]) -> RgbImage:
    rows = -(-len(tiles) // WIDE)
    canvas = np.full((rows * (SIDE + 18), WIDE * (SIDE + 4), 3), 255, np.uint8)
    for place, (tile, text) in enumerate(tiles):
        y, x = place // WIDE * (SIDE + 18), place % WIDE * (SIDE + 4)
        canvas[y : y + SIDE, x : x + SIDE] = cv2.resize(
            tile, (SIDE, SIDE), interpolation=cv2.INTER_AREA
        )
        cv2.putText(canvas, text, (x, y + SIDE + 13), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (0, 0, 0))
    return canvas


def sorted_out(slides: list[Labelled], flag: str, half: str) -> dict[str, list[Shown]]:
    found: dict[str, list[tuple[float, Shown]]] = defaultdict(list)
    for slide in slides:
        chosen = [k for k, of in enumerate(slide.halves) if of == half]
        if not chosen:
            continue
        tiles, truths = slide.tiles[chosen], [slide.labels[k] for k in chosen]
        if flag == "blurred":
            tiles, truths = with_blurred(tiles, truths)
        columns = slide.rules.measure(look(tiles, slide.glass, slide.mpp))
        marked, values = slide.rules.marks(columns)[flag], columns[FLAGS[flag].column]
        for tile, labels, mark, value in zip(tiles, truths, marked, values, strict=True):
            true = POSITIVE.get(flag, "made blurred") in labels
            if true or not labels & UNDECIDED[flag]:
                outcome = OUTCOMES[(0 if true else 1) if mark else (2 if true else 3)]
                text = f"{value:.2f} {'+'.join(sorted(labels))}"[:26]
                nearness = float(value if FLAGS[flag].below else -value)
                found[outcome].append((nearness, (tile, text)))
    return {
        outcome: [one for _, one in sorted(them, key=lambda pair: pair[0])][:MOST]
        for outcome, them in found.items()
    }


def with_blurred(tiles: RgbTiles, labels: list[set[str]]) -> tuple[RgbTiles, list[set[str]]]:
    """Add every fourth tile once more, out of focus."""
    soft = [cv2.GaussianBlur(tile, (0, 0), 1.5) for tile in tiles[::4]]
    made = [{"made blurred", *found} for found in labels[::4]]
    return np.concatenate([tiles, np.stack(soft)]), labels + made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--half", choices=("develop", "judge"), default="judge")
    given = parser.parse_args()
    data = Path(os.environ.get("WSI_TEST_DATA", "../shared/data"))
    rows = defaultdict(list)
    with LABELS.open(newline="") as file:
        for row in csv.DictReader(file):
            rows[row["slide"]].append(row)
    slides = [read(data / name, own) for name, own in rows.items()]
    given.folder.mkdir(parents=True, exist_ok=True)
    for flag in FLAGS:
        for outcome, tiles in sorted_out(slides, flag, given.half).items():
            path = given.folder / f"{given.half}-{flag}-{outcome.replace(' ', '-')}.png"
            cv2.imwrite(str(path), sheet(tiles)[..., ::-1])
            print(f"{path}: {len(tiles)} tiles")


if __name__ == "__main__":
    main()
