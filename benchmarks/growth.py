"""What 30,000 slides cost by cores, disks and GPUs, and what limits first, from measured constants.

python -m benchmarks.growth [--slides 30000] [--tiles 8800] [--slide-mb 590] [--out FOLDER]

Rates are the medians in ``benchmarks/results``, of two cores; sizes are the notes of the same
tables. Nothing is measured here. Slides and tiles of a slide are the TCGA's (docs/scale.md).
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.measure import RESULTS

CORES: Final = (2, 16, 160, 1600)
DISKS: Final = {"one hard disk": 0.2, "one SSD": 2.0, "a shared file system": 10.0}  # GB/s, assumed
GPUS: Final = (500, 2000, 10_000)  # tiles/s, assumed: none was measured
FEATURE_KB: Final = 2.048  # 1,024 values, float16
MEASURED_ON: Final = 2  # cores
HOUR: Final = 3600
GB: Final = 1e9


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a stage takes of all slides.

    Attributes:
        core_hours: Of processors.
        read, written: Bytes.
    """

    name: str
    core_hours: float
    read: float
    written: float

    @property
    def balance(self) -> float:
        """GB/s of disk that a core at work asks for."""
        return (self.read + self.written) / GB / (self.core_hours * HOUR)


def median(table: str, row: str, results: Path = RESULTS) -> float:
    """Return a row's median in a table that a benchmark wrote."""
    text = (results / f"{table}.md").read_text("utf-8")
    found = re.search(rf"^\| {re.escape(row)} \| ([\d.,]+) \|", text, re.MULTILINE)
    if found is None:
        raise SystemExit(f"{results / table}.md has no row {row!r}; run its benchmark")
    return float(found[1].replace(",", ""))


def tile_kb(codec: str, results: Path = RESULTS) -> float:
    """Return kB a tile that a codec takes, as the benchmark of stores found it."""
    text = (results / "store-write.md").read_text("utf-8")
    found = re.search(rf"^zarr {codec}: ([\d.]+) kB a tile", text, re.MULTILINE)
    if found is None:
        raise SystemExit(f"store-write.md does not tell what {codec} takes")
    return float(found[1])


def stages(slides: int, tiles: int, slide_mb: float, results: Path = RESULTS) -> Iterator[Stage]:
    """Yield the stages of ``slides`` slides of ``tiles`` tiles and ``slide_mb`` MB each."""
    total, files = slides * tiles, slides * slide_mb * 1e6

    def hours(rate: float, amount: float = total) -> float:
        return amount / rate * MEASURED_ON / HOUR

    cut = median("scaling-workers", "two workers, two cores", results)
    features = total * FEATURE_KB * 1e3
    for codec in ("zstd", "jpeg"):
        stored = total * tile_kb(codec, results) * 1e3
        yield Stage(name=f"tile, {codec}", core_hours=hours(cut), read=files, written=stored)
    for row, how in (("from the store", ""), ("from the store, OpenVINO", ", OpenVINO")):
        rate = median("extract-densenet121", row, results)
        yield Stage(
            name=f"extract, DenseNet121{how}", core_hours=hours(rate),
            read=total * tile_kb("zstd", results) * 1e3, written=features,
        )  # fmt: skip
    rate = median("predict", "predict", results)
    yield Stage(
        name="predict, with heatmaps", core_hours=hours(rate, slides) * tiles / 3000,
        read=features, written=slides * 1e6,
    )  # fmt: skip
    checked = total * tile_kb("zstd", results) * 1e3
    rate = median("verify-tiles", "verify", results) * 1e6 * MEASURED_ON
    yield Stage(name="verify", core_hours=hours(rate, checked), read=checked, written=0)


def to_markdown(found: Sequence[Stage], results: Path = RESULTS) -> str:
    """Return three tables: hours by cores, what limits by disks, what feeds a GPU."""
    lines = [
        "| stage | core h | " + " | ".join(f"h, {each:,} cores" for each in CORES)
        + " | read TB | written TB | MB/s a core |",
        "|---|" + "---:|" * (len(CORES) + 4),
    ]  # fmt: skip
    for stage in found:
        by_cores = " | ".join(_short(stage.core_hours / cores) for cores in CORES)
        lines.append(
            f"| {stage.name} | {stage.core_hours:,.0f} | {by_cores} | {stage.read / 1e12:,.1f} "
            f"| {stage.written / 1e12:,.1f} | {1000 * stage.balance:.3g} |"
        )
    names = [f"{name}, {rate:g} GB/s" for name, rate in DISKS.items()]
    lines += ["", "Hours that the bytes alone take, and the cores from which the disk limits:", ""]
    lines += ["| stage | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for stage in found:
        moved = (stage.read + stage.written) / GB
        cells = [
            f"{_short(moved / rate / HOUR)} h, {rate / stage.balance:,.0f} cores"
            for rate in DISKS.values()
        ]
        lines.append(f"| {stage.name} | " + " | ".join(cells) + " |")
    lines += ["", "A GPU of so many tiles/s (assumed: none was at hand) asks for:", ""]
    lines += [
        "| tiles/s | cores that unpack zstd | cores that unpack JPEG | read GB/s, zstd | JPEG |"
    ]
    lines += ["|---|" + "---:|" * 4]
    for speed in GPUS:
        cores = [
            speed / median("store-read", f"zarr {codec}", results) for codec in ("zstd", "jpeg")
        ]
        moved = [speed * tile_kb(codec, results) / 1e6 for codec in ("zstd", "jpeg")]
        lines.append(
            f"| {speed:,} | {cores[0]:.1f} | {cores[1]:.1f} | {moved[0]:.2f} | {moved[1]:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=30_000)
    parser.add_argument("--tiles", type=int, default=8_800, help="of a slide, 0.5 µm/px")
    parser.add_argument("--slide-mb", type=float, default=590, help="of a slide's file")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    text = to_markdown(list(stages(given.slides, given.tiles, given.slide_mb)))
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "growth.md").write_text(text, "utf-8")
    print(text)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


if __name__ == "__main__":
    main()
