"""Fine-tuning from tile stores beside the same steps on the same batches, in memory already.

python -m benchmarks.finetuning [--encoders NAME ...] [--pixels SLIDE]
"""

import tempfile
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.measure import Table, arguments, interleave, per_cpu_second, write_tables
from benchmarks.slides import Scan, read_patch, write_scan
from wsi_pipeline.learn.finetune import FineTuning, StoreSource, Workplace, build_network
from wsi_pipeline.learn.finetune.tiles import epoch_order, read_batches
from wsi_pipeline.learn.settings import FineTuneSettings
from wsi_pipeline.learn.splits import SplitSlide
from wsi_pipeline.tiles import TileSettings, cut_slide

SIDE: Final = 12_288
CLASSES: Final = ("normal", "tumour")
SLIDES: Final = 8
STORE: Final = "fine-tuning from the stores"


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--encoders", nargs="+", default=["tf_efficientnet_lite0", "densenet121"])
    parser.add_argument("--tiles", type=int, default=128, help="of an epoch")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scan = write_scan(folder / "scan.svs", Scan(side=SIDE), read_patch(given.pixels))
        slides = tuple(
            SplitSlide(slide_id=f"s{k}", patient_id=f"p{k}", label=CLASSES[k % 2], cohort="made",
                       split="train" if k < SLIDES - 2 else "val")
            for k in range(SLIDES)
        )  # fmt: skip
        for slide in slides:
            cut_slide(scan, folder / f"{slide.slide_id}.zarr", TileSettings())
        source = StoreSource(folder, slides)
        tables = [_compare(each, source, given.tiles, given.rounds) for each in given.encoders]
    write_tables(tables, given.out)


def _compare(encoder: str, source: StoreSource, tiles: int, rounds: int) -> Table:
    settings = FineTuneSettings(tiles_per_epoch=tiles, input_px=256, warmup_epochs=0)
    built = build_network(
        encoder, "random", len(CLASSES), dropout=0.0, scaling=settings.scaling, seed=0
    )
    parts = [source.of(tuple(s for s in source.slides if s.split == p)) for p in ("train", "val")]
    train, val = parts
    tuning = FineTuning(built, (train, val), CLASSES, settings, Workplace())
    network = tuning.built.network
    order = epoch_order(train, settings.balance, tiles, settings.seed, 1)
    batches = list(read_batches(train, order, settings.batch))
    targets = np.array([CLASSES.index(slide.label) for slide in train.slides])

    def in_memory() -> int:
        network.train()
        for step, (places, pixels) in enumerate(batches):
            key = [settings.seed, 1, step, 0]
            tuning._step(network, pixels, targets[places[:, 0]], key)  # noqa: SLF001  a step alone
        return len(order)

    def from_stores() -> int:
        tuning._epoch(network, 1)  # noqa: SLF001  without validation
        return len(order)

    in_memory()  # warm-up
    rates = interleave(
        {
            "the same batches in memory": per_cpu_second(in_memory),
            STORE: per_cpu_second(from_stores),
        },
        rounds,
    )
    return Table(
        name=f"finetuning-{encoder}", title=f"Fine-tuning on a CPU, {encoder}",
        unit="tiles per CPU-second",
        rates=rates, ours=(STORE,),
        notes=(f"{len(order)} tiles of 256 px an epoch in batches of {settings.batch}, augmented",
               f"drawn from {len(train.slides)} zstd stores of {train.counts[0]} tiles"),
    )  # fmt: skip


if __name__ == "__main__":
    main()
