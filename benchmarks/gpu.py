"""What a GPU gives, in one script of at most ten minutes: ``python -m benchmarks.gpu``.

Random weights suffice: speed does not depend on them. Each row is tiles a second; *share* is that
of the bare forward pass, with tiles on the device already. Where a measurement cannot be made on
this machine the row says why, and so it does where what is left of the time would not do: how long
a network takes to load follows from its size, how many tiles are taken from the rate just measured.
It runs on a CPU too, to be tested there.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_pipeline.events import SlideDone, SlideFailed
from wsi_pipeline.features import choose_device, import_timm, load_encoder
from wsi_pipeline.features.encoder import DTYPES, Encoder
from wsi_pipeline.pipeline import extract
from wsi_pipeline.synthetic import plan_cohort, write_slide
from wsi_pipeline.tiles import create_tiles
from wsi_pipeline.verbs.tiles import ExtractConfig

LOADED_PER_S = 30e6  # parameters, on one core; random ones are drawn first
START_S = 1.0  # of a stage or of a network, whatever its size
COMPILING_S = 120.0  # what torch.compile may take
MODELS = ("densenet121", "resnet50", "vit_large_patch16_224")
SIDE = 256
SLIDE_PX = 1536
TILES_OF_THE_SLIDE = (SLIDE_PX // SIDE) ** 2  # at most
Tiles = NDArray[np.uint8]


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


class OutOfTimeError(Exception):
    """What comes next takes longer than what is left."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where, for how long, and with how many tiles at most."""

    device: torch.device
    until: float
    seconds: float
    tiles: int

    def need(self, seconds: float) -> None:
        """See that so much time is left.

        Raises:
            OutOfTimeError: It is not.
        """
        left = self.until - time.monotonic()
        if seconds > left:
            raise OutOfTimeError(f"out of time: takes {seconds:.0f} s, {max(left, 0):.0f} s left")

    def load(self, model: str, **how: Any) -> Encoder:
        """Load a network with random weights, if there is time for one of its size."""
        with torch.device("meta"):
            size = sum(each.numel() for each in import_timm().create_model(model).parameters())
        self.need(START_S + size / LOADED_PER_S)
        return load_encoder(model, "random", str(self.device), **how)

    def share(self, rate: float) -> int:
        """Return how many tiles fill a measurement at ``rate`` tiles a second."""
        return max(1, min(self.tiles, round(rate * self.seconds)))

    def rate(self, work: Callable[[], int], expected_s: float) -> float:
        """Return tiles a second of ``work``, which says how many it did; the first is to warm.

        ``expected_s`` is what one call takes, roughly.
        """
        self.need(2 * expected_s)
        work()
        self.wait()
        begun, done = time.perf_counter(), 0
        while not done or time.perf_counter() - begun < self.seconds:
            done += work()
            self.wait() if expected_s > self.seconds else None
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

    def work(count: int | None = None) -> int:
        half = encoder.precision != "fp32"
        with (
            torch.inference_mode(),
            torch.autocast(bench.device.type, DTYPES[encoder.precision], enabled=half),
        ):
            encoder.model(planes[:count])
        return len(planes)

    work(1)
    bench.wait()
    begun = time.perf_counter()
    work(1)
    bench.wait()
    one = time.perf_counter() - begun
    return bench.rate(work, one * (len(planes) if bench.device.type == "cpu" else 1))


def by_precision(bench: Bench, model: str) -> Iterator[Row]:
    """Measure the bare forward and the encoder from host memory, at each precision."""
    precisions = ("fp32", "bf16", "fp16") if bench.device.type == "cuda" else ("fp32",)
    for precision in precisions:
        encoder = bench.load(model, precision=precision)
        forward = bare(bench, encoder)
        tiles = noise(bench.share(forward))
        yield Row(what=f"{model} {precision}, bare forward", rate=forward, share=1.0)

        def work(encoder: Encoder = encoder, tiles: Tiles = tiles) -> int:
            return len(encoder.encode(tiles))

        fed = bench.rate(work, len(tiles) / forward)
        yield Row(what=f"{model} {precision}, tiles from memory", rate=fed, share=fed / forward)


def compiled(bench: Bench, model: str) -> Iterator[Row]:
    """Measure torch.compile, and CUDA graphs."""
    if bench.device.type != "cuda":
        yield Row(what=f"{model}, torch.compile and CUDA graphs", remark="needs a CUDA device")
        return
    for what, mode in (("torch.compile", "default"), ("CUDA graphs", "reduce-overhead")):
        bench.need(COMPILING_S)
        encoder = bench.load(model)
        encoder.model.compile(mode=mode, dynamic=False)
        try:
            yield Row(what=f"{model} {encoder.precision}, {what}", rate=bare(bench, encoder))
        except RuntimeError as error:
            yield Row(what=f"{model}, {what}", remark=str(error).split("\n", 1)[0][:80])


def tuned(bench: Bench, model: str) -> Row:
    """Measure forward and backward passes with an optimiser's step."""
    encoder = bench.load(model)
    forward = bare(bench, encoder)
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

    rate = bench.rate(work, 4 * batch / forward)  # backwards twice as much, and the optimiser
    return Row(what=f"{model}, fine-tuning step of {batch}", rate=rate)


def backs_off(bench: Bench, model: str) -> Row:
    """See that a batch which cannot fit is halved until it does."""
    what = f"{model}, back-off on out-of-memory"
    if bench.device.type != "cuda":
        return Row(what=what, remark="needs a CUDA device")
    total = torch.cuda.mem_get_info(bench.device)[1]
    torch.cuda.set_per_process_memory_fraction(min(1.0, 6e9 / total), bench.device)
    try:
        asked = 4096
        encoder = bench.load(model, batch_size=asked)
        encoder.encode(np.zeros((asked, SIDE, SIDE, 3), np.uint8))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, bench.device)
    return Row(what=what, remark=f"{asked} asked, {encoder.batch_size} fit into 6 GB")


def stages(bench: Bench, model: str) -> Iterator[Row]:
    """Measure the extract stage: from stores, by two workers, and from a slide."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        forward = bare(bench, bench.load(model))
        share = bench.share(forward)
        expected_s = 2 * START_S + 2 * share / forward
        for index in range(2):
            _store(root / "run" / "tiles" / f"S{index}.h5", share, index)
        slides = root / "slides"
        slides.mkdir()
        write_slide(
            plan_cohort(0, patients_per_label=2, side_px=SLIDE_PX, tma_grid=(0, 0))[0], slides
        )
        how = {"encoder": model, "weights": "random", "device": str(bench.device)}
        stored = {**how, "run": root / "run"}
        bench.need(expected_s)
        yield _timed(f"{model}, from stores", stored)
        if bench.device.type != "cuda":
            yield Row(what=f"{model}, two workers on one device", remark="needs a CUDA device")
        else:
            bench.need(2 * expected_s)
            twice = {**stored, "overwrite": True, "workers": 2, "precision": "fp32"}
            yield _timed(f"{model}, from stores, two workers on one device", twice)
        bench.need(2 * START_S + TILES_OF_THE_SLIDE / forward)
        cut = {"run": root / "cut", "source": "slide", "cohort": slides}
        yield _timed(f"{model}, from a slide, stain on the CPU", {**how, **cut})


def noise(count: int, seed: int = 0) -> Tiles:
    """Return tiles that nothing can be saved on."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def _store(path: Path, count: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coords = np.stack([np.arange(count) * SIDE, np.zeros(count)], axis=1).astype(np.int64)
    with create_tiles(path, tile_px=SIDE, capacity=count) as writer:
        writer.append(noise(count, seed), coords, {"focus": np.ones(count, np.float32)})
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
            try:
                yield from part()  # type: ignore[no-untyped-call]
            except OutOfTimeError as error:
                yield Row(what=f"{model}, the rest", remark=str(error))
                break


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
