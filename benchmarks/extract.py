"""What extraction costs beside the network's own work; peers beside it.

python -m benchmarks.extract [--encoders densenet121 resnet50] [--pixels SLIDE] [--peers FOLDER]
"""

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
import torch

from benchmarks.contest import ENVIRONMENTS, Ran, Ready, peers_for, run_peer, willing
from benchmarks.measure import Table, arguments, interleave, per_second, write_tables
from benchmarks.slides import Scan, read_patch, write_scan
from wsi_pipeline.features import (
    Encoded,
    Encoder,
    SlideTiles,
    StoreTiles,
    encode_slides,
    load_encoder,
)
from wsi_pipeline.tiles import TileSettings, cut_slide, open_tiles
from wsi_pipeline.types import RgbTiles

SIDE: Final = 13_312  # enough tiles for the slide's own start to be felt as it is in practice
BARE: Final = "bare forward, a thread a core"
SETTINGS: Final = TileSettings(stain="macenko", max_background_fraction=1.0)


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--peers", type=Path, default=ENVIRONMENTS, help="their environments")
    parser.add_argument("--encoders", nargs="+", default=["densenet121", "resnet50"])
    given = parser.parse_args()
    patch = read_patch(given.pixels)
    tables = []
    with tempfile.TemporaryDirectory() as name:
        slide = write_scan(Path(name) / "scan.svs", Scan(side=SIDE, tissue=0.8), patch)
        store = Path(name) / "scan.zarr"
        cut_slide(slide, store, SETTINGS)
        tables = [_overhead(encoder, slide, store, given.rounds) for encoder in given.encoders]
        tables += _peers(slide, Path(name) / "out", given.peers)
    write_tables(tables, given.out)


def _overhead(name: str, slide: Path, store: Path, rounds: int) -> Table:
    encoder = load_encoder(name, "random", "cpu")
    tiles = np.asarray(open_tiles(store).tiles[:])
    contestants = {
        BARE: _bare(encoder, tiles),
        "from the store": _stream(encoder, lambda: StoreTiles("scan", store)),
        "from the slide": _stream(encoder, lambda: SlideTiles("scan", slide, SETTINGS)),
        "bare forward, torch's own threads": _bare_torch(encoder, tiles),
    }
    notes = ["random weights (features cost the same)", f"{len(tiles)} tiles of 256 px, fp32"]
    try:
        quick = load_encoder(name, "random", "cpu", kernels="openvino")
        expected, found = encoder.encode(tiles[:16]), quick.encode(tiles[:16])
    except ImportError as error:
        notes.append(f"OpenVINO: {error}")
    else:
        contestants["from the store, OpenVINO"] = _stream(quick, lambda: StoreTiles("scan", store))
        away = np.abs(found - expected).max() / np.abs(expected).max()
        notes.append(f"features by OpenVINO differ by {away:.0e} of the largest")
    rates = interleave(contestants, rounds)
    return Table(
        name=f"extract-{name}", title=f"Extraction on a CPU, {name}", unit="tiles/s", rates=rates,
        notes=notes, ours=tuple(name for name in contestants if name.startswith("from")),
    )  # fmt: skip


def _bare(encoder: Encoder, tiles: RgbTiles) -> Callable[[], float]:
    """Feed preloaded tensors to the network, a batch a core at a time."""
    model, batches = _preloaded(encoder, tiles)

    def forward(batch: torch.Tensor) -> None:
        with torch.inference_mode():
            model(batch)

    def work() -> int:
        with (
            encoder.at_work(),
            ThreadPoolExecutor(encoder.lanes, "bare", torch.set_num_threads, (1,)) as pool,
        ):
            list(pool.map(forward, batches))
        return len(tiles)

    return per_second(work)


def _bare_torch(encoder: Encoder, tiles: RgbTiles) -> Callable[[], float]:
    model, batches = _preloaded(encoder, tiles)

    def work() -> int:
        with torch.inference_mode():
            for batch in batches:
                model(batch)
        return len(tiles)

    return per_second(work)


def _preloaded(
    encoder: Encoder, tiles: RgbTiles
) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    pixels = torch.from_numpy(tiles).permute(0, 3, 1, 2).float().div_(255)
    planes = pixels.contiguous(memory_format=torch.channels_last)
    return encoder.model, torch.split(planes, encoder.batch_size)


def _stream(encoder: Encoder, source: Callable[[], StoreTiles | SlideTiles]) -> Callable[[], float]:
    def work() -> int:
        count = 0
        for step in encode_slides(encoder, [source()], 256):
            if isinstance(step, Encoded):
                if step.error is not None:
                    raise step.error
                count += len(step.features)
        return count

    return per_second(work)


def _peers(slide: Path, out: Path, environments: Path) -> list[Table]:
    """Return each peer's share of bare forward, from the slide, by its own measure of that."""
    found, missing = peers_for("extract", environments)
    shares: dict[str, list[float]] = {}

    def run(ready: Ready) -> Ran:
        ran = run_peer(ready, "extract", [str(slide), str(out / ready.peer.name)])
        figures = ran.figures
        shares[ready.peer.name] = [figures["forward_seconds"] / figures["seconds"]]
        print(f"{ready.peer.name}: {figures}, {ran.seconds:.0f} s", flush=True)
        return ran

    willing(found, run, missing)
    if not shares:
        return []
    return [
        Table(
            name="extract-peers", title="Peers' extraction from the slide, ResNet50",
            unit="share of bare forward", rates=shares, notes=missing, how="run",
        )
    ]  # fmt: skip


if __name__ == "__main__":
    main()
