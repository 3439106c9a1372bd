"""What a slide's thumbnail looks like, as a perceptual hash that a turned copy shares.

Source of the hash: Zauner, "Implementation and benchmarking of perceptual image hash functions",
2010; low frequencies of the cosine transform against their median, by the package ImageHash.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import StoreCorruptError

SIDE: Final = 16  # of the hash: 256 bits
REDUCED_PX: Final = 128  # side the thumbnail is brought to first
SAME_LOOK: Final = 0.15  # share of bits that may differ; docs/learning.md has what was measured
TURNS: Final = 8  # four quarter turns, and those of the mirror image

Bits = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Look:
    """``bits`` (8, 32) uint8: the packed hash of a picture in each of its eight positions."""

    bits: Bits

    @classmethod
    def of(cls, path: Path) -> Self:
        """Hash a picture.

        Raises:
            StoreCorruptError: The file is no readable picture.
        """
        from imagehash import phash
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(path) as opened:
                grey = opened.convert("L").resize((REDUCED_PX, REDUCED_PX), Image.Resampling.BOX)
        except (OSError, UnidentifiedImageError) as error:
            raise StoreCorruptError(
                f"{path}: no readable picture ({error}); delete it and cut the slide again"
            ) from None
        positions = [np.rot90(side, turn) for side in _both_sides(grey) for turn in range(4)]
        hashes = [phash(Image.fromarray(seen), hash_size=SIDE).hash for seen in positions]
        return cls(bits=np.packbits(np.array(hashes).reshape(TURNS, -1), axis=1))


def nearest_pairs(
    looks: Sequence[Look], patients: Sequence[str]
) -> tuple[list[tuple[int, int, float]], float]:
    """Compare all pictures of different patients.

    Returns:
        Pairs (i, j, share of bits that differ), i < j, that look the same; and the least share
        there is.
    """
    upright = np.stack([look.bits[0] for look in looks])
    owners = np.asarray(patients)
    pairs: list[tuple[int, int, float]] = []
    least = 1.0
    for index, look in enumerate(looks[:-1]):
        differing = np.bitwise_count(look.bits[:, None] ^ upright[None, index + 1 :])
        shares = differing.sum(2, dtype=np.int64).min(0) / SIDE**2
        shares[owners[index + 1 :] == owners[index]] = 1.0
        least = min(least, float(shares.min()))
        same = np.flatnonzero(shares <= SAME_LOOK)
        pairs += [(index, index + 1 + int(other), float(shares[other])) for other in same]
    return pairs, least


def _both_sides(grey: object) -> tuple[Bits, Bits]:
    picture = np.asarray(grey, dtype=np.uint8)
    return picture, picture[:, ::-1]
