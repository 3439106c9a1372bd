"""What a GPU gives, in one script of at most ten minutes: ``python -m benchmarks.gpu``.

Random weights suffice: speed does not depend on them. Each row is tiles a second; *share* is that
of the bare forward pass, with tiles on the device already. Where a measurement cannot be made on
this machine the row says why. It runs on a CPU too, with a small budget, to be tested there.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wsi_pipeline.events import SlideDone, SlideFailed
from wsi_pipeline.features import choose_device, load_encoder
from wsi_pipeline.features.encoder import DTYPES, Encoder
from wsi_pipeline.pipeline import extract
from wsi_pipeline.synthetic import plan_cohort, write_slide
from wsi_pipeline.tiles import create_tiles
from wsi_pipeline.verbs.tiles import ExtractConfig

MODELS = ("densenet121", "resnet50", "vit_large_patch16_224")
SIDE = 256


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement: what, tiles a second, share of the bare forward, and a remark."""

    what: str
    rate: float | None = None
    share: float | None = None
    remark: str = ""

    def __str__(self) -> str:
        rate = "" if self.rate is None else f"{self.rate:,.0f}"
        share = "" if self.share is None else f"{self.share:.0%}"
        return f"| {self.what} | {rate} | {share} | {self.remark} |"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where, for how long, and with how many tiles."""

    device: torch.device
    until: float
    seconds: float
    tiles: int

    @property
    def out_of_time(self) -> bool:
        return time.monotonic() > self.until

    def rate(self, work: Callable[[], int]) -> float:
        """Return tiles a second of ``work``, which says how many it did; the first is to warm."""
        work()
        self.wait()
        begun, done = time.perf_counter(), 0
        while time.perf_counter() - begun < self.seconds:
            done += work()
        self.wait()
        return done / (time.perf_counter() - begun)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def bare(bench: Bench, encoder: Encoder) -> float:
    """Measure the forward pass alone."""
    side = encoder.preprocess.input_px or SIDE
    planes = torch.rand((encoder.batch_size, 3, side, side), device=bench.device)
    planes = planes.contiguous(memory_format=torch.channels_last)

    def work() -> int:
        half = encoder.precision != "fp32"
        with (
            torch.inference_mode(),
            torch.autocast(bench.device.type, DTYPES[encoder.precision], enabled=half),
        ):
            encoder.model(planes)
        return len(planes)

    return bench.rate(work)


def by_precision(bench: Bench, model: str) -> Iterator[Row]:
    """Measure the bare forward and the encoder from host memory, at each precision."""
    precisions = ("fp32", "bf16", "fp16") if bench.device.type == "cuda" else ("fp32",)
    tiles = np.random.default_rng(0).integers(0, 256, (bench.tiles, SIDE, SIDE, 3), dtype=np.uint8)
    for precision in precisions:
        encoder = load_encoder(model, "random", str(bench.device), precision=precision)
        forward = bare(bench, encoder)
        yield Row(what=f"{model} {precision}, bare forward", rate=forward, share=1.0)

        def work(encoder: Encoder = encoder) -> int:
            return len(encoder.encode(tiles))

        fed = bench.rate(work)
        yield Row(what=f"{model} {precision}, tiles from memory", rate=fed, share=fed / forward)


def compiled(bench: Bench, model: str) -> Iterator[Row]:
    """Measure torch.compile, and CUDA graphs."""
    if bench.device.type != "cuda":
        yield Row(what=f"{model}, torch.compile and CUDA graphs", remark="needs a CUDA device")
        return
    for what, mode in (("torch.compile", "default"), ("CUDA graphs", "reduce-overhead")):
        encoder = load_encoder(model, "random", str(bench.device))
        encoder.model.compile(mode=mode, dynamic=False)
        try:
            yield Row(what=f"{model} {encoder.precision}, {what}", rate=bare(bench, encoder))
        except RuntimeError as error:
            yield Row(what=f"{model}, {what}", remark=str(error).split("\n", 1)[0][:80])


def tuned(bench: Bench, model: str) -> Row:
    """Measure forward and backward passes with an optimiser's step."""
    encoder = load_encoder(model, "random", str(bench.device))
    network = encoder.model.train().requires_grad_(True)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
    side = encoder.preprocess.input_px or SIDE
    batch = 64 if bench.device.type == "cuda" else 2
    planes = torch.rand((batch, 3, side, side), device=bench.device)

    def work() -> int:
        half = encoder.precision != "fp32"
        with torch.autocast(bench.device.type, DTYPES[encoder.precision], enabled=half):
            loss = network(planes).float().square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return batch

    return Row(what=f"{model}, fine-tuning step of {batch}", rate=bench.rate(work))


def backs_off(bench: Bench, model: str) -> Row:
    """See that a batch which cannot fit is halved until it does."""
    what = f"{model}, back-off on out-of-memory"
    if bench.device.type != "cuda":
        return Row(what=what, remark="needs a CUDA device")
    total = torch.cuda.mem_get_info(bench.device)[1]
    torch.cuda.set_per_process_memory_fraction(min(1.0, 6e9 / total), bench.device)
    try:
        asked = 4096
        encoder = load_encoder(model, "random", str(bench.device), batch_size=asked)
        encoder.encode(np.zeros((asked, SIDE, SIDE, 3), np.uint8))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, bench.device)
    return Row(what=what, remark=f"{asked} asked, {encoder.batch_size} fit into 6 GB")


def stages(bench: Bench, model: str) -> Iterator[Row]:
    """Measure the extract stage: from stores, by two workers, and from a slide."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for index in range(2):
            _store(root / "run" / "tiles" / f"S{index}.h5", bench.tiles, index)
        slides = root / "slides"
        slides.mkdir()
        write_slide(plan_cohort(0, patients_per_label=2, side_px=1536, tma_grid=(0, 0))[0], slides)
        how = {"encoder": model, "weights": "random", "device": str(bench.device)}
        stored = {**how, "run": root / "run"}
        yield _timed(f"{model}, from stores", stored)
        if bench.device.type != "cuda":
            yield Row(what=f"{model}, two workers on one device", remark="needs a CUDA device")
        elif not bench.out_of_time:
            twice = {**stored, "overwrite": True, "workers": 2, "precision": "fp32"}
            yield _timed(f"{model}, from stores, two workers on one device", twice)
        if not bench.out_of_time:
            cut = {"run": root / "cut", "source": "slide", "cohort": slides}
            yield _timed(f"{model}, from a slide, stain on the CPU", {**how, **cut})


def _store(path: Path, count: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tiles = np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    coords = np.stack([np.arange(count) * SIDE, np.zeros(count)], axis=1).astype(np.int64)
    with create_tiles(path, tile_px=SIDE, capacity=count) as writer:
        writer.append(tiles, coords, {"focus": np.ones(count, np.float32)})
        writer.commit(
            {"tile_px_level0": float(SIDE), "mpp_effective": 0.5, "mpp_native": 0.5,
             "level0_width": SIDE * count, "level0_height": SIDE, "overlap_px": 0,
             "slide_digest": path.stem}
        )  # fmt: skip


def _timed(what: str, settings: dict[str, object]) -> Row:
    extract.kept_encoder.cache_clear()
    begun, tiles = time.perf_counter(), 0
    for event in extract.run(ExtractConfig.from_mapping(settings, "benchmark")):
        if isinstance(event, SlideFailed):
            return Row(what=what, remark=event.error[:100])
        if isinstance(event, SlideDone):
            tiles += event.counts["tiles encoded"]
    seconds = time.perf_counter() - begun
    return Row(what=what, rate=tiles / seconds, remark=f"{tiles} tiles, start included")


def rows(bench: Bench, models: tuple[str, ...]) -> Iterator[Row]:
    """Measure one thing after the other, until the time is out."""
    for model in models:
        for part in (
            lambda model=model: by_precision(bench, model),
            lambda model=model: stages(bench, model),
            lambda model=model: iter([backs_off(bench, model)]),
            lambda model=model: compiled(bench, model),
            lambda model=model: iter([tuned(bench, model)]),
        ):
            if bench.out_of_time:
                yield Row(what=model, remark="the rest: out of time")
                break
            yield from part()  # type: ignore[no-untyped-call]


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--budget-s", type=float, default=540)
    parser.add_argument("--each-s", type=float, default=4, help="Of each measurement.")
    parser.add_argument("--tiles", type=int, default=2048, help="Of a store.")
    parser.add_argument("--models", default=",".join(MODELS))
    asked = parser.parse_args(argv)
    device = choose_device(asked.device)
    bench = Bench(
        device=device, until=time.monotonic() + asked.budget_s, seconds=asked.each_s,
        tiles=asked.tiles,
    )  # fmt: skip
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device}"
    sys.stdout.write(f"{name}, torch {torch.__version__}\n\n| What | Tiles/s | Share | |\n")
    sys.stdout.write("|---|---|---|---|\n")
    for row in rows(bench, tuple(asked.models.split(","))):
        sys.stdout.write(f"{row}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
