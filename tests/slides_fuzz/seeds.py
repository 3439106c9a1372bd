"""Small healthy files of every TIFF flavour, from which damaged ones are made."""

import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from slides_vendor.hamamatsu import Restarts, write_ndpi
from slides_vendor.leica import write_leica
from slides_vendor.philips import write_philips
from slides_vendor.picture import picture
from slides_vendor.ventana import write_ventana

from wsi_pipeline.types import RgbImage

APERIO = "Aperio Image Library v12\r\n{0}x{1} (128x128) {2}|AppMag = 20|MPP = 0.4990"
BOMB_BYTES = 600 << 20  # what one tile of the bomb unpacks to


PICTURE = picture(700, 520)


def write_svs(path: Path) -> None:
    with tifffile.TiffWriter(path) as tiff:
        for step in (1, 4):
            level = PICTURE[::step, ::step]
            tiff.write(
                level, tile=(128, 128), photometric="rgb", compression="jpeg", metadata=None,
                description=APERIO.format(700, 520, "JPEG/RGB"), subsampling=(2, 2),
            )  # fmt: skip
            if step == 1:
                _plain(tiff, "thumbnail")
        _plain(tiff, "label", 1)
        _plain(tiff, "macro", 9)


def _plain(tiff: tifffile.TiffWriter, name: str, kind: int = 0) -> None:
    tiff.write(
        np.ascontiguousarray(PICTURE[::5, ::5]), photometric="rgb", compression="lzw",
        subfiletype=kind, rowsperstrip=16, metadata=None,
        description=f"Aperio Image Library v12\r\n{name} 140x104",
    )  # fmt: skip


def write_svs_jpeg2000(path: Path, compression: int = 33005) -> None:
    tiles = []
    padded = np.pad(PICTURE, ((0, -520 % 128), (0, -700 % 128), (0, 0)), mode="edge")
    for y in range(0, padded.shape[0], 128):
        for x in range(0, padded.shape[1], 128):
            tile = np.ascontiguousarray(padded[y : y + 128, x : x + 128])
            if compression == 33003:
                tile = to_ycbcr(tile)
            tiles.append(imagecodecs.jpeg2k_encode(tile, codecformat="j2k", level=60, mct=False))
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            iter(tiles), shape=PICTURE.shape, dtype=np.uint8, tile=(128, 128), metadata=None,
            photometric="rgb", compression=compression,
            description=APERIO.format(700, 520, "J2K/KDU Q=70"),
        )  # fmt: skip


def to_ycbcr(rgb: RgbImage) -> RgbImage:
    """Full-range YCbCr, as 33003 stores it."""
    matrix = np.array(
        [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
    )
    values = rgb @ matrix.T + np.array([0, 128, 128])
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def write_pyramid(path: Path, compression: str = "deflate", *, big: bool = False) -> None:
    with tifffile.TiffWriter(path, bigtiff=big) as tiff:
        for step in (1, 2, 4):
            tiff.write(
                PICTURE[::step, ::step], tile=(128, 128), photometric="rgb", metadata=None,
                compression=compression, resolution=(20000, 20000), resolutionunit=3,
                subfiletype=int(step > 1),
            )  # fmt: skip


def write_ome(path: Path) -> None:
    with tifffile.TiffWriter(path, ome=True) as tiff:
        sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
        tiff.write(
            PICTURE, tile=(128, 128), photometric="rgb", subifds=1, metadata=sizes,
            compression="deflate",
        )  # fmt: skip
        tiff.write(PICTURE[::2, ::2], tile=(128, 128), photometric="rgb", subfiletype=1)


def write_strips(path: Path) -> None:
    tifffile.imwrite(path, PICTURE, photometric="rgb", rowsperstrip=32, compression="lzw")


def write_bomb(path: Path) -> None:
    """Tiles of a few hundred kilobytes that unpack to hundreds of megabytes each."""
    packer = zlib.compressobj(9)
    zeros = bytes(1 << 20)
    first, again = (packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH) for _ in "12")
    count = BOMB_BYTES >> 20
    check = 1
    for _ in range(count):
        check = zlib.adler32(zeros, check)
    packed = first + again * (count - 1) + b"\x03\x00" + check.to_bytes(4, "big")
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            iter([packed] * 4), shape=(256, 256, 3), dtype=np.uint8, tile=(128, 128),
            photometric="rgb", compression="deflate", metadata=None,
        )  # fmt: skip


SEEDS: dict[str, Callable[[Path], None]] = {
    "svs.svs": write_svs,
    "jpeg2000.svs": write_svs_jpeg2000,
    "ycbcr2000.svs": lambda path: write_svs_jpeg2000(path, 33003),
    "deflate.tif": write_pyramid,
    "jpeg.tif": lambda path: write_pyramid(path, "jpeg"),
    "big.tif": lambda path: write_pyramid(path, "lzw", big=True),
    "slide.ome.tif": write_ome,
    "strips.tif": write_strips,
    "bomb.tif": write_bomb,
    "philips.tiff": write_philips,
    "leica.scn": write_leica,
    "ventana.bif": write_ventana,
    "hamamatsu.ndpi": write_ndpi,
    "restarts.ndpi": lambda path: write_ndpi(path, steps=(1, 4), restarts=Restarts(across=3)),
}


def write_seeds(folder: Path) -> list[Path]:
    """Write one of each; return their paths."""
    paths = [folder / name for name in SEEDS]
    for path in paths:
        SEEDS[path.name](path)
    return paths
