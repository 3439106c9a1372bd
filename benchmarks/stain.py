"""Macenko normalisation of tiles, on one core: ours by slide and by tile, and the peers'.

python -m benchmarks.stain [--pixels SLIDE] [--peers FOLDER]
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.contest import ENVIRONMENTS, Ready, peers_for, run_peer, willing
from benchmarks.measure import Table, arguments, interleave, per_cpu_second, write_tables
from benchmarks.slides import Scan, read_patch, write_scan
from wsi_pipeline.slides import open_slide
from wsi_pipeline.stain import Stains, fit_macenko, fit_stain, normalise, sample_pixels
from wsi_pipeline.tiles import TileSettings, read_blocks, survey_slide
from wsi_pipeline.types import RgbTiles

TILES = 64
OURS = ("by slide", "by tile")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--peers", type=Path, default=ENVIRONMENTS, help="their environments")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    tiles = _tiles(given.pixels)
    found, missing = peers_for("stain", given.peers)
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "tiles.npy"
        np.save(file, tiles)

        def once(ready: Ready) -> Callable[[], float]:
            return lambda: _peer_rate(ready, file)

        able = willing(found, lambda r: run_peer(r, "stain", [str(file)], one_thread=True), missing)
        contestants = _ours(tiles) | {ready.peer.name: once(ready) for ready in able}
        rates = interleave(contestants, given.rounds)
    first = {"torchstain": rates.pop("torchstain")} if "torchstain" in rates else {}
    table = Table(
        name="stain", title="Macenko normalisation, one core", unit="tiles per CPU-second",
        rates=first | rates, ours=OURS, notes=(*_agreement(tiles), *missing),
    )  # fmt: skip
    write_tables([table], given.out)


def _tiles(pixels: Path | None) -> RgbTiles:
    """Return (TILES, 256, 256, 3) tissue tiles as the tile stage reads them."""
    settings = TileSettings(stain="none")
    with tempfile.TemporaryDirectory() as name:
        scan = Scan(side=8192, tissue=0.9)
        with open_slide(write_scan(Path(name) / "scan.svs", scan, read_patch(pixels))) as slide:
            plan = survey_slide(slide, settings)
            chosen = np.random.default_rng(0).permutation(np.flatnonzero(plan.wanted))[:TILES]
            return np.concatenate([b.tiles for b in read_blocks(slide, plan.grid, chosen)])


def _ours(tiles: RgbTiles) -> dict[str, Callable[[], float]]:
    pixels = sample_pixels(tiles)
    slide, tile = fit_stain("macenko", pixels), fit_stain("macenko-tile", pixels)
    out = np.empty_like(tiles)

    def by_slide() -> int:
        for _ in range(10):
            slide.apply(tiles, out)
        return 10 * len(tiles)

    def by_tile() -> int:
        tile.apply(tiles, out)
        return len(tiles)

    rates = (per_cpu_second(by_slide), per_cpu_second(by_tile))
    return dict(zip(OURS, rates, strict=True))


def _stains(tiles: RgbTiles) -> Stains:
    found = fit_macenko(sample_pixels(tiles)).stains
    if found is None:
        raise SystemExit("the tiles are no H&E; give --pixels another slide")
    return found


def _agreement(tiles: RgbTiles) -> tuple[str, ...]:
    """Say how far the ways are from each other."""
    stains = _stains(tiles)
    ours = normalise(tiles, stains).astype(np.int64)
    by_tile = fit_stain("macenko-tile", sample_pixels(tiles)).apply(tiles).astype(np.int64)
    return (
        f"by slide and by tile differ by {np.abs(ours - by_tile).mean():.1f} levels in the mean",
    )


def _peer_rate(ready: Ready, file: Path) -> float:
    figures = run_peer(ready, "stain", [str(file)], one_thread=True).figures
    return figures["tiles"] / figures["cpu_seconds"]


if __name__ == "__main__":
    main()
