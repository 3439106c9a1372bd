"""The audit of two thousand images for copies: time, memory, pairs found, pairs made up.

    python benchmarks/copies.py ../shared/data

Images are those of `near_copies`, of which a table says what is a copy of what, and fields cut from
real slides where they do not overlap, each with copies made of it until there are enough: turned by
any angle, mirrored, zoomed, cut, restained and packed anew. Pairs count as found where they come
together in one group.
"""

import argparse
import csv
import itertools
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from wsi_pipeline.learn.audit.copies import find_copies, read_pictures
from wsi_pipeline.learn.audit.groups import connected
from wsi_pipeline.slides import open_slide

FIELD_PX = 256
ASIDE = 320  # px between the corners of fields
DARK = 0.35  # of a field is tissue, at least
SLIDES = (
    "slides/CMU-1-Small-Region.svs", "slides/TCGA-CR-7395-01A-01-TS1.svs",
    "slides/liver_glycogen_HE.tif", "slides/liver_glycogen_PAS.tif",
    "slides/PDAC-tru-cut_HE3.svs", "real_liver/liver_pale_pieces.tif",
    "real_liver/liver_tumour_gaps.tif",
)  # fmt: skip


def known(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the images that others told apart, and the original that each is of."""
    with (folder / "clusters.csv").open() as file:
        for row in csv.DictReader(file):
            yield folder / row["class"] / row["file"], f"{row['class']} {row['original']}"


def fields(path: Path, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield fields with tissue, (FIELD_PX, FIELD_PX, 3) uint8, none over another, in any order."""
    with open_slide(path) as slide:
        width, height = slide.info.dimensions
        corners = list(itertools.product(range(0, width - FIELD_PX, ASIDE),
                                         range(0, height - FIELD_PX, ASIDE)))  # fmt: skip
        for index in rng.permutation(len(corners)):
            field = np.asarray(slide.read_region(corners[index], 0, (FIELD_PX, FIELD_PX)))[..., :3]
            if (field.min(2) < 200).mean() > DARK and field.std() > 12:
                yield field


def changed(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a copy that someone may have made."""
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
    middle, size = (picture.shape[1] / 2, picture.shape[0] / 2), picture.shape[1::-1]
    turn = cv2.getRotationMatrix2D(
        middle, float(rng.uniform(0, 360)), float(rng.uniform(0.8, 1.35))
    )
    picture = cv2.warpAffine(picture, turn, size, borderMode=cv2.BORDER_REFLECT)
    share = rng.uniform(0.6, 1)
    side = [round(share * length) for length in picture.shape[:2]]
    y, x = (int(rng.integers(0, whole - cut + 1)) for whole, cut in zip(picture.shape, side,
                                                                        strict=False))  # fmt: skip
    density = -np.log((picture[y : y + side[0], x : x + side[1]] + 1.0) / 256)
    stained = 256 * np.exp(-density * rng.uniform(0.8, 1.25, 3)) - 1
    packed = cv2.imencode(".jpg", stained.clip(0, 255).astype(np.uint8),
                          [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 91))])[1]  # fmt: skip
    return cv2.imdecode(packed, cv2.IMREAD_COLOR)


def images(data: Path, count: int, folder: Path) -> tuple[list[Path], list[str]]:
    """Write what is missing to ``count`` images; return them all, and what each is a copy of."""
    rng = np.random.default_rng(0)
    pairs = list(known(data / "near_copies"))
    share = -(-(count - len(pairs)) * 9 // 20 // len(SLIDES))  # of originals from each slide
    originals = []
    for name in SLIDES:
        for number, field in enumerate(itertools.islice(fields(data / name, rng), share)):
            path = folder / f"{Path(name).stem}-{number}.png"
            cv2.imwrite(str(path), np.ascontiguousarray(field[..., ::-1]))
            originals.append((path, path.stem))
    pairs += originals
    for number in range(count - len(pairs)):
        path, of = originals[int(rng.integers(len(originals)))]
        copy = folder / f"copy-{number}.png"
        cv2.imwrite(str(copy), changed(cv2.imread(str(path)), rng))
        pairs.append((copy, of))
    return [path for path, _ in pairs], [of for _, of in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        paths, originals = images(given.data, given.images, Path(name))
        spent, clock = time.process_time(), time.perf_counter()
        pictures = read_pictures(paths)
        groups = connected(find_copies(pictures))
        spent, clock = time.process_time() - spent, time.perf_counter() - clock
    together = {pair for group in groups for pair in itertools.combinations(sorted(group), 2)}
    by_original: dict[str, list[int]] = {}
    for index, of in enumerate(originals):
        by_original.setdefault(of, []).append(index)
    same = {pair for of in by_original.values() for pair in itertools.combinations(of, 2)}
    old = {pair for pair in same if max(pair) < len(list(known(given.data / "near_copies")))}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{len(paths)} images of {len(by_original)} originals: {spent:.0f} s of CPU, {clock:.0f} s "
        f"by the clock, {peak:.1f} GB; of near_copies {len(old & together)} of {len(old)} pairs, "
        f"of all {len(same & together)} of {len(same)}, and {len(together - same)} others"
    )
    for one, other in sorted(together - same)[:10]:
        print(f"not told to be a copy: {paths[one].name} and {paths[other].name}")


if __name__ == "__main__":
    main()
