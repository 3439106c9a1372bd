"""Scans of any size to measure on: real or drawn tissue on glass, laid out as Aperio does.

A scan repeats a patch of tissue. Equal tiles of the file share their bytes, so that 100,000 ×
100,000 px take a few megabytes and no time to write; a reader decodes each of them all the same.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray

from benchmarks.shared_tiff import SharedLevel, write_tiff
from wsi_pipeline.slides import open_slide
from wsi_pipeline.synthetic import SlideSpec, write_slide
from wsi_pipeline.types import RgbImage

TILE_PX: Final = 256
PATCH_PX: Final = 2048  # of tissue; mirrored, so that its repeats join
QUALITY: Final = 80
MPP: Final = 0.25
PX_PER_BYTE: Final = 1000  # of a level, at most


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What a scan is to be.

    Attributes:
        side: Of level 0, px.
        tissue: Share of the area that is tissue.
        downsamples: Of the levels.
    """

    side: int
    tissue: float = 0.7
    downsamples: tuple[int, ...] = (1, 4)


def write_scan(path: Path, scan: Scan, patch: RgbImage) -> Path:
    """Write a scan of ``patch``, (PATCH_PX, PATCH_PX, 3) uint8, at 0.25 µm/px."""
    cell = TILE_PX * scan.downsamples[-1]
    cells = -(-scan.side // cell)
    inside = _blob(cells, scan.tissue)
    write_tiff(path, [_level(scan, down, inside, patch) for down in scan.downsamples])
    return path


def write_picture(path: Path, pixels: RgbImage) -> Path:
    """Write (side, side, 3) uint8 as a scan at 0.25 µm/px, with a level at a quarter of that."""
    side = len(pixels)
    levels = []
    for down in (1, 4):
        small = cv2.resize(pixels, (side // down,) * 2, interpolation=cv2.INTER_AREA)
        count = -(-len(small) // TILE_PX)
        edge = count * TILE_PX - len(small)
        padded = np.pad(small, ((0, edge), (0, edge), (0, 0)), mode="edge")
        tiles = padded.reshape(count, TILE_PX, count, TILE_PX, 3).swapaxes(1, 2)
        levels.append(
            SharedLevel(
                side=side // down,
                tile_px=TILE_PX,
                tiles=[_jpeg(tile) for tile in tiles.reshape(-1, TILE_PX, TILE_PX, 3)],
                places=np.arange(count * count).reshape(count, count),
                description=_description(side, side // down),
            )
        )
    write_tiff(path, levels)
    return path


def read_patch(source: Path | None) -> RgbImage:
    """Return the darkest square of a slide, or drawn tissue where there is none."""
    if source is None:
        return _drawn_patch()
    with open_slide(source) as slide:
        thumbnail = cv2.cvtColor(slide.thumbnail(1024), cv2.COLOR_RGB2GRAY)
        scale = slide.info.level_dimensions[0][0] / thumbnail.shape[1]
        side = round(PATCH_PX / scale)
        light = cv2.blur(thumbnail, (side, side))[side // 2 : -side, side // 2 : -side]
        row, column = np.unravel_index(light.argmin(), light.shape)
        x, y = int(column * scale), int(row * scale)
        return slide.read(0, x, y, PATCH_PX, PATCH_PX)


def _blob(cells: int, share: float) -> NDArray[np.bool_]:
    """Return (cells, cells): those nearest to the middle, as many as the share asks for."""
    middle = (cells - 1) / 2
    rows, columns = np.indices((cells, cells))
    distance = np.hypot(rows - middle, columns - middle).ravel()
    inside = np.zeros(cells * cells, np.bool_)
    inside[np.argsort(distance, kind="stable")[: round(share * cells * cells)]] = True
    return inside.reshape(cells, cells)


def _level(scan: Scan, down: int, inside: NDArray[np.bool_], patch: RgbImage) -> SharedLevel:
    side = scan.side // down
    count = -(-side // TILE_PX)
    period = np.concatenate([patch, patch[:, ::-1]], axis=1)
    period = np.concatenate([period, period[::-1]], axis=0)
    size = max(TILE_PX, len(period) // down)
    small = cv2.resize(period, (len(period) // down,) * 2, interpolation=cv2.INTER_AREA)
    small = np.tile(small, (size // len(small), size // len(small), 1))
    across = size // TILE_PX
    tiles = [
        small[y : y + TILE_PX, x : x + TILE_PX]
        for y in range(0, size, TILE_PX)
        for x in range(0, size, TILE_PX)
    ]
    rows, columns = np.indices((count, count))
    per_cell = scan.downsamples[-1] // down
    covered = inside[rows // per_cell, columns // per_cell]
    places = np.where(covered, rows % across * across + columns % across + 1, 0)
    streams = [_jpeg(tile) for tile in (_glass(), *tiles)]
    # So many pixels in so few bytes would be refused as hostile: the tiles are there several times.
    copies = 1 + side**2 // (PX_PER_BYTE * sum(map(len, streams)))
    return SharedLevel(
        side=side,
        tile_px=TILE_PX,
        tiles=streams * copies,
        places=places + rows // across % copies * len(streams),
        description=_description(scan.side, side),
    )


def _description(whole: int, side: int) -> str:
    return (
        f"Aperio Image Library v12.0.15 \r\n{whole}x{whole} [0,0 {whole}x{whole}] "
        f"({TILE_PX}x{TILE_PX}) -> {side}x{side} JPEG/YCC Q={QUALITY}|AppMag = 40|MPP = {MPP}"
    )


def _glass() -> RgbImage:
    noise = np.random.default_rng(0).normal(0, 1.5, (TILE_PX, TILE_PX, 3))
    return np.clip(242 + cv2.GaussianBlur(noise, (0, 0), 1) * 2, 0, 255).astype(np.uint8)


def _jpeg(tile: RgbImage) -> bytes:
    pixels = np.ascontiguousarray(tile)
    return bytes(imagecodecs.jpeg8_encode(pixels, level=QUALITY, subsampling="420"))


def _drawn_patch() -> RgbImage:
    spec = SlideSpec(
        seed=0, slide_id="patch", patient_id="patch", label="hcc", cohort="", scanner="synthetic-a",
        width=2 * PATCH_PX, height=2 * PATCH_PX,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        return read_patch(write_slide(spec, Path(folder)))
